"""Latency as a function of widths: a table of measured operator times, interpolated.

    latency(w) = call + Σ_s t_s(in_s(w), out_s(w))

over the steps s of the TFLite file (`export.operators`), in_s and out_s being linear forms of the
group widths w and t_s bilinear between the widths that were measured. Times of steps that differ in
widths alone are one surface. All is in whole nanoseconds and in integers, so that no rounding can
make a wider network look faster, and surfaces are made monotone: with U the largest time at widths
no greater and L the smallest at widths no less, both of which rise, t = (U + L) / 2, which is the
measured time wherever that rises. Where a device computes channels in blocks the surface is flat
within a block: a budget takes the widths at its end at no cost.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.config import MILLISECONDS, THREADS, Range
from tfprune.costs.model import NANOSECONDS
from tfprune.export.tflite import FLOAT32, INT8
from tfprune.files import read_json, write_text
from tfprune.structure.graph import unfold
from tfprune.structure.groups import ChannelGroups

VERSION = 1
_FORM = {'constant': int, 'counts': {str: int}}
_SHAPE = {  # see files.check_content
    'latency_table': int, 'about': dict, 'call_ms': [float],
    'models': {str: {'name': str, 'steps': [{'signature': str, 'in': _FORM, 'out': _FORM}]}},
    'surfaces': {str: {'ins': [int], 'outs': [int], 'ms': [[[float]]]}}}
_WIDEST = 10 ** 6
_THREADS = Range(1, THREADS.high)
BUILD = 'tfprune benchmark --suite=latency_table --model=… --image_size=… --table=table.json'
# What of a layer's call decides how it is computed, beside shapes.
_SETTINGS = ('strides', 'padding', 'dilation_rate', 'pool_size', 'groups', 'axis')


@dataclasses.dataclass(frozen=True)
class Form:
    """A width as a linear form: constant + Σ counts[g] · w_g, g being places in layout.names."""
    constant: int
    counts: Mapping[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StepRow:
    """A step of a model: the surface of its times, and the widths at which it is read."""
    signature: str
    in_form: Form
    out_form: Form


@dataclasses.dataclass
class Surface:
    """Times of the steps of one signature at ins x outs; `ms[i][o]`, a value a pass, [] for none.

    outs is [0] where time is a function of the in-width alone.
    """
    ins: list[int]
    outs: list[int]
    ms: list[list[list[float]]]

    def check(self, source: str) -> None:
        """ValueError unless it has a time a pair of widths, which rise, each a number."""
        for name, widths in (('ins', self.ins), ('outs', self.outs)):
            if not widths or widths[0] < 0 or widths[-1] > _WIDEST or any(
                    here >= following for here, following in zip(widths, widths[1:])):
                raise ValueError(f'{source}: {name} must be rising widths of 0 to {_WIDEST}; '
                                 f'received {widths}')
        if len(self.ms) != len(self.ins) or any(len(row) != len(self.outs) for row in self.ms):
            raise ValueError(f'{source}: ms must be {len(self.ins)} rows of {len(self.outs)} '
                             f'lists, a list a pair of widths; received rows of '
                             f'{[len(row) for row in self.ms]}')
        for row in self.ms:
            for passes in row:
                _check_times(source, passes)

    @property
    def is_complete(self) -> bool:
        """Whether every time was measured."""
        return all(passes for row in self.ms for passes in row)

    def times(self) -> np.ndarray:
        """Milliseconds [I, O], monotone in both widths: of each point the quietest pass."""
        times = np.array([[min(passes) for passes in row] for row in self.ms])
        upper, lower = times, times
        for axis in (0, 1):
            upper = np.maximum.accumulate(upper, axis)
            lower = np.flip(np.minimum.accumulate(np.flip(lower, axis), axis), axis)
        return (upper + lower) / 2


@dataclasses.dataclass
class LatencyTable:
    """Operator times of one device, for the models whose operators were measured.

    Attributes:
        about: the device: 'machine', 'runtime', 'threads', and what else is known of the
            measurement; 'form', the key of export.exporter.FORMATS of the files it is of.
        call_ms: what a call costs beside its operators, a value a pass.
        surfaces: by signature.
        models: by `model_digest`: 'name' of the model, and its steps.
        source: what it is called in messages.
    """
    about: dict[str, Any]
    call_ms: list[float] = dataclasses.field(default_factory=list)
    surfaces: dict[str, Surface] = dataclasses.field(default_factory=dict)
    models: dict[str, tuple[str, tuple[StepRow, ...]]] = dataclasses.field(default_factory=dict)
    source: str = 'latency table'

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Reads a table that `save` wrote, complete or not.

        FileNotFoundError if there is none, ValueError if the file is something else.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such latency table; {BUILD} measures one')
        try:
            content = read_json(path, _SHAPE)
            if content['latency_table'] != VERSION:
                raise ValueError(f'{path}: version {content["latency_table"]}, expected {VERSION}')
            _check_times(f'{path}: call_ms', content['call_ms'])
            models = {digest: (model['name'], tuple(
                StepRow(step['signature'], _form(step['in']), _form(step['out']))
                for step in model['steps'])) for digest, model in content['models'].items()}
            surfaces = {signature: Surface(**surface)
                        for signature, surface in content['surfaces'].items()}
            for signature, surface in surfaces.items():
                surface.check(f'{path}: {signature}')
            table = cls(content['about'], content['call_ms'], surfaces, models, str(path))
            _check_about(str(path), table.about)
        except ValueError as error:
            raise ValueError(f'{str(error).rstrip(".")}: not a latency table, or a damaged one; '
                             f'{BUILD} measures one') from None
        return table

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as JSON, whole or not at all."""
        write_text(pathlib.Path(path), json.dumps({
            'latency_table': VERSION, 'about': self.about, 'call_ms': self.call_ms,
            'models': {digest: {'name': name, 'steps': [
                {'signature': row.signature, 'in': dataclasses.asdict(row.in_form),
                 'out': dataclasses.asdict(row.out_form)} for row in rows]}
                for digest, (name, rows) in self.models.items()},
            'surfaces': {signature: dataclasses.asdict(surface)
                         for signature, surface in self.surfaces.items()}}) + '\n')

    def __post_init__(self) -> None:
        # Older tables do not say that they are of float32 files.
        self.about = {**self.about, 'form': self.about.get('form', FLOAT32)}

    @property
    def form(self) -> str:
        """Key of export.exporter.FORMATS: FLOAT32 or INT8 of export.tflite."""
        return str(self.about['form'])

    def bind(self, model: keras.Model, groups: ChannelGroups
             ) -> Callable[[np.ndarray], np.ndarray]:
        """Returns widths int [..., G] of `groups` -> whole nanoseconds, int64 [...].

        Raises:
            ValueError: if the operators of `model` are not in the table, or not all measured.
        """
        found = self.models.get(model_digest(model, groups))
        if found is None:
            names = ', '.join(sorted({name for name, _ in self.models.values()})) or 'no model'
            raise ValueError(f"{self.source}: a table of another model: it has the operators of "
                             f"{names}, not those of '{model.name}' with these layers and image "
                             f'sizes; {BUILD} adds them')
        missing = [row.signature for row in found[1] if row.signature not in self.surfaces
                   or not self.surfaces[row.signature].is_complete]
        if missing or not self.call_ms:
            raise ValueError(f'{self.source}: not measured to the end, as {missing[:1] or "a call"}'
                             f' of {found[0]}; {BUILD} goes on')
        known = range(len(groups.layout.names))
        for row in found[1]:
            for form in (row.in_form, row.out_form):
                strange = [group for group in form.counts if group not in known]
                if strange or min([form.constant, *form.counts.values()]) < 0:
                    raise ValueError(
                        f'{self.source}: {row.signature}: a form must be a constant and counts of '
                        f'groups 0 to {len(known) - 1}, none below 0; received {form}')
        latency = _Sum(found[1], self, groups)
        if not latency(np.array(list(groups.values()), np.int64)) > 0:
            raise ValueError(f"{self.source}: the latency of '{model.name}' is 0: no budget can be "
                             'a share of it')
        return latency

    def predict_ms(self, model: keras.Model, groups: ChannelGroups,
                   widths: Mapping[str, int]) -> float:
        """Milliseconds at {group: width}; a group that is not given is dense."""
        row = np.array([widths.get(name, width) for name, width in groups.items()], np.int64)
        return float(self.bind(model, groups)(row)) / NANOSECONDS


