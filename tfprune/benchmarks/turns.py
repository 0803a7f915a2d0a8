"""Times of several contestants in turns, so that ratios hold on a machine whose speed changes."""
import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tfprune.machine import processor

PAUSE = 0.01  # seconds before a turn: threads that wait by spinning have gone to sleep


def in_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """Calls A B C A B C …; {name: what its calls returned, float64 [rounds]}, usually seconds."""
    if rounds < 1:
        raise ValueError(f'rounds: expected at least 1, received {rounds}')
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(PAUSE)
            times[name].append(call())
    return {name: np.array(seen) for name, seen in times.items()}


def quartiles(name: str, values: np.ndarray) -> dict[str, float]:
    """{name: the median, name_q1: first, name_q3: third quartile} of values [rounds]."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return {name: float(median), f'{name}_q1': float(low), f'{name}_q3': float(high)}


def ratios(times: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Quartiles of the rounds' ratios times / others."""
    return quartiles('ratio', times / others)


def spread(row: Mapping[str, Any], name: str, form: str = '.3g') -> str:
    """'median (q1–q3)' of what `quartiles` gave to a row, for a table."""
    return (f'{row[name]:{form}} ({row[f"{name}_q1"]:{form}}–{row[f"{name}_q3"]:{form}})')


@contextlib.contextmanager
def cores(threads: int) -> Iterator[int]:
    """Keeps what is started here, threads and processes, on as many cores; yields the number.

    --threads bounds what one operation of TensorFlow takes, not how many operations run at once:
    on a larger machine `threads=1` would be no one thread. 0: all cores.
    """
    if not hasattr(os, 'sched_setaffinity'):  # only Linux has it
        yield threads or os.cpu_count() or 1
        return
    before = os.sched_getaffinity(0)
    kept = set(sorted(before)[:threads or len(before)])
    os.sched_setaffinity(0, kept)
    try:
        yield threads or len(kept)
    finally:
        os.sched_setaffinity(0, before)


def machine() -> dict[str, Any]:
    """What a row says of where it was measured: processor and cores."""
    return {'processor': processor() or platform.machine(), 'cores': os.cpu_count()}
