"""Removed blocks: which can go, that nothing else changes, what is left to count."""
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from tfprune.costs.model import count_cost
from tfprune.models.building import build_model
from tfprune.pruning.depth import removable_blocks, remove_blocks
from tfprune.structure.groups import trace_groups
from tfprune.testing import (TOYS, check_promises, max_relative_difference, plain, randomize,
                             recount, residual)


def images(model, count=3):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype('float32')


def resnet(depth):
    return randomize(build_model(f'resnet{depth}', image_shape=(8, 8, 3), num_classes=10,
                                 mean=(0, 0, 0), std=(1, 1, 1)))


def zeroed(model, *norms):
    """A copy whose batch normalizations of these names give zeros."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for name in norms:
        layer = copy.get_layer(name)
        layer.gamma.assign(0 * layer.gamma)
        layer.beta.assign(0 * layer.beta)
    return copy


def assert_rest_is_kept(model, reduced):
    for layer in reduced.layers:
        before = model.get_layer(layer.name)
        if not isinstance(layer, keras.Model):
            assert layer.get_config() == before.get_config()
        for one, other in zip(layer.weights, before.weights, strict=True):
            assert one is not other
            np.testing.assert_array_equal(one, other)


def test_blocks_of_the_toys_are_those_without_padding():
    assert {name: list(removable_blocks(toy.build())) for name, toy in TOYS.items()} == {
        'plain': [], 'residual': ['s1_add'], 'branches': []}
    block = removable_blocks(residual())['s1_add']
    assert block.layers == ('s1_conv1', 's1_conv1_bn', 's1_relu1', 's1_conv2', 's1_conv2_bn',
                            's1_add')


def test_toy_without_a_block_by_hand():
    model = randomize(residual())
    config, weights = model.get_config(), model.get_weights()
    reduced = remove_blocks(model, ['s1_add'])
    expected = zeroed(model, 's1_conv2_bn')(images(model))
    assert max_relative_difference(expected, reduced(images(model))) <= 1e-6
    assert_rest_is_kept(model, reduced)
    gone = 9 * 64 * (5 * 7 + 7 * 5), 9 * (5 * 7 + 7 * 5) + 4 * (7 + 5)
    toy = TOYS['residual']
    assert recount(reduced) == (toy.macs - gone[0], toy.params - gone[1])
    assert model.get_config() == config
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('depth, expected', [
    (8, ['stage1_block1_add']),
    (20, [f'stage{s}_block{b}_add' for s in (1, 2, 3) for b in (1, 2, 3) if s == 1 or b > 1])])
def test_resnet(depth, expected):
    model = resnet(depth)
    assert list(removable_blocks(model)) == expected
    names = expected[::2]
    reduced = remove_blocks(model, names)
    norms = [name.replace('_add', '_bn2') for name in names]
    assert max_relative_difference(zeroed(model, *norms)(images(model)),
                                   reduced(images(model))) <= 1e-5
    cost = count_cost(reduced)
    assert (cost.macs, cost.params) == recount(reduced)
    assert not any(layer.name.startswith(name.replace('_add', '_conv')) for name in names
                   for layer in reduced.layers)
    assert_rest_is_kept(model, reduced)
    # Traced anew it keeps all promises, and dense names mean what they did.
    groups = trace_groups(reduced)
    assert set(groups.without_residual()) < set(trace_groups(model).without_residual())
    assert check_promises(reduced, groups=groups).hold()


def test_all_blocks_at_once_are_all_blocks_one_by_one():
    model = resnet(20)
    names = list(removable_blocks(model))
    at_once, one_by_one = remove_blocks(model, names), model
    for name in names:
        one_by_one = remove_blocks(one_by_one, [name])
    assert at_once.get_config() == one_by_one.get_config()
    for one, other in zip(at_once.get_weights(), one_by_one.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not removable_blocks(at_once)
    assert remove_blocks(model, []).get_config() == model.get_config()


@pytest.mark.slow
def test_mobilenet_v2_of_keras_saved_and_loaded_elsewhere(tmp_path):
    model = randomize(keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=5))
    blocks = removable_blocks(model)
    assert list(blocks) == [f'block_{b}_add' for b in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)]
    assert blocks['block_2_add'].layers[0] == 'block_2_expand'
    reduced = remove_blocks(model, ['block_2_add', 'block_15_add'])
    expected = zeroed(model, 'block_2_project_BN', 'block_15_project_BN')(images(model))
    reduced.save(tmp_path / 'reduced.keras')
    np.save(tmp_path / 'x.npy', images(model))
    code = ('import sys, keras, numpy as np; model = keras.models.load_model("reduced.keras"); '
            'np.save("y.npy", model(np.load("x.npy"))); assert "tfprune" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, capture_output=True,
                   timeout=300)
    assert max_relative_difference(expected, np.load(tmp_path / 'y.npy')) <= 1e-5


def test_blocks_of_users():
    """Operators, three terms, squeeze-excite, a block around a block; and what is none."""
    def conv(x, name, width=5):
        return layers.Conv2D(width, 3, padding='same', name=name)(x)

    image = keras.Input((6, 6, 5), name='image')
    x = image + conv(image, 'a')                                    # Add of keras.ops
    x = layers.Add(name='three')([conv(x, 'b'), x, conv(x, 'c')])
    gate = layers.Dense(5, activation='sigmoid', name='excite')(
        layers.GlobalAveragePooling2D(keepdims=True, name='squeeze')(x))
    x = layers.Add(name='se')([layers.Multiply(name='scale')([conv(x, 'd'), gate]), x])
    inner = layers.Add(name='inner')([y := conv(x, 'e'), conv(y, 'f')])
    x = layers.Add(name='outer')([x, conv(inner, 'g')])
    x = layers.Add(name='projected')([conv(x, 'p'), conv(x, 'h')])
    used = conv(x, 'used')
    x = layers.Add(name='shared_branch')([x, used])
    x = layers.Add(name='broadcast')([layers.GlobalAveragePooling2D(
        keepdims=True, name='mean')(x), conv(x, 'i')])
    x = layers.Concatenate(name='concat')([x, used])
    model = randomize(keras.Model(image, layers.Dense(2, name='logits')(x)))
    blocks = removable_blocks(model)
    first, *named = blocks
    assert named == ['three', 'se', 'inner', 'outer']
    assert blocks[first].layers == ('a', first)
    assert set(blocks['three'].layers) == {'b', 'c', 'three'}
    assert set(blocks['se'].layers) == {'d', 'squeeze', 'excite', 'scale', 'se'}
    assert set(blocks['outer'].layers) == {'e', 'f', 'inner', 'g', 'outer'}
    reduced = remove_blocks(model, blocks)
    assert {'a', 'b', 'd', 'e'}.isdisjoint(layer.name for layer in reduced.layers)
    for name in ('a', 'b', 'c', 'd', 'g'):
        layer = model.get_layer(name)
        layer.set_weights([0 * weight for weight in layer.get_weights()])
    assert max_relative_difference(model(images(model)), reduced(images(model))) <= 1e-5


@pytest.mark.slow
def test_blocks_in_nested_models():
    base = keras.applications.MobileNetV2((32, 32, 3), weights=None, include_top=False)
    branch = keras.Sequential([keras.Input((1, 1, 1280)), layers.Conv2D(1280, 1, name='c')],
                              name='branch')
    image = keras.Input((32, 32, 3), name='image')
    x = base(image)
    x = layers.Add(name='top_add')([x, branch(x)])
    model = randomize(keras.Model(image, layers.Dense(2)(layers.Flatten()(x))))
    blocks = removable_blocks(model)
    assert list(blocks)[-1] == 'top_add' and blocks['top_add'].layers == ('branch/c', 'top_add')
    assert list(blocks)[0] == f'{base.name}/block_2_add'
    reduced = remove_blocks(model, ['top_add', f'{base.name}/block_2_add'])
    names = {layer.name for layer in reduced.get_layer(base.name).layers}
    assert 'block_1_expand' in names and 'block_2_expand' not in names
    assert 'branch' not in {layer.name for layer in reduced.layers}
    assert {layer.name for layer in model.layers} >= {'branch', 'top_add'}
    inner = model.get_layer(base.name).get_layer('block_2_project_BN')
    inner.set_weights([0 * inner.gamma, 0 * inner.beta, *inner.get_weights()[2:]])
    branch.set_weights([0 * weight for weight in branch.get_weights()])
    assert max_relative_difference(model(images(model)), reduced(images(model))) <= 1e-5
    assert recount(reduced) == (count_cost(reduced).macs, count_cost(reduced).params)


def test_shared_layers():
    """A layer that lives elsewhere stays; a sum that is called twice is one block."""
    conv, add = layers.Conv2D(5, 1, name='conv'), layers.Add(name='add')
    image = keras.Input((4, 4, 5), name='image')
    x = conv(image)
    x = add([x, layers.Conv2D(5, 1, name='a')(conv(layers.ReLU(name='relu')(x)))])
    x = add([x, layers.Conv2D(5, 1, name='b')(x)])
    model = randomize(keras.Model(image, layers.Dense(2, name='logits')(x)))
    assert removable_blocks(model)['add'].layers == ('relu', 'a', 'add', 'b')
    reduced = remove_blocks(model, 'add')
    assert [layer.name for layer in reduced.layers] == ['image', 'conv', 'logits']
    expected = model.get_layer('logits')(model.get_layer('conv')(images(model)))
    np.testing.assert_array_equal(reduced(images(model)), expected)


def test_unknown_blocks_are_answered_with_the_right_ones():
    with pytest.raises(ValueError, match="Unknown removable block 's2_add'. Available: s1_add$"):
        remove_blocks(residual(), ['s2_add'])
    with pytest.raises(ValueError, match='Available: none'):
        remove_blocks(plain(), ['x'])
