"""What actor and critic make of an observation."""
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras


class WithStep(tf_keras.layers.Layer):
    """Observations [..., F] of an EpisodicEnv -> [..., F + steps]: with an indicator of the step,
    so that what is learnt of one is not taken from the others."""

    def __init__(self, steps: int, **options: Any):
        super().__init__(**options)
        self._steps = steps

    def call(self, observations: tf.Tensor) -> tf.Tensor:
        return tf.concat([observations, _indicator(observations, self._steps)], -1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {'steps': self._steps}  # networks copy the layer


class StepTable(tf_keras.layers.Layer):
    """Observations [..., F + Z] of an EpisodicEnv -> [..., steps (1 + Z)]: an indicator of the
    step, then its products with each number of z. A linear layer of them is a table: of each step a
    number, and what z adds to it."""

    def __init__(self, steps: int, context_size: int, **options: Any):
        super().__init__(**options)
        self._config = {'steps': steps, 'context_size': context_size}

    def call(self, observations: tf.Tensor) -> tf.Tensor:
        indicator = _indicator(observations, self._config['steps'])
        size = self._config['context_size']
        z = observations[..., observations.shape[-1] - size:]
        return tf.concat([indicator, *(indicator * z[..., i:i + 1] for i in range(size))], -1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | self._config


class Encoder(tf_keras.layers.Layer):
    """Observations [..., F + Z] of an EpisodicEnv -> hidden units [..., units[-1]].

        h <- tanh((1 + gamma(z)) (W h + b) + beta(z))

    layer by layer, of the features with an indicator of the step. z modulates (FiLM, Perez et al.
    2018, arXiv 1709.07871): gamma and beta are linear and begin at zero, so that before anything is
    learnt z changes nothing.

    Args:
        steps: of an episode.
        context_size: Z, 0 for observations without z.
        units: of the layers.
    """

    def __init__(self, steps: int, context_size: int, units: Sequence[int] = (64, 64),
                 **options: Any):
        super().__init__(**options)
        self._config = {'steps': steps, 'context_size': context_size, 'units': tuple(units)}
        self._features, self._with_step = -context_size or None, WithStep(steps)
        self._layers = [tf_keras.layers.Dense(count) for count in units]
        self._modulations = [tf_keras.layers.Dense(2 * count, kernel_initializer='zeros')
                             for count in units] if context_size else []

    def call(self, observations: tf.Tensor) -> tf.Tensor:
        hidden = self._with_step(observations[..., :self._features])
        for i, layer in enumerate(self._layers):
            hidden = layer(hidden)
            if self._modulations:
                z = observations[..., self._features:]
                gamma, beta = tf.split(self._modulations[i](z), 2, axis=-1)
                hidden = (1 + gamma) * hidden + beta
            hidden = tf.tanh(hidden)
        return hidden

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | self._config


def _indicator(observations: tf.Tensor, steps: int) -> tf.Tensor:
    """Of the step that observations [..., F] are of, [..., steps]."""
    return tf.one_hot(tf.cast(tf.round(observations[..., 0] * steps), tf.int32) - 1, steps)
