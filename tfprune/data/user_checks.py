"""What a user's tf.data dataset must be: its form, and one pass over all that it holds."""

import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

_BATCH = 64  # images looked at together, where the dataset is not batched
_PATIENCE = 60.0  # seconds of counting, after which it is said that the dataset must end
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Form:
    """How a dataset gives its examples.

    Attributes:
        batched: whether an element is a batch.
        one_hot: whether a label is a row of num_classes numbers; else it is one number.
        image_shape: (H, W, C).
        dtype: of the images.
    """

    batched: bool
    one_hot: bool
    image_shape: tuple[int, int, int]
    dtype: tf.DType

    @classmethod
    def of(cls, name: str, data: Any, num_classes: int) -> 'Form':
        """The form of `data`; TypeError or ValueError names what was expected and received."""
        images, labels = _specs(name, data)
        if not (images.dtype.is_integer or images.dtype.is_floating or images.dtype.is_bool):
            raise TypeError(f'{name}: expected images of real numbers, received '
                            f'{images.dtype.name}')
        shape = images.shape
        if shape.rank not in (3, 4) or not all(tuple(shape)[-3:]):
            raise ValueError(f'{name}: expected images [H, W, C] or [B, H, W, C] of a fixed size, '
                             f'received {shape if shape.rank is None else list(shape)}')
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(f'{name}: does not end; leave out repeat()')
        batched, rank = shape.rank == 4, labels.shape.rank
        if not (labels.dtype.is_integer or labels.dtype.is_floating or labels.dtype.is_bool):
            raise TypeError(f'{name}: expected integer or one-hot labels, received '
                            f'{labels.dtype.name}')
        one_hot = rank == 1 + batched and labels.shape[-1] not in (None, 1)
        if one_hot and labels.shape[-1] != num_classes:
            raise ValueError(f'{name}: expected one-hot labels of {num_classes} classes, the '
                             f'outputs of the model, received {labels.shape[-1]}')
        column = rank == 1 + batched and labels.shape[-1] == 1
        if not (one_hot or column or rank == batched):
            raise ValueError(f'{name}: expected a label for each image, a number or a one-hot row '
                             f'of {num_classes}, received labels of shape {labels.shape}')
        return cls(batched, one_hot, tuple(shape)[-3:], images.dtype)

    def single(self, data: tf.data.Dataset) -> tf.data.Dataset:
        """(image [H, W, C], label int32), one by one, of labels that `look` has found right."""
        def label_of(label: tf.Tensor) -> tf.Tensor:
            if self.one_hot:
                return tf.argmax(tf.cast(label, tf.float32), -1, tf.int32)
            return tf.reshape(tf.cast(label, tf.int32), ())

        examples = data.unbatch() if self.batched else data
        return examples.map(lambda image, label: (image, label_of(label)))


@dataclasses.dataclass(frozen=True)
class Found:
    """What one pass over a dataset found.

    Attributes:
        by_class: images of each class, int64 [num_classes].
        changes: how often a label differs from the one before it.
        low, high: the lowest and the highest pixel value.
    """

    by_class: np.ndarray
    changes: int
    low: float
    high: float

    @property
    def count(self) -> int:
        return int(self.by_class.sum())


def look(name: str, data: tf.data.Dataset, form: Form, num_classes: int) -> Found:
    """Looks at every image and label of `data` once.

    Raises:
        ValueError: there are no images; a pixel is not finite; a label is no class, or a row that
            is not one-hot. Names the dataset and the first image that is wrong, counted from 0. Or
            the dataset itself fails, with its reason.
    """
    by_class, changes, last = np.zeros(num_classes, np.int64), 0, 0
    low, high, count = np.inf, -np.inf, 0
    for images, labels in _batches(name, data if form.batched else data.batch(_BATCH)):
        if len(images) != len(labels):
            raise ValueError(f'{name}: expected a label for each image, received {len(images)} '
                             f'images with {len(labels)} labels')
        if not len(labels):
            continue
        if images.dtype not in (np.float32, np.float64):
            images = images.astype(np.float32)
        least, most = float(images.min()), float(images.max())  # NaN if one pixel is
        if not np.isfinite([least, most]).all():
            flat = images.reshape(len(images), -1)
            place = int(np.argmin(np.isfinite(flat).all(1)))
            value = flat[place][~np.isfinite(flat[place])][0]
            raise ValueError(f'{name}: image {count + place} has a pixel that is {value}; expected '
                             'finite numbers')
        classes = _classes(name, labels, count, form.one_hot, num_classes)
        changes += int(np.count_nonzero(np.diff(classes, prepend=last)))
        by_class += np.bincount(classes, minlength=num_classes)
        low, high, count, last = min(low, least), max(high, most), count + len(labels), classes[-1]
    if not count:
        raise ValueError(f'{name}: expected images, received none')
    return Found(by_class, changes, low, high)


