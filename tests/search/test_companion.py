"""A sub-network that trains beside its network: exact gradients, what it learns, what it costs."""
import json

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from light_export import light_export
from made_up_problem import made_up_problem, started
from tfprune.models.building import build_model
from tfprune.pruning.surgery import prune_model
from tfprune.search.companion import Companion
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.testing import random_masks, residual
from tfprune.training.account import EpochAccount
from tfprune.training.batch_norm import use_fused_batch_norm
from tfprune.training.distribution import make_strategy
from tfprune.training.step import Optimization, Trainer


def digits_like(count=64, side=16, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=count).astype(np.int32)
    x = rng.uniform(0, 120, (count, side, side, 3)) + 30 * y[:, None, None, None]
    return tf.data.Dataset.from_tensor_slices((x.astype(np.float32), y)).batch(16)


def followed(model, groups, masks, every):
    """A companion that is on."""
    variables = {name: tf.Variable(mask.astype(np.float32)) for name, mask in masks.items()}
    companion = Companion(Subnetwork(model, groups), variables, every)
    companion.is_on.assign(True)
    assert companion.joins(0)
    return companion


def resnet8():
    keras.utils.set_random_seed(0)
    return build_model('resnet8', image_shape=(16, 16, 3), num_classes=4, mean=(.5,) * 3,
                       std=(.25,) * 3)


