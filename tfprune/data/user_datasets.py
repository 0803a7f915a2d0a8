"""Images of a user's own tf.data datasets."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.data.class_names import check_class_names
from tfprune.data.image_data import ImageData
from tfprune.data.pixels import BYTES, PixelRange
from tfprune.data.split import name_small_classes
from tfprune.data.tuning import untuned
from tfprune.data.user_checks import Form, Found, look

NAME = 'tf.data'
_MOST_RATIO = 8.0  # between the largest pixels of two splits of the same scale
_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class UserDatasets(ImageData):
    """ImageData of three tf.data datasets; made by `from_datasets`.

    Order and augmentation of the training images are what the user's dataset does: a run resumes
    bit for bit only if that is a function of TensorFlow's seed.

    Attributes:
        train, reward, test: (images [H, W, C], label int32), not batched.
        is_shuffled: whether training images are shuffled here, as those of arrays are.
    """

    train: tf.data.Dataset
    reward: tf.data.Dataset
    test: tf.data.Dataset
    is_shuffled: bool = False

    @classmethod
    def from_datasets(
        cls,
        train_data: tf.data.Dataset,
        reward_data: tf.data.Dataset,
        test_data: tf.data.Dataset,
        *,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        pixel_range: tuple[Any, Any] | None = None,
        is_shuffled: bool = False,
    ) -> 'UserDatasets':
        """Checks and counts the datasets, in one pass over each.

        Args:
            train_data: (images, labels), batched or not, as for `model.fit`: images [H, W, C] of
                whatever range the model takes, labels whole numbers or one-hot. Shuffled and
                augmented as the user wants; it must end.
            reward_data: training images that are held out to score sub-networks.
            test_data: images seen once, at the end.
            num_classes: outputs of the model.
            class_names: of the labels; their numbers if there are none.
            pixel_range: what the bytes 0 and 255 of a picture are in the images, numbers or lists
                of one a channel.
            is_shuffled: see the class.

        Raises:
            TypeError: an argument is no tf.data dataset of pairs of numbers.
            ValueError: names the dataset, what was expected and what was received: image shapes,
                pixels that are not finite, labels, sizes, names of classes.
        """
        names = _class_names(class_names, num_classes)
        given = {'train_data': train_data, 'reward_data': reward_data, 'test_data': test_data}
        forms = {name: Form.of(name, data, num_classes) for name, data in given.items()}
        given = {name: untuned(data) for name, data in given.items()}
        image_shape = forms['train_data'].image_shape
        stated = None if pixel_range is None else PixelRange.stated(pixel_range, image_shape[-1])
        for name, form in forms.items():
            if form.image_shape != image_shape:
                raise ValueError(f'{name}: expected images {list(image_shape)} as in train_data, '
                                 f'received {list(form.image_shape)}')
        found = {name: look(name, data, forms[name], num_classes) for name, data in given.items()}
        for name in ('train_data', 'reward_data'):
            present = np.flatnonzero(found[name].by_class)
            if len(present) == 1:
                raise ValueError(f'{name}: expected images of several classes, received '
                                 f'{found[name].count} of class {names[present[0]]!r} alone')
        _check_order(found['reward_data'], num_classes)
        _check_ranges(forms, found)
        name_small_classes('train_data', names, found['train_data'].by_class,
                           found['reward_data'].by_class)
        extremes = (min(each.low for each in found.values()),
                    max(each.high for each in found.values()))
        train, reward, test = (forms[name].single(data) for name, data in given.items())
        return cls(
            name=NAME, image_shape=image_shape, num_classes=num_classes, class_names=names,
            mean=(0.0,) * image_shape[-1], std=(1.0,) * image_shape[-1],
            num_train=found['train_data'].count, num_reward=found['reward_data'].count,
            num_test=found['test_data'].count, train=train, reward=reward, test=test,
            is_shuffled=is_shuffled, pixel_range=extremes, pixels=_pixels(stated, forms, *extremes))

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), 'bytes': None if self.pixels.is_taken or not (
            self.pixels.is_known) else [self.pixels.black, self.pixels.white]}

    def with_released(self, score_images: int) -> 'UserDatasets':
        """These datasets: what the user holds out stays held out.

        The images of reward_data are the user's, who may not want them trained on, and order and
        augmentation of train_data are not known here.
        """
        self._check_released(score_images)
        return self

    def train_batches(self, epoch: int, batch_size: int) -> tf.data.Dataset:
        """num_train // batch_size whole batches, as the user's dataset gives them."""
        self._check_training(epoch, batch_size)
        images = self.train
        if self.is_shuffled:
            images = images.shuffle(self.num_train, seed=epoch, reshuffle_each_iteration=False)
        return images.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def reward_batches(self, batch_size: int) -> tf.data.Dataset:
        self._check_batch_size(batch_size)
        return self.reward.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        self._check_batch_size(batch_size)
        return self.test.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def calibration_batches(self, batch_size: int, count: int) -> tf.data.Dataset:
        """`count` whole batches of training images, as the user's dataset gives them first."""
        self._check_batch_size(batch_size)
        self._check_count(count)
        return self.train.repeat().batch(batch_size, drop_remainder=True).take(count)


