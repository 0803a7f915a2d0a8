"""Least squares: what the kept channels tell of those that go, in the kernels that read both.

    x_r ≈ Σ_k a_kr x_k + d_r       over all positions of calibration examples
    W_k ← W_k + Σ_r a_kr W_r       bias ← bias + Σ_r d_r W_r, summed over the window

x are the channels of the dense model that a dense layer or convolution reads, W its kernel's
slices. Reconstruction of a layer's output by its kept inputs is that of He, Zhang, Sun 2017 (arXiv
1707.06168), with which AMC scores sub-networks. Otherwise than there one map serves all taps of a
window, layers are taken each by itself, and channels, where it is asked which, are chosen by
elimination and not by LASSO. d is dropped where nothing but batch normalization follows, whose
statistics are re-estimated; where neither that nor a bias is there to take it up, the regression
has no constant; nor has that of a transposed convolution, in whose window positions share taps
unevenly.
"""
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.pruning.elimination import Reading, order_of_elimination
from tfprune.structure.graph import Graph, run_steps, unfold
from tfprune.structure.groups import ChannelGroups
from tfprune.structure.keras_internals import is_plain_batch_norm
from tfprune.structure.layer_rules import rule_of
from tfprune.structure.layout import LayerNode, WeightSlot
from tfprune.structure.moving_statistics import updated_in_training
from tfprune.structure.other_weights import called

EXAMPLES = 512  # that a run looks at: maps have many positions each
_ENOUGH = 2  # positions a channel; from fewer, a regression learns the examples by heart
_MOST = 4096  # channels of an input: those of a flattened map may be more, their moments too large
_RIDGE = 1e-3  # at least, of the mean second moment: channels that are dead, or twice there


@dataclasses.dataclass(frozen=True, eq=False)
class Merge:
    """How the slices of a kernel [*window, C, out] become those of K kept channels.

    Attributes:
        matrix: [K, C]; the kept channels are rows of the identity.
        constant: [C], what of each channel the kept ones do not tell; None where it is dropped.
        axis: of the channels; -1 for a kernel [*window, out, C], which has no constant.
    """
    matrix: Any
    constant: Any | None
    axis: int = -2

    def weights(self, kernel: Any, bias: Any | None) -> dict[str, Any]:
        """The kernel of K channels and, if there is one, bias [out]; arrays or tensors."""
        matmul, total = ((np.matmul, np.sum) if isinstance(kernel, np.ndarray)
                         else (tf.matmul, tf.reduce_sum))
        found = {'kernel': matmul(self.matrix, kernel) if self.axis == -2
                 else matmul(kernel, np.transpose(self.matrix) if matmul is np.matmul
                             else tf.transpose(self.matrix))}
        if bias is not None:
            added = 0 if self.constant is None else total(
                matmul(self.constant[None], kernel), axis=tuple(range(len(kernel.shape) - 1)))
            found['bias'] = bias + added
        return found


