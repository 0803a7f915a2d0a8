"""Every layer of Keras CNNs in a model of its own: gated == pruned, predicted == recount."""

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers, ops

from cases import SEEDS, fast_but
from layer_families import ALIKE, FAMILIES, around, model_of

from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, random_masks, randomize, recount


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', fast_but(FAMILIES, ALIKE))
def test_the_promises_hold(name, seed):
    model = model_of(name)
    groups = trace_groups(model)
    expected = FAMILIES[name][2]
    assert set(groups) == {*expected, *(['a'] if 'a/1' not in expected else [])}, groups.unprunable
    masks = random_masks(groups, np.random.default_rng(seed))
    found = check_promises(model, masks, groups=groups, seed=seed)
    assert found.hold(), found


FREEZING = {
    # name: (function, what the reason of 'a' says)
    'normalization': (layers.Normalization(mean=.5, variance=2., name='x'), 'keeps statistics'),
    'softmax': (layers.Softmax(name='x'), 'normalizes over the channels'),
    'lambda': (layers.Lambda(lambda x: x, name='x'), 'Lambda), which has no rule'),
    'color': (layers.RandomContrast(.1, name='x'), 'may mix its channels'),
    'ops_max': (lambda x: x * ops.max(x, axis=-1, keepdims=True), 'reduces the channels'),
    'ops_all': (lambda x: x * ops.mean(x), 'reduces the channels'),
    'ops_one_image': (lambda x: x[:1, ...], 'is indexed with'),
    'ops_every_other': (lambda x: x[..., ::2], 'takes some of the channels'),
    'ops_one_channel': (lambda x: x * x[..., 2, None], 'takes some of the channels'),
    'ops_unstack': (lambda x: ops.stack(ops.unstack(x, axis=-1), -1), 'takes the channels apart'),
    'ops_reflect': (lambda x: ops.pad(x, ((0, 0),) * 3 + ((1, 1),), 'reflect'),
                    'pads the channels by others'),
    'ops_two_axes': (
        lambda x: x[:, :6, :6] + ops.transpose(x[:, :6, :6], (0, 3, 1, 2)), 'broadcasts'),
    'channels_to_rows': (lambda x: layers.Conv2D(4, 1)(ops.swapaxes(x, 1, 3)),
                         'where the last is expected'),
    'ops_vector': (lambda x: x * np.arange(6, dtype='float32'), 'a constant of shape'),
    'ops_softmax': (lambda x: ops.softmax(x), 'normalizes over the channels'),
}


@pytest.mark.parametrize('name', FREEZING)
def test_what_mixes_channels_freezes_them_with_the_reason(name):
    function, reason = FREEZING[name]
    model = randomize(around(function))
    groups = trace_groups(model)
    assert 'a' not in groups and reason in groups.unprunable['a']
    found = check_promises(model, groups=groups)
    assert found.hold(), found


def test_two_branches_with_layers_of_one_name():
    def backbone(name):
        image = keras.Input((8, 8, 3))
        x = layers.Conv2D(5, 3, name='conv')(image)
        return keras.Model(image, layers.GlobalAveragePooling2D()(x), name=name)
    a, b = keras.Input((8, 8, 3), name='left_image'), keras.Input((8, 8, 3), name='right_image')
    x = layers.Concatenate()([backbone('left')(a), backbone('right')(b)])
    model = randomize(keras.Model([a, b], layers.Dense(3, name='logits')(x)))
    groups = trace_groups(model)
    assert dict(groups) == {'left/conv': 5, 'right/conv': 5}
    found = check_promises(model)
    assert found.hold(), found


def test_surgery_keeps_the_nesting_the_names_and_what_is_trainable():
    backbone = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3, name='conv')],
                                name='backbone')
    backbone.trainable = False
    image = keras.Input((8, 8, 3), name='image')
    x = layers.GlobalAveragePooling2D(name='pool')(backbone(image, training=False))
    model = randomize(keras.Model(image, layers.Dense(3, name='logits')(x), name='transfer'))
    groups = trace_groups(model)
    pruned = prune_model(model, groups, {'backbone/conv': np.arange(5) < 2})
    assert [layer.name for layer in pruned.layers] == ['image', 'backbone', 'pool', 'logits']
    assert isinstance(pruned.get_layer('backbone'), keras.Sequential)
    assert pruned.get_layer('backbone').get_layer('conv').filters == 2
    assert len(pruned.trainable_variables) == 2  # those of 'logits'
    assert recount(pruned)[1] == 27 * 2 + 2 + 2 * 3 + 3


def test_statistics_of_a_normalization_layer_are_copied():
    model = around(lambda x: x)
    image = keras.Input((8, 8, 3))
    normalize = layers.Normalization(name='normalize')
    normalize.adapt(np.random.default_rng(0).normal(3, 2, (64, 8, 8, 3)).astype('float32'))
    whole = keras.Model(image, model(normalize(image)))
    found = check_promises(whole)
    assert found.groups == 2 and found.hold(), found
