"""Surgery: the physical removal of channels. The result is a plain Keras model."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.pruning.masks import check_masks
from tfprune.pruning.reconstruction import Merge, Reconstruction
from tfprune.pruning.rebuilding import (Rebuilding, copy_layer, copy_weights, embedding_like,
                                        from_config, give_embeddings)
from tfprune.structure.copies import config_of
from tfprune.structure.graph import Graph, Shape, unfold
from tfprune.structure.groups import ChannelGroups, check_traced, trace_groups
from tfprune.structure.layer_rules import RULES, LayerRule, rule_of
from tfprune.structure.layout import LayerNode, WeightSlot, weight_of
from tfprune.structure.parameter import Parameter


def prune_model(model: keras.Model, groups: ChannelGroups, masks: Mapping[str, np.ndarray], *,
                dtype_policy: str | None = None, reconstruction: Reconstruction | None = None
                ) -> keras.Model:
    """Returns a new model without the channels that `masks` close; `model` stays as it is.

    Topology, layer names, inputs and outputs are those of `model`.

    Args:
        model: the dense model.
        groups: its channel groups.
        masks: {group name: bool [C_g]}, True = kept; a missing group stays whole.
        dtype_policy: the policy of every layer of the result, those in layers included, e.g.
            'float32' for the export of a model trained under 'mixed_bfloat16'; None keeps each
            layer's own.
        reconstruction: of `model` and `groups`: kernels take over what the kept channels tell of
            those that go. Batch-norm statistics are then to be re-estimated. None cuts alone.

    Raises:
        ValueError, TypeError: for unknown groups, wrong masks, or groups of another model.
    """
    graph, layout = unfold(model), groups.layout
    check_traced(model, graph, groups)
    kept = layout.kept(check_masks(groups, masks))
    merges = reconstruction.merges(masks) if reconstruction else {}
    return _Cloning(model, graph, groups, kept, dtype_policy, merges).copied(model, graph)


def plain_copy(model: keras.Model, dtype_policy: str | None = None) -> keras.Model:
    """Returns a copy of a model with its weights; see `prune_model` for the policy."""
    return prune_model(model, trace_groups(model), {}, dtype_policy=dtype_policy)


def float32_copy(model: keras.Model) -> keras.Model:
    """Returns a plain copy of a model in which every layer computes in float32."""
    return plain_copy(model, 'float32')


class _Cloning(Rebuilding):
    """Copies layers with the configs that their rules give them, and the weights that are kept."""

    def __init__(self, model: keras.Model, graph: Graph, groups: ChannelGroups,
                 kept: list[np.ndarray], dtype_policy: str | None, merges: Mapping[str, Merge]
                 ) -> None:
        super().__init__(model, graph, dtype_policy)
        self._merges = merges
        self._kept, self._layout = kept, groups.layout
        self._calls: dict[int, LayerNode] = {}  # id of the copy of an operation -> its only call
        self._nodes: dict[int, LayerNode] = {}  # id of an operation -> its first call
        self._changed: set[int] = set()
        for step, node in zip(graph.steps, groups.layout.nodes):
            self._nodes.setdefault(id(step.operation), node)
            if not all(kept[value].all() for value in (
                    *node.inputs, *node.outputs, *node.internals.values())):
                self._changed.add(id(step.operation))

    def is_changed(self, operation: Any) -> bool:
        return id(operation) in self._changed

    def shape_like(self, layer: Any, shape: Shape) -> Shape:
        tensor = self._nodes[id(layer)].outputs[0]
        sizes = list(shape)
        sizes[self._layout.tensors[tensor].axis] = int(self._kept[tensor].sum())
        return tuple(sizes)

    def call(self, clone: Any, *args: Any, **kwargs: Any) -> Any:
        rule, node = rule_of(clone), self._calls.get(id(clone))
        if rule is not None and node is not None and node.refused is None:
            args, kwargs = rule.edit_arguments(clone, args, kwargs,
                                               self._layout.kept_of(node, self._kept))
        return super().call(clone, *args, **kwargs)

    def copy(self, operation: Any) -> Any:
        node, rule = self._nodes[id(operation)], rule_of(operation)
        if isinstance(operation, Parameter):
            kept = self._kept[node.outputs[0]]
            return embedding_like(operation, self.dtype_policy, int(kept.sum()) or None)
        if node.refused is not None or rule is None:
            return copy_layer(operation, self.dtype_policy)
        clone = self._edited(operation, rule, node)
        if not isinstance(operation, keras.layers.Layer):
            self._calls[id(clone)] = node
        return clone

    def _edited(self, operation: Any, rule: LayerRule, node: LayerNode) -> Any:
        try:
            config = config_of(operation)
        except NotImplementedError:
            return operation  # with arguments that no config can hold
        edited = rule.edit(operation, dict(config), self._layout.kept_of(node, self._kept))
        return from_config(operation, edited, self.dtype_policy, config)

    def copy_weights_of(self, layer: Any) -> None:
        slots = self._layout.slots.get(self._nodes[id(layer)].layer, ())
        if not slots and isinstance(layer, keras.layers.Layer) and layer.weights:
            copy_weights(layer, self.clone_of(layer))
        clone = self.clone_of(layer)
        for name, value in self._kept_weights(layer, slots).items():
            if isinstance(layer, Parameter):
                give_embeddings(clone, value)
            else:
                weight_of(clone, name).assign(value)

    def _kept_weights(self, layer: Any, slots: Sequence[WeightSlot]) -> dict[str, np.ndarray]:
        """What is left of the weights of a layer, by name."""
        found = {slot.weight: keras.ops.convert_to_numpy(weight_of(layer, slot.weight))
                 for slot in slots}
        if not found:
            return found
        merge = self._merges.get(slots[0].layer)
        if merge is not None:
            found |= merge.weights(found['kernel'], found.get('bias'))
        for slot in slots:
            for each in slot.axes:
                if merge is None or not each.reads:
                    found[slot.weight] = np.compress(
                        each.along(self._kept[each.tensor]), found[slot.weight], each.axis)
        kept = self._layout.kept_of(self._nodes[id(layer)], self._kept)
        return RULES[type(layer)].edit_weights(layer, found, kept)
