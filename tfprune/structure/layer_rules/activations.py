"""Activations: nearly all treat channels independently."""

import functools
import types
from collections.abc import Hashable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tfprune.structure.layer_rules.base import (Call, Channelwise, InPlace, Keras2Layer, Labels,
                                                LayerRule, Tracer, WeightAxes, axis_of_channels,
                                                reaches_channels)
from tfprune.structure.layer_rules.functions import is_made_of_elementwise

# Softmax and its kin mix channels, and a function that is not here may, so their channels are
# frozen. Compared by identity: a user's `relu` is not ours.
_NAMES = ('linear', 'relu', 'relu6', 'leaky_relu', 'elu', 'celu', 'selu', 'gelu', 'silu', 'mish',
          'sigmoid', 'tanh', 'softplus', 'softsign', 'exponential', 'hard_sigmoid', 'hard_silu',
          'hard_tanh', 'hard_shrink', 'soft_shrink', 'tanh_shrink', 'threshold', 'squareplus',
          'log_sigmoid', 'sparse_plus', 'sparse_sigmoid')
# Functions of keras.ops and TensorFlow that compute what an activation of Keras does by default.
# Not keras.ops.gelu, which approximates.
_SAME_IN_OPS = {name: name for name in _NAMES if name not in (
    'linear', 'gelu', 'mish', 'exponential', 'threshold')} | {'exp': 'exponential'}
_SAME_IN_TENSORFLOW = {
    tf.identity: 'linear', tf.nn.relu: 'relu', tf.nn.relu6: 'relu6',
    tf.nn.leaky_relu: 'leaky_relu', tf.nn.elu: 'elu', tf.nn.selu: 'selu', tf.nn.gelu: 'gelu',
    tf.nn.silu: 'silu', tf.nn.sigmoid: 'sigmoid', tf.nn.tanh: 'tanh', tf.nn.softplus: 'softplus',
    tf.nn.softsign: 'softsign', tf.exp: 'exponential', tf.math.log_sigmoid: 'log_sigmoid'}
_OF_KERAS = {getattr(keras.activations, name): name for name in _NAMES}
# Every function that is known to treat channels independently -> its activation of Keras.
_EQUAL: dict[Any, str | None] = {
    **{getattr(keras.ops, name): None for name in (
        'gelu', 'threshold', 'abs', 'absolute', 'square', 'sin', 'cos')},
    **{function: None for function in (tf.abs, tf.square, tf.sin, tf.cos)},
    **{getattr(keras.ops, name): equal for name, equal in _SAME_IN_OPS.items()},
    **_SAME_IN_TENSORFLOW, **_OF_KERAS}
_LAYERS = (layers.ReLU, layers.LeakyReLU, layers.ELU)


def keras_activation(activation: Any) -> Any:
    """Returns the activation of Keras, which a config can hold, that computes the same as a
    function; without one, the function itself."""
    name = _EQUAL.get(activation) if isinstance(activation, Hashable) else None
    return activation if name is None else getattr(keras.activations, name)


def is_elementwise(activation: Any) -> bool:
    """Whether a function or layer is known to treat every number by itself."""
    if isinstance(activation, layers.Activation):
        return type(activation) is layers.Activation and is_elementwise(activation.activation)
    if isinstance(activation, functools.partial):
        return (not activation.args and is_elementwise(activation.func)
                and all(isinstance(value, int | float) for value in activation.keywords.values()))
    if type(activation) in _LAYERS or isinstance(activation, Hashable) and activation in _EQUAL:
        return True
    return isinstance(activation, types.FunctionType) and is_made_of_elementwise(activation)


def freeze_if_mixed(layer: Any, labels: Labels, tracer: Tracer) -> Labels:
    """Freezes what the layer's activation may mix; returns `labels`."""
    freeze_unless_elementwise(getattr(layer, 'activation', None), layer.name, labels, tracer)
    return labels


def freeze_unless_elementwise(activation: Any, layer: str, labels: Labels, tracer: Tracer) -> None:
    """Freezes `labels`, to which the layer of that name applies `activation`, if it may mix them.
    """
    if activation is not None and not is_elementwise(activation):
        name = getattr(activation, '__name__', type(activation).__name__)
        tracer.freeze(labels, f"layer '{layer}' applies '{name}', which is not known to treat "
                              'channels independently')


class _Activation(Channelwise):

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        return freeze_if_mixed(call.layer, inputs[0], tracer)


class Softmax(InPlace):
    """A softmax; over the channels it freezes them."""
    any_axis = True

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        if reaches_channels(call.layer.axis, len(call.input_shapes[0]), axis_of_channels(call)):
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
