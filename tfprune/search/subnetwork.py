"""A sub-network that costs what it costs: the dense weights sliced to the kept channels.

Nothing is masked, and nothing is traced anew: which channels are kept is in variables, and the
number of channels is unknown to the graph. What a layer does with fewer channels its rule knows
(`LayerRule.narrow`, `any_width`). Where it does not, the layer alone runs on all channels, closed
ones being zero: that is right for a layer that sums over channels, as behind a gate, and for one
that treats each by itself.

Batch normalization normalizes by the statistics of the batch itself: they belong to the
sub-network, and no second pass over the images is needed to estimate them. A layer that a training
pass does not update, as it is frozen or kept in inference mode, goes on by its moving statistics.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.pruning.masks import check_masks, open_masks
from tfprune.pruning.reconstruction import Merge, Reconstruction
from tfprune.structure.graph import Graph, Step, Untracked, run_steps, unfold
from tfprune.structure.groups import ChannelGroups, check_traced
from tfprune.structure.keras_internals import (is_plain_batch_norm, layers_within, mask_of,
                                               with_mask_of)
from tfprune.structure.layer_rules import rule_of
from tfprune.structure.layout import LayerNode, SlotAxis, inner_axes, weight_of
from tfprune.structure.moving_statistics import updated_in_training
from tfprune.structure.other_weights import called, masked
from tfprune.training.batch_norm import affine, normalizing_by_batch, statistics
from tfprune.training.fused_norm import normalize, normalize_by_batch


class _Kept(tf.Module):
    """Which positions of an axis are kept: their indices, and for each position where it went."""

    def __init__(self, along: SlotAxis, size: int) -> None:
        """Of the tensor of `along` and its like, `size` positions in all."""
        super().__init__()
        self.along, self.size = along, size
        self.indices, self.places = (tf.Variable(
            tf.zeros([0], tf.int32), shape=[None], trainable=False) for _ in range(2))

    def set(self, by_tensor: Sequence[np.ndarray]) -> None:
        """Selects what is kept; `by_tensor` are the kept channels of every tensor."""
        kept = self.along.along(by_tensor[self.along.tensor])
        self.indices.assign(np.flatnonzero(kept).astype(np.int32))
        self.places.assign(np.where(kept, np.cumsum(kept) - 1, kept.sum()).astype(np.int32))

    def narrow(self, dense: tf.Tensor, axis: int = -1) -> tf.Tensor:
        """What is kept of a tensor of all positions."""
        return tf.gather(dense, self.indices, axis=axis)

    def widen(self, narrow: tf.Tensor, axis: int = -1) -> tf.Tensor:
        """An axis, counted from the end, with zeros where positions are not kept."""
        rank = len(narrow.shape)
        padded = tf.pad(narrow, [[0, int(place == rank + axis)] for place in range(rank)])
        wide = tf.gather(padded, self.places, axis=rank + axis)
        return tf.ensure_shape(wide, [self.size if place == rank + axis else size
                                      for place, size in enumerate(wide.shape)])

    def mask(self) -> tf.Tensor:
        """1 where a position is kept, else 0, float [size]."""
        return tf.cast(self.places < tf.size(self.indices), tf.float32)


class _Merged(tf.Module):
    """The merge of a kernel, in variables."""

    def __init__(self, size: int, axis: int) -> None:
        """Of a kernel that reads `size` channels along this axis."""
        super().__init__()
        self.axis = axis
        self.matrix = tf.Variable(tf.eye(size), shape=[None, size], trainable=False)
        self.constant = tf.Variable(tf.zeros([size]), trainable=False)

    def set(self, merge: Merge | None) -> None:
        """Takes its values; None: of a kernel that loses nothing."""
        size = self.constant.shape[0]
        self.matrix.assign(tf.eye(size) if merge is None else merge.matrix)
        self.constant.assign(tf.zeros([size]) if merge is None or merge.constant is None
                             else merge.constant)

    def __call__(self, weights: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Whole weights of a layer -> those of its kept inputs."""
        return weights | Merge(
            self.matrix, self.constant if self.axis == -2 else None, self.axis).weights(
            weights['kernel'], weights.get('bias'))


