"""Makes a latency table: which operators a model has at which widths, and their times here.

Which widths a step of the file has is found by trying: the model is pruned to a few widths, chosen
so that no two of its tensors agree, and converted; the channels of a step then name its tensors.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.costs.model import linear_forms
from tfprune.data.pixels import BYTES
from tfprune.export.base import Signature
from tfprune.export.examples import compared_examples
from tfprune.export.flatbuffer import smallest_file
from tfprune.export.latency import check_counts, prepare, timed
from tfprune.export.keras_file import open_model
from tfprune.export.operators import Step, read_steps
from tfprune.export.tflite import FLOAT32, INT8, convert
from tfprune.latency.table import Form, LatencyTable, StepRow, Surface, model_digest
from tfprune.machine import machine_name
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import ChannelGroups, trace_groups

COPIES, LARGE = 4, 10 ** 7  # of a step in a file, one of more multiply-adds than LARGE
PROBES = 6                  # at most
FINE = 64                   # up to here both ends of blocks of 8 channels are measured
SECONDS = 0.02              # of one measurement, at least REPETITIONS calls
REPETITIONS = 10
SAVE_EVERY = 10.0           # seconds
CALIBRATION = 4             # examples of noise that the ranges of integers are of
Said = Callable[[str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """A time to be measured: `step` at widths, times `factor` it is surface.ms[row][column]."""
    step: Step
    row: int
    column: int
    in_width: int | None
    out_width: int | None
    factor: float
    copies: int

    def content(self) -> bytes:
        """The TFLite file to time."""
        return self.step.alone(self.in_width, self.out_width, copies=self.copies)


def file_of(model: keras.Model, form: str = FLOAT32) -> bytes:
    """The TFLite file whose operators are measured: FLOAT32 or INT8 of export.tflite.

    Ranges of integers are observed on noise: time does not depend on them.
    """
    if form != INT8:
        return convert(model, form)
    signature = Signature.of(model)
    answers = open_model(model, pathlib.Path(model.name)).run
    noise = compared_examples(None, signature, BYTES, CALIBRATION, answers)
    return convert(model, form, images=list(noise.values()) if isinstance(noise, dict) else noise)


def add_model(table: LatencyTable, model: keras.Model, *,
              to_tflite: Callable[[keras.Model], bytes] | None = None) -> dict[str, Step]:
    """Adds the operators of `model` to a table, unmeasured; returns an example by signature.

    Args:
        to_tflite: makes the files in which they are looked for; of the table's form if not given.

    ValueError if the widths of an operator are those of no tensor of the model.
    """
    to_tflite = to_tflite or functools.partial(file_of, form=table.form)
    groups = trace_groups(model)
    forms = _forms(groups)
    probes = _probe_widths(forms, groups)
    seen = _Seen(model, groups, probes, to_tflite)
    if len(probes) < 2 and not seen.all_in(forms):  # a second look tells what is constant
        seen.look(np.maximum(probes[0] * 2 // 3, 1))
    rows: list[StepRow] = []
    most: dict[str, tuple[set[tuple[int, bool]], set[tuple[int, bool]]]] = {}
    dense = np.array([1, *groups.values()], np.int64)
    for step, *widths in zip(seen.steps, seen.in_widths, seen.out_widths):
        found = [_match(side, forms, seen.probes, step) for side in widths]
        # Time in proportion to the out-width is a surface of two points of that.
        used = [found[1], found[1]] if step.scaling == 'linear' else found
        rows.append(StepRow(step.signature, *(_named(form, groups) for form in used)))
        here = most.setdefault(step.signature, (set(), set()))
        for side, form in zip(here, used):
            side.add((int(form @ dense), not form[1:].any()))
    examples = {step.signature: step for step in seen.steps}
    for signature, step in examples.items():
        _grow(table, signature, step, *most[signature])
    table.models[model_digest(model, groups)] = model.name, tuple(rows)
    return examples


class _Seen:
    """The steps of a model as converted at some widths: in_widths and out_widths [steps][probes].
    """

    def __init__(self, model: keras.Model, groups: ChannelGroups, probes: Sequence[np.ndarray],
                 to_tflite: Callable[[keras.Model], bytes]) -> None:
        self._model, self._groups, self._to_tflite = model, groups, to_tflite
        self.steps: list[Step] = []
        self.probes: list[np.ndarray] = []
        self.in_widths: list[list[int]] = []
        self.out_widths: list[list[int]] = []
        for widths in probes:
            self.look(widths)

    def look(self, widths: np.ndarray) -> None:
        masks = {name: np.arange(dense) < width for (name, dense), width in zip(
            self._groups.items(), widths)}
        pruned = prune_model(self._model, self._groups, masks, dtype_policy='float32')
        steps = read_steps(self._to_tflite(pruned), self._model.name)
        self.steps = self.steps or steps
        if [step.signature for step in steps] != [step.signature for step in self.steps]:
            raise ValueError(f"model '{self._model.name}' converts to other operators at other "
                             'widths: no latency table can be made of it')
        self.probes.append(widths)
        self.in_widths = self.in_widths or [[] for _ in steps]
        self.out_widths = self.out_widths or [[] for _ in steps]
        for step, ins, outs in zip(steps, self.in_widths, self.out_widths):
            ins.append(step.in_width)
            outs.append(step.out_width)

    def all_in(self, forms: np.ndarray) -> bool:
        """Whether all widths are those of `forms`."""
        return all(len(_equal(widths, forms, self.probes))
                   for widths in (*self.in_widths, *self.out_widths))


def points(table: LatencyTable, examples: Mapping[str, Step]) -> list[Point]:
    """Every time of the examples' surfaces."""
    found = []
    for signature, step in examples.items():
        surface = table.surfaces[signature]
        for row, i in enumerate(surface.ins):
            for column, o in enumerate(surface.outs):
                if step.scaling == 'linear' and not i:
                    surface.ms[row][column] = [0.0]
                elif step.scaling == 'linear':
                    found.append(Point(step, row, column, None, None, i / step.out_width, COPIES))
                if step.scaling == 'linear':
                    continue
                out = step.out_width * i // step.in_width if surface.outs == [0] else o
                if step.kind == 'PAD':
                    out = max(i, out)
                copies = 1 if step.macs_per_pair * i * max(out, 1) > LARGE else COPIES
                found.append(Point(step, row, column, i, max(out, 1), 1.0, copies))
    return found


