"""Layers around a layer: what they know of channels is what the rule of the inner one knows."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import layers

from tfprune.structure.layer_rules.base import (Call, Channels, Kept, LayerRule, MacTerm, Tracer,
                                                WeightAxes, known_size)
from tfprune.structure.layer_rules.recurrent import with_inner

Rules = Mapping[type[keras.Operation], LayerRule]
Finder = Callable[[Call], tuple[LayerRule | None, str | None]]


class _Wrapper(LayerRule):
    """The rule of `layer.layer`, whose weights stand under 'layer.'.

    Args:
        rules: those of all layers.
        find: as `layer_rules.find_rule`.
    """

    def __init__(self, rules: Rules, find: Finder) -> None:
        self._rules, self._find = rules, find

    def inside(self, call: Call) -> Call:
        """The call of the inner layer, on values alone."""
        return dataclasses.replace(call, layer=call.layer.layer, input_shapes=call.input_shapes[:1],
                                   axes=call.axes[:1], masks=())

    def mixes_channels(self, layer: Any) -> bool:
        return self._rule(layer).mixes_channels(layer.layer)

    def internals(self, layer: Any) -> Mapping[str, int]:
        return self._rule(layer).internals(layer.layer) if type(layer.layer) in self._rules else {}

    def refuse(self, call: Call) -> str | None:
        inside = self.inside(call)
        rule, reason = self._find(inside)
        if rule is not None and rule.over_channels(inside.layer, len(inside.input_shapes[0])):
            return f"wraps layer '{call.layer.layer.name}', which takes statistics over channels"
        return reason

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        return self._rule(call.layer).trace(self.inside(call), inputs[:1], tracer)

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        return tuple(dataclasses.replace(axes, name=f'layer.{axes.name}')
                     for axes in self._rule(layer).weight_axes(layer.layer))

    def ties_calls(self, layer: Any) -> bool:
        return self._rule(layer).ties_calls(layer.layer)

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        return with_inner(config, 'layer', lambda inner: self._rule(layer).edit(
            layer.layer, inner, kept))

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        return self._rule(call.layer).mac_terms(self.inside(call))

    def geometry(self, layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self._rule(layer).geometry(layer.layer)

    def _rule(self, layer: Any) -> LayerRule:
        return self._rules[type(layer.layer)]


class _TimeDistributed(_Wrapper):
    """The inner layer at each step by itself: [B, T, …, C] is T calls on [B, …, C]."""

    def inside(self, call: Call) -> Call:
        inside = super().inside(call)
        before, after = (tuple((shape[0], *shape[2:]) for shape in shapes)
                         for shapes in (inside.input_shapes, inside.output_shapes))
        return dataclasses.replace(inside, input_shapes=before, output_shapes=after)

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        shape = call.input_shapes[0]
        return tuple(dataclasses.replace(
            term, coefficient=term.coefficient * known_size(call, shape, shape[1]))
            for term in super().mac_terms(call))


class _SpectralNormalization(_Wrapper):
    """In inference the inner layer. vector_u [1, last axis of the kernel] is where the next step of
    training starts to look for the norm of the kernel."""

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        inner = super().weight_axes(layer)
        kernel = next(axes for axes in inner
                      if axes.name in ('layer.kernel', 'layer.embeddings'))
        last = len(layer.kernel.shape) - 1
        return (*inner, WeightAxes('vector_u', more=tuple(
            dataclasses.replace(each, axis=1) for each in kernel.axes if each.axis == last)))

    def narrow(self, layer: Any, inputs: Any, weights: Mapping[str, Any]) -> Any:
        return self._rule(layer).narrow(layer.layer, inputs, {
            name.removeprefix('layer.'): value for name, value in weights.items()})


def rules_of_wrappers(rules: Rules, find: Finder) -> dict[type[keras.Operation], LayerRule]:
    """The rules of the wrappers, which look up those of what they wrap when they are asked."""
    return {layers.TimeDistributed: _TimeDistributed(rules, find),
            layers.SpectralNormalization: _SpectralNormalization(rules, find)}
