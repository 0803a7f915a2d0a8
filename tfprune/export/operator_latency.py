"""Latency of the operators of two TFLite files, each operator timed alone in a file of its own.

TensorFlow Lite's Python interpreter gives no profile. Timed alone, an operator finds its input in
no cache and its threads idle as in no network: their sum is not the latency of the file. An
operator of the one file and its like of the other are timed in turns, so that a machine that slows
down slows both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfprune.export.flatbuffer import smallest_file
from tfprune.export.latency import prepare, timed
from tfprune.export.operators import Step, read_steps

_COPIES, _PASSES = 4, 5  # of an operator in its file; over the operators, the quietest counts
_MOST_MS, _REPETITIONS = 5.0, 10  # of a pass


def operators_in_turns(before: bytes, after: bytes, *, threads: int = 1,
                       should_stop: Callable[[], bool] = lambda: False
                       ) -> list[dict[str, Any]] | None:
    """A row an operator, in the order of the first file: name (of the tensor that it makes), kind,
    before_ms, after_ms; None where one of the files has no such operator.

    ValueError where an operator cannot be made a file. Returns None if it was asked to stop.
    """
    base = call_ms(threads)
    seen: dict[Any, list[float | None]] = {}
    rows = []
    for pair in paired(read_steps(before), read_steps(after)):
        if should_stop():
            return None
        like = tuple(step and step.likeness for step in pair)
        there = [step for step in pair if step is not None]
        if like not in seen:
            times = iter(times_alone(there, base, threads, _MOST_MS))
            seen[like] = [None if step is None else next(times) for step in pair]
        step = there[0]
        rows.append({'name': step.name, 'kind': step.kind,
                     'before_ms': seen[like][0], 'after_ms': seen[like][1]})
    return rows


def call_ms(threads: int) -> float:
    """What a call of the interpreter costs beside its operators, milliseconds."""
    call = prepare(smallest_file(), threads)
    timed(call, 100)
    return min(float(np.median(timed(call, 100))) for _ in range(_PASSES))


def paired(before: Sequence[Step], after: Sequence[Step]
           ) -> Iterator[tuple[Step | None, Step | None]]:
    """Operators of two files by their places, where the files have the same kinds in the same
    order, else by kind and by the name of the tensor that they make; None beside one that the other
    file lacks."""
    if [step.kind for step in before] == [step.kind for step in after]:
        yield from zip(before, after)
        return
    left: dict[tuple[str, str], list[Step]] = {}
    for step in after:
        left.setdefault((step.kind, step.name), []).append(step)
    for step in before:
        like = left.get((step.kind, step.name))
        yield step, like.pop(0) if like else None
    yield from ((None, step) for steps in left.values() for step in steps)


def times_alone(steps: Sequence[Step], base: float, threads: int, most_ms: float = math.inf
                ) -> list[float]:
    """Milliseconds of each step alone in a file, all in turns: the median of its quietest pass.

    base: what a call costs beside it, see `call_ms`.   most_ms: after which a pass ends early.
    """
    invokes = [prepare(step.alone(copies=_COPIES), threads) for step in steps]
    best = [math.inf] * len(invokes)
    for _ in range(_PASSES):
        for place, invoke in enumerate(invokes):
            warm = float(timed(invoke, 2)[-1])
            repetitions = int(np.clip(most_ms / max(warm, 1e-6), 1, _REPETITIONS))
            best[place] = min(best[place], float(np.median(timed(invoke, repetitions))))
    return [max(time - base, 0.0) / _COPIES for time in best]
