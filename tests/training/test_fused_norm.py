"""Normalization by fused kernels, whatever the number of channels: values, statistics, gradients.
"""
import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest
import tensorflow as tf

from tfprune.training.fused_norm import normalize, normalize_by_batch

EPSILON = 1e-3
# Of 4 × 4 positions and of one; multiples of 4 and of 16, and others.
SHAPES = [(6, 4, 4, 16), (6, 4, 4, 12), (6, 4, 4, 5), (6, 3, 3, 5), (24, 7), (3, 2, 4, 4, 6)]
EXACT = {'float32': 2e-5, 'bfloat16': 2e-2}  # of the largest value


def given(shape, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(1, 3, shape), rng.normal(0, 1, shape))
    gamma, beta = rng.uniform(.5, 2, shape[-1]), rng.normal(0, 1, shape[-1])
    rounded = [tf.cast(a, dtype) for a in (x, dy)] + [tf.constant(a, tf.float32)
                                                      for a in (gamma, beta)]
    return rounded, [tf.cast(a, tf.float64).numpy() for a in rounded]


def by_hand(x, dy, gamma, beta):
    """Outputs, mean, variance, and gradients of x, gamma and beta, in float64."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    sigma = np.sqrt(variance + EPSILON)
    normal = (x - mean) / sigma
    dgamma, dbeta = (dy * normal).sum(axes), dy.sum(axes)
    count = x.size // x.shape[-1]
    dx = gamma / sigma * (dy - dbeta / count - normal * dgamma / count)
    return normal * gamma + beta, mean, variance, dx, dgamma, dbeta


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('shape', SHAPES)
def test_values_statistics_and_gradients_are_those_by_hand(shape, known, dtype):
    (x, dy, gamma, beta), exact = given(shape, dtype)
    channels = shape[-1] if known else None

    @tf.function(autograph=False, input_signature=[
        tf.TensorSpec([None, *shape[1:-1], channels], dtype)] * 2
        + [tf.TensorSpec([channels], tf.float32)] * 2)
    def found(x, dy, gamma, beta):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            outputs, mean, variance = normalize_by_batch(x, gamma, beta, EPSILON)
        return outputs, mean, variance, *tape.gradient(
            outputs, [x, gamma, beta], output_gradients=dy)

    for ours, theirs in zip(found(x, dy, gamma, beta), by_hand(*exact)):
        assert ours.shape == theirs.shape
        assert np.abs(tf.cast(ours, tf.float64) - theirs).max() < EXACT[dtype] * np.abs(
            theirs).max()


@pytest.mark.parametrize('shape', SHAPES)
def test_given_statistics(shape):
    (x, _, gamma, beta), (x64, *_) = given(shape, 'float32')
    mean, variance = tf.linspace(0., 1., shape[-1]), tf.linspace(1., 2., shape[-1])
    expected = (x64 - mean.numpy()) / np.sqrt(variance.numpy() + EPSILON) * gamma.numpy() + (
        beta.numpy())
    assert normalize(x, gamma, beta, mean, variance, EPSILON).numpy() == pytest.approx(
        expected, abs=1e-4)


def test_statistics_teach_nothing():
    (x, _, gamma, beta), _ = given((6, 4, 4, 5), 'float32')
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, mean, _ = normalize_by_batch(x, gamma, beta, EPSILON)
    assert tape.gradient(mean, x) is None
