"""Parity: how far the forms of one model differ on the same images."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np


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

    limit: the difference that was allowed; None where a form is quantized and differs by nature.
    agreement: share of the images to which both give the same first class, 0..1.
    """

    first: str
    second: str
    difference: float
    limit: float | None
    agreement: float


@dataclasses.dataclass(frozen=True)
class Parity:
    """Agreement of every two forms.

    images: number of images compared.   source: 'representative' or 'random' images.
    largest_output: max |output| over forms and images, the scale of the tolerances.
    """

    images: int
    source: str
    largest_output: float
    pairs: tuple[FormPair, ...]

    @property
    def largest_difference(self) -> float:
        """The largest difference of any pair that was judged by it."""
        return max((pair.difference for pair in self.pairs if pair.limit is not None), default=0.0)


def measure_parity(forms: Mapping[str, Callable[[np.ndarray], np.ndarray]], images: np.ndarray, *,
                   tolerances: Mapping[str, float | None], source: str) -> Parity:
    """Compares every two forms on images [N, H, W, C].

    Two forms may differ by max |output| times the larger of their tolerances, by anything if one
    has None; ParityError beyond it, for other output shapes, and for outputs that are not finite.
    Each form answers the first image alone and then the rest as one batch, so that a form of one
    batch size does not pass.
    """
    outputs = {}
    for name, form in forms.items():
        parts = [form(part) for part in (images[:1], images[1:]) if len(part)]
        outputs[name] = np.concatenate(parts).astype(np.float64)
    largest = max(float(np.max(np.abs(output))) for output in outputs.values())
    pairs = []
    for first, second in itertools.combinations(outputs, 2):
        ours, theirs = tolerances[first], tolerances[second]
        limit = None if ours is None or theirs is None else largest * max(ours, theirs)
        same_shape = outputs[first].shape == outputs[second].shape
        difference = (float(np.max(np.abs(outputs[first] - outputs[second])))
                      if same_shape else float('inf'))
        if not np.isfinite(difference) or (limit is not None and difference > limit):
            raise ParityError(first, second, difference, limit, len(images))
        agreement = np.mean(outputs[first].argmax(axis=-1) == outputs[second].argmax(axis=-1))
        pairs.append(FormPair(first, second, difference, limit, float(agreement)))
    return Parity(len(images), source, largest, tuple(pairs))
