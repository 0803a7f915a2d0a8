"""Normalization: per channel it is channelwise; over channels it takes statistics of those left.

A channel fewer therefore changes what the others become: the network with closed gates computes
what the pruned one does, and its weights train for that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfprune.structure.keras_internals import LayerScale, built_rank
from tfprune.structure.layer_rules.base import (Call, InPlace, Keras2Layer, Labels, LayerRule,
                                                reaches_channels, Tracer, WeightAxes)
from tfprune.structure.layer_rules.kernels import tie_blocks


class _BatchNormalization(InPlace):

    def refuse(self, call: Call) -> str | None:
        rank = len(call.input_shapes[0])
        if call.layer.axis not in (-1, rank - 1):
            return f'normalizes axis {call.layer.axis}, where the last axis is expected'
        return None

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        names = [*_affine(layer), 'moving_mean', 'moving_variance']
        return tuple(WeightAxes(name, out_axis=0) for name in names)


class _GroupNormalization(InPlace):
    """Statistics of each block of channels: blocks are removed whole."""

    def refuse(self, call: Call) -> str | None:
        if call.layer.axis not in (-1, len(call.input_shapes[0]) - 1):
            return f'has axis {call.layer.axis}, where the last axis is expected'
        return None

    def over_channels(self, layer: Any, rank: int) -> bool:
        del rank
        return layer.groups == 1

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        if call.layer.groups > 1:
            tie_blocks(inputs[0], call.layer.groups, tracer)
        return inputs[0]

    def masked(self, layer: Any, inputs: Any, weights: Mapping[str, Any], mask: Any) -> Any:
        x, axes = _wide(inputs), list(range(1, len(inputs.shape)))
        mean, variance = _moments(x, axes, mask)
        return _scaled(layer, (x - mean) * ops.rsqrt(variance + layer.epsilon), weights)

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        return tuple(WeightAxes(name, out_axis=0) for name in _affine(layer))

    def ties_calls(self, layer: Any) -> bool:
        return True  # the number of groups

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        groups = layer.groups * int(kept_out.sum()) // kept_out.size if layer.groups > 1 else 1
        return {**config, 'groups': groups}


class _OverAxes(InPlace):
    """Normalizes over `axis`, the channels among them or not; weights [sizes of these axes]."""
    weights: tuple[str, ...] = ()

    def over_channels(self, layer: Any, rank: int) -> bool:
        return reaches_channels(_axes(layer), rank)

    def refuse(self, call: Call) -> str | None:
        axes, rank = _axes(call.layer), len(call.input_shapes[0])
        if reaches_channels(axes, rank) and axes[-1] not in (-1, rank - 1):
            return f'normalizes over axis={axes}, where the channels are expected last'
        return None

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        names = [name for name in self.weights if getattr(layer, name) is not None]
        last = len(_axes(layer)) - 1
        axis = last if names and self.over_channels(layer, built_rank(layer)) else None
        return tuple(WeightAxes(name, out_axis=axis) for name in names)


class _LayerNormalization(_OverAxes):
    weights = 'gamma', 'beta'

    def masked(self, layer: Any, inputs: Any, weights: Mapping[str, Any], mask: Any) -> Any:
        x, axes = _wide(inputs), _axes(layer)
        mean, variance = _moments(x, axes, mask)
        centered = x if layer.rms_scaling else x - mean  # as Keras does it
        return _scaled(layer, centered * ops.rsqrt(variance + layer.epsilon), weights, axes)


class _RMSNormalization(_OverAxes):
    weights = ('scale',)

    def masked(self, layer: Any, inputs: Any, weights: Mapping[str, Any], mask: Any) -> Any:
        x, axes = _wide(inputs), _axes(layer)
        square = _mean(ops.square(x), axes, mask)
        return _scaled(layer, x * ops.rsqrt(square + layer.epsilon), weights, axes)


class _UnitNormalization(_OverAxes):
    any_width = True

    def masked(self, layer: Any, inputs: Any, weights: Mapping[str, Any], mask: Any) -> Any:
        del weights
        open_ = inputs if mask is None else inputs * ops.cast(mask, inputs.dtype)
        square = ops.sum(ops.square(open_), _axes(layer), keepdims=True)
        return inputs * ops.rsqrt(ops.maximum(square, 1e-24))  # as keras.ops.normalize


class _Normalization(InPlace):
    """Statistics of the training data, of each channel: it stands at the input."""
    static_weights = True

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        tracer.freeze(inputs[0], f"layer '{call.layer.name}' ({call.kind}) keeps statistics of it")
        return inputs[0]


class _Rescaling(InPlace):

    def ties_calls(self, layer: Any) -> bool:
        return any(np.size(value) > 1 for value in (layer.scale, layer.offset))

    def refuse(self, call: Call) -> str | None:
        width = call.input_shapes[0][-1]
        for name in ('scale', 'offset'):
            shape = np.shape(getattr(call.layer, name))
            if shape not in ((), (1,), (width,)):
                return f'has a {name} of shape {shape}, where () or ({width},) is expected'
        return None

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        for name in ('scale', 'offset'):
            value = np.asarray(getattr(layer, name))
            if value.size > 1:
                config[name] = value[kept_out].tolist()
        return config


class _LayerScale(InPlace):
    """x · gamma [C], of ConvNeXt."""

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        return (WeightAxes('gamma', out_axis=0),)

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        return {**config, 'projection_dim': int(kept_out.sum())}


def _affine(layer: Any) -> list[str]:
    return [*(['gamma'] if layer.scale else []), *(['beta'] if layer.center else [])]


def _axes(layer: Any) -> list[int]:
    return [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)


def _wide(inputs: Any) -> Any:
    """Keras takes statistics in float32 at least."""
    return ops.cast(inputs, keras.backend.result_type(inputs.dtype, 'float32'))


def _mean(x: Any, axes: Sequence[int], mask: Any) -> Any:
    """The mean over `axes`, of the channels of `mask` alone if there is one; axes stay as 1."""
    if mask is None:
        return ops.mean(x, axes, keepdims=True)
    mask = ops.cast(mask, x.dtype)
    return ops.mean(x * mask, axes, keepdims=True) / ops.mean(mask)


def _moments(x: Any, axes: Sequence[int], mask: Any) -> tuple[Any, Any]:
    mean = _mean(x, axes, mask)
    return mean, _mean(ops.square(x - mean), axes, mask)


def _scaled(layer: Any, x: Any, weights: Mapping[str, Any], axes: Sequence[int] = (-1,)) -> Any:
    """Times the scale, plus the offset, both [sizes of `axes`]; in the layer's compute dtype."""
    rank = len(x.shape)
    places = [axis % rank for axis in axes]
    for name, value in weights.items():
        value = ops.cast(value, x.dtype)
        shape = ops.shape(value)
        value = ops.reshape(value, [shape[places.index(place)] if place in places else 1
                                    for place in range(rank)])
        x = x + value if name == 'beta' else x * value
    return ops.cast(x, layer.compute_dtype)


RULES: dict[type[keras.Operation], LayerRule] = {
    layers.BatchNormalization: _BatchNormalization().in_keras2(Keras2Layer(
        lacks={'renorm': False}, ignores=('renorm_clipping', 'renorm_momentum'))),
    layers.GroupNormalization: _GroupNormalization().in_keras2(),
    layers.LayerNormalization: _LayerNormalization().in_keras2(Keras2Layer(
        lacks={'rms_scaling': False})),
    layers.RMSNormalization: _RMSNormalization(),
    layers.UnitNormalization: _UnitNormalization().in_keras2(),
    layers.Normalization: _Normalization().in_keras2(),
    layers.Rescaling: _Rescaling().in_keras2(),
    LayerScale: _LayerScale(),
}