class _Sum:
    """The latency of one model: widths int [..., G] -> nanoseconds int64 [...]."""

    def __init__(self, rows: Sequence[StepRow], table: LatencyTable, groups: ChannelGroups) -> None:
        alike: dict[tuple[Any, ...], int] = {}
        for row in rows:
            key = (row.signature, *(tuple(_vector(form, groups)) for form in (
                row.in_form, row.out_form)))
            alike[key] = alike.get(key, 0) + 1
        self._counts = list(alike.values())
        self._in, self._out = (np.array([key[side] for key in alike], np.int64).reshape(
            len(alike), 1 + len(groups)) for side in (1, 2))
        dense = np.array([1, *(groups[name] for name in groups)], np.int64)
        self._surfaces = [_Interpolated(key[0], table, int(most_in), int(most_out))
                          for key, most_in, most_out in zip(
                              alike, self._in @ dense, self._out @ dense)]
        self._call = round(min(table.call_ms) * NANOSECONDS)

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        widths = np.asarray(widths, np.int64)
        ins, outs = (form[:, 0] + widths @ form[:, 1:].T for form in (self._in, self._out))
        total = np.full(widths.shape[:-1], self._call, np.int64)
        for place, (surface, count) in enumerate(zip(self._surfaces, self._counts)):
            total = total + count * surface(ins[..., place], outs[..., place])
        return total


