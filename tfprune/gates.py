"""Gates: masks as variables in front of every layer that mixes channels.

Not behind the layer that produces them: batch normalisation turns a zeroed channel into
act(beta − gamma · mean / std), and a consumer would read that. Closed at the consumers, a channel
contributes exactly nothing, as after surgery.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.graph import functional_graph, ordered_nodes
from tfprune.groups import ChannelGroups
from tfprune.layer_rules import RULES
from tfprune.masks import check_masks


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


@dataclasses.dataclass(frozen=True, eq=False)
class GatedModel:
    """A model with gates that shares all layers of the dense model.

    Attributes:
      model: the gated model. Training it trains the dense one, and the reverse.
      groups: the channel groups that the gates know.
      gates: tensor id in `groups.layout` to its gate.
    """
    model: keras.Model
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

    The layers are called once more on the same inputs, not copied; `model` keeps its own graph and
    saves, clones and predicts as before. Consumers of one tensor share its gate.

    Raises:
      ValueError: if `groups` was traced on another model.
    """
    graph = functional_graph(model)
    nodes = ordered_nodes(graph)
    layout = groups.layout
    if [node.operation.name for node in nodes] != [node.layer for node in layout.nodes]:
        raise ValueError(f"groups was traced on another model than '{model.name}'")
    prunable = [layout.names.index(name) for name in groups]
    values: dict[int, Any] = {id(tensor): tensor for tensor in graph.inputs}
    gates: dict[int, ChannelGate] = {}
    gated: dict[int, Any] = {}

    def gate(tensor: int, value: Any, consumer: str) -> Any:
        if not np.isin(layout.tensors[tensor].positions.group, prunable).any():
            return value
        if tensor not in gates:
            gates[tensor] = ChannelGate(name=f'{consumer}_gate{tensor}')
            gated[tensor] = gates[tensor](value)
        return gated[tensor]

    for node, traced in zip(nodes, layout.nodes):
        if node.is_input:
            continue
        feed = {id(tensor): values[id(tensor)] for tensor in node.input_tensors}
        rule = RULES.get(type(node.operation))
        if traced.refused is None and rule is not None and rule.mixes_channels:
            for tensor, i in zip(node.input_tensors, traced.inputs):
                feed[id(tensor)] = gate(i, feed[id(tensor)], traced.layer)
        args, kwargs = node.arguments.fill_in(feed)
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        values.update({id(old): new for old, new in zip(node.output_tensors, outputs)})

    outputs = keras.tree.map_structure(lambda tensor: values[id(tensor)], graph.output)
    return GatedModel(keras.Model(graph.input, outputs, name=f'{model.name}_gated'), groups, gates)
