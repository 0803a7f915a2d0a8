"""Normalization: per channel it is channelwise, over channels it freezes them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.structure.keras_internals import LayerScale
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

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        if call.layer.groups == 1:
            _freeze(call, inputs[0], tracer)
        else:
            tie_blocks(inputs[0], call.layer.groups, tracer)
        return inputs[0]

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        return tuple(WeightAxes(name, out_axis=0) for name in _affine(layer))

    def ties_calls(self, layer: Any) -> bool:
        return True  # the number of groups

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        return {**config, 'groups': layer.groups * int(kept_out.sum()) // kept_out.size}


class _OverAxes(InPlace):
    """Normalizes over `axis`: with the channels among them, removing one would change the rest."""
    static_weights = True

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        axes = call.layer.axis
        if reaches_channels(axes if isinstance(axes, int) else tuple(axes),
                            len(call.input_shapes[0])):
            _freeze(call, inputs[0], tracer)
        return inputs[0]


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


def _freeze(call: Call, labels: Labels, tracer: Tracer) -> None:
    tracer.freeze(labels, f"layer '{call.layer.name}' ({call.kind}) normalizes over the channels")


RULES: dict[type[keras.Operation], LayerRule] = {
    layers.BatchNormalization: _BatchNormalization().in_keras2(Keras2Layer(
        lacks={'renorm': False}, ignores=('renorm_clipping', 'renorm_momentum'))),
    layers.GroupNormalization: _GroupNormalization().in_keras2(),
    layers.LayerNormalization: _OverAxes().in_keras2(Keras2Layer(lacks={'rms_scaling': False})),
    layers.RMSNormalization: _OverAxes(),
    layers.UnitNormalization: _OverAxes().in_keras2(),
    layers.Normalization: _Normalization().in_keras2(),
    layers.Rescaling: _Rescaling().in_keras2(),
    LayerScale: _LayerScale(),
}
