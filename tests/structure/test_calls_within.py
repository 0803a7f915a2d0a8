"""What composite layers do that Keras' graphs cannot have as it is: tables looked up by constants,
blocks that give None, images behind another axis, numbers drawn in training."""
import types

import tfprune
import keras
import numpy as np
from keras import layers, ops

from tfprune.costs.analysis import analyze
from tfprune.structure.composite import opened
from tfprune.structure.graph import unfold
from tfprune.structure.groups import trace_groups
from tfprune.structure.keras_internals import SymbolicArguments
from tfprune.testing import check_promises, random_masks, randomize


class Placed(layers.Layer):
    """Positions are looked up by numbers that are known; it has a weight that it does not use."""

    def build(self, shape):
        self.table = layers.Embedding(shape[1], shape[2], name='table')
        self.table.build((1, shape[1]))
        self.numbers = ops.expand_dims(ops.arange(shape[1]), 0)
        self.spare = self.add_weight(shape=(shape[2],), name='spare')

    def call(self, x):
        return x + self.table(self.numbers)


class DropPath(layers.Layer):
    def __init__(self, rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x, training=None):
        if not training or not self.rate:
            return x
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        kept = ops.floor(keras.random.uniform(shape) + 1 - self.rate)
        return x * kept / (1 - self.rate)


class MixesInTraining(layers.Layer):
    def call(self, x, training=None):
        return (x + keras.random.normal(ops.shape(x)) * ops.roll(x, 1, -1)) if training else x


class Block(layers.Layer):
    """Attention of three matrices in one, unstacked along an axis in front of the images; gives
    scores, if they are asked for."""

    def __init__(self, heads, drop, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.drop = heads, drop

    def build(self, shape):
        self.norm = layers.LayerNormalization()
        self.qkv = layers.Dense(3 * shape[-1])
        self.out = layers.Dense(shape[-1])
        for layer in (self.norm, self.qkv, self.out):
            layer.build(shape)

    def call(self, x, scores=False):
        count, length, width = ops.shape(x)
        y = ops.reshape(self.qkv(self.norm(x)), (count, length, 3, self.heads, -1))
        q, k, v = ops.unstack(ops.transpose(y, (2, 0, 3, 1, 4)), axis=0)
        each = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
        y = ops.reshape(ops.transpose(ops.matmul(each, v), (0, 2, 1, 3)), (count, length, width))
        return x + self.drop(self.out(y)), each if scores else None


class Encoder(layers.Layer):
    def __init__(self, rates, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(2, DropPath(rate)) for rate in rates]

    def build(self, shape):
        for block in self.blocks:
            block.build(shape)

    def call(self, x):
        for block in self.blocks:
            x, _ = block(x)
        return x

    def get_config(self):
        raise AttributeError('no config can be had')


def transformer():
    image = keras.Input((8, 8, 3))
    x = layers.Reshape((16, 12))(layers.Conv2D(12, 2, 2, name='patches')(image))
    x = Encoder((0.5, 0.))(Placed(name='placed')(x))
    x = layers.GlobalAveragePooling1D()(x)
    return randomize(keras.Model(image, layers.Dense(3)(x)))


def test_a_transformer_of_ones_own_is_pruned_in_all_of_its_widths():
    model = transformer()
    groups = trace_groups(model)
    assert not any(step.closed for step in unfold(model).steps)
    found = check_promises(model, random_masks(groups, np.random.default_rng(0)))
    assert found.predicted == found.counted and 0 < found.gated_difference < 1e-5
    assert analyze(model, groups).can_go['macs'] > 0.8


def test_images_behind_another_axis_are_counted_once():
    model = transformer()
    patches, positions = 16 * 4 * 3 * 12, 16
    attention = 4 * positions * 12 * 12 + 2 * positions * positions * 12
    assert analyze(model, trace_groups(model)).dense.macs == patches + 2 * attention + 12 * 3


def test_what_is_drawn_for_whole_examples_keeps_no_channels():
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 3, name='a')(image)
    x = DropPath(name='drops')(x)
    x = layers.Dense(2)(layers.Flatten()(layers.Conv2D(5, 1, name='b')(x)))
    groups = trace_groups(keras.Model(image, x))
    assert dict(groups) == {'a': 6, 'b': 5}


def test_what_mixes_channels_in_training_keeps_them():
    image = keras.Input((4, 4, 3))
    x = MixesInTraining(name='mixes')(layers.Conv2D(6, 3, name='a')(image))
    x = layers.Dense(2)(layers.Flatten()(layers.Conv2D(5, 1, name='b')(x)))
    assert dict(trace_groups(keras.Model(image, x))) == {'b': 5}


def test_weights_that_no_call_uses_are_left_out():
    model = transformer()
    masks = random_masks(trace_groups(model), np.random.default_rng(0))
    pruned = tfprune.prune_model(model, trace_groups(model), masks)
    names = {weight.path for weight in pruned.weights}
    assert any('table' in name for name in names) and not any('spare' in name for name in names)
    assert np.isfinite(pruned(np.ones((2, 8, 8, 3), 'float32'))).all()


