"""Examples that forms are compared and timed on, where none are given, and those that are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.data.pixels import PixelRange
from tfprune.export.base import Signature, dims, is_float


def check_examples(data: Any, signature: Signature) -> None:
    """ValueError unless there are none, or finite examples of what a model takes, at least one."""
    if data is None:
        return
    for name, array in signature.arrays(data, 'representative_data').items():
        is_image = signature.image_shape is not None
        if not len(array):
            what = 'images' if is_image else f'{name!r}'
            raise ValueError(f'representative_data: expected {what} '
                             f'[{dims(("N", *array.shape[1:]))}], received [{dims(array.shape)}]')
        if not np.all(np.isfinite(array)):
            what = 'pixels' if is_image else f'values of {name!r}'
            raise ValueError(f'representative_data: expected finite {what}, received NaN or '
                             'infinity')


def compared_examples(data: Any, signature: Signature, pixels: PixelRange, count: int,
                      form: Callable[[Any], Any]) -> Any:
    """The first `count` of data, of the types of the inputs, or as many at random.

    Random bytes of pictures; else a standard normal distribution of floats, 0 and 1 of integers.
    Floats of a model that refuses those, as an Embedding does, are 0 and 1 too; `form` is asked.
    One array where the model takes one, else arrays by the names of the inputs.
    """
    if data is not None:
        arrays = {name: array[:count].astype(signature.inputs[name][1]) for name, array
                  in signature.arrays(data, 'representative_data').items()}
        return alone(arrays)
    random = np.random.default_rng(0)
    if signature.image_shape is not None:
        images = random.integers(0, 256, (count, *signature.image_shape))
        return np.asarray(pixels.values(images.astype(np.float32)), np.float32)
    arrays = {name: random_array(random, (count, *shape), dtype)
              for name, (shape, dtype) in signature.inputs.items()}
    try:
        form(alone(arrays))
    except tf.errors.InvalidArgumentError:
        arrays = {name: array if not is_float(array.dtype.name) else
                  random_array(random, array.shape, 'int32').astype(array.dtype)
                  for name, array in arrays.items()}
    return alone(arrays)


def random_array(random: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers of a standard normal distribution, or 0 and 1 of a type of integers."""
    values = (random.standard_normal(shape) if is_float(np.dtype(dtype).name)
              else random.integers(0, 2, shape))
    return values.astype(dtype)


def alone(arrays: Mapping[str, np.ndarray]) -> Any:
    """The array where there is one, else all by name."""
    return next(iter(arrays.values())) if len(arrays) == 1 else dict(arrays)


def part(examples: Any, rows: slice) -> Any:
    """Some of the examples, one array or arrays by name."""
    if isinstance(examples, Mapping):
        return {name: array[rows] for name, array in examples.items()}
    return examples[rows]
