"""Alignment: the penalty as a sum, its gradient, the controller."""
import math

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cases import slow_but
from tfprune.costs.model import count_cost
from tfprune.models.building import build_model
from tfprune.pruning.masks import open_masks
from tfprune.pruning.surgery import prune_model
from tfprune.search.alignment import (AlignmentDecay, AlignmentPenalty, StrengthController,
                                      alignment_penalty)
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain, random_masks, randomize, residual
from tfprune.training.schedule import Schedule
from tfprune.training.step import Optimization, Trainer


def small():
    """image 4x4x2 - a 3, 1x1 - b 2, 1x1 - pool - logits 2, with integer weights."""
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 1, name='a')(image)
    x = layers.Conv2D(2, 1, use_bias=False, name='b')(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(2, name='logits')(x))
    model.get_layer('a').kernel.assign([[[[1, 2, 3], [4, 5, 6]]]])
    model.get_layer('a').bias.assign([100, 100, 100])
    model.get_layer('b').kernel.assign([[[[1, -1], [2, -2], [3, -3]]]])
    model.get_layer('logits').kernel.assign([[7, 8], [9, 10]])
    return model


def masks(a, b):
    return {'a': np.array(a, bool), 'b': np.array(b, bool)}


def test_value_by_hand():
    model = small()
    groups = trace_groups(model)
    # Channels 1 and 2 of a go: filters (2, 5) and (3, 6), slices of b (2, -2) and (3, -3).
    a = math.sqrt(2 ** 2 + 5 ** 2 + 3 ** 2 + 6 ** 2 + 2 ** 2 + 2 ** 2 + 3 ** 2 + 3 ** 2)
    # Channel 0 of b goes: filter (1, 2, 3), slice of logits (7, 8).
    b = math.sqrt(1 + 4 + 9 + 7 ** 2 + 8 ** 2)
    penalty = alignment_penalty(model, groups, masks([1, 0, 0], [0, 1]), strength=.5)
    assert penalty.shape == () and penalty.dtype == tf.float32
    assert float(penalty) == pytest.approx(.5 * (a + b), rel=1e-6)
    one = alignment_penalty(model, groups, masks([1, 0, 0], [1, 1]), strength=1)
    assert float(one) == pytest.approx(a, rel=1e-6)


def test_a_flattened_group_owns_all_its_positions():
    model = randomize(plain())
    groups = trace_groups(model)
    mask = open_masks(groups)
    mask['conv2'][[1, 4]] = False
    kernel, hidden = (model.get_layer(n).kernel.numpy() for n in ('conv2', 'hidden'))
    squares = (kernel[..., [1, 4]] ** 2).sum() + (hidden.reshape(9, 7, 11)[:, [1, 4]] ** 2).sum()
    assert float(alignment_penalty(model, groups, mask, strength=1)) == pytest.approx(
        squares ** .5, rel=1e-5)


def test_a_residual_group_sums_over_producers_and_consumers():
    model = randomize(residual())
    groups = trace_groups(model)
    mask = open_masks(groups)
    mask['s2_conv2'][0] = False  # channel 0 of the second stage, which the padding puts at 3
    kernel = {n: model.get_layer(n).kernel.numpy()
              for n in ('s2_conv2', 's3_conv1', 's3_conv2', 'logits')}
    squares = sum((part ** 2).sum() for part in (
        kernel['s2_conv2'][..., 0], kernel['s3_conv1'][:, :, 0],
        kernel['s3_conv2'][..., 1], kernel['logits'][1]))
    assert float(alignment_penalty(model, groups, mask, strength=1)) == pytest.approx(
        squares ** .5, rel=1e-5)


def gradients(model, penalty):
    with tf.GradientTape() as tape:
        value = penalty()
    found = tape.gradient(value, model.trainable_variables)
    return value, {v.path: None if g is None else tf.convert_to_tensor(g).numpy()
                   for v, g in zip(model.trainable_variables, found)}


def test_gradient_pulls_the_pruned_and_leaves_the_kept():
    model = small()
    penalty = AlignmentPenalty(model, trace_groups(model), strength=2.0)
    penalty.set_masks(masks([1, 0, 1], [1, 1]))
    _, found = gradients(model, penalty)
    kernel = model.get_layer('a').kernel.numpy()
    norm = math.sqrt(4 + 25 + 4 + 4)
    # d(lambda |w|)/dw = lambda w / |w|.
    assert found['a/kernel'][..., 1] == pytest.approx(2 * kernel[..., 1] / norm, rel=1e-5)
    assert (found['a/kernel'][..., [0, 2]] == 0).all()
    assert (found['b/kernel'][:, :, [0, 2]] == 0).all() and (found['b/kernel'][:, :, 1] != 0).all()
    assert found['a/bias'] is None
    assert (found['logits/kernel'] == 0).all()


