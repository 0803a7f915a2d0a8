"""Gates: masks as variables in front of every layer that mixes channels.

Not behind the layer that produces them: batch normalization turns a zeroed channel into
act(beta − gamma · mean / std), and a consumer would read that. Closed at the consumers, a channel
contributes exactly nothing, as after surgery. What a layer reads of itself, the state of a
recurrent layer or the heads of attention, is closed by masking the weights that it is called with;
a normalization over channels takes its statistics over the open ones.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.pruning.masks import check_masks
from tfprune.structure.graph import Graph, Untracked, run_steps, unfold
from tfprune.structure.groups import ChannelGroups, check_traced
from tfprune.structure.keras_internals import with_mask_of
from tfprune.structure.layer_rules import RULES, LayerRule, rule_of
from tfprune.structure.layout import LayerNode, SlotAxis, WeightSlot, inner_axes, weight_of
from tfprune.structure.other_weights import call_with_weights, masked
from tfprune.structure.parameter import Parameter


class ChannelGate(keras.layers.Layer):
    """Multiplies an axis of length C by `mask`, a non-trainable float variable [C].

    Args:
        axis: counted from the end.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        # The gate keeps the dtype it is given: it must not undo mixed precision.
        super().__init__(autocast=False, **kwargs)
        self.axis = axis
        self.supports_masking = True  # of steps: they go on to the layer behind

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.mask = self.add_weight(name='mask', shape=(input_shape[self.axis],),
                                    initializer='ones', trainable=False, dtype='float32')

    def call(self, inputs: Any) -> Any:
        mask = keras.ops.cast(self.mask, inputs.dtype)
        return inputs * keras.ops.reshape(mask, (-1, *[1] * (-1 - self.axis)))

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class _GatedNetwork(keras.Model):
    """Runs the steps of a model, unfolded, with gates before the layers that mix channels."""

    def __init__(self, model: keras.Model, graph: Graph, gated: Mapping[int, '_GatedCall'],
                 gates: Mapping[int, ChannelGate]) -> None:
        """`gated` maps the index of a step to what is gated there."""
        super().__init__(name=f'{model.name}_gated', autocast=False)
        self._dense = Untracked(model)
        self._graph, self._gated = Untracked(graph), Untracked(gated)
        # Keras tracks the layers of a list, each once.
        self.operations = list({
            id(step.operation): step.operation for step in graph.steps
            if isinstance(step.operation, keras.layers.Layer)}.values())
        self.parameters = list({
            id(step.operation): step.operation.variable for step in graph.steps
            if isinstance(step.operation, Parameter)}.values())
        self.gates = list(gates.values())
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        gated: dict[int, Any] = {}

        def run(place: int, feed: list[Any]) -> list[Any]:
            step = self._graph.value.steps[place]
            here = self._gated.value.get(place, _UNGATED)
            if here.statistics is not None:
                return [with_mask_of(feed[0], here.normalized(
                    step.operation, feed[0], here.statistics.mask), step.operation)]
            for position, value in enumerate(step.inputs):
                gate = here.before.get(value)
                if gate is not None:
                    if value not in gated:
                        gated[value] = gate(feed[position])
                    feed[position] = gated[value]
            args, kwargs = step.arguments.fill_in(dict(zip(map(id, step.tensors), feed)))
            if training is not None and not step.keeps_mode and 'training' in getattr(
                    step.operation, '_call_context_args', ()):
                kwargs['training'] = training  # as in a functional model
            return keras.tree.flatten(call_with_weights(
                step.operation, here.masked_weights(step.operation), args, kwargs))

        return run_steps(self._dense.value, self._graph.value, inputs, run)


