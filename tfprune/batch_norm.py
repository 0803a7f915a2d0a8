"""Batch normalisation: found, fused, synchronised, its statistics re-estimated.

Keras 3 computes it on TensorFlow as a dozen operations. TensorFlow's fused kernel makes a training
step of a CIFAR ResNet 1.3 times faster on a CPU, where the number of channels is a multiple of 4;
of other widths, which pruning leaves, oneDNN's kernel is three times slower than necessary. There
eight positions are read as one of eight times the channels.
"""
import types
from typing import Any, Callable, Iterable

import keras
import tensorflow as tf

from tfprune.graph import Graph

_WIDE = 8  # positions that are read as one
_FUSED_DTYPES = ('float32', 'bfloat16', 'float16')


def batch_norm_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch-normalisation layers of a model, those of layers and models in it included."""
    return [layer for layer in model._flatten_layers()  # Keras has no public name
            if isinstance(layer, keras.layers.BatchNormalization)]


def synchronise_batch_norm(model: keras.Model, on: bool) -> None:
    """Statistics of the global batch, of all replicas (on), or of each replica's own."""
    for layer in batch_norm_layers(model):
        layer.synchronized = on


def use_fused_batch_norm(model: keras.Model) -> None:
    """Makes the layers of `model` compute the same by TensorFlow's fused kernels, wherever these
    can: on the last axis, without renorm or a mask; synchronised ones with one reduction each.
    Copies of the model, by their configuration or from a file, are plain."""
    for layer in batch_norm_layers(model):
        if type(layer) is keras.layers.BatchNormalization and not layer.renorm:
            layer.call = types.MethodType(_fused_call, layer)


def _fused_call(layer: Any, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
                ) -> tf.Tensor:
    """BatchNormalization.call, with the same arguments and effects."""
    by_batch = bool(training) and layer.trainable
    if (mask is not None or inputs.dtype.name not in _FUSED_DTYPES
            or layer.axis not in (-1, len(inputs.shape) - 1)):
        return keras.layers.BatchNormalization.call(layer, inputs, training=training, mask=mask)
    gamma, beta = affine(layer)
    mean, variance = statistics(layer)
    if not by_batch:
        outputs = normalise(inputs, gamma, beta, mean, variance, layer.epsilon)
    else:
        replica = tf.distribute.get_replica_context() if layer.synchronized else None
        if replica and replica.num_replicas_in_sync > 1:
            outputs, batch_mean, batch_variance = _across_replicas(
                replica, inputs, gamma, beta, layer.epsilon)
        else:
            outputs, batch_mean, batch_variance = normalise_by_batch(
                inputs, gamma, beta, layer.epsilon)
        kept = layer.momentum
        layer.moving_mean.assign(tf.cast(
            mean * kept + batch_mean * (1 - kept), layer.moving_mean.dtype))
        layer.moving_variance.assign(tf.cast(
            variance * kept + batch_variance * (1 - kept), layer.moving_variance.dtype))
    return tf.cast(outputs, layer.compute_dtype)


def affine(layer: keras.layers.BatchNormalization) -> tuple[tf.Tensor, tf.Tensor]:
    """gamma and beta, float32 [C]; ones and zeros where the layer has none."""
    mean, _ = statistics(layer)
    return (tf.cast(layer.gamma, tf.float32) if layer.scale else tf.ones_like(mean),
            tf.cast(layer.beta, tf.float32) if layer.center else tf.zeros_like(mean))


def statistics(layer: keras.layers.BatchNormalization) -> tuple[tf.Tensor, tf.Tensor]:
    """Moving mean and variance, float32 [C], whatever the dtype of the weights."""
    return (tf.cast(layer.moving_mean, tf.float32), tf.cast(layer.moving_variance, tf.float32))


def normalise(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor,
              variance: tf.Tensor, epsilon: float) -> tf.Tensor:
    """inputs [B, …, C] by the given statistics [C]: gamma (x - mean) / sqrt(variance + eps) + beta.
    """
    flat = _as_images(inputs)
    outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
        flat, gamma, beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False)
    return outputs if flat is inputs else tf.reshape(outputs, tf.shape(inputs))


