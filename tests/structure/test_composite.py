"""Composite layers: opened they are what they were, and what cannot be opened says why."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from cases import SEEDS, slow_but
from composite_layers import MODELS, Composite, ConvNext, InvertedResidual, Patches

from tfprune.costs.model import CostModel
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.masks import widths_of
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.graph import layer_at, unfold
from tfprune.structure.groups import check_traced, trace_groups
from tfprune.testing import check_promises, max_relative_difference, random_masks, randomize

NAMES = sorted(MODELS)


def model_of(name):
    keras.utils.set_random_seed(0)
    return randomize(MODELS[name][0]())


def images(count=2):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype('float32')


def around(layer):
    image = keras.Input((8, 8, 3), name='image')
    x = layer(layers.Conv2D(5, 3, padding='same', name='a')(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(7, 1, name='b')(x))
    return randomize(keras.Model(image, layers.Dense(2, name='logits')(x)))


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', NAMES)
def test_groups_and_promises(name, seed):
    _, expected, residual = MODELS[name]
    model = model_of(name)
    groups = trace_groups(model)
    assert dict(groups) == expected
    assert {group for group in groups if groups.groups[group].is_residual} == residual
    assert all('input' in reason or 'output' in reason for reason in groups.unprunable.values())
    found = check_promises(model, seed=seed)
    assert found.hold(), found


def test_multiply_adds_by_hand():
    cost = CostModel(model := model_of('inverted_residual'), trace_groups(model))
    assert not cost.uncounted and not cost.fixed
    assert cost.dense.macs == 64 * (27 * 5 + 5 * 15 + 9 * 15 + 15 * 5) + 5 * 3
    assert cost.dense.params == model.count_params()
    assert cost({'block/expand': 2}).macs == 64 * (27 * 5 + 5 * 2 + 9 * 2 + 2 * 5) + 5 * 3


@pytest.mark.parametrize('name', slow_but(NAMES, NAMES[::3]))
def test_a_subnetwork_is_the_gated_model(name):
    model = model_of(name)
    groups = trace_groups(model)
    masks = random_masks(groups, np.random.default_rng(1))
    gated, subnetwork = insert_gates(model, groups), Subnetwork(model, groups)
    gated.set_masks(masks)
    subnetwork.set_masks(masks)
    kept = keras.ops.convert_to_numpy(subnetwork(tf.constant(images(64))))
    # The sub-network normalizes by the batch, and so does a pass of training; without dropout.
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.
    assert max_relative_difference(gated.model(images(64), training=True), kept) < 1e-4


def test_paths_are_those_of_every_copy():
    for name in NAMES:
        model = model_of(name)
        copy = keras.models.clone_model(model)
        check_traced(copy, unfold(copy), trace_groups(model))
        assert all(layer_at(model, path) is unfold(model).layers[path]
                   for path in ('block/depthwise', 'block/gamma') if path in unfold(model).layers)


def test_tracing_leaves_no_trace():
    model = model_of('convnext')
    block = model.get_layer('block')
    before = dict(vars(block)), len(block.up._inbound_nodes)
    following = keras.layers.Dense(2).name.rpartition('_')
    unfold(model)
    assert (dict(vars(block)), len(block.up._inbound_nodes)) == before
    assert keras.layers.Dense(2).name == f'{following[0]}_{int(following[2]) + 1}'
    with pytest.raises(AttributeError):
        block.up.output  # it has been called in no graph of the user's
    assert unfold(model).layers == unfold(model).layers


def test_the_gated_model_trains_the_weights_of_composite_layers():
    for name, weights in (('convnext', ['gamma']), ('patches', ['token', 'positions'])):
        model = model_of(name)
        groups = trace_groups(model)
        gated = insert_gates(model, groups)
        gated.set_masks(random_masks(groups, np.random.default_rng(0)))
        assert {id(v) for v in model.trainable_variables} == {
            id(v) for v in gated.model.trainable_variables}
        layer = model.get_layer('block' if name == 'convnext' else 'patches')
        before = {weight: np.array(getattr(layer, weight)) for weight in weights}
        gated.model.compile('sgd', keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        gated.model.fit(images(8), np.arange(8) % 3, verbose=0)
        for weight, value in before.items():
            assert np.abs(np.array(getattr(layer, weight)) - value).max() > 1e-5


def test_the_mode_reaches_inside_and_what_is_fixed_stays_so():
    model = model_of('convnext')
    gated, norm = insert_gates(model, trace_groups(model)), model.get_layer('block').norm
    before = np.array(norm.moving_mean)
    gated.model(images(), training=False)
    np.testing.assert_array_equal(norm.moving_mean, before)
    gated.model(images(), training=True)
    assert np.abs(np.array(norm.moving_mean) - before).max() > 1e-3
    fixed = model_of('in_inference')
    gated, norm = insert_gates(fixed, trace_groups(fixed)), fixed.get_layer('block').norm
    before = np.array(norm.moving_mean)
    assert max_relative_difference(fixed(images(), training=True),
                                   gated.model(images(), training=True)) < 1e-6
    np.testing.assert_array_equal(norm.moving_mean, before)


class NoiseInTraining(Composite):
    def call(self, inputs, training=None):
        return inputs + keras.ops.ones_like(inputs) if training else inputs * 1.


class StatisticsOfItsOwn(Composite):
    def build(self, shape):
        self.mean = self.add_weight(shape=(5,), trainable=False, name='mean')

    def call(self, inputs):
        self.mean.assign(ops.mean(inputs, (0, 1, 2)))
        return inputs - self.mean


class InTensorFlow(Composite):
    def call(self, inputs):
        return tf.nn.relu(inputs)


class WithLoss(Composite):
    def call(self, inputs):
        self.add_loss(ops.mean(inputs))
        return inputs * 2.


class Calls(Composite):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)

    def call(self, inputs):
        return inputs * 2.


class Tied(Composite):
    """Reads the weight of a layer in it."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.dense = layers.Dense(width)

    def call(self, inputs):
        return ops.matmul(self.dense(inputs), ops.transpose(self.dense.kernel))


