"""Operations that move, split, stack, repeat and take positions: labels go where the values go."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.structure.keras_internals import core, math, numpy as knp
from tfprune.structure.layer_rules.base import (Call, Channels, Kept, LayerRule, Tracer,
                                                axis_of_channels)


class Moved(LayerRule):
    """Permutes axes; `order(layer, rank)` gives the input axis of each output axis."""
    any_axis, any_width = True, True

    def __init__(self, order: Any) -> None:
        self._order = order

    def refuse(self, call: Call) -> str | None:
        order = self._order(call.layer, len(call.input_shapes[0]))
        changed = [axis for axis, before in enumerate(order) if axis != before]
        if changed and call.may_move_images(*changed):
            return f'moves the batch (order of axes {tuple(order)})'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        rank = len(call.input_shapes[0])
        order = list(self._order(call.layer, rank))
        return [Channels(inputs[0].labels, order.index(rank + inputs[0].axis) - rank)]


def permuted(layer: Any, rank: int) -> Sequence[int]:
    """Of layers.Permute."""
    del rank
    return [0, *layer.dims]


def transposed(layer: Any, rank: int) -> Sequence[int]:
    """Of ops.transpose."""
    axes = range(rank)[::-1] if layer.axes is None else layer.axes
    return [axis % rank for axis in axes]


def swapped(layer: Any, rank: int) -> Sequence[int]:
    """Of ops.swapaxes."""
    return np.swapaxes(np.empty(range(rank), bool), layer.axis1, layer.axis2).shape


def moved(layer: Any, rank: int) -> Sequence[int]:
    """Of ops.moveaxis."""
    return np.moveaxis(np.empty(range(rank), bool), layer.source, layer.destination).shape


class _AlongAxis(LayerRule):
    """An operation along `layer.axis`: of the channels, or of another axis and then nothing is."""
    any_axis = True

    def refuse(self, call: Call) -> str | None:
        if call.layer.axis is None:
            return 'works on the flattened tensor (axis=None)'
        if _on_batch(call):
            return f'works on the batch (axis={call.layer.axis})'
        return None


class _Split(_AlongAxis):
    """Into equal parts or at indices; along the channels each part has its own."""
    many_outputs = True

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        if not _on_channels(call):
            return [inputs[0] for _ in call.output_shapes]
        widths = [shape[inputs[0].axis] or 0 for shape in call.output_shapes]
        parts = np.split(inputs[0].labels, np.cumsum(widths)[:-1])
        return [Channels(part, inputs[0].axis) for part in parts]

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        if not kept.is_axis(layer.axis) or kept.inputs[0].all():
            return config
        widths = [int(part.sum()) for part in kept.outputs]
        return {**config, 'indices_or_sections': np.cumsum(widths)[:-1].tolist()}


class _Unstack(_AlongAxis):
    many_outputs = True

    def refuse(self, call: Call) -> str | None:
        if _on_channels(call):
            return f'takes the channels apart (axis={call.layer.axis})'
        return super().refuse(call)

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        rank = len(call.input_shapes[0])
        place, gone = axis_of_channels(call), call.layer.axis % rank
        return [Channels(inputs[0].labels, place - (gone < place) - (rank - 1))
                for _ in call.output_shapes]


class _Stack(LayerRule):
    """Along a new axis: couples the channels of what is stacked."""
    any_axis, any_width = True, True

    def refuse(self, call: Call) -> str | None:
        if call.may_move_images(call.layer.axis % len(call.output_shapes[0])):
            return 'stacks along the batch'
        return None if len(set(call.axes)) == 1 else 'stacks tensors with channels on other axes'

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        for other in inputs[1:]:
            tracer.sum(inputs[0].labels, other.labels)
        rank = len(call.output_shapes[0])
        place, new = axis_of_channels(call), call.layer.axis % rank
        return [Channels(inputs[0].labels, place + (new <= place) - rank)]


class _Repeat(_AlongAxis):
    any_width = True

    def refuse(self, call: Call) -> str | None:
        if np.ndim(call.layer.repeats):
            return f'repeats each position differently (repeats={call.layer.repeats})'
        return super().refuse(call)

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        times = call.layer.repeats if _on_channels(call) else 1
        return [Channels(np.repeat(inputs[0].labels, times), inputs[0].axis)]


class _Roll(_AlongAxis):

    def refuse(self, call: Call) -> str | None:
        if np.ndim(call.layer.axis):
            axes, rank = call.layer.axis, len(call.input_shapes[0])
            if {call.images_of(), axis_of_channels(call)}.intersection(
                    axis % rank for axis in axes):
                return f'rolls the batch or the channels among others (axis={axes})'
            return None
        return super().refuse(call)

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        shift = 0 if np.ndim(call.layer.axis) or not _on_channels(call) else call.layer.shift
        return [Channels(np.roll(inputs[0].labels, shift), inputs[0].axis)]

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        before = kept.inputs[0]
        if np.ndim(layer.axis) or not kept.is_axis(layer.axis) or before.all():
            return config
        return {**config, 'shift': int(before[before.size - layer.shift % before.size:].sum())}


class _Flip(_AlongAxis):
    any_width = True

    def refuse(self, call: Call) -> str | None:
        if np.ndim(call.layer.axis):
            return f'flips several axes ({call.layer.axis})'
        return super().refuse(call)

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        step = -1 if _on_channels(call) else 1
        return [Channels(inputs[0].labels[::step], inputs[0].axis)]


class _Tile(LayerRule):
    any_axis, any_width = True, True

    def refuse(self, call: Call) -> str | None:
        rank, given = len(call.input_shapes[0]), np.atleast_1d(call.layer.repeats).tolist()
        repeats = [*[1] * (rank - len(given)), *given]
        images = call.images_of()
        if len(repeats) > rank or images is not None and repeats[images] != 1:
            return f'repeats the batch (repeats={call.layer.repeats})'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        repeats = np.atleast_1d(call.layer.repeats)
        times = repeats[inputs[0].axis] if -inputs[0].axis <= len(repeats) else 1
        return [Channels(np.tile(inputs[0].labels, times), inputs[0].axis)]


class _BroadcastTo(LayerRule):
    any_axis = True

    def refuse(self, call: Call) -> str | None:
        axis = call.axes[0]
        if call.input_shapes[0][axis] != call.output_shapes[0][axis]:
            return 'broadcasts the channels'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        return [inputs[0]]

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        shape = list(config['shape'])
        shape[kept.output_axes[0]] = int(kept.outputs[0].sum())
        return {**config, 'shape': tuple(shape)}


class _Take(_AlongAxis):
    """Of the channels by constant indices, which become those of what is left; of other positions,
    the nodes of a graph say, by any."""

    def refuse(self, call: Call) -> str | None:
        computed = len(call.input_shapes) > 1
        if _on_channels(call) and (computed or np.ndim(_indices(call)) != 1):
            return 'takes channels by indices that are no list'
        return None if computed else super().refuse(call)

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        if _on_channels(call):
            return [Channels(inputs[0].labels[_indices(call)], inputs[0].axis)]
        rank = len(call.input_shapes[0])
        before = call.layer.axis % rank < axis_of_channels(call)
        added = len(call.output_shapes[0]) - rank
        return [Channels(inputs[0].labels, inputs[0].axis - (0 if before else added))]

    def edit_arguments(self, layer: Any, args: Any, kwargs: Any, kept: Kept) -> tuple[Any, Any]:
        before, after = kept.inputs[0], kept.outputs[0]
        if not kept.is_axis(layer.axis) or before.all():
            return args, kwargs
        indices = np.asarray(args[1] if len(args) > 1 else kwargs['indices'])[after]
        return (args[0], (np.cumsum(before) - 1)[indices].astype('int32')), {}


class _TakeAlongAxis(LayerRule):
    """By computed indices that are the same for all channels."""
    any_axis, any_width = True, True

    def refuse(self, call: Call) -> str | None:
        rank, axis = len(call.input_shapes[0]), call.axes[0]
        if call.layer.axis is None or call.layer.axis % rank == rank + axis or (
                len(call.input_shapes) != 2 or call.input_shapes[1][axis] != 1):
            return 'takes other positions of each channel'
        return None


class _Segments(LayerRule):
    """Sums or maxima over the rows of a tensor [rows, …, C], which may be the edges of a graph."""
    any_width, any_axis = True, True

    def refuse(self, call: Call) -> str | None:
        return 'sums over the channels' if axis_of_channels(call) == 0 else None


class _GetItem(LayerRule):
    """Indices and slices; of the channels, slices in a row, or all of them backwards."""
    any_axis = True

    def refuse(self, call: Call) -> str | None:
        shape = call.input_shapes[0]
        items = _items(call.args[1], len(shape))
        images = call.images_of()
        if items is None or images is not None and shape[images] is None and (
                items[_place(items, images)] != slice(None)):
            return f'is indexed with {call.args[1]!r}'
        item = items[_place(items, axis_of_channels(call))]
        if item != slice(None, None, -1) and (
                not isinstance(item, slice) or item.step not in (None, 1)):
            return f'takes some of the channels ({item!r})'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        rank, place = len(call.input_shapes[0]), axis_of_channels(call)
        items = _items(call.args[1], rank) or []
        at = _place(items, place)
        behind = sum(not isinstance(each, int) for each in items[at + 1:])
        return [Channels(inputs[0].labels[items[at]], -1 - behind)]

    def edit_arguments(self, layer: Any, args: Any, kwargs: Any, kept: Kept) -> tuple[Any, Any]:
        before, rank = kept.inputs[0], kept.input_ranks[0]
        items = _items(args[1], rank) or []
        at = _place(items, rank + kept.input_axes[0])
        item = items[at]
        if item in (slice(None), slice(None, None, -1)) or before.all():
            return args, kwargs
        start, stop, _ = item.indices(before.size)
        items[at] = slice(int(before[:start].sum()), int(before[:stop].sum()))
        return (args[0], tuple(items)), kwargs


class _Pad(LayerRule):
    """Along the channels the padding is channels of its own, as that of a padded shortcut."""
    any_axis = True

    def refuse(self, call: Call) -> str | None:
        left, right = self._widths(call.layer, len(call.input_shapes[0]))[axis_of_channels(call)]
        if (left or right) and call.layer.mode != 'constant':
            return f'pads the channels by others (mode={call.layer.mode!r})'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        left, right = self._widths(call.layer, len(call.input_shapes[0]))[axis_of_channels(call)]
        return [Channels(np.concatenate([tracer.fresh(left), inputs[0].labels,
                                         tracer.fresh(right)]), inputs[0].axis)]

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        after = kept.outputs[0]
        if after.size == kept.inputs[0].size or after.all():
            return config
        widths = self._widths(layer, kept.input_ranks[0])
        left, right = widths[kept.input_axes[0]]
        widths[kept.input_axes[0]] = ends_kept(after, left, right)
        return {**config, 'pad_width': tuple(widths)}

    @staticmethod
    def _widths(layer: Any, rank: int) -> list[tuple[int, int]]:
        widths = [tuple(pair) for pair in layer.pad_width]
        return widths * rank if len(widths) == 1 else widths


def ends_kept(kept: np.ndarray, left: int, right: int) -> tuple[int, int]:
    """How many of the first `left` and of the last `right` channels stay, of bool [C]."""
    return int(kept[:left].sum()), int(kept[kept.size - right:].sum())


def _on_channels(call: Call) -> bool:
    return call.layer.axis % len(call.input_shapes[0]) == axis_of_channels(call)


def _on_batch(call: Call) -> bool:
    return call.layer.axis % len(call.input_shapes[0]) == call.images_of()


def _indices(call: Call) -> np.ndarray:
    return np.asarray(call.args[1] if len(call.args) > 1 else call.arguments)


def _items(key: Any, rank: int) -> list[Any] | None:
    """The key with an item for each axis, and None for each new one; None if it is none of ints,
    slices of fixed ends, Ellipsis and None."""
    items = list(key) if isinstance(key, tuple | list) else [key]
    if not all(item is None or item is Ellipsis or isinstance(item, int | np.integer) or (
            isinstance(item, slice) and all(
                end is None or isinstance(end, int | np.integer)
                for end in (item.start, item.stop, item.step))) for item in items):
        return None
    items = [int(item) if isinstance(item, np.integer) else item for item in items]
    if Ellipsis not in items:
        items.append(Ellipsis)
    place = items.index(Ellipsis)
    missing = rank - sum(item is not None and item is not Ellipsis for item in items)
    return [*items[:place], *[slice(None)] * missing, *items[place + 1:]]


def _place(items: Sequence[Any], axis: int) -> int:
    """The place of an axis among items, of which None are of new axes."""
    return [place for place, item in enumerate(items) if item is not None][axis]


RULES: dict[type[keras.Operation], LayerRule] = {
    knp.Transpose: Moved(transposed),
    knp.Swapaxes: Moved(swapped),
    knp.Moveaxis: Moved(moved),
    knp.Split: _Split(),
    core.Unstack: _Unstack(),
    knp.Stack: _Stack(),
    knp.Repeat: _Repeat(),
    knp.Roll: _Roll(),
    knp.Flip: _Flip(),
    knp.Tile: _Tile(),
    knp.BroadcastTo: _BroadcastTo(),
    knp.Take: _Take(),
    knp.TakeAlongAxis: _TakeAlongAxis(),
    math.SegmentSum: _Segments(),
    math.SegmentMax: _Segments(),
    knp.GetItem: _GetItem(),
    knp.Pad: _Pad(),
}