@dataclasses.dataclass(frozen=True, eq=False)
class _GatedCall:
    """What is gated at one call of a layer.

    Attributes:
        before: the gates of its inputs, by value.
        within: its weights that read or make channels which only it sees, or its own output, with
            the gate along each such axis.
        statistics: the gate of the input whose channels it takes statistics over.
    """
    before: Mapping[int, ChannelGate] = dataclasses.field(default_factory=dict)
    within: tuple[tuple[WeightSlot, tuple[tuple[SlotAxis, ChannelGate], ...]], ...] = ()
    slots: tuple[WeightSlot, ...] = ()
    statistics: ChannelGate | None = None

    def masked_weights(self, layer: Any) -> list[tuple[Any, Any]]:
        """(variable, what it is called with) of the weights `within`."""
        return [masked(weight_of(layer, slot.weight), [
            (each.axis, each.along(keras.ops.convert_to_tensor(gate.mask)))
            for each, gate in axes]) for slot, axes in self.within]

    def normalized(self, layer: Any, inputs: Any, mask: Any) -> Any:
        """The output of a normalization over the channels of `mask`, float [C]."""
        weights = {slot.weight: keras.ops.convert_to_tensor(weight_of(layer, slot.weight))
                   for slot in self.slots}
        return RULES[type(layer)].masked(layer, inputs, weights, mask)


_UNGATED = _GatedCall()


@dataclasses.dataclass(frozen=True, eq=False)
class GatedModel:
    """A model with gates that shares all layers of the dense model.

    Attributes:
        model: the gated model, on the same inputs. Training it trains the dense one, and the
            reverse.
        graph: what it runs, gates apart.
        groups: the channel groups that the gates know.
        gates: tensor id in `groups.layout` to its gate.
    """
    model: keras.Model
    graph: Graph
    groups: ChannelGroups
    gates: Mapping[int, ChannelGate]

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Assigns the masks, {group name: bool [C_g]}; a missing group opens. Never retraces.

        Raises:
            ValueError, TypeError: for unknown groups or masks of another shape or type.
        """
        kept = self.groups.layout.kept(check_masks(self.groups, masks))
        for tensor, gate in self.gates.items():
            gate.mask.assign(kept[tensor].astype(np.float32))


def insert_gates(model: keras.Model, groups: ChannelGroups) -> GatedModel:
    """Returns `model` with an open gate in front of each channel-mixing layer of a prunable group.

    The layers are shared, not copied; `model` keeps its own graph and saves, clones and predicts as
    before. Consumers of one tensor share its gate.

    Raises:
        ValueError: if `groups` was traced on another model.
    """
    graph, layout = unfold(model), groups.layout
    check_traced(model, graph, groups)
    making = _Making(groups)
    gated = {}
    for place, (step, node) in enumerate(zip(graph.steps, layout.nodes)):
        rule = rule_of(step.operation)
        if node.refused is None and rule is not None:
            here = making.call(rule, step.operation, node)
            if here is not None:
                gated[place] = here
    network = _GatedNetwork(model, graph, gated, making.gates)
    return GatedModel(network, graph, groups, making.gates)


class _Making:
    """Makes the gates of a model, one a tensor."""

    def __init__(self, groups: ChannelGroups) -> None:
        self.gates: dict[int, ChannelGate] = {}
        self._layout = groups.layout
        prunable = [groups.layout.names.index(name) for name in groups]
        self._open = {tensor for tensor, info in enumerate(groups.layout.tensors)
                      if np.isin(info.positions.group, prunable).any()}

    def call(self, rule: LayerRule, layer: Any, node: LayerNode) -> _GatedCall | None:
        """Returns what is gated at a call; None if nothing is."""
        slots = tuple(self._layout.slots.get(node.layer, ()))
        if node.inputs and node.inputs[0] in self._open and self._is_over(rule, layer, node):
            return _GatedCall(slots=slots, statistics=self._gate(node, node.inputs[0]))
        if not rule.mixes_channels(layer):
            return None
        before = {tensor: self._gate(node, tensor) for tensor in node.inputs
                  if tensor in self._open}
        within = []
        for slot in slots:
            axes = tuple((each, self._gate(node, each.tensor)) for each in inner_axes(slot, node)
                         if each.tensor in self._open)
            if axes:
                within.append((slot, axes))
        return _GatedCall(before, tuple(within)) if before or within else None

    def _is_over(self, rule: LayerRule, layer: Any, node: LayerNode) -> bool:
        info = self._layout.tensors[node.inputs[0]]
        return info.axis == -1 and rule.over_channels(layer, len(info.shape))

    def _gate(self, node: LayerNode, tensor: int) -> ChannelGate:
        if tensor not in self.gates:
            info = self._layout.tensors[tensor]
            gate = ChannelGate(info.axis, name=f"{node.layer.replace('/', '_')}_gate{tensor}")
            gate.build(info.shape)
            self.gates[tensor] = gate
        return self.gates[tensor]