class AlwaysTraining(Composite):
    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.dropout = layers.Dropout(.5)

    def call(self, inputs):
        return self.dropout(inputs, training=True)


@pytest.mark.parametrize('layer, reason', [
    (NoiseInTraining, 'it does something else in training: Multiply became OnesLike'),
    (StatisticsOfItsOwn, 'its call does not take symbolic tensors: '),
    (InTensorFlow, 'its call does not take symbolic tensors: '),
    (WithLoss, 'its call does not take symbolic tensors: '),
    (Calls, 'it has a __call__ of its own'),
    (Tied, "it reads the weight 'x/dense"),
    (AlwaysTraining, "it calls 'dropout"),
    (lambda width, name: InvertedResidual(width, name=name, activity_regularizer='l2'),
     'it has an activity regularizer'),
])
def test_what_is_not_opened_says_why(layer, reason):
    model = around(layer(5, name='x'))
    groups = trace_groups(model)
    assert dict(groups) == {'b': 7}
    assert f'which has no rule and could not be opened: {reason}' in groups.unprunable['a']
    assert [step.path for step in unfold(model).steps].count('x') == 1


def test_a_mask_keeps_a_layer_closed():
    tokens = keras.Input((8,), dtype='int32', name='tokens')
    x = layers.Embedding(11, 5, mask_zero=True, name='embed')(tokens)
    x = Scaled(5, name='x')(x)
    model = keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    assert 'it is called on a tensor with a mask' in trace_groups(model).unprunable['embed']


class Scaled(Composite):
    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer='ones', name='scale')
        self.shift = self.add_weight(shape=(self.width,), name='shift', trainable=False)

    def call(self, inputs):
        return inputs * self.scale + self.shift[None, None]


def test_a_number_and_a_frozen_vector():
    model = around(Scaled(5, name='x'))
    assert dict(trace_groups(model)) == {'a': 5, 'b': 7}
    assert not trace_groups(model).groups['a'].is_residual
    found = check_promises(model)
    assert found.hold(), found
    cost = CostModel(model, trace_groups(model)).dense
    assert cost.params - cost.trainable_params == 5