def test_windows_whose_positions_are_as_many_as_channels_keep_their_channels():
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 1, name='a')(image)
    y = ops.transpose(ops.reshape(x, (-1, 2, 2, 2, 2, 4)), (0, 1, 3, 2, 4, 5))
    y = layers.Dense(4, name='b')(ops.reshape(y, (-1, 2, 2, 4)))
    y = ops.transpose(ops.reshape(y, (-1, 2, 2, 2, 2, 4)), (0, 1, 3, 2, 4, 5))
    y = layers.Add()([x, ops.reshape(y, (-1, 4, 4, 4))])
    model = randomize(keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling2D()(y))))
    groups = trace_groups(model)
    assert dict(groups) == {'a': 4} and groups.groups['a'].is_residual
    masks = random_masks(groups, np.random.default_rng(0))
    assert check_promises(model, masks).gated_difference < 1e-5


class WrittenOut(layers.Layer):
    """The root mean square of the channels, a function of its own, a sum by a layer that it makes
    anew, and numbers of positions as a weight."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name='scale')
        self.table = layers.Embedding(shape[1], shape[2], name='table')
        self.table.build((1, shape[1]))
        self.numbers = self.add_weight(shape=(1, shape[1]), dtype='int32', trainable=False,
                                       initializer=lambda shape, dtype: ops.arange(
                                           shape[1], dtype=dtype)[None], name='numbers')

    def call(self, x):
        y = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)
        y = y * self.scale + self.table(self.numbers)
        y = layers.Add()([y, x])
        return y / (1 + ops.sum(ops.abs(y), axis=-1, keepdims=True))


def quick_gelu(x):
    return x * ops.sigmoid(1.702 * x)


def beside(x):
    return ops.roll(x, 1, -1)


def test_normalization_that_is_written_out_takes_what_is_kept():
    image = keras.Input((8, 3))
    x = layers.Dense(16, activation=quick_gelu, name='a')(image)
    x = layers.Dense(12, name='b')(WrittenOut(name='own')(x))
    model = randomize(keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling1D()(x))))
    groups = trace_groups(model)
    assert dict(groups) == {'a': 16, 'b': 12}
    masks = {'a': np.arange(16) % 3 > 0, 'b': np.arange(12) % 2 > 0}
    found = check_promises(model, masks)
    assert found.predicted == found.counted and found.gated_difference < 1e-5
    x = np.random.default_rng(0).normal(size=(4, 8, 3)).astype('float32')
    outputs = [np.asarray(each(x)) for each in (model, tfprune.prune_model(model, groups, masks))]
    assert not np.allclose(*outputs, rtol=1e-2) and np.ptp(outputs[1], axis=0).min() > 1e-3


def test_a_function_of_elementwise_operations_keeps_no_channels_and_any_other_does():
    for function, expected in ((quick_gelu, {'a': 6}), (beside, {})):
        image = keras.Input((8, 3))
        x = layers.Activation(function)(layers.Dense(6, name='a')(image))
        model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
        assert dict(trace_groups(model)) == expected


class Passes(layers.Layer):
    def build(self, shape):
        self.same = layers.Identity(dtype=self.dtype_policy)

    def call(self, x):
        return self.same(x) * 2.


def test_an_identity_that_was_given_a_policy_is_saved(tmp_path):
    image = keras.Input((4, 4, 3))
    x = Passes(name='own')(layers.Conv2D(6, 3, name='a')(image))
    model = randomize(keras.Model(image, layers.Dense(2)(layers.Flatten()(x))))
    groups = trace_groups(model)
    pruned = tfprune.prune_model(model, groups, random_masks(groups, np.random.default_rng(0)))
    pruned.save(tmp_path / 'pruned.keras')
    x = np.ones((1, 4, 4, 3), 'float32')
    again = keras.models.load_model(tmp_path / 'pruned.keras')
    np.testing.assert_array_equal(again(x), pruned(x))


class Normalized(layers.Layer):
    def build(self, shape):
        self.norm = layers.BatchNormalization()
        self.norm.build(shape)

    def call(self, x, training=None):
        return self.norm(x, training=training)


def test_a_trace_leaves_layers_the_calls_that_they_were_given():
    own = Normalized(name='own')
    image = keras.Input((4, 4, 3))
    x = own(layers.Conv2D(6, 3, name='a')(image))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    given = own.norm.call = types.MethodType(lambda layer, x, **kwargs: x, own.norm)
    trace_groups(model)
    assert vars(own.norm)['call'] is given and 'symbolic_call' not in vars(own.norm)


class Features(layers.Layer):
    """Gives what it was given beside what it makes of it, as backbones of detectors do."""

    def build(self, shape):
        self.conv = layers.Conv2D(8, 3, padding='same', activation='relu', name='conv')
        self.conv.build(shape)

    def call(self, x):
        return x, self.conv(x)


def test_no_output_of_an_opened_layer_is_its_input():  # Keras takes that for a cycle
    image = keras.Input((4, 4, 3))
    layer = Features()
    layer(image)
    graph, _ = opened(layer, SymbolicArguments(image))
    assert len(graph.outputs) == 2
    assert not {*map(id, graph.outputs)} & {*map(id, graph.inputs)}
