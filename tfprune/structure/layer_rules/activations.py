"""Activations: nearly all treat channels independently."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from tfprune.structure.layer_rules.base import (Call, Channelwise, InPlace, Keras2Layer, Labels,
                                                LayerRule, Tracer, WeightAxes, reaches_channels)

# Softmax and its kin mix channels, and a function that is not here may, so their channels are
# frozen. Compared by identity: a user's `relu` is not ours.
ELEMENTWISE = frozenset(getattr(keras.activations, name) for name in (
    'linear', 'relu', 'relu6', 'leaky_relu', 'elu', 'celu', 'selu', 'gelu', 'silu', 'mish',
    'sigmoid', 'tanh', 'softplus', 'softsign', 'exponential', 'hard_sigmoid', 'hard_silu',
    'hard_tanh', 'hard_shrink', 'soft_shrink', 'tanh_shrink', 'threshold', 'squareplus',
    'log_sigmoid', 'sparse_plus', 'sparse_sigmoid'))


def freeze_if_mixed(layer: Any, labels: Labels, tracer: Tracer) -> Labels:
    """Freezes what the layer's activation may mix; returns `labels`."""
    freeze_unless_elementwise(getattr(layer, 'activation', None), layer.name, labels, tracer)
    return labels


def freeze_unless_elementwise(activation: Any, layer: str, labels: Labels, tracer: Tracer) -> None:
    """Freezes `labels`, which the layer of that name applies `activation` to, if it may mix them."""
    if activation is not None and activation not in ELEMENTWISE:
        name = getattr(activation, '__name__', type(activation).__name__)
        tracer.freeze(labels, f"layer '{layer}' applies '{name}', which is not known to treat "
                              'channels independently')


class _Activation(Channelwise):

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        return freeze_if_mixed(call.layer, inputs[0], tracer)


class Softmax(InPlace):
    """A softmax; over the channels it freezes them."""

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        if reaches_channels(call.layer.axis, len(call.input_shapes[0])):
            tracer.freeze(inputs[0], f"layer '{call.layer.name}' ({call.kind}) normalizes over "
                                     'the channels')
        return inputs[0]


class _PReLU(InPlace):
    """alpha [*sizes or 1, C], or [*sizes or 1, 1] where the channels share it."""

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        rank = len(layer.alpha.shape)
        shared = layer.shared_axes is not None and reaches_channels(layer.shared_axes, rank + 1)
        return (WeightAxes('alpha', out_axis=None if shared else rank - 1),)


RULES: dict[type[keras.Operation], LayerRule] = {
    layers.Activation: _Activation().in_keras2(),
    layers.ReLU: Channelwise().in_keras2(),
    layers.LeakyReLU: Channelwise().in_keras2(Keras2Layer(config={'negative_slope': 'alpha'})),
    layers.ELU: Channelwise().in_keras2(),
    layers.PReLU: _PReLU().in_keras2(),
    layers.Softmax: Softmax().in_keras2(),
}