class Subnetwork(tf.Module):
    """The sub-network of a model that masks select; it reads the model's current weights.

    Create it under the scope of the strategy under which it runs.

    Args:
        model: the dense model.
        groups: its channel groups.
        reconstruction: of both: kernels are those that surgery would leave with it.

    Raises:
        ValueError: if `groups` was traced on another model.
    """

    def __init__(self, model: keras.Model, groups: ChannelGroups,
                 reconstruction: Reconstruction | None = None) -> None:
        super().__init__()
        graph, layout = unfold(model), groups.layout
        check_traced(model, graph, groups)
        self._model, self._graph, self._groups = Untracked(model), Untracked(graph), groups
        self._by_batch = Untracked(_normalized_by_batch(model, graph))
        self._prunable = [layout.names.index(name) for name in groups]
        self._kept: dict[tuple[bytes, bytes, int, int], _Kept] = {}
        self._slots = layout.slots
        for slot in layout.weights:
            for each in slot.axes:
                self._kept_of(each)
        for tensor in range(len(layout.tensors)):
            self._kept_along(tensor)
        self.kept = list(self._kept.values())
        self._reconstruction = Untracked(reconstruction)
        self.merged = {} if reconstruction is None else {
            path: _Merged(len(layout.tensors[reader.tensor].positions.group), reader.axis)
            for path, reader in reconstruction.readers.items()}
        self.set_masks(open_masks(groups))

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Selects the channels, {group name: bool [C_g]}; a missing group stays whole.

        Raises:
            ValueError, TypeError: for unknown groups or masks of another shape or type.
        """
        masks = check_masks(self._groups, masks)
        by_tensor = self._groups.layout.kept(masks)
        for kept in self.kept:
            kept.set(by_tensor)
        merges = self._reconstruction.value.merges(masks) if self.merged else {}
        for path, merged in self.merged.items():
            merged.set(merges.get(path))

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Outputs of images [B, H, W, C]; for use in a tf.function."""
        steps, nodes = self._graph.value.steps, self._groups.layout.nodes
        return run_steps(self._model.value, self._graph.value, images,
                         lambda place, feed: self._run(steps[place], nodes[place], feed))

    def _kept_of(self, along: SlotAxis) -> _Kept | None:
        """The kept positions of an axis; None where all always are."""
        where = self._groups.layout.tensors[along.tensor].positions
        if not np.isin(where.group, self._prunable).any():
            return None
        key = (where.group.tobytes(), where.index.tobytes(), along.repeat, along.tile)
        if key not in self._kept:
            self._kept[key] = _Kept(along, where.group.size * along.repeat * along.tile)
        return self._kept[key]

    def _kept_along(self, tensor: int) -> _Kept | None:
        """The kept channels of a tensor; None where all always are."""
        axis = self._groups.layout.tensors[tensor].axis
        return self._kept_of(SlotAxis(axis, tensor, reads=True))

    def _run(self, step: Step, node: LayerNode, feed: list[Any]) -> list[Any]:
        layer, rule = step.operation, rule_of(step.operation)
        narrowed = [self._kept_along(value) for value in (*step.inputs, *step.outputs)]
        if (isinstance(layer, keras.layers.BatchNormalization) and is_plain_batch_norm(layer)
                and len(feed) == 1 and mask_of(feed[0]) is None):  # it takes no masked steps
            return [self._normalized(layer, feed[0], step.path)]
        if any(narrowed) and rule is not None and node.refused is None:
            if rule.any_width:
                return self._call(step, feed)
            if len(set(step.inputs)) == 1 and (
                    step.path in self._slots or rule.over_channels(layer, len(feed[0].shape))):
                inputs = with_mask_of(feed[0], tf.cast(feed[0], layer.compute_dtype))
                outputs = rule.narrow(layer, inputs, self._weights(step.path, layer))
                if outputs is not None:
                    return [with_mask_of(feed[0], outputs, layer)]
        axes = [self._groups.layout.tensors[value].axis for value in (*step.inputs, *step.outputs)]
        wide = [with_mask_of(x, kept.widen(x, axis)) if kept is not None else x
                for kept, x, axis in zip(narrowed, feed, axes)]
        outputs = self._call(step, wide, [*self._masked_weights(step.path, layer, node),
                                          *self._merged_weights(step.path, layer)])
        return [with_mask_of(x, kept.narrow(x, axis)) if kept is not None else x
                for kept, x, axis in zip(narrowed[len(feed):], outputs, axes[len(feed):])]

    def _call(self, step: Step, feed: Sequence[Any], weights: Sequence[tuple[Any, Any]] = ()
              ) -> list[Any]:
        with normalizing_by_batch(self._by_batch.value.get(id(step.operation), ())):
            return called(step, feed, weights)

    def _masked_weights(self, path: str, layer: Any, node: LayerNode) -> list[tuple[Any, Any]]:
        """(variable, value) of the weights with axes that only the layer sees, or its own output:
        zero where channels are not kept."""
        found = []
        for slot in self._slots.get(path, ()):
            axes = [(each, self._kept_of(each)) for each in inner_axes(slot, node)]
            inner = [(each, kept) for each, kept in axes if kept is not None]
            if inner:
                found.append(masked(weight_of(layer, slot.weight), [
                    (each.axis, kept.mask()) for each, kept in inner]))
        return found

    def _merged_weights(self, path: str, layer: Any) -> list[tuple[Any, Any]]:
        """(variable, value) of the weights that a merge changes: zero for what is not kept."""
        merged = self.merged.get(path)
        if merged is None:
            return []
        slots = {slot.weight: slot for slot in self._slots[path]}
        found = merged({name: tf.convert_to_tensor(weight_of(layer, name)) for name in slots})
        along, = (self._kept_of(each) for each in slots['kernel'].axes if each.reads)
        if along is not None:
            found['kernel'] = along.widen(found['kernel'], merged.axis)
        return [(weight_of(layer, name), value) for name, value in found.items()]

    def _weights(self, path: str, layer: Any) -> dict[str, tf.Tensor]:
        """The kept part of each weight of a layer, in its compute dtype."""
        slots, merged = self._slots.get(path, ()), self.merged.get(path)
        found = {slot.weight: tf.convert_to_tensor(weight_of(layer, slot.weight))
                 for slot in slots}
        if merged is not None:
            found = merged(found)
        for slot in slots:
            value = tf.cast(found[slot.weight], layer.compute_dtype)
            for each in slot.axes:
                kept = None if merged is not None and each.reads else self._kept_of(each)
                value = value if kept is None else kept.narrow(value, each.axis)
            found[slot.weight] = value
        return found

    def _normalized(self, layer: keras.layers.BatchNormalization, inputs: tf.Tensor, path: str
                    ) -> tf.Tensor:
        slots = self._slots.get(path)  # none of a layer on another axis, which stays whole
        kept = self._kept_of(slots[0].axes[0]) if slots else None
        gamma, beta, mean, variance = [
            weight if kept is None else kept.narrow(weight)
            for weight in (*affine(layer), *statistics(layer))]
        axes = list(range(len(inputs.shape)))
        axes[layer.axis], axes[-1] = axes[-1], axes[layer.axis]
        moved = axes != sorted(axes)
        inputs = tf.cast(inputs, layer.compute_dtype)
        inputs = tf.transpose(inputs, axes) if moved else inputs
        if id(layer) in self._by_batch.value:
            outputs, _, _ = normalize_by_batch(inputs, gamma, beta, layer.epsilon)
        else:
            outputs = normalize(inputs, gamma, beta, mean, variance, layer.epsilon)
        return tf.transpose(outputs, axes) if moved else outputs


def _normalized_by_batch(model: keras.Model, graph: Graph
                         ) -> dict[int, list[keras.layers.BatchNormalization]]:
    """The batch normalizations that a training pass updates, in every layer of the graph that is
    or has one; by the id of that layer."""
    updated = set(map(id, updated_in_training(model, graph)))
    inner = {id(layer): [each for each in layers_within(layer) if id(each) in updated]
             for layer in graph.layers.values() if isinstance(layer, keras.layers.Layer)}
    return {layer: normalizations for layer, normalizations in inner.items() if normalizations}
