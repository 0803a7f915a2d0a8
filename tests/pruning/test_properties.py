"""Promises on models that nobody wrote: drawn by Hypothesis from branches, sums, nesting, sharing.
"""

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import layers

from tfprune.pruning.masks import open_masks, widths_of
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import (check_promises, max_relative_difference, random_masks, randomize,
                             recount)

SIZE = 6


def convolution(x, width, kernel=1, activation='swish'):
    return layers.Conv2D(width, kernel, padding='same', activation=activation)(x)


def residual(x, width):
    y = convolution(convolution(x, width, 3), x.shape[-1])
    return layers.Add()([x, layers.BatchNormalization()(y)])


def nested(x, width):
    image = keras.Input((SIZE, SIZE, x.shape[-1]))
    y = layers.PReLU(shared_axes=(1, 2))(convolution(image, width))
    return keras.Model(image, layers.Concatenate()([y, image]))(x)


def shared(x, width):
    del width
    twice = layers.Conv2D(x.shape[-1], 3, padding='same', activation='tanh')
    return twice(layers.BatchNormalization()(twice(x)))


def excite(x, width):
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return x * convolution(convolution(s, width), x.shape[-1], activation='sigmoid')


BLOCKS = {
    'convolution': lambda x, width: layers.BatchNormalization()(convolution(x, width, 3)),
    'residual': residual,
    'branches': lambda x, width: layers.Concatenate()([
        convolution(x, width), convolution(x, width + 1, 3), layers.MaxPooling2D(3, 1, 'same')(x)]),
    'depthwise': lambda x, width: layers.DepthwiseConv2D(
        3, padding='same', depth_multiplier=1 + width % 2, activation='relu6')(x),
    'separable': lambda x, width: layers.SeparableConv2D(width, 3, padding='same')(x),
    'grouped': lambda x, width: layers.Conv2D(2 * width, 3, padding='same', groups=2)(
        convolution(x, 2 * width)),
    'group_norm': lambda x, width: layers.GroupNormalization(2)(convolution(x, 2 * width)),
    'nested': nested,
    'shared': shared,
    'excite': excite,
    'scale': lambda x, width: x * .5 + 1.,
}


@st.composite
def models(draw):
    keras.backend.clear_session()
    blocks = draw(st.lists(st.tuples(st.sampled_from(sorted(BLOCKS)), st.integers(2, 5)),
                           min_size=1, max_size=5))
    image = keras.Input((SIZE, SIZE, 3))
    x = convolution(image, draw(st.integers(2, 5)))
    for name, width in blocks:
        x = BLOCKS[name](x, width)
        if x.shape[-1] > 24:
            x = convolution(x, width)
    x = draw(st.sampled_from([layers.Flatten, layers.GlobalAveragePooling2D]))()(x)
    outputs = [layers.Dense(3)(x)]
    if draw(st.booleans()):
        outputs.append(layers.Dense(2, activation='softmax')(x))
    return randomize(keras.Model(image, outputs), seed=draw(st.integers(0, 99)))


def on_models(count):
    """Calls a test with `count` models and a seed for each, always the same ones."""
    def decorate(test):
        return settings(max_examples=count, deadline=None, derandomize=True)(
            given(models(), st.integers(0, 99))(test))

    return decorate


@on_models(15)
def test_gated_is_pruned_and_predicted_is_counted(model, seed):
    check_gated_is_pruned(model, seed)


@pytest.mark.slow
@on_models(60)
def test_gated_is_pruned_and_predicted_is_counted_on_many(model, seed):
    check_gated_is_pruned(model, seed)


def check_gated_is_pruned(model, seed):
    found = check_promises(model, seed=seed)
    assert found.hold(), found


@on_models(6)
def test_pruning_twice_is_pruning_once_and_open_masks_are_the_identity(model, seed):
    check_pruning_twice(model, seed)


@pytest.mark.slow
@on_models(30)
def test_pruning_twice_is_pruning_once_on_many(model, seed):
    check_pruning_twice(model, seed)


def check_pruning_twice(model, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    groups = trace_groups(model)
    first = random_masks(groups, rng)
    once = prune_model(model, groups, first)
    again = trace_groups(once)
    # The last block of a grouped layer is an ordinary layer, of other groups.
    assume(dict(again) == widths_of(first))
    second = random_masks(again, rng)
    both = {name: mask.copy() for name, mask in first.items()}
    for name, mask in second.items():
        both[name][np.flatnonzero(first[name])[~mask]] = False
    twice, at_once = prune_model(once, again, second), prune_model(model, groups, both)
    assert recount(twice) == recount(at_once)
    assert same(twice(x), at_once(x))
    assert same(model(x), prune_model(model, groups, open_masks(groups))(x))


def same(a, b):
    return all(max_relative_difference(one, other) <= 1e-6 for one, other in zip(
        keras.tree.flatten(a), keras.tree.flatten(b), strict=True))
