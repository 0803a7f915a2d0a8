"""Recurrent layers: units that read, at each step, the input and themselves.

The gates of a cell stand one after another: kernel [in, gates · units], recurrent kernel
[units, gates · units]. A unit is one row of the latter and one column of every gate. States are
channels of the units, whether they come as arguments or leave as outputs.
"""
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.structure.keras_internals import ConvLSTMCell
from tfprune.structure.layer_rules.activations import freeze_unless_elementwise
from tfprune.structure.layer_rules.base import (Call, Channels, Kept, Labels, LayerRule, MacTerm,
                                                positions, Tracer, WeightAxes, WeightAxis)

# Class of a cell -> gates, states.
_CELLS: dict[type, tuple[int, int]] = {
    layers.SimpleRNNCell: (1, 1), layers.GRUCell: (3, 1), layers.LSTMCell: (4, 2),
    ConvLSTMCell: (4, 2)}


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A cell of one direction.

    Attributes:
        path: its attribute in the layer, with dots.
        units: the name of its channels, of `LayerRule.internals`.
        below: 'input', or the name of the channels of the cell that it reads.
    """
    cell: Any
    path: str
    units: str
    below: str

    @property
    def gates(self) -> int:
        """How many gates stand in its kernels."""
        return _CELLS[type(self.cell)][0]

    @property
    def states(self) -> int:
        """How many states it hands on, each of as many channels as it has units."""
        return _CELLS[type(self.cell)][1]

    @property
    def width(self) -> int:
        """Its units, or filters."""
        return getattr(self.cell, 'units', None) or self.cell.filters

    def weight_axes(self) -> tuple[WeightAxes, ...]:
        """The axes of its weights, by names in the layer."""
        rank = len(self.cell.kernel.shape)
        made = WeightAxis(rank - 1, self.units, tile=self.gates)
        found = [WeightAxes(f'{self.path}.{name}', more=(
            WeightAxis(rank - 2, read, reads=True), made))
            for name, read in (('kernel', self.below), ('recurrent_kernel', self.units))]
        if self.cell.use_bias:
            axis = len(self.cell.bias.shape) - 1  # GRU has [2, 3 · units], if it resets after
            found.append(WeightAxes(f'{self.path}.bias', more=(
                dataclasses.replace(made, axis=axis),)))
        return tuple(found)

    def mac_terms(self, steps: int) -> tuple[MacTerm, ...]:
        """steps · gates · units · (inputs + units), for each weight of a window."""
        size = steps * self.gates * math.prod(self.cell.kernel.shape[:-2])
        reads_input = self.below == 'input'
        return (MacTerm(size, uses_in=reads_input,
                        uses=(self.units,) if reads_input else (self.below, self.units)),
                MacTerm(size, uses=(self.units, self.units)))


class _Recurrent(LayerRule):
    """RNN(cell), of one cell or of stacked ones, and the layers that make their own cell.

    Args:
        key: the config's name of the number of units; None where the config has the cell.
    """
    many_outputs = True

    def __init__(self, key: str | None = None) -> None:
        self._key = key

    def mixes_channels(self, layer: Any) -> bool:
        return True

    def internals(self, layer: Any) -> Mapping[str, int]:
        known = not any(map(_unknown, self.directions(layer).values()))
        return {each.units: each.width for each in self._cells(layer)} if known else {}

    @staticmethod
    def directions(layer: Any) -> dict[str, Any]:
        """The layers that go over the steps, by their attribute with a dot behind it."""
        return {'': layer}

    def refuse(self, call: Call) -> str | None:
        for each in self.directions(call.layer).values():
            reason = _unknown(each)
            if reason is None and each.stateful:
                reason = 'is stateful: it keeps values of all of its units from batch to batch'
            if reason is not None:
                return reason
        sizes = [each.width for each in self._cells(call.layer) for _ in range(each.states)]
        given = [call.input_shapes[place][-1] for place in _states(call)]
        if given and given != sizes:
            return (f'takes tensors of {given} channels beside the sequence, where states of '
                    f'{sizes} are expected')
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        cells = self._cells(call.layer)
        for each in cells:
            for name in ('activation', 'recurrent_activation'):
                freeze_unless_elementwise(getattr(each.cell, name, None), call.layer.name,
                                          call.internals[each.units], tracer)
        states = [call.internals[each.units] for each in cells for _ in range(each.states)]
        for own, place in zip(states, _states(call)):
            tracer.union(own, inputs[place].labels)
        made = self.outputs(call.layer, call.internals[cells[-1].units])
        if call.layer.return_state:
            made += states
        return [Channels(labels) for labels in made]

    def outputs(self, layer: Any, units: Labels) -> list[Labels]:
        """The labels of the outputs that are no states."""
        del layer
        return [units]

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        return tuple(axes for each in self._cells(layer) for axes in each.weight_axes())

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        batch, steps, *_, channels = call.input_shapes[0]
        after = call.output_shapes[0][1 + bool(call.layer.return_sequences):-1]
        uses = positions(call, (batch, steps, *after, channels))
        return tuple(term for each in self._cells(call.layer) for term in each.mac_terms(uses))

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        if self._key is not None:
            return {**config, self._key: int(kept.internals['units'].sum())}
        return with_inner(config, 'cell', lambda cell: _narrow_cell(cell, kept.internals))

    def _cells(self, layer: Any) -> list[_Cell]:
        return [cell for path, each in self.directions(layer).items()
                for cell in _cells_of(each, path)]


class _Bidirectional(_Recurrent):
    """Two layers, of which Keras takes for granted that they are equally wide: their units go
    together, the first forward with the first backward, however the outputs are merged."""

    def __init__(self, rules: Mapping[type[keras.Operation], LayerRule]) -> None:
        super().__init__()
        self._rules = rules

    @staticmethod
    def directions(layer: Any) -> dict[str, Any]:
        return {'forward_layer.': layer.forward_layer, 'backward_layer.': layer.backward_layer}

    def internals(self, layer: Any) -> Mapping[str, int]:
        return {} if self._different(layer) else super().internals(layer)

    def refuse(self, call: Call) -> str | None:
        return super().refuse(call) or self._different(call.layer)

    def outputs(self, layer: Any, units: Labels) -> list[Labels]:
        if layer.merge_mode is None:
            return [units, units]
        return [np.tile(units, 2) if layer.merge_mode == 'concat' else units]

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        def one(config: dict[str, Any], key: str, direction: Any) -> dict[str, Any]:
            rule = self._rules[type(direction)]
            return with_inner(config, key, lambda inner: rule.edit(direction, inner, kept))

        return one(one(config, 'layer', layer.forward_layer), 'backward_layer',
                   layer.backward_layer)

    @staticmethod
    def _different(layer: Any) -> str | None:
        """What the two directions do not have in common; None where they go together."""
        forward, backward = layer.forward_layer, layer.backward_layer
        if _unknown(forward) or _unknown(backward):
            return None  # is refused for that
        sizes = [[each.width for each in _cells_of(one, '')] for one in (forward, backward)]
        return None if sizes[0] == sizes[1] else (
            f'has {sizes[0]} units forward and {sizes[1]} backward, where Keras expects as many')


class _Masking(LayerRule):
    """Masks steps at which all channels have one value."""

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        tracer.freeze(inputs[0], f"layer '{call.layer.name}' (Masking) compares all channels with "
                                 'its mask_value')
        return inputs[0]


def with_inner(config: Mapping[str, Any], key: str,
               change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Returns a config in which that of the layer at `key` is changed, and no longer built."""
    inner = {name: value for name, value in config[key].items() if name != 'build_config'}
    return {**config, key: {**inner, 'config': change(dict(inner['config']))}}


