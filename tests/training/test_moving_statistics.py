"""Batch normalization that updates several times a pass, never, or in its own way."""
import warnings

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.pruning.masks import open_masks
from tfprune.pruning.surgery import prune_model
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.graph import unfold
from tfprune.structure.groups import trace_groups
from tfprune.testing import max_relative_difference, randomize
from tfprune.structure.moving_statistics import updated_layers
from tfprune.training.batch_norm import (batch_norm_layers, reestimate_batch_norm,
                                         use_fused_batch_norm)

register = keras.saving.register_keras_serializable('test_moving_statistics')


@register
class Renamed(layers.BatchNormalization):
    """The same under another name."""


@register
class Still(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


@register
class Own(layers.BatchNormalization):
    """Twice the plain one."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


@register
class OwnMomentum(layers.BatchNormalization):
    """By a third of the way at each pass, whatever its momentum says."""

    def call(self, inputs, training=None, mask=None):
        mean, variance = tf.nn.moments(inputs, [0, 1, 2])
        if training:
            self.moving_mean.assign_add((mean - self.moving_mean) / 3)
            self.moving_variance.assign_add((variance - self.moving_variance) / 3)
            return keras.ops.batch_normalization(inputs, mean, variance, -1, self.beta, self.gamma)
        return super().call(inputs, training=False, mask=mask)


@register
class Geometric(layers.BatchNormalization):
    """A geometric mean of variances."""

    def call(self, inputs, training=None, mask=None):
        if training:
            _, variance = tf.nn.moments(inputs, [0, 1, 2])
            self.moving_variance.assign(tf.sqrt(self.moving_variance * variance))
        return super().call(inputs, training=False, mask=mask)


@register
class Block(layers.Layer):
    """A normalization that is called with training=`mode`, and counts its calls."""

    def __init__(self, mode=None, **kwargs):
        super().__init__(**kwargs)
        self.mode = mode
        self.norm = layers.BatchNormalization(momentum=.5)

    def build(self, shape):
        self.norm.build(shape)
        self.calls = self.add_weight(shape=(), trainable=False, initializer='zeros')
        self.built = True

    def call(self, inputs, training=None):
        if training:
            self.calls.assign_add(1.)
        return self.norm(inputs, training=training if self.mode is None else self.mode)

    def get_config(self):
        return {**super().get_config(), 'mode': self.mode}


def norm(kind=layers.BatchNormalization, momentum=.5, **options):
    return kind(momentum=momentum, **options)


def tiles(x):
    """[8, 8, 5] as four tiles, a normalization inside."""
    tile = keras.Sequential([keras.Input((4, 4, 5)), layers.Conv2D(3, 1), norm(), layers.Conv2D(
        5, 1)])
    x = layers.Reshape((2, 4, 2, 4, 5))(x)
    x = layers.Reshape((4, 4, 4, 5))(layers.Permute((1, 3, 2, 4, 5))(x))
    x = layers.TimeDistributed(tile)(x)
    return layers.Reshape((8, 8, 5))(layers.Permute((1, 3, 2, 4, 5))(
        layers.Reshape((2, 2, 4, 4, 5))(x)))


def shared(x):
    layer = norm()
    return layer(layers.Conv2D(5, 1)(layer(x)))


def nested(x):
    inner = keras.Sequential([keras.Input((8, 8, 5)), norm(momentum=.7), layers.ReLU()])
    return inner(x)


# name -> (what stands between two convolutions, updates a pass)
KINDS = {
    'plain': (lambda x: norm()(x), 1), 'momentum': (lambda x: norm(momentum=.8)(x), 1),
    'no_momentum': (lambda x: norm(momentum=0.)(x), 1),
    'tiles': (tiles, 4), 'shared': (shared, 2), 'nested': (nested, 1),
    'frozen': (lambda x: norm(trainable=False)(x), 0), 'still': (lambda x: norm(Still)(x), 0),
    'whole_momentum': (lambda x: norm(momentum=1.)(x), 0),
    'still_block': (lambda x: Block(mode=False)(x), 0), 'block': (lambda x: Block()(x), 1),
    'renamed': (lambda x: norm(Renamed)(x), 1), 'own': (lambda x: norm(Own)(x), 1),
    'own_momentum': (lambda x: norm(OwnMomentum, momentum=.9)(x), 1),
}


def network(kind):
    """image 8x8x3 - a 5 - a plain normalization - the kind - c 7 - logits 2"""
    image = keras.Input((8, 8, 3))
    x = layers.ReLU()(norm(name='first')(layers.Conv2D(5, 3, padding='same', name='a')(image)))
    x = KINDS[kind][0](x) if kind in KINDS else kind(x)
    x = layers.Conv2D(7, 3, padding='same', name='c')(x)
    x = layers.GlobalAveragePooling2D()(layers.Dropout(.3, seed=1)(layers.ReLU()(x)))
    return randomize(keras.Model(image, layers.Dense(2, name='logits')(x)), seed=3)


def batches(count, size=6):
    rng = np.random.default_rng(1)
    return [tf.constant(rng.normal(i, 1 + i, (size, 8, 8, 3)), tf.float32) for i in range(count)]


def values(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def statistics(model):
    return [v for layer in batch_norm_layers(model)
            for v in (layer.moving_mean, layer.moving_variance)]


@pytest.mark.parametrize('count', [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize('kind', KINDS)
def test_reestimated_is_what_endless_training_passes_over_the_batches_leave(kind, count):
    model, images = network(kind), batches(count)
    before, moving = values(model.variables), statistics(model)
    use_fused_batch_norm(model)
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), images)
    found = values(moving)
    kept = [v for v in model.variables if not any(v is other for other in moving)]
    for variable, value in zip(model.variables, before, strict=True):
        if any(variable is other for other in kept):  # counters and random streams too
            np.testing.assert_array_equal(variable, value)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    run = tf.function(lambda x: model(x, training=True), autograph=False)
    for _ in range(60):
        for batch in images:
            run(batch)
    for ours, theirs in zip(found, values(moving), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_only_what_a_training_pass_updates_is_changed(kind):
    model = network(kind)
    before = values(model.variables)
    found = updated_layers(unfold(model), lambda: model(batches(1)[0], training=True))
    assert len(found) == 1 + bool(KINDS[kind][1])
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    other = [v for layer in batch_norm_layers(model) if layer not in found
             for v in (layer.moving_mean, layer.moving_variance)]
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), batches(2))
    for variable in other:
        assert any(np.array_equal(variable, value) for value in before)


def test_tiles_have_the_statistics_that_numpy_finds():
    model, (images,) = network('tiles'), batches(1)
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), [images])
    wrapper, = (layer for layer in model.layers if isinstance(layer, layers.TimeDistributed))
    tile = wrapper.layer
    seen = np.array(keras.Model(model.input, wrapper.input)(images, training=True))
    found = [np.array(tile.layers[0](seen[:, step])) for step in range(4)]
    shares = .5 ** np.arange(4)[::-1] / sum(.5 ** np.arange(4))
    mean = sum(s * x.mean((0, 1, 2)) for s, x in zip(shares, found))
    variance = sum(s * x.var((0, 1, 2)) for s, x in zip(shares, found))
    # The layer before, on the same images, normalizes by the batch in both.
    np.testing.assert_allclose(tile.layers[1].moving_mean, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(tile.layers[1].moving_variance, variance, rtol=1e-3)


def test_statistics_of_zeros_are_found_again():
    model = network('plain')
    for layer in batch_norm_layers(model):
        layer.moving_mean.assign(tf.zeros_like(layer.moving_mean))
        layer.moving_variance.assign(tf.zeros_like(layer.moving_variance))
    other = network('plain')
    for each in (model, other):
        reestimate_batch_norm(unfold(each), lambda x: each(x, training=True), batches(2))
    for ours, theirs in zip(values(statistics(model)), values(statistics(other)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.keras('3.13')
@pytest.mark.parametrize('starts_initial', [True, False])
def test_renorm_averages_the_deviation(starts_initial):
    model, images = network(lambda x: norm(renorm=True, name='odd')(x)), batches(3)
    odd = model.get_layer('odd')
    if starts_initial:
        for variable in odd.non_trainable_variables:
            fill = tf.zeros_like if 'mean' in variable.name else tf.ones_like
            variable.assign(fill(variable))
    before = keras.Model(model.input, odd.input)
    found = [before(x, training=True).numpy() for x in images]
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), images)
    shares = odd.momentum ** np.arange(3)[::-1]
    shares = shares / shares.sum()
    mean, deviation = (sum(s * each(x) for s, x in zip(shares, found)) for each in (
        lambda x: x.mean((0, 1, 2)), lambda x: np.sqrt(x.var((0, 1, 2)) + odd.epsilon)))
    np.testing.assert_allclose(odd.moving_mean, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(odd.moving_variance, deviation ** 2 - odd.epsilon, rtol=1e-3)


def test_statistics_that_are_no_averages_are_those_of_the_passes_with_a_warning():
    model, images = network(lambda x: norm(Geometric, name='odd')(x)), batches(2)
    before = values(model.variables)
    with pytest.warns(UserWarning, match='batch normalization odd: .* after 2 passes'):
        reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), images)
    odd = model.get_layer('odd')
    found = values(odd.non_trainable_variables)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    for batch in images:
        model(batch, training=True)
    for ours, theirs in zip(found, values(odd.non_trainable_variables), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_plain_statistics_need_no_warning():
    model = network('nested')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), batches(1))


@pytest.mark.parametrize('kind', [name for name in KINDS if name != 'shared'])
def test_a_sub_network_is_scored_by_the_statistics_of_its_layers(kind):
    """Those of the batch where training would move them, else the moving ones: the pruned model,
    with the former re-estimated on the same batch."""
    model, (images,) = network(kind), batches(1)
    for layer in model.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0
    groups = trace_groups(model)
    assert 'c' in groups
    chosen = Subnetwork(model, groups)
    for masks in (open_masks(groups), {'c': np.arange(7) % 2 == 0}):
        before = values(model.variables)
        chosen.set_masks(masks)
        ours = tf.function(chosen, autograph=False)(images)
        pruned = prune_model(model, groups, masks)
        if kind == 'tiles':  # normalized tile by tile
            theirs = pruned(images, training=True)
        else:
            reestimate_batch_norm(unfold(pruned), lambda x: pruned(x, training=True), [images])
            theirs = pruned(images)
        assert max_relative_difference(theirs, ours) <= 1e-3
        for variable, value in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value)


@pytest.mark.slow
def test_after_a_short_training_the_statistics_are_those_of_the_trained_weights():
    """Two steps of momentum 0.99 leave 98% of the statistics of before."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.uniform(0, 255, (96, 8, 8, 3)).astype('float32'), np.arange(96) % 2
    data = tf.data.Dataset.from_tensor_slices((pixels, labels.astype('int32')))
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, name='a')(layers.Rescaling(1 / 255)(image))
    x = layers.GlobalMaxPooling2D()(layers.ReLU()(layers.BatchNormalization(name='norm')(x)))
    keras.utils.set_random_seed(0)
    model = keras.Model(image, layers.Dense(2, name='logits')(x))
    pruned = tfprune.train_and_prune(
        model=model, train_data=data.take(32).batch(16), reward_data=data.skip(32).take(32),
        test_data=data.skip(64), macs=.7, method='uniform', warmup_epochs=0, random_epochs=0,
        joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1, fine_tune_learning_rate=.5,
        learning_rate=.5, lr_warmup_epochs=0., calibration_batches=1, progress=False)
    norm_ = pruned.get_layer('norm')
    seen = np.array(keras.Model(pruned.input, norm_.input)(pixels[:32]))
    np.testing.assert_allclose(norm_.moving_mean, seen.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(norm_.moving_variance, seen.var((0, 1, 2)), rtol=1e-3)
