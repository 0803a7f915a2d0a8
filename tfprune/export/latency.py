"""Latency of TFLite files at batch 1, alone and one against another."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from tfprune.export.base import is_float
from tfprune.export.examples import random_array
from tfprune.export.interpreter import open_interpreter

Model = bytes | str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class LatencyStats:
    """Median and 10th and 90th percentile of `repetitions` inferences at batch 1, milliseconds."""

    median: float
    p10: float
    p90: float
    repetitions: int
    threads: int


@dataclasses.dataclass(frozen=True)
class LatencyComparison:
    """Two models measured in turns. ratio: pruned / dense, the median of the rounds' ratios."""

    dense: LatencyStats
    pruned: LatencyStats
    ratio: float


def tflite_latency_ms(model: Model, *, threads: int = 1, repetitions: int = 100,
                      warmup: int = 10) -> LatencyStats:
    """Times `repetitions` inferences of one image, after `warmup` untimed ones."""
    check_counts(threads=threads, repetitions=repetitions)
    invoke = prepare(model, threads)
    timed(invoke, warmup)
    return stats(timed(invoke, repetitions), threads)


def compare_latency(dense: Model, pruned: Model, *, threads: int = 1, rounds: int = 20,
                    repetitions: int = 10, warmup: int = 10) -> LatencyComparison:
    """Times both models in turns; see `latencies_in_turns`."""
    (dense_stats, pruned_stats), ratios = latencies_in_turns(
        (dense, pruned), threads=threads, rounds=rounds, repetitions=repetitions, warmup=warmup)
    return LatencyComparison(dense=dense_stats, pruned=pruned_stats, ratio=ratios[1])


def latencies_in_turns(models: Sequence[Model], *, threads: int = 1, rounds: int = 20,
                       repetitions: int = 10, warmup: int = 10
                       ) -> tuple[list[LatencyStats], list[float]]:
    """Times models in turns: `rounds` times `repetitions` inferences of each, one image each.

    A machine that slows down slows all models of a round, so a ratio holds where no time does. Each
    turn starts with an untimed inference, which brings the weights into the caches.

    Returns the statistics and, model / first model, the medians of the rounds' ratios.
    """
    check_counts(threads=threads, repetitions=repetitions, rounds=rounds)
    invokes = [prepare(model, threads) for model in models]
    for invoke in invokes:
        timed(invoke, warmup)
    times = np.empty((len(invokes), rounds, repetitions))
    for number in range(rounds):
        for invoke, seen in zip(invokes, times):
            invoke()
            seen[number] = timed(invoke, repetitions)
    medians = np.median(times, axis=-1)
    ratios = np.median(medians / medians[0], axis=-1)
    return [stats(seen, threads) for seen in times], [float(ratio) for ratio in ratios]


def prepare(model: Model, threads: int) -> Callable[[], None]:
    """An interpreter's invoke, its inputs filled at random at batch 1.

    With bytes where they are pictures or of 8 bits, else a standard normal distribution of floats,
    0 and 1 of integers; with zeros where a kernel refuses those, such as negative indices.
    """
    content = model if isinstance(model, bytes) else pathlib.Path(model).read_bytes()
    name = 'model' if isinstance(model, bytes) else str(model)
    interpreter = open_interpreter(content, threads=threads, name=name)
    for detail in interpreter.get_input_details():
        interpreter.resize_tensor_input(detail['index'], [1, *detail['shape'][1:]])
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    details = interpreter.get_input_details()
    for detail in details:
        dtype, shape = detail['dtype'], tuple(detail['shape'])
        is_picture = len(shape) == 4 and is_float(np.dtype(dtype).name)
        interpreter.set_tensor(detail['index'], random.integers(0, 256, shape).astype(dtype)
                               if is_picture or dtype in (np.uint8, np.int8)
                               else random_array(random, shape, dtype))
    try:
        interpreter.invoke()
    except RuntimeError:
        for detail in details:
            interpreter.set_tensor(detail['index'], np.zeros(detail['shape'], detail['dtype']))
    return interpreter.invoke


def timed(invoke: Callable[[], None], repetitions: int) -> np.ndarray:
    """Milliseconds of each call [repetitions]."""
    times = np.empty(repetitions)
    for repetition in range(repetitions):
        start = time.perf_counter()
        invoke()
        times[repetition] = 1e3 * (time.perf_counter() - start)
    return times


def stats(times: np.ndarray, threads: int) -> LatencyStats:
    """LatencyStats of times in milliseconds, any shape."""
    p10, median, p90 = np.percentile(times, (10, 50, 90))
    return LatencyStats(median=float(median), p10=float(p10), p90=float(p90),
                        repetitions=times.size, threads=threads)


def check_counts(**counts: int) -> None:
    """ValueError for a count below one."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f'{name}: expected at least 1, received {count}')