def _specs(name: str, data: Any) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    """The specifications of images and labels; TypeError if `data` is no dataset of pairs."""
    expected = f'{name}: expected a tf.data.Dataset of (images, labels)'
    if not isinstance(data, tf.data.Dataset):
        raise TypeError(f'{expected}, received {type(data).__name__}')
    spec = data.element_spec
    if isinstance(spec, dict):
        raise TypeError(f'{expected}, received dictionaries of {", ".join(map(str, spec))}')
    if isinstance(spec, tuple) and len(spec) == 3:
        raise TypeError(f'{expected}, received three parts; weights of samples are not taken')
    if not (isinstance(spec, tuple) and len(spec) == 2
            and all(isinstance(part, tf.TensorSpec) for part in spec)):
        raise TypeError(f'{expected}, received elements {" ".join(str(spec).split()):.100}')
    return spec


def _classes(name: str, labels: np.ndarray, first: int, one_hot: bool,
             num_classes: int) -> np.ndarray:
    """Labels int64 [B]; ValueError names the first that is no class, images counted from `first`.
    """
    labels = labels.reshape(len(labels), -1)
    if one_hot:
        right = ((labels == 0) | (labels == 1)).all(1) & ((labels == 1).sum(1) == 1)
        expected = 'one-hot labels, a single 1 and else 0; several labels an image, soft and ' \
                   'smoothed ones are not taken'
    else:
        whole = labels.astype(np.float64) if labels.dtype.kind not in 'iu' else labels
        right = ((whole >= 0) & (whole < num_classes) & (whole == np.floor(whole)))[:, 0]
        expected = f'labels in 0 … {num_classes - 1}, the outputs of the model'
    if not right.all():
        place = int(np.argmin(right))
        row = labels[place].tolist()
        received = str(row if one_hot else row[0])
        raise ValueError(f'{name}: expected {expected}; received {received:.60} with image '
                         f'{first + place}')
    return labels.argmax(1) if one_hot else labels[:, 0].astype(np.int64)


def _batches(name: str, data: tf.data.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The batches of a dataset; a ValueError of one line where it fails; warns if it seems endless.
    """
    begun, count, said = time.monotonic(), 0, False
    with _naming(name):
        for images, labels in data.as_numpy_iterator():
            yield images, labels
            count += len(images)
            if not said and time.monotonic() - begun > _PATIENCE and data.cardinality() < 0:
                said = True
                _LOGGER.warning('%s: %d images so far, and it has not ended; a dataset must end, '
                                'without repeat()', name, count)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise ValueError(f'{name}: fails: {innermost(error)}') from error


def innermost(error: tf.errors.OpError) -> str:
    """The reason in a message of tf.data, on one line: the user's own error where there is one."""
    text = re.split(r'\n\s*\[\[\{', error.message)[0]
    text = re.sub(r'^(\{\{.*?\}\} )?(Error in user-defined function .*? iterator: \S+: )?', '',
                  text)
    _, traced, raised = text.rpartition('Traceback (most recent call last):')
    if traced:  # Its last paragraph that is not indented.
        text = [part for part in re.split(r'\n\s*\n(?=\S)', raised) if part.strip()][-1]
    return ' '.join(text.split())[:200]
