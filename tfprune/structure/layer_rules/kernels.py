"""Layers with kernels: they sum over input channels, or filter each channel by itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune.structure.layer_rules.activations import freeze_if_mixed
from tfprune.structure.layer_rules.base import (Call, Keras2Layer, Labels, LayerRule, MacTerm,
                                                positions, Tracer, WeightAxes)


class _Kernel(LayerRule):
    """A layer with a kernel [*window, in, out] and maybe a bias [out]."""
    units = 'filters'

    def mixes_channels(self, layer: Any) -> bool:
        return True

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        return freeze_if_mixed(call.layer, tracer.fresh(getattr(call.layer, self.units)), tracer)

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        rank = len(layer.kernel.shape)
        return (WeightAxes('kernel', in_axis=rank - 2, out_axis=rank - 1), *_bias(layer))

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        return {**config, self.units: int(kept_out.sum())}

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        window = math.prod(call.layer.kernel.shape[:-2])
        size = window * positions(call, call.output_shapes[0])
        return (MacTerm(size, uses_in=True, uses_out=True),)


class _Dense(_Kernel):
    units = 'units'

    def sums_channels(self, layer: Any) -> bool:
        return True

    def narrow(self, layer: Any, inputs: Any, weights: Mapping[str, Any]) -> Any:
        return _finish(layer, tf.tensordot(inputs, weights['kernel'], [[-1], [0]]), weights)


class _Convolution(_Kernel):
    """Kernel [*window, in / groups, out]. With groups, block j of the outputs sees block j of the
    inputs alone: blocks are removed whole, on both sides, as the channels of a depthwise layer."""

    def mixes_channels(self, layer: Any) -> bool:
        return layer.groups == 1

    def sums_channels(self, layer: Any) -> bool:
        return layer.groups == 1 and layer.padding in ('same', 'valid')

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        groups = call.layer.groups
        if groups == 1:
            return super().flow(call, inputs, tracer)
        labels = np.repeat(tie_blocks(inputs[0], groups, tracer), call.layer.filters // groups)
        return freeze_if_mixed(call.layer, labels, tracer)

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        if layer.groups == 1:
            return super().weight_axes(layer)
        return (WeightAxes('kernel', out_axis=len(layer.kernel.shape) - 1), *_bias(layer))

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        config = super().edit_config(layer, config, kept_in, kept_out)
        if layer.groups > 1:
            config['groups'] = layer.groups * config['filters'] // layer.filters
        return config

    def narrow(self, layer: Any, inputs: Any, weights: Mapping[str, Any]) -> Any:
        if layer.groups > 1 or layer.padding not in ('same', 'valid'):
            return None
        return _finish(layer, tf.nn.convolution(
            inputs, weights['kernel'], layer.strides, layer.padding.upper(),
            dilations=layer.dilation_rate), weights)

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        if call.layer.groups == 1:
            return super().mac_terms(call)
        # Every weight of a filter is used once at each output position.
        size = math.prod(call.layer.kernel.shape[:-1]) * positions(call, call.output_shapes[0])
        return (MacTerm(size, uses_in=False, uses_out=True),)


class _Transpose(_Kernel):
    """Kernel [*window, out, in]; each input position is spread over the window."""

    def sums_channels(self, layer: Any) -> bool:
        return True

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        rank = len(layer.kernel.shape)
        return (WeightAxes('kernel', in_axis=rank - 1, out_axis=rank - 2), *_bias(layer))

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        window = math.prod(call.layer.kernel.shape[:-2])
        size = window * positions(call, call.input_shapes[0])
        return (MacTerm(size, uses_in=True, uses_out=True),)


class _Depthwise(LayerRule):
    """Kernel [*window, in, multiplier]: channel c becomes channels c·multiplier + (0 …)."""

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        labels = np.repeat(inputs[0], call.layer.depth_multiplier)
        return freeze_if_mixed(call.layer, labels, tracer)

    def narrow(self, layer: Any, inputs: Any, weights: Mapping[str, Any]) -> Any:
        if len(layer.kernel_size) != 2 or len(set(layer.strides)) != 1:
            return None
        return _finish(layer, tf.nn.depthwise_conv2d(
            inputs, weights['kernel'], (1, *layer.strides, 1), layer.padding.upper(),
            dilations=layer.dilation_rate), weights)

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        return (WeightAxes('kernel', in_axis=len(layer.kernel.shape) - 2), *_bias(layer))

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        window = math.prod(call.layer.kernel_size)
        size = window * positions(call, call.output_shapes[0])
        return (MacTerm(size, uses_in=False, uses_out=True),)


class _Separable(_Kernel):
    """A depthwise kernel [*window, in, multiplier] and a pointwise [1 …, in · multiplier, out]."""

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        rank = len(layer.depthwise_kernel.shape)
        return (WeightAxes('depthwise_kernel', in_axis=rank - 2),
                WeightAxes('pointwise_kernel', in_axis=rank - 2, out_axis=rank - 1,
                           in_repeat=layer.depth_multiplier), *_bias(layer))

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        size = call.layer.depth_multiplier * positions(call, call.output_shapes[0])
        window = math.prod(call.layer.kernel_size)
        return (MacTerm(window * size, uses_in=True, uses_out=False),
                MacTerm(size, uses_in=True, uses_out=True))


def tie_blocks(labels: Labels, blocks: int, tracer: Tracer) -> Labels:
    """Couples the channels within each of `blocks` equal blocks; returns a label of each."""
    table = labels.reshape(blocks, -1)
    for column in table.T[1:]:
        tracer.union(table[:, 0], column)
    return table[:, 0]


def _finish(layer: Any, outputs: Any, weights: Mapping[str, Any]) -> Any:
    """Returns the outputs of a kernel with the layer's bias and activation."""
    if 'bias' in weights:
        outputs = tf.nn.bias_add(outputs, weights['bias'])
    return outputs if layer.activation is None else layer.activation(outputs)


def _bias(layer: Any) -> tuple[WeightAxes, ...]:
    return (WeightAxes('bias', out_axis=0),) if layer.use_bias else ()


_DEPTHWISE_IN_KERAS2 = Keras2Layer(weights={'kernel': 'depthwise_kernel'})
RULES: dict[type[keras.Operation], LayerRule] = {
    layers.Dense: _Dense().in_keras2(Keras2Layer(lacks={'quantization_config': None})),
    layers.Conv1D: _Convolution().in_keras2(),
    layers.Conv2D: _Convolution().in_keras2(),
    layers.Conv3D: _Convolution().in_keras2(),
    layers.Conv1DTranspose: _Transpose().in_keras2(),
    layers.Conv2DTranspose: _Transpose().in_keras2(),
    layers.Conv3DTranspose: _Transpose().in_keras2(),
    layers.DepthwiseConv1D: _Depthwise().in_keras2(_DEPTHWISE_IN_KERAS2),
    layers.DepthwiseConv2D: _Depthwise().in_keras2(_DEPTHWISE_IN_KERAS2),
    layers.SeparableConv1D: _Separable().in_keras2(),
    layers.SeparableConv2D: _Separable().in_keras2(),
}