class _Interpolated:
    """A surface as nanoseconds between its points: widths int [...] -> int64 [...]."""

    def __init__(self, signature: str, table: LatencyTable, most_in: int, most_out: int) -> None:
        surface = table.surfaces[signature]
        self._ins, self._outs = np.array(surface.ins), np.array(surface.outs)
        self._flat = surface.outs == [0]
        for side, most, axis in (('in', most_in, self._ins), ('out', most_out, self._outs)):
            if most > axis[-1] and not (side == 'out' and self._flat):
                raise ValueError(f'{table.source}: {signature} was measured up to {axis[-1]} '
                                 f'{side}-channels, the model has {most}; {BUILD} adds them')
        self._times = np.rint(surface.times() * NANOSECONDS).astype(np.int64)

    def __call__(self, ins: np.ndarray, outs: np.ndarray) -> np.ndarray:
        # t · (x1 - x0) (y1 - y0) in integers: rounding down once keeps a rising function rising.
        i, before_i, after_i = _between(self._ins, ins)
        o, before_o, after_o = _between(self._outs, np.zeros_like(outs) if self._flat else outs)
        t, i1, o1 = self._times, np.minimum(i + 1, len(self._ins) - 1), np.minimum(
            o + 1, len(self._outs) - 1)
        low = t[i, o] * after_i + t[i1, o] * before_i
        high = t[i, o1] * after_i + t[i1, o1] * before_i
        return (low * after_o + high * before_o) // (
            (before_i + after_i) * (before_o + after_o))


def _between(axis: np.ndarray, widths: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The point at or below each width, the steps up to it and on to the next point."""
    widths = np.maximum(widths, axis[0])
    place = np.clip(np.searchsorted(axis, widths, side='right') - 1, 0, max(len(axis) - 2, 0))
    following = np.append(axis[1:], axis[-1] + 1) if len(axis) == 1 else axis[1:]
    return place, widths - axis[place], following[place] - widths


def model_digest(model: keras.Model, groups: ChannelGroups) -> str:
    """What decides a model's operators, whatever its names, weights and pruning: 16 digits."""
    layout = groups.layout
    rows: list[Any] = []
    for step, node in zip(unfold(model).steps, layout.nodes):
        activation = getattr(step.operation, 'activation', None)
        rows.append((node.kind, node.inputs, node.outputs, [
            str(getattr(step.operation, name, None)) for name in _SETTINGS],
            getattr(activation, '__name__', type(activation).__name__)))
    rows += [tuple(tensor.shape) for tensor in layout.tensors]
    rows += [(slot.weight, slot.shape) for slot in layout.weights]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _check_about(source: str, about: Mapping[str, Any]) -> None:
    if about['form'] not in (FLOAT32, INT8):
        raise ValueError(f'{source}: form must be {FLOAT32} or {INT8}; received {about["form"]!r}')
    threads = about.get('threads', 1)
    if type(threads) is not int or threads not in _THREADS:
        raise ValueError(f'{source}: threads must be an integer in {_THREADS}; received '
                         f'{threads!r}')


def _form(content: Mapping[str, Any]) -> Form:
    """ValueError where a group is no number."""
    return Form(content['constant'], {int(g): n for g, n in content['counts'].items()})


def _check_times(source: str, times: Sequence[float]) -> None:
    for time in times:
        if not 0 <= time <= MILLISECONDS.high:
            raise ValueError(f'{source}: a time must be milliseconds in {MILLISECONDS}; received '
                             f'{time!r}')


def _vector(form: Form, groups: ChannelGroups) -> list[int]:
    """constant, then a count per prunable group; groups that stay add to the constant."""
    layout = groups.layout
    place = {name: 1 + column for column, name in enumerate(groups)}
    vector = [form.constant] + [0] * len(groups)
    for group, count in form.counts.items():
        name = layout.names[group]
        if name in place:
            vector[place[name]] += count
        else:
            vector[0] += count * layout.widths[group]
    return vector
