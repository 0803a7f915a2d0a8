"""Layer rules: what a single layer does to labels, weights and configs."""

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.pruning.surgery import prune_model
from tfprune.structure import layer_rules
from tfprune.structure.groups import trace_groups
from tfprune.testing import max_relative_difference, randomize


def positions_of(groups, layer):
    node = next(node for node in groups.layout.nodes if node.layer == layer)
    places = groups.layout.tensors[node.outputs[0]].positions
    return [(groups.layout.names[g], int(i)) for g, i in zip(places.group, places.index)]


def model_with(layer, shape=(4, 4, 3), width=5, after=None):
    image = keras.Input(shape, name='image')
    x = layer(layers.Conv2D(width, 3, padding='same', name='first')(image))
    x = after(x) if after else layers.Conv2D(7, 1, name='second')(x)
    return keras.Model(image, layers.Dense(2, name='logits')(x))


def test_every_rule_covers_all_weights_of_its_layer():
    model = model_with(layers.BatchNormalization(scale=False, name='bn'))
    slots = {(slot.layer, slot.weight) for slot in trace_groups(model).layout.weights}
    assert slots == {(name, weight) for name, weights in {
        'first': ('kernel', 'bias'), 'bn': ('beta', 'moving_mean', 'moving_variance'),
        'second': ('kernel', 'bias'), 'logits': ('kernel', 'bias')}.items() for weight in weights}


def test_flatten_repeats_the_channels_row_major():
    groups = trace_groups(model_with(layers.Flatten(name='flatten'), (2, 3, 3), 5,
                                     layers.Dense(7, name='second')))
    assert positions_of(groups, 'flatten') == [('first', c) for c in range(5)] * 6


def test_depthwise_multiplier_keeps_siblings_together():
    groups = trace_groups(model_with(layers.DepthwiseConv2D(3, depth_multiplier=2, name='dw')))
    assert positions_of(groups, 'dw') == [('first', c // 2) for c in range(10)]


def test_channel_padding_adds_zeros_left_and_right_and_spatial_padding_none():
    pad = layers.ZeroPadding2D(((0, 0), (1, 2)), data_format='channels_first', name='pad')
    groups = trace_groups(model_with(pad))
    assert positions_of(groups, 'pad') == [('pad', 0), *(('first', c) for c in range(5)),
                                           ('pad', 1), ('pad', 2)]
    assert groups.unprunable['pad'] == ("group 'pad' is not prunable: it is produced by no weights")
    groups = trace_groups(model_with(layers.ZeroPadding2D((1, 2), name='pad')))
    assert positions_of(groups, 'pad') == [('first', c) for c in range(5)]


def test_concatenating_rows_couples_and_concatenating_channels_joins():
    def concatenate(axis):
        image = keras.Input((4, 4, 3), name='image')
        parts = [layers.Conv2D(5, 1, name=name)(image) for name in 'ab']
        x = layers.Concatenate(axis, name='join')(parts)
        return trace_groups(keras.Model(image, layers.Conv2D(2, 1, name='logits')(x)))
    assert positions_of(concatenate(1), 'join') == [('a', c) for c in range(5)]
    assert dict(concatenate(1)) == {'a': 5}
    assert positions_of(concatenate(3), 'join') == [(n, c) for n in 'ab' for c in range(5)]


def test_a_vector_rescaling_inside_the_network_is_sliced():
    scale = layers.Rescaling(scale=[1., 2., 3., 4., 5.], offset=.5, name='scale')
    model = randomize(model_with(scale))
    groups = trace_groups(model)
    mask = np.array([True, False, True, False, True])
    pruned = prune_model(model, groups, {'first': mask})
    assert pruned.get_layer('scale').scale == [1., 3., 5.]


@pytest.mark.parametrize('activation', ['softmax', 'log_softmax', lambda x: x[..., ::-1]])
def test_activations_that_may_mix_channels_freeze(activation):
    image = keras.Input((4, 4, 3), name='image')
    x = layers.Conv2D(5, 1, activation=activation, name='inside')(image)
    x = layers.Activation(activation, name='outside')(layers.Conv2D(7, 1, name='conv')(x))
    groups = trace_groups(keras.Model(image, layers.Dense(2, name='logits')(x)))
    assert not groups
    assert "layer 'inside' applies" in groups.unprunable['inside']
    assert "layer 'outside' applies" in groups.unprunable['conv']


def test_a_softmax_head_leaves_its_input_prunable():
    image = keras.Input((4, 4, 3), name='image')
    x = layers.Conv2D(5, 1, name='conv')(image)
    groups = trace_groups(keras.Model(image, layers.Dense(2, activation='softmax')(x)))
    assert dict(groups) == {'conv': 5}


@pytest.mark.parametrize('layer, reason', [
    (lambda: layers.BatchNormalization(axis=1, name='x'), 'normalizes axis 1'),
    (lambda: layers.Dropout(.5, noise_shape=(None, 1, 1, 5), name='x'), 'noise_shape'),
    (lambda: type('MyReLU', (layers.ReLU,), {'call': lambda self, x: tf.nn.relu(x)})(
        name='x'), 'MyReLU), which has no rule'),
])
def test_uses_beyond_a_rule_freeze_with_the_reason(layer, reason):
    groups = trace_groups(model_with(layer()))
    assert 'first' not in groups and 'second' in groups
    assert reason in groups.unprunable['first']
    assert "touches layer 'x'" in groups.unprunable['first']


def test_channels_first_is_refused_by_name():
    layer = layers.MaxPooling2D(2, data_format='channels_first', name='x')
    with pytest.raises(ValueError, match=r"layer 'x' \(MaxPooling2D\) has data_format='channels_f"):
        trace_groups(model_with(layer))


def test_what_is_broadcast_to_all_channels_stays_one():
    image = keras.Input((4, 4, 3), name='image')
    x = layers.Conv2D(5, 1, name='wide')(image)
    y = layers.Conv2D(1, 1, name='narrow')(image)
    x = layers.Add(name='add')([x, y])
    groups = trace_groups(keras.Model(image, layers.Dense(2, name='logits')(x)))
    assert dict(groups) == {'wide': 5} and not groups.groups['wide'].is_residual
    assert "layer 'add' (Add) broadcasts it to all" in groups.unprunable['narrow']


def test_a_shared_layer_ties_the_channels_of_its_calls():
    image = keras.Input((4, 4, 3), name='image')
    a, b = (layers.Conv2D(5, 3, padding='same', name=name)(image) for name in 'ab')
    shared, norm = layers.Conv2D(7, 1, name='shared'), layers.BatchNormalization(name='norm')
    x = layers.Concatenate(name='join')([norm(shared(a)), norm(shared(b))])
    model = randomize(keras.Model(image, layers.Conv2D(2, 1, name='logits')(x)))
    groups = trace_groups(model)
    assert dict(groups) == {'a': 5, 'shared': 7}
    mask = np.arange(5) % 2 == 0
    pruned = prune_model(model, groups, {'a': mask})
    # Channels 1 and 3 contribute nothing once the kernel that reads them is zero.
    kernel = np.array(model.get_layer('shared').kernel)
    kernel[:, :, ~mask] = 0
    model.get_layer('shared').kernel.assign(kernel)
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype('float32')
    assert max_relative_difference(model(images), pruned(images)) < 1e-5


def test_rules_are_found_by_the_exact_class():
    assert all(isinstance(rule, layer_rules.LayerRule) for rule in layer_rules.RULES.values())
    assert layers.Layer not in layer_rules.RULES