class OfSizes(Composite):
    """Does other things at other sizes."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.conv = layers.Conv2D(width, 1)

    def call(self, inputs):
        x = self.conv(inputs)
        return ops.relu(x) if inputs.shape[1] > 4 else ops.tanh(x)


def test_a_layer_that_does_other_things_at_other_sizes_stays_one():
    layer, image = OfSizes(5, name='x'), keras.Input((8, 8, 3), name='image')
    x = layer(layers.Conv2D(5, 1, name='a')(image))
    x = layers.GlobalAveragePooling2D()(layer(layers.MaxPooling2D(2)(x)))
    groups = trace_groups(keras.Model(image, layers.Dense(2)(x)))
    assert 'could not be opened: its calls do different things' in groups.unprunable['a']


def test_a_layer_at_several_sizes_is_opened():
    layer, image = ConvNext(5, name='x'), keras.Input((8, 8, 3), name='image')
    x = layer(layers.Conv2D(5, 1, name='a')(image))
    x = layers.GlobalAveragePooling2D()(layer(layers.MaxPooling2D(2)(x)))
    model = randomize(keras.Model(image, layers.Dense(2)(x)))
    assert dict(trace_groups(model)) == {'a': 5, 'x/up': 10}
    found = check_promises(model)
    assert found.hold(), found


class Network(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__(name='network')
        self.stem = layers.Conv2D(5, 3, padding='same')
        self.block, self.pool = ConvNext(5), layers.GlobalAveragePooling2D()
        self.logits = layers.Dense(3)

    def call(self, inputs, training=None):
        x = ops.relu(self.stem(inputs))
        return self.logits(self.pool(self.block(x, training=training)))


@pytest.mark.parametrize('call', [lambda model: model(images()), lambda model: model(
    keras.Input((8, 8, 3)))], ids=['on_data', 'on_a_symbolic_tensor'])
def test_a_subclassed_model(call):
    model = Network()
    with pytest.raises(ValueError, match="'network' .* whose inputs are not known: give keras.Mod"):
        trace_groups(model)
    call(model)
    groups = trace_groups(randomize(model))
    assert dict(groups) == {'stem': 5, 'block/up': 10}
    found = check_promises(model, inputs=images())
    assert found.hold(), found


@pytest.mark.parametrize('make', [ConvNext, Patches])
def test_mixed_precision(make):
    keras.config.set_dtype_policy('mixed_bfloat16')
    try:
        image = keras.Input((8, 8, 3), name='image')
        x = layers.Conv2D(3, 1, name='a', dtype='float32')(image)
        x = layers.Activation('elu', dtype='float32')(make(3, name='x')(x))
        rank = len(x.shape)
        x = (layers.GlobalAveragePooling2D if rank == 4 else layers.GlobalAveragePooling1D)()(x)
        model = keras.Model(image, layers.Dense(2, dtype='float32', name='logits')(x))
    finally:
        keras.config.set_dtype_policy('float32')
    randomize(model)
    groups = trace_groups(model)
    assert 'a' in groups and not [step for step in unfold(model).steps if step.closed]
    masks = {'a': np.array([True, False, True])}
    found = check_promises(model, masks)
    assert found.hold(2e-2), found
    pruned = tfprune.prune_model(model, groups, masks)
    assert pruned.get_layer('x').get_layer('cast').compute_dtype == 'bfloat16'
    exact = tfprune.prune_model(model, groups, masks, dtype_policy='float32')
    assert {layer.compute_dtype for layer in exact._flatten_layers()} == {'float32'}
    assert 0 < max_relative_difference(exact(images()), pruned(images())) < 2e-2
    assert widths_of(masks) == {'a': 2}


class OwnAttention(layers.MultiHeadAttention):
    pass


class OwnTimes(layers.TimeDistributed):
    pass


def test_subclasses_of_layers_are_opened_where_their_sizes_are_known():
    image = keras.Input((8, 3))
    x = OwnAttention(2, 5, name='own')(image, image)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    projections, products = 4 * 8 * 3 * 10, 2 * 8 * 8 * 10
    assert CostModel(model, trace_groups(model)).dense.macs == projections + products + 6
    image = keras.Input((4, 6, 3))
    x = OwnTimes(layers.MaxPooling1D(), name='times')(layers.Dense(5, name='a')(image))
    model = randomize(keras.Model(image, layers.Dense(2)(layers.Flatten()(x))))
    assert not any(step.closed for step in unfold(model).steps)
    assert dict(trace_groups(model)) == {'a': 5}
    masks = random_masks(trace_groups(model), np.random.default_rng(0))
    assert check_promises(model, masks).gated_difference < 1e-5
