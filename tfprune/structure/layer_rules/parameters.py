"""Weights that are looked up: those of a composite layer itself, and embeddings."""

from collections.abc import Sequence
from typing import Any

import keras

from tfprune.structure.layer_rules.base import Call, Labels, LayerRule, Tracer, WeightAxes
from tfprune.structure.parameter import Constant, Parameter


class _Source(LayerRule):
    """Makes a tensor […, C] of nothing: what it is combined with says which channels it has."""

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        shape = call.output_shapes[0]
        return tracer.fresh((shape[-1] or 0) if shape else 0)


class _Parameter(_Source):
    """A variable as a tensor."""

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        rank = len(layer.variable.shape)
        return (WeightAxes('variable', out_axis=rank - 1 if rank else None),)


class _Constant(_Source):
    """A tensor that is the same always: what differs by channel keeps them."""

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        labels = super().flow(call, inputs, tracer)
        if len(labels) > 1:
            tracer.freeze(labels, 'a constant has a value for each of its channels')
        return labels


RULES: dict[type[keras.Operation], LayerRule] = {
    Parameter: _Parameter(),
    Constant: _Constant(),
}
