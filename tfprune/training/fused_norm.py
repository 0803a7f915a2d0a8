"""Batch normalization by TensorFlow's fused kernels, of any number of channels.

Keras 3 computes it on TensorFlow as a dozen operations. The fused kernel makes a training step of a
CIFAR ResNet 1.3 times faster on a CPU, where channels come in multiples of 4, for 16-bit numbers of
16; of other widths, which pruning leaves, oneDNN's kernels take two to eight times as long. There
several positions are read as one of as many times the channels, so that these are such a multiple:
a channel's mean and variance follow from those of its columns, and all else is the kernel in
inference mode, whose scale and shift are given, and its gradient.
"""
from typing import Any

import tensorflow as tf

DTYPES = ('float32', 'bfloat16', 'float16')


def normalize(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor,
              variance: tf.Tensor, epsilon: float) -> tf.Tensor:
    """inputs [B, …, C] by the given statistics [C]: gamma (x - mean) / sqrt(variance + eps) + beta.

    C may be unknown until the graph runs.
    """
    return _choose(
        inputs, lambda: _by_given(inputs, 1, gamma, beta, mean, variance, epsilon),
        lambda: _by_given(inputs, _joined(inputs), gamma, beta, mean, variance, epsilon))


def normalize_by_batch(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
                       ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """inputs [B, …, C] by their own statistics; with these, mean and (biased) variance [C], through
    which no gradient flows.

    C may be unknown until the graph runs.
    """
    outputs, mean, variance = _choose(inputs, lambda: _fused(inputs, gamma, beta, epsilon),
                                      lambda: _wide(inputs, gamma, beta, epsilon))
    return outputs, tf.stop_gradient(mean), tf.stop_gradient(variance)


def _choose(inputs: tf.Tensor, fused: Any, wide: Any) -> Any:
    """What the fused kernel gives, or where that is slow and positions can be joined, the other."""
    multiple, channels, positions = 4 if inputs.dtype == tf.float32 else 16, inputs.shape[-1], 1
    for size in inputs.shape[1:-1]:
        positions = positions * size if size is not None else 1
    if positions % _joined(inputs) or (channels is not None and channels % multiple == 0):
        return fused()
    if channels is not None:
        return wide()
    return tf.cond(tf.shape(inputs)[-1] % multiple == 0, fused, wide)


def _joined(inputs: tf.Tensor) -> int:
    """How many positions are read as one."""
    return 8 if inputs.dtype == tf.float32 else 16


def _fused(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
           ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    flat = _as_images(inputs, 1)
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        flat, gamma, beta, epsilon=epsilon, is_training=True)
    return _like(outputs, inputs, 1), mean, _biased(variance, flat)


def _by_given(inputs: tf.Tensor, joined: int, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor,
              variance: tf.Tensor, epsilon: float) -> tf.Tensor:
    gamma, beta, mean, variance = (
        tf.tile(a, [joined]) if joined > 1 else a for a in (gamma, beta, mean, variance))
    outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
        _as_images(inputs, joined), gamma, beta, mean=mean, variance=variance, epsilon=epsilon,
        is_training=False)
    return _like(outputs, inputs, joined)


def _wide(inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
          ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`_fused`, several positions being read as one."""
    joined, channels = _joined(inputs), tf.shape(inputs)[-1]

    def columns(of_channels: tf.Tensor) -> tf.Tensor:
        return tf.tile(of_channels, [joined])

    def rows(of_columns: tf.Tensor) -> tf.Tensor:
        return tf.reshape(of_columns, [joined, channels])

    @tf.custom_gradient
    def by_batch(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        flat = _as_images(x, joined)
        ones = tf.ones([joined * channels])
        _, means, variances = tf.compat.v1.nn.fused_batch_norm(
            flat, ones, tf.zeros_like(ones), epsilon=epsilon, is_training=True)
        mean = tf.reduce_mean(rows(means), 0)
        variance = tf.reduce_mean(
            rows(_biased(variances, flat)) + tf.square(rows(means) - mean), 0)
        outputs, *_, reserved = tf.raw_ops.FusedBatchNormV3(
            x=flat, scale=columns(gamma), offset=columns(beta), mean=columns(mean),
            variance=columns(variance), epsilon=epsilon, is_training=False)

        def gradients(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # dx = gamma / sigma (dy - mean(dy) - y' mean(dy y')), y' = (x - mean) / sigma. The
            # first term, and the sums, are the gradient in inference mode; the others are x
            # normalized to another scale and offset.
            dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=_as_images(dy, joined), x=flat, scale=columns(gamma),
                reserve_space_1=columns(mean), reserve_space_2=columns(variance),
                reserve_space_3=reserved, epsilon=epsilon, is_training=False)
            dgamma, dbeta = (tf.reduce_sum(rows(sums), 0) for sums in (dgamma, dbeta))
            share = -gamma * tf.math.rsqrt(variance + epsilon) / tf.cast(
                tf.size(x) // channels, tf.float32)
            rest = _by_given(x, joined, share * dgamma, share * dbeta, mean, variance, epsilon)
            return _like(dx, x, joined) + rest, dgamma, dbeta

        return (_like(outputs, x, joined), mean, variance), gradients

    return by_batch(inputs, gamma, beta)  # type: ignore[no-any-return]


def _biased(variance: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """The variance that Keras keeps, of the unbiased one that the kernel gives."""
    count = tf.cast(tf.size(images) // tf.shape(images)[-1], variance.dtype)
    return variance * ((count - 1) / count)


def _as_images(inputs: tf.Tensor, joined: int) -> tf.Tensor:
    """[B, …, C] as the kernel wants it, of rank 4; `inputs` itself if it is. So many positions are
    joined."""
    if joined == 1 and len(inputs.shape) == 4:
        return inputs
    return tf.reshape(inputs, tf.stack([-1, 1, 1, joined * tf.shape(inputs)[-1]]))


def _like(outputs: tf.Tensor, inputs: tf.Tensor, joined: int) -> tf.Tensor:
    """What came of `_as_images`, in the shape of `inputs`."""
    if joined == 1 and len(inputs.shape) == 4:
        return outputs
    return tf.ensure_shape(tf.reshape(outputs, tf.shape(inputs)), inputs.shape)