def test_gradient_steps_shrink_only_what_is_pruned():
    model = randomize(residual())
    groups = trace_groups(model)
    penalty = AlignmentPenalty(model, groups, strength=1.0)
    chosen = random_masks(groups, np.random.default_rng(5))
    penalty.set_masks(chosen)
    before = float(penalty())
    opposite = AlignmentPenalty(model, groups, strength=1.0)
    stem = model.get_layer('stem').kernel.numpy()
    for _ in range(5):
        _, found = gradients(model, penalty)
        for variable in model.trainable_variables:
            if found[variable.path] is not None:
                variable.assign_sub(.05 * found[variable.path])
    assert 0 < float(penalty()) < .9 * before
    assert np.array_equal(model.get_layer('stem').kernel.numpy()[..., chosen['stem']],
                          stem[..., chosen['stem']])
    assert float(opposite()) == pytest.approx(0, abs=1e-6)


def test_open_masks_cost_and_pull_nothing():
    model = randomize(residual())
    penalty = AlignmentPenalty(model, trace_groups(model), strength=1e-4)
    value, found = gradients(model, penalty)
    assert float(value) == 0
    assert all((g == 0).all() for g in found.values() if g is not None)
    assert sum(g is not None for g in found.values()) == 8  # every kernel


def test_zero_weights_are_no_nan():
    model = small()
    for name in ('a', 'b', 'logits'):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.zeros(kernel.shape))
    penalty = AlignmentPenalty(model, trace_groups(model), strength=1.0)
    penalty.set_masks(masks([1, 0, 0], [1, 0]))
    value, found = gradients(model, penalty)
    assert float(value) == 0
    assert all((g == 0).all() for g in found.values() if g is not None)


def test_small_weights_keep_their_gradient():
    """The guard against 0 / 0 must not swallow weights that training still sees."""
    model = small()
    model.get_layer('a').kernel.assign(np.full((1, 1, 2, 3), 1e-4))
    model.get_layer('b').kernel.assign(np.zeros((1, 1, 3, 2)))
    penalty = AlignmentPenalty(model, trace_groups(model), strength=1.0)
    penalty.set_masks(masks([1, 1, 0], [1, 1]))
    value, found = gradients(model, penalty)
    assert float(value) == pytest.approx(1e-4 * 2 ** .5, rel=.02)
    assert found['a/kernel'][..., 2] == pytest.approx(2 ** -.5, rel=.01)


def test_masks_and_strength_change_without_a_retrace():
    model = small()
    penalty = AlignmentPenalty(model, trace_groups(model))
    value = tf.function(lambda: penalty())
    assert float(value()) == 0
    penalty.set_masks(masks([1, 1, 0], [1, 1]))
    assert float(value()) == 0
    penalty.strength.assign(1.0)
    assert float(value()) == pytest.approx(math.sqrt(9 + 36 + 9 + 9))
    penalty.set_masks(masks([1, 1, 1], [1, 0]))
    assert float(value()) == pytest.approx(math.sqrt(1 + 4 + 9 + 81 + 100))
    assert value.experimental_get_tracing_count() == 1


def test_masks_come_back_and_missing_groups_open():
    model = small()
    penalty = AlignmentPenalty(model, trace_groups(model))
    penalty.set_masks(masks([1, 0, 1], [0, 1]))
    kept = penalty.get_masks()
    assert kept['a'].tolist() == [True, False, True] and kept['b'].tolist() == [False, True]
    penalty.set_masks({'b': np.array([True, False])})
    assert {n: m.tolist() for n, m in penalty.get_masks().items()} == {
        'a': [True, True, True], 'b': [True, False]}


def test_under_a_strategy_and_on_a_resnet():
    """The variables' numbers are read and written under a scope, as a run does."""
    strategy = tf.distribute.MirroredStrategy(['CPU:0'])
    with strategy.scope():
        model = build_model('resnet8', image_shape=(8, 8, 3), num_classes=3, mean=(0, 0, 0),
                            std=(1, 1, 1))
        groups = trace_groups(model).without_residual()
        penalty = AlignmentPenalty(model, groups, strength=1e-3)
    controller = StrengthController(penalty.strength, target_gap=.02)
    penalty.set_masks({next(iter(groups)): np.arange(16) < 8})
    once = float(penalty())
    assert once > 0 and penalty.get_masks()[next(iter(groups))].sum() == 8
    controller.update(.9, .5)
    assert float(penalty()) == pytest.approx(1.5 * once)


def test_the_decay_shrinks_what_reads_removed_channels_by_hand():
    model = small()
    groups = trace_groups(model)
    penalty = AlignmentPenalty(model, groups)
    decay = AlignmentDecay(model, groups, penalty.masks)
    penalty.set_masks({'a': np.array([True, False, True])})
    before = [w.copy() for w in model.get_weights()]
    decay(tf.constant(0.5))
    assert all(map(np.array_equal, before, model.get_weights()))  # off
    decay.is_on.assign(True)
    decay(tf.constant(0.5))  # 1 - 1.2 / 2
    kernel = model.get_layer('b').kernel.numpy()[0, 0]
    np.testing.assert_allclose(kernel, [[1, -1], [0.8, -0.8], [3, -3]], rtol=1e-6)
    after = model.get_weights()
    assert [np.array_equal(*pair) for pair in zip(before, after)] == [
        True, True, False, True, True]
    decay(tf.constant(1.0))
    assert not model.get_layer('b').kernel.numpy()[0, 0, 1].any()


