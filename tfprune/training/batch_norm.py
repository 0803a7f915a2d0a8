"""Batch normalization: found, fused, synchronized, its statistics re-estimated.

Keras 3 computes it on TensorFlow as a dozen operations. TensorFlow's fused kernel makes a training
step of a CIFAR ResNet 1.3 times faster on a CPU, where the number of channels is a multiple of 4;
of other widths, which pruning leaves, oneDNN's kernel is three times slower than necessary. There
eight positions are read as one of eight times the channels.
"""
import contextlib
import itertools
import math
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.structure.graph import Graph
from tfprune.structure.keras_internals import (is_plain_batch_norm, layers_within, moments,
                                               renormalizes, with_own)
from tfprune.structure.layer_state import KeptState

_WIDE = 8  # positions that are read as one
_FUSED_DTYPES = ('float32', 'bfloat16', 'float16')
# Of a moving average: deviation of a pass from one, relative to the largest statistic, and of the
# number of updates from a whole one.
_LIKE, _SURE = 0.02, 0.05


def batch_norm_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch-normalization layers of a model, those of layers and models in it included."""
    return [layer for layer in layers_within(model)
            if isinstance(layer, keras.layers.BatchNormalization)]


def synchronize_batch_norm(model: keras.Model, on: bool) -> None:
    """Statistics of the global batch, of all replicas (on), or of each replica's own."""
    for layer in batch_norm_layers(model):
        layer.synchronized = on


def use_fused_batch_norm(model: keras.Model) -> None:
    """Makes the layers of `model` compute the same by TensorFlow's fused kernels, wherever these
    can: on the last axis, without renorm or a mask; synchronized ones with one reduction each.
    Copies of the model, by their configuration or from a file, are plain."""
    for layer in batch_norm_layers(model):
        if type(layer) is keras.layers.BatchNormalization and not renormalizes(layer):
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
        outputs = normalize(inputs, gamma, beta, mean, variance, layer.epsilon)
    else:
        replica = tf.distribute.get_replica_context() if layer.synchronized else None
        if replica and replica.num_replicas_in_sync > 1:
            outputs, batch_mean, batch_variance = _across_replicas(
                replica, inputs, gamma, beta, layer.epsilon)
        else:
            outputs, batch_mean, batch_variance = normalize_by_batch(
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


def normalize(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor,
              variance: tf.Tensor, epsilon: float) -> tf.Tensor:
    """inputs [B, …, C] by the given statistics [C]: gamma (x - mean) / sqrt(variance + eps) + beta.
    """
    flat = _as_images(inputs)
    outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
        flat, gamma, beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False)
    return outputs if flat is inputs else tf.reshape(outputs, tf.shape(inputs))