def build(model: keras.Model, path: str | os.PathLike[str], *, threads: int = 1, passes: int = 3,
          form: str = FLOAT32, say: Said = lambda text: None,
          to_tflite: Callable[[keras.Model], bytes] | None = None) -> LatencyTable:
    """Measures the operators of `model` on this machine into the table at `path`.

    A table that is there is added to: what it has is not measured again. Each time is the median of
    short calls, in `passes` passes over all of them in an order drawn anew, of which the quietest
    counts. `form`: see `file_of`. ValueError for a table of another machine, runtime, number of
    threads or form.
    """
    check_counts(threads=threads, passes=passes)
    path, about = pathlib.Path(path), describe_machine(threads) | {'form': form}
    table = LatencyTable(about, source=str(path))
    if path.exists():
        table = LatencyTable.load(path)
        differing = [f'{key} {table.about.get(key)!r}, here {value!r}'
                     for key, value in about.items() if table.about.get(key) != value]
        if differing:
            raise ValueError(f'{path}: a table of another device: {"; ".join(differing)}; choose '
                             'another file')
    say(f'converting {model.name} ...')
    examples = add_model(table, model, to_tflite=to_tflite)
    wanted = points(table, examples)
    if not table.call_ms:
        invoke = prepare(smallest_file(), threads)
        timed(invoke, 100)
        table.call_ms = [float(np.median(timed(invoke, 200))) for _ in range(10)]
    table.save(path)
    _measure(table, wanted, threads, passes, path, say)
    return table


def _measure(table: LatencyTable, wanted: Sequence[Point], threads: int, passes: int,
             path: pathlib.Path, say: Said) -> None:
    call, saved = min(table.call_ms), time.monotonic()
    order = np.random.default_rng(0)
    for number in range(1, passes + 1):
        for done, place in enumerate(order.permutation(len(wanted)), 1):
            point = wanted[place]
            here = table.surfaces[point.step.signature].ms[point.row][point.column]
            if len(here) < number:
                invoke = prepare(point.content(), threads)
                total = quick_median(invoke)
                here.append(max(total - call, 0.0) / point.copies * point.factor)
            if time.monotonic() - saved > SAVE_EVERY:
                say(f'pass {number} of {passes}: {done} of {len(wanted)} operators')
                table.save(path)
                saved = time.monotonic()
    table.save(path)


def quick_median(invoke: Callable[[], None]) -> float:
    """Median milliseconds of the calls that fit in SECONDS, after two untimed ones."""
    first = timed(invoke, 3)[-1]
    return float(np.median(timed(invoke, int(np.clip(1e3 * SECONDS / first, REPETITIONS, 100)))))


def describe_machine(threads: int) -> dict[str, Any]:
    """What a table says of where it was measured."""
    return {'machine': machine_name(), 'runtime': f'TensorFlow Lite {tf.__version__}',
            'threads': threads}


