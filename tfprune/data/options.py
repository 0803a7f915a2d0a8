"""What is asked of a data set, the same for all of them."""

import dataclasses
import numbers
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_SIZE = re.compile(r'([1-9][0-9]*)(?:x([1-9][0-9]*)(?:x([13]))?)?')
MOST_PIXELS = 16_384  # a side of an image
_SEEDS = 2 ** 32  # of NumPy's and Keras' generators


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of `load_data`. What a data set does not need, it leaves aside.

    Attributes:
      reward_images: training images to hold out for rewards; 0 for a tenth, up to 5,000.
      data_dir: where the files are; None or '' for the data set's default.
      seed: of order and augmentation.
      split_seed: of the draw of the reward split and of a test split, apart from `seed` so that
        runs differ in training alone.
      augment: whether training images are augmented.
      mirror: whether augmentation mirrors; never where that would change the class (digits).
      image_size: 'N', 'HxW' or 'HxWxC' (C 1 or 3) to bring images to; '' keeps the size that all
        of them have.
      test_fraction: share of the images that is the test split where there is none, in (0, 1).
      skip_unreadable: whether files that cannot be read are left out instead of refused.
      cache_dir: folder for files of decoded images, which later runs read again; None or '' keeps
        decoded images in memory.

    Raises TypeError or ValueError naming the option that is of another type or out of range.
    """

    reward_images: int = 0
    data_dir: str | None = None
    seed: int = 0
    split_seed: int = 0
    augment: bool = True
    mirror: bool = True
    image_size: str = ''
    test_fraction: float = 0.2
    skip_unreadable: bool = False
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        for name, most in (('reward_images', None), ('seed', _SEEDS), ('split_seed', _SEEDS)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f'{name}: expected a whole number, received {value!r:.80}')
            if value < 0 or (most and value >= most):
                expected = 'at least 0' if most is None else f'0 … {most - 1}'
                raise ValueError(f'{name}: expected {expected}, received {value}')
        for name in ('augment', 'mirror', 'skip_unreadable'):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise TypeError(f'{name}: expected True or False, received '
                                f'{getattr(self, name)!r:.80}')
        fraction = self.test_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, numbers.Real):
            raise TypeError(f'test_fraction: expected a number, received {fraction!r:.80}')
        if not 0 < fraction < 1:  # nor NaN
            raise ValueError(f'test_fraction: expected a number in (0, 1), received {fraction}')
        for name in ('data_dir', 'cache_dir'):
            _check_path(name, getattr(self, name))
        parse_size(self.image_size)

    @property
    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """(H, W, C) that was asked for, None where nothing was."""
        return parse_size(self.image_size)

    @classmethod
    def names_in(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `values`, a run's configuration, that are options of data and not left out."""
        names = [field.name for field in dataclasses.fields(cls)]
        return {name: values[name] for name in names if values.get(name) is not None}


def parse_size(text: str) -> tuple[int | None, int | None, int | None]:
    """(H, W, C) of 'N', 'HxW' or 'HxWxC', C 1 or 3; None for what it does not say."""
    if not text:
        return None, None, None
    found = _SIZE.fullmatch(str(text))
    if not found:
        raise ValueError(f"image_size: expected N, HxW or HxWxC of positive integers, C 1 or 3, "
                         f"received {str(text)[:80]!r}")
    if any(len(part or '') > 9 or int(part or 0) > MOST_PIXELS for part in found.groups()):
        raise ValueError(f'image_size: expected sides of at most {MOST_PIXELS} pixels, received '
                         f'{str(text)[:80]!r}')
    height, width, channels = (int(part) if part else None for part in found.groups())
    return height, width or height, channels


def _check_path(name: str, path: Any) -> None:
    if path is None:
        return
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f'{name}: expected a path, received {path!r:.80}')
    if '\0' in str(path):
        raise ValueError(f'{name}: expected a path, received {str(path)!r:.80}')
