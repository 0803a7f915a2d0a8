"""What a model ends in, and the logits of its outputs."""
import tfprune  # noqa: F401  (first: sets up Keras)

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.models.outputs import as_logits, last_activation, outputs_probabilities
from tfprune.training.distribution import make_strategy
from tfprune.training.step import Optimization, Trainer


def flat():
    return keras.Input((5,), name='x')


def dense(x, activation=None):
    return layers.Dense(3, activation=activation)(x)


def nested_in(build):
    """A model whose last layer is a model."""
    x = flat()
    inner = keras.Model(x, build(x))
    outer = flat()
    return inner(layers.Rescaling(2.0)(outer)), outer


ENDS = {
    'argument': (lambda x: dense(x, 'softmax'), 'softmax'),
    'layer': (lambda x: layers.Softmax()(dense(x)), 'softmax'),
    'activation layer': (lambda x: layers.Activation('softmax')(dense(x)), 'softmax'),
    'operation': (lambda x: keras.ops.softmax(dense(x)), 'softmax'),
    'before a reshape': (lambda x: layers.Reshape((3,))(dense(x, 'softmax')), 'softmax'),
    'before a change of dtype': (
        lambda x: layers.Activation('linear', dtype='float32')(dense(x, 'softmax')), 'softmax'),
    'convolution, flattened': (
        lambda x: layers.Flatten()(layers.Conv2D(3, 1, activation='softmax')(
            layers.Reshape((1, 1, 5))(x))), 'softmax'),
    'logits': (dense, 'linear'),
    'logits of a convolution': (
        lambda x: layers.Flatten()(layers.Conv2D(3, 1)(layers.Reshape((1, 1, 5))(x))), 'linear'),
    'softmax before the last layer': (lambda x: dense(dense(x, 'softmax')), 'linear'),
    'sigmoid': (lambda x: dense(x, 'sigmoid'), 'sigmoid'),
    'sigmoid layer': (lambda x: layers.Activation('sigmoid')(dense(x)), 'sigmoid'),
    'relu': (lambda x: layers.ReLU()(dense(x)), 'relu'),
    'sum': (lambda x: layers.Add()([dense(x), dense(x, 'softmax')]), 'add'),
    'the input alone': (lambda x: layers.Identity()(x), 'inputlayer'),
}


@pytest.mark.parametrize('build, expected', ENDS.values(), ids=list(ENDS))
def test_last_activation(build, expected):
    x = flat()
    model = keras.Model(x, build(x))
    assert last_activation(model) == expected
    assert outputs_probabilities(model) == (expected == 'softmax')


@pytest.mark.parametrize('name', ['argument', 'operation', 'logits'])
def test_last_activation_of_nested_and_sequential_models(name):
    build, expected = ENDS[name]
    outputs, inputs = nested_in(build)
    assert last_activation(keras.Model(inputs, outputs)) == expected
    x = flat()
    inner = keras.Model(x, build(x))
    assert last_activation(keras.Sequential([flat(), inner])) == expected


def test_logits_of_probabilities():
    x = flat()
    scores = dense(x)
    plain = keras.Model(x, scores)
    soft = keras.Model(x, layers.Softmax()(scores))
    inputs = np.random.default_rng(0).normal(size=(4, 5)).astype('float32')
    logits, probabilities = plain(inputs), soft(inputs)
    assert as_logits(plain, logits) is logits
    np.testing.assert_allclose(as_logits(soft, probabilities), np.log(probabilities), rtol=1e-6)
    np.testing.assert_allclose(
        tf.nn.softmax(as_logits(soft, probabilities)), probabilities, rtol=1e-5)
    halves = as_logits(soft, tf.constant([[.5, .25, .25]], tf.bfloat16))
    assert halves.dtype == tf.float32


def test_gradient_is_that_of_the_logits_where_keras_clips():
    """-log p with p = e^-40, which Keras' own loss clips to 1e-7 and so leaves without gradient."""
    x = keras.Input((3,))
    soft = keras.Model(x, layers.Softmax()(x))
    scores = tf.constant([[0., 40., 0.]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
            [0], as_logits(soft, soft(scores)))
    np.testing.assert_allclose(tape.gradient(loss, scores), [[-1., 1., 0.]], atol=1e-6)
    assert float(loss[0]) == pytest.approx(40, rel=1e-5)


def test_a_probability_that_is_0_gives_finite_numbers():
    x = keras.Input((2,))
    soft = keras.Model(x, layers.Softmax()(x))
    scores = tf.constant([[0., 500.]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits([0], as_logits(soft, soft(scores)))
    assert 80 < float(loss[0]) < 100
    assert np.all(np.isfinite(tape.gradient(loss, scores)))


def test_a_model_that_ends_in_a_softmax_trains_as_the_same_without():
    rng = np.random.default_rng(0)
    data = tf.data.Dataset.from_tensor_slices((
        rng.normal(size=(24, 5)).astype('float32'), rng.integers(0, 3, 24))).batch(8)
    strategy, trained = make_strategy(1), []
    for build in (dense, ENDS['argument'][0]):
        keras.utils.set_random_seed(3)
        with strategy.scope():
            x = flat()
            model = keras.Model(x, build(x))
        trainer = Trainer(model, strategy, Optimization(label_smoothing=.1, global_batch_size=8))
        trained.append((trainer.train_epoch(data, lambda _: .5), model.get_weights()))
    (plain, expected), (soft, received) = trained
    assert soft == pytest.approx(plain, rel=1e-5)
    for one, other in zip(expected, received, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
