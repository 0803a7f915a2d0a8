"""Batch-norm statistics of a sub-network, re-estimated."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.graph import unfold
from tfprune.testing import residual
from tfprune.training import batch_norm_layers, reestimate_batch_norm


def batch_norm_only(momentum=.9):
    image = keras.Input((4, 4, 3))
    return keras.Model(image, layers.BatchNormalization(momentum=momentum, name='bn')(image))


@pytest.mark.parametrize('count', [1, 3])
def test_reestimated_statistics_are_the_batches(count):
    model = batch_norm_only()
    layer = model.get_layer('bn')
    layer.moving_mean.assign([7, 8, 9])  # forgotten
    rng = np.random.default_rng(0)
    batches = [rng.normal(i, 1 + i, (5, 4, 4, 3)).astype(np.float32) for i in range(count)]
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), batches)
    # The latest weighs most: .9^(k - 1 - i), over their sum.
    shares = .9 ** np.arange(count)[::-1]
    shares /= shares.sum()
    mean = sum(s * b.mean((0, 1, 2)) for s, b in zip(shares, batches))
    variance = sum(s * b.var((0, 1, 2)) for s, b in zip(shares, batches))
    assert layer.moving_mean.numpy() == pytest.approx(mean, rel=1e-4, abs=1e-5)
    assert layer.moving_variance.numpy() == pytest.approx(variance, rel=1e-4)


def test_reestimation_of_a_network_makes_inference_match_training():
    model = residual()
    found = batch_norm_layers(model)
    assert len(found) == 7
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)), tf.float32)
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), [images])
    assert model(images, training=False).numpy() == pytest.approx(
        model(images, training=True).numpy(), rel=1e-3, abs=1e-3)


def test_a_shared_layer_is_updated_at_each_of_its_calls():
    image = keras.Input((4, 4, 3))
    layer = layers.BatchNormalization(momentum=.9)
    model = keras.Model(image, layer(layer(image)))
    images = np.random.default_rng(0).normal(2, 3, (5, 4, 4, 3)).astype(np.float32)
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), [images])
    first, second = images.mean((0, 1, 2)), np.zeros(3)  # the second call sees what is normalised
    assert layer.moving_mean.numpy() == pytest.approx((.9 * first + second) / 1.9, abs=1e-4)


def test_batch_norm_of_nested_models_is_found():
    assert [layer.name for layer in batch_norm_layers(keras.Sequential([batch_norm_only()]))] == [
        'bn']


def test_a_frozen_layer_keeps_its_statistics():
    model = batch_norm_only()
    layer = model.get_layer('bn')
    layer.moving_mean.assign([7, 8, 9])
    layer.trainable = False
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True),
                          [np.zeros((2, 4, 4, 3))])
    assert layer.moving_mean.numpy().tolist() == [7, 8, 9]
    assert layer.moving_variance.numpy().tolist() == [1, 1, 1]


def test_reestimation_needs_a_batch():
    with pytest.raises(ValueError, match='at least one batch'):
        reestimate_batch_norm(unfold(batch_norm_only()), lambda x: x, [])