@pytest.mark.parametrize('steps', slow_but([3, 12, 40], [12]))
def test_full_model_and_subnetwork_are_one_when_the_rates_end(steps):
    """Whatever the gradients and the schedule, also where masks change on the way."""
    model = residual()
    groups = trace_groups(model)
    randomize(model, np.random.default_rng(0))
    first, last = (random_masks(groups, np.random.default_rng(seed)) for seed in (1, 2))
    penalty = AlignmentPenalty(model, groups)
    decay = AlignmentDecay(model, groups, penalty.masks)
    decay.is_on.assign(True)
    trainer = Trainer(model, tf.distribute.get_strategy(), Optimization(global_batch_size=8),
                      constrain=decay)
    rng, shape = np.random.default_rng(3), model.input_shape[1:]
    images = rng.normal(size=(8, *shape)).astype(np.float32)
    data = tf.data.Dataset.from_tensors((images, rng.integers(0, 3, 8))).repeat()
    schedule = Schedule('cosine', 0.05, steps)
    rates = np.array([schedule(step) for step in range(steps)])
    shares = rates / np.cumsum(rates[::-1])[::-1]
    for masks, begin, end in ((first, 0, steps // 2), (last, steps // 2, steps)):
        penalty.set_masks(masks)
        trainer.train_epoch(data.take(end - begin), lambda step: rates[begin + step],
                            rate_share=lambda step: shares[begin + step])
    pruned = prune_model(model, groups, last)
    assert count_cost(pruned).macs < count_cost(model).macs
    np.testing.assert_allclose(pruned(images), model(images), rtol=1e-4, atol=1e-4)


def test_averages_of_weights_are_zero_where_the_decay_ended_at_zero():
    model = small()
    groups = trace_groups(model)
    penalty = AlignmentPenalty(model, groups)
    penalty.set_masks({'a': np.array([True, False, True])})
    decay = AlignmentDecay(model, groups, penalty.masks)
    decay.is_on.assign(True)
    trainer = Trainer(model, tf.distribute.get_strategy(), Optimization(
        global_batch_size=8, average=0.9), constrain=decay)
    images = np.random.default_rng(0).normal(size=(8, *model.input_shape[1:])).astype(np.float32)
    data = tf.data.Dataset.from_tensors((images, np.zeros(8, np.int64))).repeat(5)
    trainer.train_epoch(data, lambda step: 0.1, rate_share=lambda step: 1 / (5 - step))
    kernel = model.get_layer('b').kernel
    assert not kernel.numpy()[0, 0, 1].any()
    trainer.finish()
    assert not kernel.numpy()[0, 0, 1].any() and kernel.numpy()[0, 0, 0].all()


def test_the_decay_leaves_layers_that_do_not_train():
    model = small()
    model.get_layer('b').trainable = False
    groups = trace_groups(model, prune_frozen=True)
    penalty = AlignmentPenalty(model, groups)
    penalty.set_masks({'a': np.array([True, False, True])})
    decay = AlignmentDecay(model, groups, penalty.masks)
    decay.is_on.assign(True)
    before = model.get_weights()
    decay(tf.constant(1.0))
    assert all(map(np.array_equal, before, model.get_weights()))


def controlled(strength, **kwargs):
    variable = tf.Variable(strength)
    return variable, StrengthController(variable, target_gap=.02, **kwargs)


def test_controller_raises_strength_while_the_gap_is_wide():
    strength, controller = controlled(1e-3)
    assert controller.update(.90, .80) == pytest.approx(1.5e-3)
    assert controller.update(.90, .87) == pytest.approx(2.25e-3)
    assert float(strength) == pytest.approx(2.25e-3)


def test_controller_lowers_strength_while_the_gap_is_narrow():
    strength, controller = controlled(1e-3, factor=2.0)
    assert controller.update(.90, .89) == pytest.approx(5e-4)
    assert controller.update(.90, .95) == pytest.approx(2.5e-4)


def test_controller_stays_inside_its_limits():
    strength, controller = controlled(1e-3, smallest=1e-4, largest=1e-2)
    for _ in range(20):
        controller.update(1.0, 0.0)
    assert float(strength) == pytest.approx(1e-2)
    for _ in range(20):
        controller.update(1.0, 1.0)
    assert float(strength) == pytest.approx(1e-4)


@pytest.mark.parametrize('strength', [-1e-9, math.nan, math.inf])
def test_bad_strength(strength):
    model = small()
    with pytest.raises(ValueError, match='strength must be finite and at least 0; received'):
        alignment_penalty(model, trace_groups(model), {}, strength=strength)


def test_bad_masks():
    model = small()
    groups = trace_groups(model)
    for wrong, error, message in (
            ({'c': np.ones(3, bool)}, ValueError, "Unknown group 'c'. Available: a, b"),
            ({'a': np.ones(2, bool)}, ValueError, r'shape \(3,\), received \(2,\)'),
            ({'a': np.ones(3)}, TypeError, 'must be boolean, received float64')):
        with pytest.raises(error, match=message):
            alignment_penalty(model, groups, wrong, strength=1)
