"""Batches of what a model takes, without targets: in memory, checked."""
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.structure.graph import functional_graph

_MOST = 10_000  # examples; statistics need no more
_BATCH = 128  # of an array
_NAME = 'calibration_data'


def calibration_batches(model: keras.Model, data: Any) -> list[Any]:
    """What `model` is called on, batch by batch.

    Args:
        data: batches of one array [B, …] an input, in the structure that the model takes or by
            name, as a list, a tf.data dataset or any iterable; batches (x, y) or (x, y, weights)
            give their x. Of a model of one input also an array [N, …]. None gives no batches.

    Raises:
        TypeError, ValueError: name `calibration_data`, what was expected and what was received.
    """
    if data is None:
        return []
    graph = functional_graph(model)
    expected = {tensor.name: tuple(tensor.shape) for tensor in graph.inputs}
    if hasattr(data, 'shape'):
        data = _of_array(data)
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f'{_NAME}: does not end; leave out repeat()')
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise TypeError(f'{_NAME}: expected batches, as [images]; received {type(data).__name__}')
    found, count = [], 0
    for place, batch in enumerate(data):
        batch = _inputs_of(batch, graph.input)
        count += _checked(batch, expected, place)
        found.append(batch)
        if count >= _MOST:
            warnings.warn(f'{_NAME}: read up to example {count}, which are enough', stacklevel=4)
            break
    return found


def _of_array(data: Any) -> Iterator[Any]:
    if not len(data.shape):
        raise TypeError(f'{_NAME}: expected batches, as [images]; received a number')
    return (data[begin:begin + _BATCH] for begin in range(0, len(data), _BATCH))


def _inputs_of(batch: Any, taken: Any) -> Any:
    """Its x, where it is a tuple of x, y and maybe weights: as Keras takes it, unless the model
    takes a sequence of as many inputs."""
    if not (isinstance(batch, tuple) and len(batch) in (2, 3)):
        return batch
    is_taken = (isinstance(taken, (tuple, list)) and len(taken) == len(batch)
                and not any(keras.tree.is_nested(part) for part in batch))
    return batch if is_taken else batch[0]


def _checked(batch: Any, expected: Mapping[str, tuple[int | None, ...]], place: int) -> int:
    """Examples of a batch that suits the inputs."""
    parts: Sequence[Any] = keras.tree.flatten(batch)
    if isinstance(batch, Mapping) and set(batch) >= set(expected):
        parts = [batch[name] for name in expected]
    where = f'{_NAME}: batch {place}'
    shapes = [tuple(np.shape(part)) for part in parts]
    if len(parts) != len(expected) or not all(
            len(shape) == len(wanted) and all(size in (None, own) for size, own in zip(
                wanted, shape)) for shape, wanted in zip(shapes, expected.values())):
        listed = ', '.join(f'{name} {list(shape)}' for name, shape in expected.items())
        raise ValueError(f'{where}: expected {listed}, received '
                         f'{", ".join(str(list(shape)) for shape in shapes)}')
    for part in parts:
        value = np.asarray(part)
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise ValueError(f'{where} has values that are NaN or infinite')
    if len({shape[0] for shape in shapes}) > 1 or not shapes[0][0]:
        raise ValueError(f'{where}: expected as many examples of each input, at least one, '
                         f'received {", ".join(str(shape[0]) for shape in shapes)}')
    return shapes[0][0]