def batch_size_of(data: tf.data.Dataset) -> int | None:
    """The batch size of (images, labels) as they come; None if they are not batched."""
    images = data.element_spec[0]
    if len(images.shape) < 4:
        return None
    for batch, _ in data.take(1):
        return int(batch.shape[0])
    return None


def _class_names(given: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    if given is None:
        return tuple(str(label) for label in range(num_classes))
    if isinstance(given, (str, bytes)) or not hasattr(given, '__iter__'):
        raise TypeError(f'class_names: expected a list of {num_classes} strings, received '
                        f'{given!r:.80}')
    names = tuple(given)
    if len(names) != num_classes:
        raise ValueError(f'class_names: expected {num_classes}, one an output of the model, '
                         f'received {len(names)}')
    check_class_names('class_names', names)
    return tuple(map(str, names))


def _pixels(stated: PixelRange | None, forms: dict[str, Form], low: float, high: float
            ) -> PixelRange:
    """What a byte of a picture is: as it is stated; else bytes that are not all dark are bytes;
    else as the values tell.

    ValueError where values are none of the stated range: augmentation and resizing may leave it by
    less than its width.
    """
    if stated is not None:
        if not stated.holds(low, high, beyond=1.0):
            raise ValueError(f'pixel_range: expected images of about {stated.low:g} … '
                             f'{stated.high:g}; received values of {low:g} … {high:g}')
        return stated
    if high > 127 and all(form.dtype == tf.uint8 for form in forms.values()):
        return BYTES
    return PixelRange.seen(low, high)


def _check_order(reward: Found, num_classes: int) -> None:
    """ValueError if the reward images are sorted by class."""
    labels = np.flatnonzero(reward.by_class)
    if labels[-1] and reward.changes <= num_classes and reward.count > 8 * num_classes:
        raise ValueError('reward_data: expected images in no order of classes, for each batch is '
                         'normalized by its own statistics; received them sorted: shuffle it once')


def _check_ranges(forms: dict[str, Form], found: dict[str, Found]) -> None:
    """Where pixels are of another scale than in train_data: ValueError if they are of another type,
    too, else a warning."""
    train = found['train_data']
    for name, other in found.items():
        sizes = [max(abs(each.low), abs(each.high)) for each in (train, other)]
        if max(sizes) <= _MOST_RATIO * min(sizes):
            continue
        kinds = [forms['train_data'].dtype.name, forms[name].dtype.name]
        said = (f'{name}: expected pixels of the range of train_data, {kinds[0]} {train.low:g} … '
                f'{train.high:g}, received {kinds[1]} {other.low:g} … {other.high:g}')
        if kinds[0] != kinds[1]:
            raise ValueError(said)
        _LOGGER.warning(said)
