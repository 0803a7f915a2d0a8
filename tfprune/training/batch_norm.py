"""Layers of batch normalization: found, fused, synchronized, their statistics re-estimated."""
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
from tfprune.structure.moving_statistics import moved_layers
from tfprune.training.fused_norm import DTYPES, normalize, normalize_by_batch

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
    if (mask is not None or inputs.dtype.name not in DTYPES
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
    moved, once = moved_layers(graph, kept), {}
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
