"""Batch-norm statistics of a sub-network, re-estimated."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.structure.graph import unfold
from tfprune.testing import residual
from tfprune.training.batch_norm import (batch_norm_layers, reestimate_batch_norm,
                                         synchronize_batch_norm, use_fused_batch_norm)


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
    first, second = images.mean((0, 1, 2)), np.zeros(3)  # the second call sees what is normalized
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


# The fused kernels.

def outcome(layer, inputs, training):
    """Output, moving statistics, gradients by inputs and affine weights."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        weights = np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
    gradients = tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_variables)])
    return [np.array(value, np.float32) for value in (
        outputs, layer.moving_mean, layer.moving_variance, *gradients)]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shape, options', [
    ((6, 4, 4, 8), {}), ((6, 4, 4, 5), {}), ((6, 4, 4, 5), {'scale': False}),
    ((6, 3, 3, 5), {}), ((6, 8, 5), {'center': False}), ((6, 5), {}), ((6, 2, 2, 2, 7), {}),
    ((6, 4, 4, 8), {'trainable': False}), ((6, 4, 4, 5), {'dtype': 'mixed_bfloat16'}),
    ((6, 4, 4, 4), {'axis': 1}),
    pytest.param((6, 4, 4, 4), {'renorm': True}, marks=pytest.mark.keras('3.13')),
    ((6, 4, 4, 4), {'dtype': 'float64'})])
def test_fused_equals_keras(shape, options, training):
    rng = np.random.default_rng(0)
    layer = layers.BatchNormalization(momentum=.9, **options)
    layer.build(shape)
    for variable in layer.weights:
        variable.assign(rng.uniform(.5, 2, variable.shape))
    start = layer.get_weights()
    inputs = tf.constant(rng.normal(3, 2, shape), layer.compute_dtype)
    expected = outcome(layer, inputs, training)
    layer.set_weights(start)
    use_fused_batch_norm(keras.Sequential([layer]))
    tolerance = 3e-2 if layer.compute_dtype == 'bfloat16' else 1e-4
    for ours, theirs in zip(outcome(layer, inputs, training), expected, strict=True):
        scale = np.abs(theirs).max() + 1e-6
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance)
    assert training == (not np.array_equal(start[-2], layer.get_weights()[-2])) or (
        options.get('trainable') is False)


def test_a_mask_and_synchronization_are_left_to_keras():
    layer = layers.BatchNormalization()
    layer.build((4, 6, 3))
    model = keras.Sequential([layer])
    use_fused_batch_norm(model)
    inputs = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    mask = np.arange(6)[None] < np.array([[1], [2], [3], [6]])
    plain = layers.BatchNormalization()
    assert layer(inputs, training=True, mask=mask).numpy() == pytest.approx(
        plain(inputs, training=True, mask=mask).numpy(), abs=1e-5)
    synchronize_batch_norm(model, True)
    assert layer(inputs, training=True).numpy() == pytest.approx(
        plain(inputs, training=True).numpy(), abs=1e-5)


def test_fused_layers_run_under_a_graph_of_unknown_batch_and_leave_no_trace_in_files(tmp_path):
    model = residual()
    reference = keras.models.clone_model(model)
    reference.set_weights(model.get_weights())
    use_fused_batch_norm(model)
    images = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)).astype(np.float32)
    run = tf.function(lambda x: model(x, training=True),
                      input_signature=[tf.TensorSpec((None, 8, 8, 3))])
    assert run(images).numpy() == pytest.approx(reference(images, training=True).numpy(),
                                                rel=1e-3, abs=1e-4)
    model.save(tmp_path / 'model.keras')
    clone = keras.models.clone_model(model)
    for copy in (keras.models.load_model(tmp_path / 'model.keras'), clone):
        found = batch_norm_layers(copy)
        assert len(found) == 7 and all('call' not in vars(layer) for layer in found)
