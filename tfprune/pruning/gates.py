"""Gates: masks as variables in front of every layer that mixes channels.

Not behind the layer that produces them: batch normalization turns a zeroed channel into
act(beta − gamma · mean / std), and a consumer would read that. Closed at the consumers, a channel
contributes exactly nothing, as after surgery.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.pruning.masks import check_masks
from tfprune.structure.graph import Graph, Untracked, flat_inputs, functional_graph, unfold
from tfprune.structure.groups import ChannelGroups, check_traced
from tfprune.structure.layer_rules import RULES
from tfprune.structure.parameter import Parameter


class ChannelGate(keras.layers.Layer):
    """Multiplies the last axis [B, …, C] by `mask`, a non-trainable float variable [C]."""

    def __init__(self, **kwargs: Any) -> None:
        # The gate keeps the dtype it is given: it must not undo mixed precision.
        super().__init__(autocast=False, **kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.mask = self.add_weight(name='mask', shape=(input_shape[-1],), initializer='ones',
                                    trainable=False, dtype='float32')

    def call(self, inputs: Any) -> Any:
        return inputs * keras.ops.cast(self.mask, inputs.dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class _GatedNetwork(keras.Model):
    """Runs the steps of a model, unfolded, with gates before the layers that mix channels."""

    def __init__(self, model: keras.Model, graph: Graph,
                 before: Mapping[int, Mapping[int, ChannelGate]]) -> None:
        """`before` maps the index of a step to the gate of each of its inputs (by value)."""
        super().__init__(name=f'{model.name}_gated', autocast=False)
        self._dense = Untracked(model)
        self._graph, self._before = Untracked(graph), Untracked(before)
        # Keras tracks the layers of a list, each once.
        self.operations = list({
            id(step.operation): step.operation for step in graph.steps
            if isinstance(step.operation, keras.layers.Layer)}.values())
        self.parameters = list({
            id(step.operation): step.operation.variable for step in graph.steps
            if isinstance(step.operation, Parameter)}.values())
        self.gates = list({id(gate): gate for gates in before.values()
                           for gate in gates.values()}.values())
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        graph: Graph = self._graph.value
        values: dict[int, Any] = dict(zip(
            graph.inputs, flat_inputs(self._dense.value, inputs)))
        gated: dict[int, Any] = {}
        for place, step in enumerate(graph.steps):
            if step.outputs[0] in values:
                continue
            if step.is_entry:
                values[step.outputs[0]] = values[step.inputs[0]]
                continue
            feed = {id(tensor): values[value] for tensor, value in zip(step.tensors, step.inputs)}
            for tensor, value in zip(step.tensors, step.inputs):
                gate = self._before.value.get(place, {}).get(value)
                if gate is not None:
                    if value not in gated:
                        gated[value] = gate(values[value])
                    feed[id(tensor)] = gated[value]
            args, kwargs = step.arguments.fill_in(feed)
            if training is not None and not step.keeps_mode and 'training' in getattr(
                    step.operation, '_call_context_args', ()):
                kwargs['training'] = training  # as in a functional model
            outputs = keras.tree.flatten(step.operation(*args, **kwargs))
            values.update(zip(step.outputs, outputs))
        return keras.tree.pack_sequence_as(functional_graph(self._dense.value).output,
                                           [values[value] for value in graph.outputs])


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
    prunable = [layout.names.index(name) for name in groups]
    gates: dict[int, ChannelGate] = {}
    before: dict[int, dict[int, ChannelGate]] = {}
    for place, (step, node) in enumerate(zip(graph.steps, layout.nodes)):
        rule = RULES.get(type(step.operation))
        if node.refused is not None or rule is None or not rule.mixes_channels(step.operation):
            continue
        for tensor in node.inputs:
            if np.isin(layout.tensors[tensor].positions.group, prunable).any():
                if tensor not in gates:
                    name = f"{node.layer.replace('/', '_')}_gate{tensor}"
                    gates[tensor] = ChannelGate(name=name)
                    gates[tensor].build(layout.tensors[tensor].shape)
                before.setdefault(place, {})[tensor] = gates[tensor]
    return GatedModel(_GatedNetwork(model, graph, before), graph, groups, gates)
