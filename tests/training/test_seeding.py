"""Seeds of epochs: the streams of keras.utils.set_random_seed, kernels kept where they may be."""
import random

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.training.seeding import set_seed


class Noise(keras.layers.Layer):
    """Draws with TensorFlow's own streams."""

    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


def model_of(*layers):
    return keras.Sequential([keras.Input((3,)), *layers])


def draws():
    return (random.random(), np.random.rand(), tf.random.uniform(()).numpy(),
            keras.random.uniform(()).numpy())


@pytest.mark.keras('3.13')
def test_the_same_streams_as_keras():
    found = []
    for seed in (7, 8):
        set_seed(seed, model_of(keras.layers.Dropout(.5)))
        found.append(draws())
    for seed, seen in zip((7, 8), found):
        keras.utils.set_random_seed(seed)
        assert draws() == seen
    assert all(one != two for one, two in zip(*found))


def first_call(model):
    """Output of a traced function of `model` right after a seed, twice."""
    call = tf.function(lambda x: model(x, training=True))
    found = []
    for _ in range(2):
        set_seed(3, model)
        found.append(call(tf.ones((4, 3))).numpy())
    return found


@pytest.mark.parametrize('layers', [
    lambda: [Noise()], lambda: [keras.Sequential([keras.Input((3,)), Noise()])],
    lambda: [keras.layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x)))]])
def test_streams_of_foreign_layers_begin_anew(layers):
    one, two = first_call(model_of(*layers()))
    np.testing.assert_array_equal(one, two)


def test_kernels_are_kept_for_layers_of_keras():
    """A function's kernels hold the stream of a random operation: it goes on."""
    draw = tf.function(lambda: tf.random.uniform((4,)))
    stock = model_of(keras.layers.Dropout(.5))
    set_seed(3, stock)
    one = draw().numpy()
    set_seed(3, stock)
    assert not np.array_equal(draw(), one)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(draw(), one)
