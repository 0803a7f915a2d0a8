"""The traced model in integers: what stands at each channel of each tensor and weight."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.structure.graph import Shape, layer_at
from tfprune.structure.layer_rules import Kept
from tfprune.structure.layer_rules.base import axis_of_images


@dataclasses.dataclass(frozen=True, eq=False)
class Positions:
    """What stands at each channel position: group[c] and index[c] within the group, int [C]."""
    group: np.ndarray
    index: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TensorInfo:
    """A tensor of the model, or channels that only a layer itself sees ([B, C]).

    Attributes:
        shape: [B, …].
        positions: what its channels are.
        axis: the axis that they run along, counted from the end.
    """
    shape: Shape
    positions: Positions
    axis: int = -1

    @property
    def others(self) -> tuple[int | None, ...]:
        """The sizes of all axes but the images' and the channels'."""
        return tuple(size for place, size in enumerate(self.shape)
                     if place not in (axis_of_images(self.shape), len(self.shape) + self.axis))


@dataclasses.dataclass(frozen=True)
class LayerNode:
    """A call of a layer, named by its path in nested models ('model/layer').

    Inputs, outputs and internals, the channels that only the layer sees by name, index
    `Layout.tensors`. Without a rule, refused says why.
    """
    layer: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    refused: str | None
    internals: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def tensor(self, of: str, place: int = 0) -> int:
        """The tensor of `WeightAxis.of` and `.place`."""
        if of in ('input', 'output'):
            return (self.inputs if of == 'input' else self.outputs)[place]
        return self.internals[of]


@dataclasses.dataclass(frozen=True)
class SlotAxis:
    """An axis of a weight and the tensor whose channels it runs over; see `WeightAxis`."""
    axis: int
    tensor: int
    reads: bool
    repeat: int = 1
    tile: int = 1

    def along(self, channels: np.ndarray) -> np.ndarray:
        """What stands at each position of the axis, of what stands at each channel; a tensor of
        Keras gives one."""
        array = np if isinstance(channels, np.ndarray) else keras.ops
        if self.repeat > 1:
            channels = array.repeat(channels, self.repeat)
        return array.tile(channels, self.tile) if self.tile > 1 else channels


@dataclasses.dataclass(frozen=True)
class WeightSlot:
    """A weight, by a name with dots, and its axes that run over channels; the others are static."""
    layer: str
    weight: str
    shape: tuple[int, ...]
    trainable: bool
    axes: tuple[SlotAxis, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether the weight mixes channels: its output slices are filters."""
        return any(each.reads for each in self.axes) and not all(each.reads for each in self.axes)

    @property
    def made(self) -> list[int]:
        """The tensors whose channels it makes; if none, those that it reads."""
        made = [each.tensor for each in self.axes if not each.reads]
        return made or [each.tensor for each in self.axes]

    def variable(self, model: keras.Model) -> Any:
        """Returns the Keras variable in `model`."""
        return weight_of(layer_at(model, self.layer), self.weight)


def inner_axes(slot: WeightSlot, node: LayerNode) -> list[SlotAxis]:
    """Returns the axes over channels that no gate before a call of the layer closes: those that
    only the layer sees, and what it reads of its own output."""
    within = set(node.internals.values())
    return [each for each in slot.axes if each.tensor in within
            or each.reads and each.tensor not in node.inputs]


def weight_of(layer: Any, name: str) -> Any:
    """Returns the weight of a layer by its name, which may have dots, and places in lists."""
    for part in name.split('.'):
        layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
    return layer


@dataclasses.dataclass(frozen=True, eq=False)
class WeightSlice:
    """Where one group stands along one axis of a weight: positions[i] is channel index[i]."""
    slot: WeightSlot
    side: str  # 'in' or 'out'
    axis: int
    positions: np.ndarray
    index: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The traced model in integers. Group ids index `names` and `widths` (all groups)."""
    names: tuple[str, ...]
    widths: tuple[int, ...]
    tensors: tuple[TensorInfo, ...]
    nodes: tuple[LayerNode, ...]
    weights: tuple[WeightSlot, ...]
    outputs: tuple[int, ...]

    @functools.cached_property
    def slots(self) -> Mapping[str, Sequence[WeightSlot]]:
        """The weights of each layer that has some."""
        found: dict[str, list[WeightSlot]] = {}
        for slot in self.weights:
            found.setdefault(slot.layer, []).append(slot)
        return found

    def kept(self, masks: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns for every tensor a bool [C]: the channels that `masks` keep (missing: all)."""
        full = [np.asarray(masks[name], bool) if name in masks else np.ones(width, bool)
                for name, width in zip(self.names, self.widths)]
        offsets = np.cumsum([0, *self.widths])
        flat = np.concatenate([*full, np.ones(0, bool)])
        return [flat[offsets[t.positions.group] + t.positions.index] for t in self.tensors]

    def slices(self, name: str) -> Iterator[WeightSlice]:
        """Yields every weight axis along which the group `name` stands, in topological order."""
        group = self.names.index(name)
        for slot in self.weights:
            for each in slot.axes:
                where = self.tensors[each.tensor].positions
                found = np.flatnonzero(each.along(where.group) == group)
                if found.size:
                    yield WeightSlice(slot, 'in' if each.reads else 'out', each.axis, found,
                                      each.along(where.index)[found])

    def kept_of(self, node: LayerNode, kept: Sequence[np.ndarray]) -> Kept:
        """Returns what stays of the channels of a call; `kept` is that of every tensor."""
        return Kept(tuple(kept[i] for i in node.inputs), tuple(kept[i] for i in node.outputs),
                    tuple(self.tensors[i].axis for i in node.inputs),
                    tuple(self.tensors[i].axis for i in node.outputs),
                    tuple(len(self.tensors[i].shape) for i in node.inputs),
                    {name: kept[i] for name, i in node.internals.items()})
