"""A trainer under the user's own optimizer takes the steps of fit, and can begin anew."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from bright_pictures import images, network
from tfprune.training.distribution import make_strategy
from tfprune.training.step import Optimization, Trainer


def steps_of_fit(model, optimizer, data, steps):
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for x, y in data.take(steps):
        model.train_on_batch(x, y)
    return model.get_weights()


@pytest.mark.parametrize('options', [
    dict(kernel_regularizer=keras.regularizers.L2(0.3), activity_regularizer='l1'),
    dict(kernel_constraint=keras.constraints.MaxNorm(0.2))])
@pytest.mark.parametrize('optimizer', [
    pytest.param(lambda: keras.optimizers.SGD(0.05, momentum=0.9), marks=pytest.mark.slow),
    lambda: keras.optimizers.Adam(0.01)])
def test_a_step_is_that_of_fit(options, optimizer):
    data = images(48, 0)
    expected = steps_of_fit(network(**options), optimizer(), data, 3)
    plain = steps_of_fit(network(), optimizer(), data, 3)
    model = network(**options)
    config = keras.optimizers.serialize(optimizer())
    rate = config['config']['learning_rate']
    trainer = Trainer(model, tf.distribute.get_strategy(), Optimization(
        weight_decay=0.0, global_batch_size=16, optimizer=config))
    trainer.train_epoch(data, lambda step: rate)
    for ours, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert max(np.abs(a - b).max() for a, b in zip(plain, expected)) > 1e-2


def test_moving_averages_of_weights_are_taken_at_the_end():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    model = network()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(64, 0), verbose=0, shuffle=False)
    ours = network()
    trainer = Trainer(ours, tf.distribute.get_strategy(), Optimization(
        weight_decay=0.0, global_batch_size=16, optimizer=keras.optimizers.serialize(
            keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))))
    trainer.train_epoch(images(64, 0), lambda step: 0.1)
    trainer.finish()
    for one, other in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_restarting_a_trainer_is_beginning_anew():
    def trainer_of(model):
        return Trainer(model, tf.distribute.get_strategy(), Optimization(
            global_batch_size=16, optimizer=keras.optimizers.serialize(
                keras.optimizers.Adam(0.01))))

    fresh, used = trainer_of(network()), trainer_of(network())
    start = [v.numpy() for v in used.model.variables]
    used.train_epoch(images(48, 3), lambda step: 0.5)
    used.restart(start, 0.1)
    used.train_epoch(images(48, 0), lambda step: 0.1)  # a tenth of it
    fresh.train_epoch(images(48, 0), lambda step: 0.1 * 0.1)
    for one, other in zip(used.model.get_weights(), fresh.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_averages_without_a_step_are_no_weights():
    strategy = make_strategy(1)
    with strategy.scope():
        model = network()
    trainer = Trainer(model, strategy, Optimization(
        optimizer=keras.optimizers.serialize(keras.optimizers.SGD(0.1, use_ema=True))))
    before = model.get_weights()
    trainer.finish()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
