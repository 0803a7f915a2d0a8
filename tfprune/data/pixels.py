"""What a model takes as an image: its range of values, and what a byte of a picture becomes in it.

    value(b) = black + b · (white - black) / 255,    b = 0 … 255

Ranges are those of data that were seen. From them the map is known for the usual conventions alone
(`PixelRange.seen`); any other is the user's to state (`PixelRange.stated`).
"""
from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST = 255  # the white byte
_USUAL = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
# Of such a range: what resizing may leave beyond its ends, and how near to them data must come.
_ROUNDING, _NEAR = 1e-4, 0.1


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """The values of a model's images.

    low, high: the lowest and the highest value.
    black, white: what the bytes 0 and 255 of a picture become, one number or one a channel; both
        None where that is not known.
    is_taken: whether these are what such data usually has, not what anybody stated.
    """
    low: float
    high: float
    black: tuple[float, ...] | None = None
    white: tuple[float, ...] | None = None
    is_taken: bool = False

    @classmethod
    def seen(cls, low: float, high: float) -> PixelRange:
        """The range of data whose lowest and highest value these are.

        Where both are near the ends of 0 … 1, -1 … 1 or 0 … 255, at most a tenth within and a
        rounding beyond, byte b is taken to be b / 255, b / 127.5 - 1 or b itself.
        """
        for black, white in _USUAL:
            near = _NEAR * (white - black)
            if (cls(black, white).holds(low, high) and low <= black + near
                    and white - near <= high):
                return cls(low, high, (black,), (white,), is_taken=True)
        return cls(low, high)

    @classmethod
    def stated(cls, pixel_range: Any, channels: int) -> PixelRange:
        """The range of (what byte 0 becomes, what byte 255 becomes), numbers or one a channel.

        ValueError unless they are finite, and the second above the first.
        """
        try:
            black, white = (tuple(float(value) for value in (
                [end] if isinstance(end, numbers.Real) else end)) for end in pixel_range)
        except (TypeError, ValueError):
            black, white = (), ()
        if (not len(black) == len(white) in (1, channels)
                or not np.all(np.isfinite(black + white)) or not np.all(np.less(black, white))):
            raise ValueError(
                f'pixel_range: expected (what byte 0 of a picture becomes, what byte 255 becomes), '
                f'two numbers, or two lists of {channels}, one a channel, the second above the '
                f'first; received {pixel_range!r:.80}')
        return cls(min(black), max(white), black, white)

    def holds(self, low: float, high: float, beyond: float = _ROUNDING) -> bool:
        """Whether such values are within it, but for what is beyond, a share of its width."""
        rounding = beyond * (self.high - self.low)
        return self.low - rounding <= low and high <= self.high + rounding

    @property
    def is_known(self) -> bool:
        """Whether it is known what a byte becomes."""
        return self.black is not None

    @property
    def is_identity(self) -> bool:
        """Whether bytes are taken as they are."""
        return self.black == (0.0,) and self.white == (255.0,)

    @property
    def takes_bytes(self) -> bool:
        """Whether 8-bit integers of one scale and zero point can be the bytes of a picture."""
        return self.ends is not None and self.ends[0] <= 0 <= self.ends[1]

    @property
    def ends(self) -> tuple[float, float] | None:
        """(black, white) where they are known and the same in all channels."""
        if self.black is None or self.white is None:
            return None
        ends = {*zip(self.black, self.white)}
        return next(iter(ends)) if len(ends) == 1 else None

    @property
    def std(self) -> np.ndarray:
        """float32 [1] or [C]: (byte - mean) / std is the value of a byte."""
        return MOST / (np.asarray(self.white, np.float32) - np.asarray(self.black, np.float32))

    @property
    def mean(self) -> np.ndarray:
        """See `std`."""
        return (-np.asarray(self.black, np.float32) * self.std).astype(np.float32)

    def values(self, bytes_: Any) -> Any:
        """What bytes become: float32 [..., C] of float32 0 … 255, arrays or tensors."""
        if self.is_identity:
            return bytes_
        black = np.asarray(self.black, np.float32)
        scaled = bytes_ / self.std
        return scaled + black if black.any() else scaled

    def gray(self) -> float:
        """A value in the middle: of byte 128, where that is known."""
        if self.ends is None:
            return (self.low + self.high) / 2
        return float(np.ravel(self.values(np.float32(128)))[0])

    @property
    def text(self) -> str:
        """The range in words, for a model card."""
        seen = f'values {self.low:.4g}…{self.high:.4g}'
        if self.is_identity:
            taken = f', as they are taken to be from {seen}' * self.is_taken
            return f'pixels 0…255{taken}; the model normalizes them'
        if not self.is_known:
            return (f'{seen}; what a byte of a picture becomes in them is not known, so that no '
                    'form takes bytes (no serve_uint8, no serve_bytes); pixel_range=(value of byte '
                    '0, value of byte 255) of train_and_prune and export_model states it')
        return f'{seen}; byte b of a picture is {"taken to be " * self.is_taken}{self.formula}'

    @property
    def formula(self) -> str:
        """'b / 127.5 - 1'."""
        if self.ends is None:
            return (f'linear between {_listed(self.black)} at 0 and {_listed(self.white)} at 255, '
                    'by channel')
        black, std = self.ends[0], float(self.std[0])
        scaled = 'b' if std == 1 else f'b / {std:.6g}'
        return f'{scaled} {"-+"[black > 0]} {abs(black):.6g}' if black else scaled

    def to_json(self) -> dict[str, Any]:
        """Plain values, and the range in words."""
        return {**dataclasses.asdict(self), 'text': self.text}


BYTES = PixelRange.stated((0.0, 255.0), 1)


def range_of(images: np.ndarray | None, pixel_range: Any, channels: int) -> PixelRange:
    """The range that is stated, else that of images, else BYTES; a PixelRange is taken as it is."""
    if isinstance(pixel_range, PixelRange):
        return pixel_range
    if pixel_range is not None:
        return PixelRange.stated(pixel_range, channels)
    if images is None or np.asarray(images).dtype == np.uint8:
        return BYTES
    return PixelRange.seen(float(np.min(images)), float(np.max(images)))


def _listed(values: Sequence[float] | None) -> str:
    return f'({", ".join(f"{value:.4g}" for value in values or ())})'
