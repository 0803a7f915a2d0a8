"""Reshapes: channels are merged with positions, or taken apart, as row-major order says."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.structure.keras_internals import numpy as knp
from tfprune.structure.layer_rules.base import (Call, Channels, Kept, LayerRule, Shape, Tracer,
                                                axis_of_channels, numbers_of_an_image)


def aligned(before: Shape, after: Shape, place: int) -> tuple[range, range] | None:
    """Returns the smallest runs of axes of two shapes, equal in size, that hold axis `place` of the
    first: a row-major reshape maps one run onto the other. None where sizes are not fixed."""
    for one, other in _runs(before, after):
        if place in one:
            return one, other
    # From the end, behind what is not fixed.
    for back in range(1, min(len(before), len(after)) + 1):
        if before[-back] is None or before[-back] != after[-back]:
            return None
        if len(before) - back == place:
            return range(place, place + 1), range(len(after) - back, len(after) - back + 1)
    return None


def _runs(before: Shape, after: Shape) -> list[tuple[range, range]]:
    """All runs from the front up to what is not fixed, the batch apart."""
    found: list[tuple[range, range]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        first, second, left, right = i, j, before[i], after[j]
        i, j = i + 1, j + 1
        while left != right and left is not None and right is not None:
            if left < right and i < len(before):
                left, i = _times(left, before[i]), i + 1
            elif right < left and j < len(after):
                right, j = _times(right, after[j]), j + 1
            else:
                return found
        if left is None or right is None:
            if i != 1 or left is not right or (
                    numbers_of_an_image(before) != numbers_of_an_image(after)):
                return found
        found.append((range(first, i), range(second, j)))
    if found and set((*before[i:], *after[j:])) <= {1}:  # axes of one at the end
        one, other = found.pop()
        found.append((range(one.start, len(before)), range(other.start, len(after))))
    return found


def _times(size: int, other: int | None) -> int | None:
    return None if other is None else size * other


class Reshape(LayerRule):
    """Row-major. Channels that are merged with positions stand that often in the new axis. If they
    are taken apart, the largest of the new axes has them, of a vector's the last, as of the maps
    that a dense layer makes; those at one place of it go together.

    `target` is the config's name of the new shape; None of Flatten.
    """
    any_axis, in_place = True, True

    def __init__(self, target: str | None = None) -> None:
        self._target = target

    def refuse(self, call: Call) -> str | None:
        before, after = call.input_shapes[0], call.output_shapes[0]
        runs = aligned(before, after, axis_of_channels(call))
        if runs is None or call.images_of() is not None and 0 in runs[0]:
            return f'reshapes {before} to {after}, whose channels are not fixed'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        before, after = call.input_shapes[0], call.output_shapes[0]
        place = axis_of_channels(call)
        runs = aligned(before, after, place)
        assert runs is not None  # or it was refused
        sizes = [before[axis] or 0 for axis in runs[0]]
        table = np.broadcast_to(np.expand_dims(inputs[0].labels, [
            axis for axis in range(len(sizes)) if axis != place - runs[0][0]]), sizes)
        table = table.reshape([after[axis] or 0 for axis in runs[1]])
        varies = [axis for axis in range(table.ndim)
                  if (table != np.take(table, [0], axis)).any()]
        size = {axis: (len(before) > 2 and table.shape[axis], axis) for axis in varies}
        chosen = max(varies, key=size.__getitem__) if varies else table.ndim - 1
        rows = np.moveaxis(table, chosen, 0).reshape(table.shape[chosen], -1)
        for column in rows.T[1:]:
            if (column != rows[:, 0]).any():
                tracer.union(rows[:, 0], column)
        return [Channels(rows[:, 0], runs[1][0] + chosen - len(after))]

    def ties_calls(self, layer: Any) -> bool:
        return self._target is not None

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        if self._target is None:
            return config
        shape = list(config[self._target])
        if shape[kept.output_axes[0]] == -1:
            return config
        shape[kept.output_axes[0]] = int(kept.outputs[0].sum())
        return {**config, self._target: tuple(shape)}


RULES: dict[type[keras.Operation], LayerRule] = {
    knp.Reshape: Reshape('newshape'),
    layers.Reshape: Reshape('target_shape').in_keras2(),
    layers.Flatten: Reshape().in_keras2(),
}