class Reconstruction:
    """The merges of all layers that read channels of prunable groups.

    Args:
        model: the dense model; its current weights count.
        groups: its channel groups.
        batches: calibration examples, (x, …) each, as often as they are iterated over.

    Attributes:
        readers: what the layers read, by path.
    """

    def __init__(self, model: keras.Model, groups: ChannelGroups, batches: Iterable[Sequence[Any]]
                 ) -> None:
        self._model, self._graph, self._groups = model, unfold(model), groups
        self._batches = batches
        self.readers = _readers(model, self._graph, groups)
        self._known: dict[str, _Moments] = {}
        self._traced_sums = tf.function(self._sums, reduce_retracing=True, autograph=False)

    def observe(self) -> int:
        """Runs the examples through the model as its weights are now; how many they are.

        Raises:
            ValueError: there are none.
        """
        if not self.readers:
            return 0
        found, examples = {path: _Moments() for path in self.readers}, 0
        for x, *_ in self._batches:
            examples += len(keras.tree.flatten(x)[0])
            for moments, parts in zip(found.values(), self._traced_sums(x), strict=True):
                moments.add(*(part.numpy() for part in parts))
        if not examples:
            raise ValueError('reconstruction needs calibration examples; received none.')
        self._known = found
        return examples

    @property
    def has_observed(self) -> bool:
        """Whether it knows the channels of some weights."""
        return bool(self._known)

    def of(self, model: keras.Model, groups: ChannelGroups) -> 'Reconstruction':
        """That of another model, by the same examples."""
        return Reconstruction(model, groups, self._batches)

    def merges(self, masks: Mapping[str, np.ndarray]) -> dict[str, Merge]:
        """{path of a layer: its merge}, arrays, of the layers that lose channels by these masks.

        Raises:
            ValueError: nothing was observed.
        """
        kept = self._groups.layout.kept(masks)
        found = {}
        for path, reader in self.readers.items():
            stays = kept[reader.tensor]
            if stays.all():
                continue
            if path not in self._known:
                raise ValueError('call observe() before merges().')
            found[path] = self._known[path].merge(stays, reader)
        return found

    def order_of_elimination(self, name: str) -> np.ndarray | None:
        """When each channel of a prunable group goes, int [C] from 0 on, if one after another that
        goes which the others make up for best, in all layers that read them; None where none does.

        Raises:
            ValueError: nothing was observed.
        """
        group, layout = self._groups.layout.names.index(name), self._groups.layout
        readings = []
        for path, reader in self.readers.items():
            positions = layout.tensors[reader.tensor].positions
            places = np.flatnonzero(positions.group == group)
            times = np.bincount(positions.index[places], minlength=self._groups[name])
            if not times.all() or len(set(times)) > 1:  # nothing of the group, or a part
                continue
            if path not in self._known:
                raise ValueError('call observe() before order_of_elimination().')
            second = self._known[path].regular(reader)
            if second is None:
                continue
            kernel = keras.ops.convert_to_numpy(reader.kernel.variable(self._model))
            slices = np.moveaxis(kernel, reader.axis, 0)
            places = places[np.argsort(positions.index[places], kind='stable')]  # by channel
            readings.append(Reading(second, slices.reshape(len(slices), -1).astype(np.float64),
                                    places.reshape(self._groups[name], -1)))
        return order_of_elimination(readings, self._groups[name]) if readings else None

    def _sums(self, x: Any) -> list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        """Number of positions, sums [C] and products [C, C] of what each reader reads."""
        seen: dict[str, list[tf.Tensor]] = {path: [] for path in self.readers}

        def run(place: int, feed: Sequence[Any]) -> list[Any]:
            step = self._graph.steps[place]
            if step.path in seen:
                seen[step.path].append(tf.reshape(
                    tf.cast(feed[0], tf.float32), [-1, feed[0].shape[-1]]))
            return called(step, feed)

        run_steps(self._model, self._graph, x, run)
        rows = [tf.concat(parts, 0) for parts in seen.values()]
        return [(tf.shape(x)[0], tf.reduce_sum(x, 0), tf.matmul(x, x, transpose_a=True))
                for x in rows]


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A layer whose kernel reads a tensor of channels.

    Attributes:
        kernel: its weight.
        axis: of the kernel, along which it reads, from the end.
        tensor: of `Layout.tensors`; those of further calls keep the same channels.
        centered: whether something takes up a constant.
        has_bias: whether that is its own bias.
    """
    kernel: WeightSlot
    axis: int
    tensor: int
    centered: bool
    has_bias: bool


class _Moments:
    """Sums over positions of what a layer reads."""

    def __init__(self) -> None:
        self.count = 0.0
        self._sum: Any = 0.0
        self._products: Any = 0.0

    def add(self, count: Any, total: np.ndarray, products: np.ndarray) -> None:
        """A batch more."""
        self.count += float(count)
        self._sum = self._sum + total.astype(np.float64)
        self._products = self._products + products.astype(np.float64)

    def regular(self, reader: _Reader) -> np.ndarray | None:
        """What regressions are made of, [C, C]; None where there is nothing to tell."""
        second = self._second(reader)
        if not (self.count and np.isfinite(second).all() and np.trace(second) > 0):
            return None
        return self._with_ridge(second)

    def _second(self, reader: _Reader) -> np.ndarray:
        mean, second = self._sum / self.count, self._products / self.count
        return second - np.outer(mean, mean) if reader.centered else second

    def _with_ridge(self, second: np.ndarray) -> np.ndarray:
        # What so few positions tell by chance.
        ridge = max(_RIDGE, len(second) / self.count) * np.trace(second) / len(second)
        return second + ridge * np.eye(len(second))

    def merge(self, kept: np.ndarray, reader: _Reader) -> Merge:
        """The regression of all channels on the kept ones, bool [C]; those alone where it was seen
        at too few positions."""
        if self.count < _ENOUGH * len(kept):
            return Merge(np.eye(len(kept), dtype=np.float32)[kept], None, reader.axis)
        mean, second = self._sum / self.count, self._second(reader)
        stay, go = np.flatnonzero(kept), np.flatnonzero(~kept)
        matrix = np.eye(len(kept))[stay]
        among = second[np.ix_(stay, stay)]
        if np.trace(among) > 0 and np.isfinite(second).all():  # else the kept ones tell nothing
            matrix[:, go] = np.linalg.solve(self._with_ridge(among), second[np.ix_(stay, go)])
        constant = None
        if reader.has_bias:
            constant = mean - mean[stay] @ matrix
            constant[stay] = 0
            constant = constant.astype(np.float32)
        return Merge(matrix.astype(np.float32), constant, reader.axis)


def _readers(model: keras.Model, graph: Graph, groups: ChannelGroups) -> dict[str, _Reader]:
    """By path, in the order of the graph."""
    updated = {id(layer) for layer in updated_in_training(model, graph)
               if is_plain_batch_norm(layer)}
    layout = groups.layout
    prunable = [layout.names.index(name) for name in groups]
    calls: dict[str, list[tuple[Any, LayerNode]]] = {}
    for step, node in zip(graph.steps, layout.nodes):
        calls.setdefault(node.layer, []).append((step, node))
    found = {}
    for path, slots in layout.slots.items():
        layer, nodes = calls[path][0][0].operation, [node for _, node in calls[path]]
        rule = rule_of(layer)
        if rule is None or not rule.sums_channels(layer) or any(map(_is_other, nodes)):
            continue
        slot = next(slot for slot in slots if slot.weight == 'kernel')
        tensor, axis = _plainly_read(slot)
        if tensor is None or not np.isin(layout.tensors[tensor].positions.group, prunable).any():
            continue
        if not slot.trainable or getattr(layer.kernel, 'constraint', None):
            continue  # as it is, or not free
        if any(layout.tensors[node.inputs[0]].axis != -1
               or len(layout.tensors[node.inputs[0]].positions.group) > _MOST for node in nodes):
            continue
        is_even = axis == -2  # what a constant adds is the same everywhere
        has_bias = is_even and any(each.weight == 'bias' and each.trainable for each in slots)
        found[path] = _Reader(slot, axis, tensor, has_bias or is_even and all(
            _is_normalized(graph, step.outputs[0], updated) for step, _ in calls[path]), has_bias)
    return found


def _is_other(node: LayerNode) -> bool:
    return node.refused is not None or len(node.inputs) != 1


def _plainly_read(slot: WeightSlot) -> tuple[int | None, int]:
    """The tensor whose channels stand, once each, along one of the last two axes, and that axis,
    from the end; None where there is none."""
    reads = [each for each in slot.axes if each.reads]
    axis = reads[0].axis - len(slot.shape) if len(reads) == 1 else 0
    if axis not in (-2, -1) or (reads[0].repeat, reads[0].tile) != (1, 1):
        return None, axis
    return reads[0].tensor, axis


def _is_normalized(graph: Graph, value: int, updated: set[int]) -> bool:
    """Whether all that reads a value is batch normalization whose statistics are yet to be
    re-estimated: one of `updated`, by id."""
    behind = [id(step.operation) for step in graph.steps if value in step.inputs]
    return value not in graph.outputs and bool(behind) and updated.issuperset(behind)
