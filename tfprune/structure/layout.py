"""The traced model in integers: what stands at each channel of each tensor and weight."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.structure.graph import Shape, layer_at


@dataclasses.dataclass(frozen=True, eq=False)
class Positions:
    """What stands at each channel position: group[c] and index[c] within the group, int [C]."""
    group: np.ndarray
    index: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TensorInfo:
    """A tensor of the model: its shape [B, …, C] and what its channels are."""
    shape: Shape
    positions: Positions


@dataclasses.dataclass(frozen=True)
class LayerNode:
    """A call of a layer, named by its path in nested models ('model/layer').

    Inputs and outputs index `Layout.tensors`. Without a rule, refused says why.
    """
    layer: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    refused: str | None


@dataclasses.dataclass(frozen=True)
class WeightSlot:
    """A weight and the tensors whose channels its axes run over (None: an axis is static).

    Each input channel stands in_repeat times in a row along in_axis.
    """
    layer: str
    weight: str
    shape: tuple[int, ...]
    trainable: bool
    in_axis: int | None
    in_tensor: int | None
    out_axis: int | None
    out_tensor: int | None
    in_repeat: int = 1

    @property
    def is_kernel(self) -> bool:
        """Whether the weight mixes channels: its output slices are filters."""
        return self.in_axis is not None and self.out_axis is not None

    def axes(self) -> list[tuple[str, int, int, int]]:
        """Returns (side, axis, tensor, repeat) of each axis that runs over channels."""
        found = []
        if self.in_axis is not None and self.in_tensor is not None:
            found.append(('in', self.in_axis, self.in_tensor, self.in_repeat))
        if self.out_axis is not None and self.out_tensor is not None:
            found.append(('out', self.out_axis, self.out_tensor, 1))
        return found

    def variable(self, model: keras.Model) -> Any:
        """Returns the Keras variable in `model`."""
        return getattr(layer_at(model, self.layer), self.weight)


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
            for side, axis, tensor, repeat in slot.axes():
                where = self.tensors[tensor].positions
                found = np.flatnonzero(np.repeat(where.group, repeat) == group)
                if found.size:
                    yield WeightSlice(slot, side, axis, found, where.index[found // repeat])
