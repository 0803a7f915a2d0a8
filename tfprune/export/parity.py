"""Parity: how far the forms of one model differ on the same images."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfprune.export.examples import part
from tfprune.tasks.base import count_of


class ParityError(RuntimeError):
    """Two forms of one model give different outputs.

    first, second: the forms; difference: largest absolute difference; limit: what was allowed, None
    if any finite difference was.
    """

    def __init__(self, first: str, second: str, difference: float, limit: float | None,
                 images: int):
        allowed = 'no NaN, infinity or other shape' if limit is None else f'{limit:.3g}'
        super().__init__(f'forms {first!r} and {second!r} differ by {difference:.3g}, allowed '
                         f'{allowed}, on {images} images')
        self.first, self.second, self.difference, self.limit = first, second, difference, limit


@dataclasses.dataclass(frozen=True)
class FormPair:
    """Two forms: the largest absolute difference of their outputs, and how far they agree.

    difference: of several outputs, that of the one that differs most by its own largest value.
    limit: the difference that was allowed; None where a form is quantized and differs by nature.
    agreement: share of the images [N, K], or of their pixels [N, H, W, K], K at least 2, to which
        both give the same first class, 0..1; the least of several such outputs, None without one.
    """

    first: str
    second: str
    difference: float
    limit: float | None
    agreement: float | None


@dataclasses.dataclass(frozen=True)
class Parity:
    """Agreement of every two forms.

    images: number of images, or other examples, compared.
    source: 'representative' or 'random' images.
    largest_output: max |output| over forms, images and outputs; the scale of the tolerances is that
        of each output.
    """

    images: int
    source: str
    largest_output: float
    pairs: tuple[FormPair, ...]

    @property
    def largest_difference(self) -> float:
        """The largest difference of any pair that was judged by it."""
        return max((pair.difference for pair in self.pairs if pair.limit is not None), default=0.0)


def measure_parity(forms: Mapping[str, Callable[[Any], Any]], images: Any, *,
                   tolerances: Mapping[str, float | None], source: str) -> Parity:
    """Compares every two forms on images [N, H, W, C], or what else they take, by name if several.

    Each output of two forms may differ by its max |output| times the larger of their tolerances, by
    anything if one has None; ParityError beyond it, for other output shapes, and for outputs that
    are not finite. Each form answers the first image alone and then the rest as one batch, so that
    a form of one batch size does not pass.
    """
    count = count_of(images)
    outputs = {name: answers(form, images) for name, form in forms.items()}
    scales: dict[str, float] = {}
    for found in outputs.values():
        for name, output in found.items():
            scales[name] = max(scales.get(name, 0.0), float(np.max(np.abs(output))))
    pairs = []
    for first, second in itertools.combinations(outputs, 2):
        ours, theirs = tolerances[first], tolerances[second]
        tolerance = None if ours is None or theirs is None else max(ours, theirs)
        difference, scale = worst_difference(outputs[first], outputs[second], scales)
        limit = None if tolerance is None else scale * tolerance
        if not np.isfinite(difference) or (limit is not None and difference > limit):
            raise ParityError(first, second, difference, limit, count)
        pairs.append(FormPair(first, second, difference, limit,
                              agreement(outputs[first], outputs[second])))
    return Parity(count, source, max(scales.values()), tuple(pairs))


def answers(form: Callable[[Any], Any], images: Any) -> dict[str, np.ndarray]:
    """A form's outputs by name, '' of the only one, of the first image and then of the rest."""
    found: dict[str, list[np.ndarray]] = {}
    for rows in (slice(1), slice(1, None)):
        some = part(images, rows)
        if count_of(some):
            outputs = form(some)
            named = outputs if isinstance(outputs, Mapping) else {'': outputs}
            for name, output in named.items():
                found.setdefault(name, []).append(output)
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}


def worst_difference(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray],
                     scales: Mapping[str, float]) -> tuple[float, float]:
    """(difference, scale) of the output whose difference is largest by its scale.

    Infinite for other outputs or shapes; NaN comes before all numbers.
    """
    if set(first) != set(second) or any(
            first[name].shape != second[name].shape for name in first):
        return float('inf'), 1.0
    found = [(float(np.max(np.abs(first[name] - second[name]))), scales[name]) for name in first]
    return max(found, key=lambda pair: (
        not np.isfinite(pair[0]), pair[0] / pair[1] if pair[1] else pair[0]))


def agreement(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float | None:
    """The least share of images, or pixels, of the same first class; None without classes."""
    shares = [float(np.mean(output.argmax(axis=-1) == second[name].argmax(axis=-1)))
              for name, output in first.items() if output.ndim in (2, 4) and output.shape[-1] >= 2]
    return min(shares, default=None)