def normalise_by_batch(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
                       ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """inputs [B, …, C] by their own statistics; with these, mean and (biased) variance [C].

    C may be unknown until the graph runs.
    """
    channels = inputs.shape[-1]
    positions = 1
    for size in inputs.shape[1:-1]:
        positions = positions * size if size is not None else 1
    if positions % _WIDE or (channels is not None and channels % 4 == 0):
        return _fused(inputs, gamma, beta, epsilon)
    if channels is not None:
        return _wide(inputs, gamma, beta, epsilon)
    return tf.cond(tf.shape(inputs)[-1] % 4 == 0,
                   lambda: _fused(inputs, gamma, beta, epsilon),
                   lambda: _wide(inputs, gamma, beta, epsilon))


def _fused(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
           ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    flat = _as_images(inputs)
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        flat, gamma, beta, epsilon=epsilon, is_training=True)
    # The kernel gives the unbiased variance, Keras keeps the biased one.
    count = tf.cast(tf.size(flat) // tf.shape(flat)[-1], variance.dtype)
    outputs = outputs if flat is inputs else tf.reshape(outputs, tf.shape(inputs))
    return outputs, mean, variance * ((count - 1) / count)


def _wide(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
          ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    channels = tf.shape(inputs)[-1]
    rows = tf.reshape(tf.cast(inputs, tf.float32), [-1, _WIDE * channels])
    means, variances = (tf.reshape(m, [_WIDE, channels]) for m in tf.nn.moments(rows, [0]))
    mean = tf.reduce_mean(means, 0)
    variance = tf.reduce_mean(variances + tf.square(means - mean), 0)
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    outputs = rows * tf.tile(scale, [_WIDE]) + tf.tile(beta - mean * scale, [_WIDE])
    outputs = tf.reshape(tf.cast(outputs, inputs.dtype), tf.shape(inputs))
    return tf.ensure_shape(outputs, inputs.shape), mean, variance


def _across_replicas(replica: tf.distribute.ReplicaContext, inputs: tf.Tensor, gamma: tf.Tensor,
                     beta: tf.Tensor, epsilon: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """By the statistics of all replicas. Keras does with three reductions what takes one: between
    machines each costs a round trip, here and in the gradient."""
    x, axes = tf.cast(inputs, tf.float32), list(range(len(inputs.shape) - 1))
    channels = tf.shape(x)[-1]
    count = tf.cast(tf.size(x) // channels, tf.float32)
    sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat(
        [tf.reduce_sum(x, axes), tf.reduce_sum(tf.square(x), axes), count[None]], 0))
    mean, square = (tf.math.divide_no_nan(s, sums[-1]) for s in tf.split(sums[:-1], 2))
    variance = tf.maximum(square - tf.square(mean), 0.0)
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    outputs = tf.cast(x * scale + (beta - mean * scale), inputs.dtype)
    return tf.ensure_shape(outputs, inputs.shape), mean, variance


def _as_images(inputs: tf.Tensor) -> tf.Tensor:
    """[B, …, C] as the kernel wants it, of rank 4; `inputs` itself if it is."""
    if len(inputs.shape) == 4:
        return inputs
    return tf.reshape(inputs, tf.stack([-1, 1, 1, tf.shape(inputs)[-1]]))


def reestimate_batch_norm(graph: Graph, forward: Callable[[tf.Tensor], object],
                          batches: Iterable[tf.Tensor]) -> None:
    """Replaces the moving statistics of batch normalisation by those of `batches` alone.

    From zeros, k updates with momentum m leave (1 - m) sum_i m^(k-1-i) s_i, a weighted mean of the
    statistics s_i short of the factor 1 - m^k; dividing by it needs no change of a layer.

    Args:
        graph: of the model; a shared layer is updated at each of its calls.
        forward: runs the model on images [B, H, W, C] with training=True.
    """
    # A frozen layer normalises by its moving statistics in training too, and never moves them.
    calls = {id(inner): (inner, graph.calls(layer)) for layer in graph.layers.values()
             if isinstance(layer, keras.layers.Layer) for inner in layer._flatten_layers()
             if isinstance(inner, keras.layers.BatchNormalization) and inner.trainable}
    layers = [layer for layer, _ in calls.values()]
    for layer in layers:
        layer.moving_mean.assign(tf.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(tf.zeros(layer.moving_variance.shape))
    count = 0
    for images in batches:
        forward(images)
        count += 1
    if not count:
        raise ValueError('re-estimating batch-norm statistics needs at least one batch.')
    for layer, times in calls.values():
        scale = 1 / (1 - layer.momentum ** (count * times))
        layer.moving_mean.assign(layer.moving_mean * scale)
        layer.moving_variance.assign(layer.moving_variance * scale)