def grid(most: int, *, blocks: bool) -> list[int]:
    """Widths up to `most` to measure; with `blocks` also the first channel of each block of 8.

    Time is close to linear in in-channels, which a kernel sums over (of integers in blocks, too),
    and rises in steps with out-channels, which it computes in blocks; far out a step is small.
    """
    dense = blocks or most <= FINE // 2
    widths = [1, 2, 4, 8, *range(16, FINE + 1, 8 if dense else 16)]
    while widths[-1] < most:
        widths.append(widths[-1] * (5 if dense else 6) // 4 // 16 * 16)
    if blocks:
        widths += [width + 1 for width in widths if 8 <= width < 2 * FINE]
    return sorted({width for width in widths if width < most} | {most})


def _grow(table: LatencyTable, signature: str, step: Step,
          ins: set[tuple[int, bool]], outs: set[tuple[int, bool]]) -> None:
    """Makes room in the surface of a step for widths, each its largest and whether it is fixed."""
    surfaces = table.surfaces

    def axis(widths: set[tuple[int, bool]], blocks: bool) -> set[int]:
        free = [width for width, fixed in widths if not fixed]
        return {width for width, _ in widths}.union(grid(max(free), blocks=blocks) if free else ())

    if step.scaling == 'linear':
        rows, columns = {0, max(width for width, _ in ins)}, {0}
    else:
        rows = axis(ins, step.scaling == 'in' or table.form == INT8)
        columns = axis(outs, True) if step.scaling == 'both' else {0}
    old = surfaces.get(signature)
    known = {} if old is None else {(i, o): passes for i, row in zip(old.ins, old.ms)
                                    for o, passes in zip(old.outs, row)}
    ins_now, outs_now = (sorted(now.union(before)) for now, before in (
        (rows, old.ins if old else ()), (columns, old.outs if old else ())))
    surfaces[signature] = Surface(ins_now, outs_now, [
        [known.get((i, o), []) for o in outs_now] for i in ins_now])


def _forms(groups: ChannelGroups) -> np.ndarray:
    """The different widths of tensors as linear forms of the prunable groups, int64 [F, 1 + G]."""
    return np.unique(linear_forms(groups), axis=0)


def _probe_widths(forms: np.ndarray, groups: ChannelGroups) -> list[np.ndarray]:
    """Widths [G] under which no two forms agree, as few vectors as will do."""
    dense = np.array(list(groups.values()), np.int64)
    if not len(dense):
        return [dense]
    # One channel left would make other operators of some.
    least = np.minimum(np.maximum(dense // 3, 2), dense)
    rng, chosen = np.random.default_rng(0), list[np.ndarray]()
    seen = np.zeros((len(forms), 0), np.int64)

    def told_apart(widths: np.ndarray) -> int:
        return len(np.unique(np.column_stack([seen, forms[:, 0] + forms[:, 1:] @ widths]), axis=0))

    while len(chosen) < PROBES:
        best = max(rng.integers(least, dense + 1, (300, len(dense))), key=told_apart)
        count = told_apart(best)
        chosen.append(best)
        seen = np.column_stack([seen, forms[:, 0] + forms[:, 1:] @ best])
        if count == len(forms):
            break
    return chosen


def _equal(seen: Sequence[int], forms: np.ndarray, probes: Sequence[np.ndarray]) -> np.ndarray:
    """Places of the forms that have the widths `seen` under the probes."""
    values = np.stack([forms[:, 0] + forms[:, 1:] @ widths for widths in probes], -1)
    return np.flatnonzero((values == np.array(seen)).all(-1))


def _match(seen: Sequence[int], forms: np.ndarray, probes: Sequence[np.ndarray], step: Step
           ) -> np.ndarray:
    """The form, or multiple of one, that has the widths `seen` under the probes."""
    same = _equal(seen, forms, probes)
    if len(same):
        return forms[same[0]]
    for form in forms:
        factor = seen[0] // max(int(form[0] + form[1:] @ probes[0]), 1)
        if factor > 1 and form[1:].any() and len(_equal(seen, factor * form[None], probes)):
            return factor * form
    if len(set(seen)) == 1:  # the channels of no layer, as those of a group of them
        return np.array([seen[0], *[0] * (forms.shape[1] - 1)], np.int64)
    raise ValueError(f'{step.kind} {step.name}: its widths {list(seen)} are those of no tensor of '
                     'the model')


def _named(form: np.ndarray, groups: ChannelGroups) -> Form:
    place = {name: number for number, name in enumerate(groups.layout.names)}
    return Form(int(form[0]), {place[name]: int(count)
                               for name, count in zip(groups, form[1:]) if count})