def normalize_by_batch(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
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


def updated_layers(graph: Graph, run: Callable[[], object]
                   ) -> list[keras.layers.BatchNormalization]:
    """The layers whose moving statistics `run` updates; all that the graph's layers hold is then as
    it was. One that is frozen, or that its subclass or the layer around it keeps in inference mode,
    is none of them."""
    kept = KeptState(graph.layers.values(), weights=True)
    run()
    moved = _moved_layers(graph, kept)
    kept.restore()
    return moved


def _moved_layers(graph: Graph, kept: KeptState) -> list[keras.layers.BatchNormalization]:
    found = {id(inner): inner for layer in graph.layers.values()
             if isinstance(layer, keras.layers.Layer) for inner in layers_within(layer)
             if isinstance(inner, keras.layers.BatchNormalization) and inner.built}
    moved = set(map(id, kept.moved()))
    return [layer for layer in found.values()
            if id(layer.moving_mean) in moved or id(layer.moving_variance) in moved]


def reestimate_batch_norm(graph: Graph, forward: Callable[[tf.Tensor], object],
                          batches: Iterable[tf.Tensor]) -> None:
    """Replaces the moving statistics of batch normalization by those of `batches` alone.

    A pass that updates a layer k times with momentum m turns its statistics s into a s + c, with
    a = m^k and c of the batch. From zeros, n passes leave A-th parts missing of a weighted mean of
    the batches' statistics, A = a^n: divided by 1 - A they are whole. Neither k nor m is known of a
    layer in a loop, in another layer or of a subclass: a is measured, by the first batch from the
    statistics at hand and from zeros.

    Statistics that a pass does not move stay, and so does all other state. Where they do not follow
    a s + c, a warning names the layer, whose statistics are then those after the n passes.

    Args:
        graph: of the model.
        forward: runs the model on images [B, H, W, C] with training=True.
    """
    images = list(itertools.islice(batches := iter(batches), 1))
    if not images:
        raise ValueError('re-estimating batch-norm statistics needs at least one batch.')
    kept = KeptState(graph.layers.values())
    forward(images[0])
    moved, once = _moved_layers(graph, kept), {}
    for layer in moved:
        once[layer] = _statistics_of(layer)
    averaged, odd = moved, list[keras.layers.BatchNormalization]()
    while True:
        kept.restore()
        averages = [_MovingAverage(layer, kept) for layer in averaged]
        if moved:
            forward(images[0])
        unlike = [average.layer for average in averages
                  if not average.measure(once[average.layer])]
        if not unlike:
            break
        odd += unlike
        averaged = [layer for layer in averaged if layer not in unlike]
    count = 1
    for batch in batches if moved else ():
        forward(batch)
        count += 1
    for average in averages:
        average.complete(count)
    kept.restore(but=[variable for layer in moved for variable in layer.variables])
    if odd:
        warnings.warn(
            f'batch normalization {", ".join(layer.path for layer in odd)}: its statistics are no '
            f'moving averages, so that they are those of before, after {count} passes of training '
            'mode; more epochs of fine-tuning move them on')


@contextlib.contextmanager
def normalizing_by_batch(layers: Sequence[keras.layers.BatchNormalization]) -> Iterator[None]:
    """Within it these layers normalize by the batch, whatever mode they are called in, and keep
    their statistics."""
    # Where replicas are traced in turns, another one may have begun.
    ours = [layer for layer in layers if getattr(vars(layer).get('call'), '__func__', None)
            is not _call_by_batch]
    with with_own((layer, 'call', types.MethodType(_call_by_batch, layer)) for layer in ours):
        yield


def _call_by_batch(layer: Any, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
                   ) -> tf.Tensor:
    if renormalizes(layer) or not is_plain_batch_norm(layer):
        given = {} if mask is None else {'mask': mask}
        before = [tf.identity(variable.value) for variable in layer.non_trainable_variables]
        outputs = type(layer).call(layer, inputs, training=True, **given)
        for variable, value in zip(layer.non_trainable_variables, before):
            variable.assign(value)
        return outputs
    x = tf.cast(inputs, keras.backend.result_type(inputs.dtype, 'float32'))
    rank = len(x.shape)
    mean, variance = moments(layer, x, mask) if mask is not None else tf.nn.moments(
        x, [axis for axis in range(rank) if axis != layer.axis % rank])
    outputs = keras.ops.batch_normalization(
        x, mean, variance, layer.axis, layer.beta, layer.gamma, layer.epsilon)
    return tf.cast(outputs, layer.compute_dtype)


class _MovingAverage:
    """Statistics of one layer on the way from `start`, float [2, C]: see `_averaged`."""

    def __init__(self, layer: keras.layers.BatchNormalization, kept: KeptState) -> None:
        self.layer = layer
        self._before = np.stack([kept.value(v) for v in _averaged(layer)]).astype(np.float64)
        # From zeros nothing is lost to rounding; but two starts must differ.
        self._start = 0.0 if self._before.any() else 1.0
        self._left = 1.0
        self._assign(np.full_like(self._before, self._start))

    def measure(self, once: np.ndarray) -> bool:
        """Measures what one pass leaves of the start: this one now, `once` from the statistics
        before. Returns whether the statistics are moving averages."""
        now, apart = _statistics_of(self.layer), self._before - self._start
        left = float(((once - now) * apart).sum() / np.square(apart).sum())
        scale = max(np.abs(value).max() for value in (once, now, apart))
        if not 0 <= left < 1 or not np.abs(once - now - left * apart).max() <= _LIKE * scale:
            return False
        momentum = self.layer.momentum
        if 0 < momentum < 1 and left > 0:
            times = math.log(left) / math.log(momentum)
            if abs(times - round(times)) <= (_SURE if self._is_exact() else 0.5):
                left = momentum ** round(times)
        self._left = left
        return True

    def complete(self, passes: int) -> None:
        """What is missing after so many passes is filled up."""
        left = self._left ** passes
        mean, spread = (_statistics_of(self.layer) - left * self._start) / (1 - left)
        self._assign(np.stack([mean, np.maximum(spread, 0)]))
        if renormalizes(self.layer):  # as Keras derives it
            self.layer.moving_variance.assign(
                np.maximum(np.square(spread) - self.layer.epsilon, 0))

    def _is_exact(self) -> bool:
        return self.layer.moving_mean.dtype not in ('float16', 'bfloat16')

    def _assign(self, values: np.ndarray) -> None:
        for variable, value in zip(_averaged(self.layer), values):
            variable.assign(value)


def _averaged(layer: keras.layers.BatchNormalization) -> tuple[Any, Any]:
    """The variables [C] that are moving averages: mean and variance; under renorm the deviation, of
    which the variance is made."""
    return layer.moving_mean, layer.moving_stddev if renormalizes(layer) else layer.moving_variance


def _statistics_of(layer: keras.layers.BatchNormalization) -> np.ndarray:
    """Their values, float64 [2, C]."""
    return np.stack([keras.ops.convert_to_numpy(v) for v in _averaged(layer)]).astype(np.float64)
