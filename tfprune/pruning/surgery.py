"""Surgery: the physical removal of channels. The result is a plain Keras model."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.pruning.masks import check_masks
from tfprune.pruning.rebuilding import (Rebuilding, copy_layer, copy_weights, embedding_like,
                                        from_config, policy_of_layers)
from tfprune.structure.graph import Graph, unfold
from tfprune.structure.groups import ChannelGroups, check_traced, trace_groups
from tfprune.structure.layer_rules import RULES
from tfprune.structure.layout import LayerNode, WeightSlot
from tfprune.structure.parameter import Parameter


def prune_model(model: keras.Model, groups: ChannelGroups, masks: Mapping[str, np.ndarray], *,
                dtype_policy: str | None = None) -> keras.Model:
    """Returns a new model without the channels that `masks` close; `model` stays as it is.

    Topology, layer names, inputs and outputs are those of `model`.

    Args:
        model: the dense model.
        groups: its channel groups.
        masks: {group name: bool [C_g]}, True = kept; a missing group stays whole.
        dtype_policy: the policy of every layer of the result, those in layers included, e.g.
            'float32' for the export of a model trained under 'mixed_bfloat16'; None keeps each
            layer's own.

    Raises:
        ValueError, TypeError: for unknown groups, wrong masks, or groups of another model.
    """
    graph, layout = unfold(model), groups.layout
    check_traced(model, graph, groups)
    kept = layout.kept(check_masks(groups, masks))
    cloning = _Cloning(model, graph, groups, kept, dtype_policy)
    with policy_of_layers(dtype_policy or keras.config.dtype_policy()):
        pruned = cloning.rebuild(model)
    cloning.copy_weights(graph)
    return pruned


def float32_copy(model: keras.Model) -> keras.Model:
    """Returns a plain copy of a model in which every layer computes in float32."""
    return prune_model(model, trace_groups(model), {}, dtype_policy='float32')


class _Cloning(Rebuilding):
    """Copies layers with the configs that their rules give them, and the weights that are kept."""

    def __init__(self, model: keras.Model, graph: Graph, groups: ChannelGroups,
                 kept: list[np.ndarray], dtype_policy: str | None) -> None:
        super().__init__(model, graph, dtype_policy)
        self._kept = kept
        self._nodes: dict[int, LayerNode] = {}  # id of an operation -> its first call
        self._changed: set[int] = set()
        for step, node in zip(graph.steps, groups.layout.nodes):
            self._nodes.setdefault(id(step.operation), node)
            if not all(kept[value].all() for value in (*node.inputs, *node.outputs)):
                self._changed.add(id(step.operation))
        self._slots: dict[str, list[WeightSlot]] = {}
        for slot in groups.layout.weights:
            self._slots.setdefault(slot.layer, []).append(slot)

    def is_changed(self, operation: Any) -> bool:
        return id(operation) in self._changed

    def width_like(self, layer: Any, width: int | None) -> int | None:
        return int(self._kept[self._nodes[id(layer)].outputs[0]].sum())

    def copy(self, operation: Any) -> Any:
        node, rule = self._nodes[id(operation)], RULES.get(type(operation))
        if isinstance(operation, Parameter):
            kept = self._kept[node.outputs[0]]
            return embedding_like(operation, self.dtype_policy, int(kept.sum()) or None)
        if node.refused is not None or rule is None:
            return copy_layer(operation, self.dtype_policy)
        try:
            config = operation.get_config()
        except NotImplementedError:
            return operation  # with arguments that no config can hold
        edited = rule.edit_config(operation, dict(config), [self._kept[i] for i in node.inputs],
                                  self._kept[node.outputs[0]])
        return from_config(operation, edited, self.dtype_policy, config)

    def copy_weights_of(self, layer: Any) -> None:
        slots = self._slots.get(self._nodes[id(layer)].layer, [])
        if not slots and isinstance(layer, keras.layers.Layer) and layer.weights:
            copy_weights(layer, self.clone_of(layer))
        for slot in slots:
            value = keras.ops.convert_to_numpy(getattr(layer, slot.weight))
            for _, axis, tensor, repeat in slot.axes():
                value = np.compress(np.repeat(self._kept[tensor], repeat), value, axis)
            if isinstance(layer, Parameter):
                embeddings = self.clone_of(layer).embeddings
                embeddings.assign(value.reshape(embeddings.shape))
            else:
                getattr(self.clone_of(layer), slot.weight).assign(value)
