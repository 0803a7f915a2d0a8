"""An optimizer goes on where another one stood."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.testing import plain
from tfprune.training.optimizer_state import OptimizerState, StateValues
from tfprune.training.step import Optimization, Trainer

O, BATCH = keras.optimizers, 8


def batches(seed, count=3):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(BATCH * count, 6, 6, 3)).astype('float32')
    labels = rng.integers(0, 2, BATCH * count).astype('int32')
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)


def trainer_of(model, optimizer, average=0.0):
    return Trainer(model, tf.distribute.get_strategy(), Optimization(
        global_batch_size=BATCH, optimizer=O.serialize(optimizer), average=average))


def stored(values, path):
    np.savez(path, **values.to_arrays())
    with np.load(path) as arrays:
        return StateValues.from_arrays(arrays)


@pytest.mark.parametrize('optimizer, kinds', [
    pytest.param(O.SGD(0.1, momentum=0.9), ['momentum'], marks=pytest.mark.slow),
    (O.Adam(0.1, use_ema=True), ['average', 'momentum', 'velocity']),
    pytest.param(O.Nadam(0.1), ['momentum', 'velocity'], marks=pytest.mark.slow),
    pytest.param(O.Muon(0.1), ['momentum', 'velocity'],
                 marks=[pytest.mark.keras('3.13'), pytest.mark.slow]),
    (O.LossScaleOptimizer(O.Adam(0.1, amsgrad=True)), ['momentum', 'velocity', 'velocity_hat'])],
    ids=lambda value: getattr(value, 'name', ''))
def test_training_goes_on_bit_for_bit_under_an_optimizer_that_took_over(optimizer, kinds, tmp_path):
    model, copy = plain(), plain()
    first, second = trainer_of(model, optimizer), trainer_of(copy, optimizer)
    first.train_epoch(batches(0), lambda step: 0.01)
    values = stored(first.state.values, tmp_path / 'state.npz')
    assert sorted(values.slots) == kinds and first.state.others == []
    assert sorted(values.slots['momentum']) == list(range(len(model.trainable_variables)))
    copy.set_weights(model.get_weights())
    second.state.take(values)
    for trainer in (first, second):
        trainer.train_epoch(batches(1), lambda step: 0.01)
        trainer.finish()
    for one, other in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert second.steps_in_all == 6


def test_averages_that_begin_at_a_later_step_begin_at_the_weights():
    """After t steps of momentum m: m^t w_0 + (1 - m) sum_i m^(t-i) w_i."""
    model, momentum, seen = plain(), 0.75, []
    before = trainer_of(plain(), O.SGD(0.1))
    before.train_epoch(batches(0), lambda step: 0.01)
    trainer = trainer_of(model, O.SGD(0.1), average=momentum)
    trainer.state.take(before.state.values)
    expected = model.get_layer('hidden').kernel.numpy()
    trainer.train_epoch(batches(1), lambda step: 0.01, on_step=lambda step, means: seen.append(
        model.get_layer('hidden').kernel.numpy()))
    for weights in seen:
        expected = momentum * expected + (1 - momentum) * weights
    trainer.finish()
    np.testing.assert_allclose(model.get_layer('hidden').kernel, expected, atol=1e-6)


def test_what_belongs_to_weights_in_its_own_way_is_named():
    optimizer, weights = O.Adafactor(0.1), plain().trainable_variables
    assert [tuple(v.shape) for v in OptimizerState(optimizer, weights).others[:2]] == [
        (3, 3, 3), (3, 3, 5)]  # of a kernel [3, 3, 3, 5]
    assert 'add_variable_from_reference' not in vars(optimizer)