def shallow():
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 64, -2)(image)
    for name, width in (('c1', 8), ('c2', 6)):
        x = layers.Conv2D(width, 3, strides=2, use_bias=False, name=name)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize('make', [residual, pytest.param(resnet8, marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_pruned_model(make):
    """In the kept slices; nothing in those that are removed."""
    model = make()
    groups = trace_groups(model)
    masks = random_masks(groups, np.random.default_rng(1))
    pruned = prune_model(model, groups, masks)
    companion = followed(model, groups, masks, 1)
    use_fused_batch_norm(model)
    use_fused_batch_norm(pruned)
    x = tf.constant(np.random.default_rng(0).normal(size=(8, *model.input.shape[1:])), tf.float32)

    def gradients(network, variables):
        @tf.function(autograph=False)
        def computed():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(tf.cast(network(x), tf.float32)))
            return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

        return computed()

    ours, found = gradients(companion, model.trainable_variables)
    theirs, expected = gradients(lambda x: pruned(x, training=True), pruned.trainable_variables)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    # Surgery on a clone whose weights are the gradients cuts these as it cuts the weights.
    clone = keras.models.clone_model(model)
    by_path = {v.path: g for v, g in zip(model.trainable_variables, found)}
    for ours, theirs in zip(clone.weights, model.weights):
        ours.assign(by_path.get(theirs.path, ours))
    cut = {v.path: v.numpy() for v in prune_model(
        clone, trace_groups(clone), masks).trainable_variables}
    scale = max(float(np.abs(g).max()) for g in expected)
    for variable, gradient in zip(pruned.trainable_variables, expected):
        np.testing.assert_allclose(cut[variable.path], gradient, atol=2e-5 * scale)
    assert scale > 0
    removed = sum(float(tf.norm(g) ** 2) for g in found) - sum(
        float(tf.norm(g) ** 2) for g in expected)
    assert abs(removed) < 1e-4 * sum(float(tf.norm(g) ** 2) for g in expected)


def trained(every):
    """(metrics, companion, masks, model) after training from the same start."""
    strategy = make_strategy(1)
    with strategy.scope():
        model = shallow()
        groups = trace_groups(model)
        masks = random_masks(groups, np.random.default_rng(1))
        companion = followed(model, groups, masks, every)
    trainer = Trainer(model, strategy, Optimization(global_batch_size=16),
                      companion=companion if every < 9 else None)
    for _ in range(10):
        found = trainer.train_epoch(digits_like(), lambda step: .1)
    return found, companion, masks, model


def subnetwork_loss(model, masks):
    groups = trace_groups(model)
    network = Subnetwork(model, groups)
    network.set_masks(masks)
    return float(np.mean([tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(
        y, network(x), from_logits=True)) for x, y in digits_like(seed=1)]))


def test_the_subnetwork_learns_and_the_steps_are_counted():
    logged, companion, masks, beside = trained(2)
    assert companion.take_steps() == 10 * 2  # steps 0 and 2 of 4, ten epochs
    assert companion.take_steps() == 0
    found, unused, _, alone = trained(9)
    assert unused.take_steps() == 0
    ours, theirs = subnetwork_loss(beside, masks), subnetwork_loss(alone, masks)
    print(f'\nloss of the sub-network: {ours:.3f} trained beside, {theirs:.3f} not')
    assert ours < .8 * theirs
    # What is logged is the loss of the whole network.
    assert found.keys() == logged.keys()


@pytest.mark.slow
def test_what_xla_compiles_does_not_depend_on_v():
    def loss(jit_compile):
        strategy = make_strategy(1)
        with strategy.scope():
            model = resnet8()
            groups = trace_groups(model)
            companion = followed(model, groups, random_masks(groups, np.random.default_rng(1)), 2)
        trainer = Trainer(model, strategy, Optimization(
            global_batch_size=16, jit_compile=jit_compile), companion=companion)
        for kept in (2, 3):  # v is another in each epoch, in number, too
            for mask in companion._masks.value.values():
                mask.assign(np.arange(mask.shape[0]) < kept)
            found = trainer.train_epoch(digits_like(), lambda step: .1)
        return found['loss']

    assert loss(True) == pytest.approx(loss(False), rel=1e-3)


def test_losses_of_layers_are_those_of_the_whole_network():
    strategy = make_strategy(1)
    with strategy.scope():
        image = keras.Input((16, 16, 3))
        x = layers.Conv2D(8, 3, strides=4, activation='relu', name='c')(image)
        x = layers.ActivityRegularization(l2=1e-3)(x)
        model = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    groups = trace_groups(model)
    beside = followed(model, groups, {'c': np.arange(8) < 3}, 1)

    def penalty(companion):
        trainer = Trainer(model, strategy, Optimization(global_batch_size=16),
                          companion=companion)
        return trainer.train_epoch(digits_like(16), lambda step: 0.0)['penalty']

    assert penalty(beside) == pytest.approx(penalty(None)) and penalty(None) > 0


def test_off_it_joins_no_step():
    companion = Companion(None, {}, 2)
    assert not any(companion.joins(step) for step in range(4))
    companion.is_on.assign(True)
    assert [companion.joins(step) for step in range(4)] == [True, False, True, False]
    with pytest.raises(ValueError, match='every must be at least 1; received 0'):
        Companion(None, {}, 0)


def test_rlal_follows_v_with_it_and_charges_what_it_costs():
    planned = dict(warmup_epochs=1, random_epochs=1, joint_epochs=1, alignment_epochs=1)
    short = dict(episodes_per_epoch=2, random_reference_episodes=0, comparison_episodes=0,
                 context_size=0, context_updates=0, agent_updates=1, alignment='none')
    problem = made_up_problem(**planned)
    object.__setattr__(problem, 'account', EpochAccount(1000, problem.cost_model.dense.macs))
    method = started('rlal', problem, subnetwork_every=4, **short)
    companion = method.companion()
    on, set_to = [], []
    companion._network.value.set_masks = set_to.append
    for epoch in range(4):
        on.append(bool(companion.is_on))
        if on[-1]:
            companion._steps.assign(5)
            assert companion.joins(0) and not companion.joins(1) and companion.joins(4)
            assert all(np.array_equal(mask, set_to[-1][name])
                       for name, mask in method.alignment.get_masks().items())
        before, widths = problem.account.epochs, method.best_widths.numpy()
        method.after_epoch(epoch, epoch + 1)
        share = problem.cost_model(problem.budget.as_dict(widths)).macs / (
            problem.cost_model.dense.macs)
        charged = problem.account.epochs - before
        assert charged == pytest.approx(5 * 128 / 1000 * share if on[-1] else 0)
    assert on == [False, False, True, True]
    assert len(set_to) == 1  # v stays as it is in the epochs of alignment
    assert not companion.is_on  # surgery comes
    # Whoever assigns them, a checkpoint or the chief of several workers.
    companion.is_on.assign(True)
    name, mask = next(iter(method.alignment.masks.items()))
    mask.assign(1 - mask)
    assert companion.joins(0) and np.array_equal(set_to[-1][name], mask.numpy() > .5)


@pytest.mark.slow
def test_a_run_that_is_stopped_within_an_epoch_goes_on_bit_for_bit(tmp_path):
    def run(folder, stop_at=None):
        steps = 0

        class Stops(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                nonlocal steps
                steps += 1
                if steps == stop_at:
                    raise KeyboardInterrupt

        keras.utils.set_random_seed(0)
        with light_export():
            return tfprune.train_and_prune(
                model=resnet8(), train_data=digits_like(96), reward_data=digits_like(32, seed=2),
                test_data=digits_like(32, seed=3), macs=.5, run_dir=folder, warmup_epochs=0,
                random_epochs=1, joint_epochs=1, alignment_epochs=1, fine_tune_epochs=1,
                learning_rate=.01, distillation=0., progress=False, callbacks=[Stops()],
                rlal=dict(subnetwork_every=2, episodes_per_epoch=2, comparison_episodes=0,
                          agent_updates=1, context_updates=1))

    whole = run(tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'cut', stop_at=9)  # within the joint epoch
    resumed = run(tmp_path / 'cut')
    for ours, theirs in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    rows = [[json.loads(line) for line in open(tmp_path / name / 'metrics.jsonl')]
            for name in ('whole', 'cut')]
    assert rows[0][2]['search_equivalents'] == rows[1][2]['search_equivalents'] > 0
