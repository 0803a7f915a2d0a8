"""Images of a user's own tf.data datasets."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfprune.data.image_data import ImageData

NAME = 'tf.data'


@dataclasses.dataclass(frozen=True, eq=False)
class UserDatasets(ImageData):
    """ImageData of three tf.data datasets; made by `from_datasets`.

    Order and augmentation of the training images are what the user's dataset does: a run resumes
    bit for bit only if that is a function of TensorFlow's seed.

    Attributes:
      train, reward, test: (images [H, W, C], label int32), not batched.
    """

    train: tf.data.Dataset
    reward: tf.data.Dataset
    test: tf.data.Dataset

    @classmethod
    def from_datasets(
        cls,
        train_data: tf.data.Dataset,
        reward_data: tf.data.Dataset,
        test_data: tf.data.Dataset,
        *,
        num_classes: int,
        class_names: Sequence[str] | None = None,
    ) -> 'UserDatasets':
        """Checks and counts the datasets, in one pass over each.

        Args:
          train_data: (images, labels), batched or not, as for `model.fit`: images [H, W, C] of
            whatever range the model takes, labels integers or one-hot. Shuffled and augmented as
            the user wants; it must end.
          reward_data: training images that are held out to score sub-networks.
          test_data: images seen once, at the end.
          num_classes: outputs of the model.
          class_names: of the labels; their numbers if there are none.

        Raises:
          TypeError: an argument is no tf.data dataset of pairs.
          ValueError: names the dataset and what was expected: image shapes, labels, sizes, names.
        """
        names = tuple(class_names or (str(label) for label in range(num_classes)))
        if len(names) != num_classes:
            raise ValueError(f'class_names: expected {num_classes}, one an output of the model, '
                             f'received {len(names)}')
        given = {'train_data': train_data, 'reward_data': reward_data, 'test_data': test_data}
        single = {name: _single(name, data, num_classes) for name, data in given.items()}
        shapes = {name: tuple(data.element_spec[0].shape) for name, data in single.items()}
        image_shape = shapes['train_data']
        for name, shape in shapes.items():
            if shape != image_shape:
                raise ValueError(f'{name}: expected images {list(image_shape)} as in train_data, '
                                 f'received {list(shape)}')
        sizes = {name: _count(name, data, num_classes) for name, data in single.items()}
        return cls(
            name=NAME, image_shape=image_shape, num_classes=num_classes, class_names=names,
            mean=(0.0,) * image_shape[-1], std=(1.0,) * image_shape[-1],
            num_train=sizes['train_data'], num_reward=sizes['reward_data'],
            num_test=sizes['test_data'], train=single['train_data'], reward=single['reward_data'],
            test=single['test_data'])

    def train_batches(self, epoch: int, batch_size: int) -> tf.data.Dataset:
        """num_train // batch_size whole batches, as the user's dataset gives them."""
        if epoch < 0:
            raise ValueError(f'epoch: expected at least 0, received {epoch}')
        if not 1 <= batch_size <= self.num_train:
            raise ValueError(f'batch_size: expected 1 … {self.num_train}, received {batch_size}')
        return self.train.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def reward_batches(self, batch_size: int) -> tf.data.Dataset:
        return self.reward.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        return self.test.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def calibration_batches(self, batch_size: int, count: int) -> tf.data.Dataset:
        """`count` whole batches of training images, as the user's dataset gives them first."""
        if count < 1:
            raise ValueError(f'count: expected at least 1 batch, received {count}')
        return self.train.repeat().batch(batch_size, drop_remainder=True).take(count)


def batch_size_of(data: tf.data.Dataset) -> int | None:
    """The batch size of (images, labels) as they come; None if they are not batched."""
    images = data.element_spec[0]
    if len(images.shape) < 4:
        return None
    for batch, _ in data.take(1):
        return int(batch.shape[0])
    return None


def _single(name: str, data: tf.data.Dataset, num_classes: int) -> tf.data.Dataset:
    """(image [H, W, C], label int32), one by one."""
    spec = getattr(data, 'element_spec', None)
    if not (isinstance(spec, tuple) and len(spec) == 2
            and all(isinstance(part, tf.TensorSpec) for part in spec)):
        kind = type(data).__name__ if spec is None else f'elements {spec}'
        raise TypeError(f'{name}: expected a tf.data.Dataset of (images, labels), received {kind}')
    images, labels = spec
    if len(images.shape) not in (3, 4) or None in tuple(images.shape)[-3:]:
        raise ValueError(f'{name}: expected images [H, W, C] or [B, H, W, C] of a fixed size, '
                         f'received {list(images.shape)}')
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f'{name}: does not end; leave out repeat()')
    batched = len(images.shape) == 4
    one_hot = labels.shape.rank == 1 + batched and labels.shape[-1] not in (None, 1)
    if one_hot and labels.shape[-1] != num_classes:
        raise ValueError(f'{name}: expected one-hot labels of {num_classes} classes, the outputs '
                         f'of the model, received {labels.shape[-1]}')
    if not one_hot and not labels.dtype.is_integer:
        raise ValueError(f'{name}: expected integer or one-hot labels, received '
                         f'{labels.dtype.name} {list(labels.shape)}')

    def label_of(label: tf.Tensor) -> tf.Tensor:
        if one_hot:
            return tf.argmax(label, -1, tf.int32)
        return tf.reshape(tf.cast(label, tf.int32), ())

    single = data.unbatch() if batched else data
    return single.map(lambda image, label: (image, label_of(label)))


def _count(name: str, data: tf.data.Dataset, num_classes: int) -> int:
    """Number of images, none of which has a label out of range; rewards not sorted by class."""
    def look(old: tuple, new: tuple) -> tuple:
        least, most, count, changes, last = old
        label = new[1]
        return (tf.minimum(least, label), tf.maximum(most, label), count + 1,
                changes + tf.cast(label != last, tf.int64), label)

    least, most, count, changes, _ = data.reduce(
        (np.int32(0), np.int32(0), np.int64(0), np.int64(0), np.int32(0)), look)
    if not count:
        raise ValueError(f'{name}: expected images, received none')
    if least < 0 or most >= num_classes:
        raise ValueError(f'{name}: expected labels in 0 … {num_classes - 1}, the outputs of the '
                         f'model, received {int(least)} … {int(most)}')
    if name == 'reward_data' and most and changes <= num_classes and count > 8 * num_classes:
        raise ValueError('reward_data: expected images in no order of classes, for each batch is '
                         'normalised by its own statistics; received them sorted: shuffle it once')
    return int(count)