def _narrow_cell(config: dict[str, Any], kept: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the config of a cell, or of stacked ones, with the units that are kept."""
    def of(cell: dict[str, Any], units: str) -> dict[str, Any]:
        return {**cell, 'units': int(kept[units].sum())}

    if 'cells' not in config:
        return of(config, 'units')
    return {**config, 'cells': [
        with_inner({'cell': cell}, 'cell', functools.partial(of, units=f'units_{place}'))['cell']
        for place, cell in enumerate(config['cells'])]}


def _cells_of(layer: Any, path: str) -> Iterator[_Cell]:
    """The cells of a layer at `path`, as one reads the other."""
    if not isinstance(layer.cell, layers.StackedRNNCells):
        yield _Cell(layer.cell, f'{path}cell', 'units', 'input')
        return
    below = 'input'
    for place, cell in enumerate(layer.cell.cells):
        yield _Cell(cell, f'{path}cell.cells.{place}', f'units_{place}', below)
        below = f'units_{place}'


def _states(call: Call) -> list[int]:
    """The places of the inputs that are initial states."""
    return [place for place in range(1, len(call.input_shapes)) if place not in call.masks]


def _unknown(layer: Any) -> str | None:
    """Which cell of a layer has no rule; None if all have."""
    if type(layer) not in RULES:
        return f"has a layer '{layer.name}' ({type(layer).__name__}) inside, which has no rule"
    stacked = type(layer.cell) is layers.StackedRNNCells
    for cell in layer.cell.cells if stacked else [layer.cell]:
        if type(cell) not in _CELLS:
            return f'has a cell of the class {type(cell).__name__}, which has no rule'
    return None


RULES: dict[type[keras.Operation], LayerRule] = {
    layers.RNN: _Recurrent(),
    **{layer: _Recurrent('units') for layer in (layers.SimpleRNN, layers.GRU, layers.LSTM)},
    **{getattr(layers, f'ConvLSTM{rank}D'): _Recurrent('filters') for rank in (1, 2, 3)},
    layers.Masking: _Masking(),
}
RULES[layers.Bidirectional] = _Bidirectional(RULES)
