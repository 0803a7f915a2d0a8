"""Image data that fits in memory: every image is held once, as uint8."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.data.augment import random_shift_and_flip
from tfprune.data.class_names import check_class_names
from tfprune.data.image_data import Augmentation, ImageData
from tfprune.data.split import reward_split
from tfprune.data.storage import as_tensor
from tfprune.data.tuning import untuned

PREFETCH_BATCHES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayImageData(ImageData):
    """ImageData from two pairs of arrays; made by `from_arrays`.

    Attributes:
        train_images: uint8 tensor [N, H, W, C] of training and reward images.
        train_labels: int32 tensor [N].
        test_images: uint8 tensor [M, H, W, C].
        test_labels: int32 tensor [M].
        train_indices: int64 array [num_train], into train_images.
        reward_indices: int64 array [num_reward], into train_images, disjoint from train_indices.
        seed: of order and augmentation; the split does not depend on it.
    """

    train_images: tf.Tensor
    train_labels: tf.Tensor
    test_images: tf.Tensor
    test_labels: tf.Tensor
    train_indices: np.ndarray
    reward_indices: np.ndarray
    seed: int

    @classmethod
    def from_arrays(
        cls,
        *,
        name: str,
        train: tuple[np.ndarray, np.ndarray],
        test: tuple[np.ndarray, np.ndarray],
        class_names: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        reward_images: int,
        seed: int = 0,
        split_seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> 'ArrayImageData':
        """Checks the arrays and holds out `reward_images` of the training images.

        Images are shared, not copied, where TensorFlow can: do not change them afterwards.

        Args:
            train: (uint8 [N, H, W, C], integers [N]).
            test: (uint8 [M, H, W, C], integers [M]).
            reward_images: size of the reward split, 0 for a tenth of the images up to 5,000; a
                random share of each class that depends on split_seed alone, see `reward_split`.

        Raises:
            ValueError: wrong dtype, shape or label, names of classes that look the same, an empty
                split, more than half of the images of each class; names the array or argument.
        """
        for split, (images, labels) in (('train', train), ('test', test)):
            _check_arrays(f'{name}, {split} split', images, labels, len(class_names))
        if len(class_names) < 2:
            raise ValueError(
                f'{name}: expected at least two classes, received {list(class_names)}')
        image_shape = tuple(train[0].shape[1:])
        if test[0].shape[1:] != image_shape:
            raise ValueError(
                f'{name}, test split: expected images of shape {image_shape} as in the train '
                f'split, received {tuple(test[0].shape[1:])}')
        check_class_names(f'{name}, class names', class_names)
        if seed < 0 or split_seed < 0:
            raise ValueError(
                f'seed, split_seed: expected at least 0, received {seed}, {split_seed}')
        train_indices, reward_indices = reward_split(
            name, train[1], class_names, reward_images, split_seed)
        # Host memory: an accelerator must not hold the set.
        with tf.device('CPU:0'):
            tensors = {
                'train_images': as_tensor(train[0]),
                'train_labels': tf.convert_to_tensor(train[1].astype(np.int32)),
                'test_images': as_tensor(test[0]),
                'test_labels': tf.convert_to_tensor(test[1].astype(np.int32)),
            }
        return cls(
            name=name, image_shape=image_shape, num_classes=len(class_names),
            class_names=class_names, mean=mean, std=std, num_train=len(train_indices),
            num_reward=len(reward_indices), num_test=len(test[0]), train_indices=train_indices,
            reward_indices=reward_indices, seed=seed, augmentation=augmentation, **tensors)

    def to_json(self) -> dict[str, Any]:
        # A run that began when the reward split was drawn from all images has no such line.
        return {**super().to_json(), 'reward_split': 'by class'}

    def with_released(self, score_images: int) -> 'ArrayImageData':
        self._check_released(score_images)
        kept, released = np.split(self.reward_indices, [score_images])
        return dataclasses.replace(
            self, num_train=self.num_train + len(released), num_reward=len(kept),
            train_indices=np.sort(np.concatenate([self.train_indices, released])),
            reward_indices=kept)

    def train_batches(self, epoch: int, batch_size: int) -> tf.data.Dataset:
        self._check_training(epoch, batch_size)
        # A generator of its own: Dataset.shuffle's order also depends on TensorFlow's global seed.
        order = np.random.default_rng((self.seed, epoch)).permutation(self.train_indices)
        indices = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)

        def load(batch, index):
            images, labels = self._gather_train(index)
            if self.augmentation is not None:
                seed = tf.random.fold_in(tf.constant([self.seed, epoch], tf.int64), batch)
                images = random_shift_and_flip(
                    images, seed, max_shift=self.augmentation.max_shift,
                    flip=self.augmentation.flip, fill=tf.constant(self.augmentation.fill, tf.uint8))
            return images, labels

        return _finish(indices.enumerate().map(load, num_parallel_calls=tf.data.AUTOTUNE))

    def reward_batches(self, batch_size: int) -> tf.data.Dataset:
        self._check_batch_size(batch_size)
        indices = tf.data.Dataset.from_tensor_slices(self.reward_indices).batch(batch_size)
        return _finish(indices.map(self._gather_train))

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        self._check_batch_size(batch_size)
        indices = tf.data.Dataset.range(self.num_test).batch(batch_size)
        return _finish(indices.map(lambda index: (
            tf.gather(self.test_images, index), tf.gather(self.test_labels, index))))

    def calibration_batches(self, batch_size: int, count: int) -> tf.data.Dataset:
        self._check_batch_size(batch_size)
        self._check_count(count)
        generator = np.random.default_rng(self.seed)
        passes = math.ceil(batch_size * count / self.num_train)
        order = np.concatenate(
            [generator.permutation(self.train_indices) for _ in range(passes)])
        indices = tf.data.Dataset.from_tensor_slices(order[:batch_size * count])
        return _finish(indices.batch(batch_size, drop_remainder=True).map(self._gather_train))

    def _gather_train(self, index):
        return tf.gather(self.train_images, index), tf.gather(self.train_labels, index)


def _finish(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Optimizing writes the graph out, and with it a copy of all images, at each epoch's start.
    options.experimental_optimization.apply_default_optimizations = False
    return untuned(batches.prefetch(PREFETCH_BATCHES)).with_options(options)


def _check_arrays(where: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            f'{where}: expected uint8 images [N, H, W, C], received {images.dtype} {images.shape}')
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f'{where}: expected {len(images)} integer labels, '
            f'received {labels.dtype} {labels.shape}')
    if not len(images):
        raise ValueError(f'{where}: expected images, received none')
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f'{where}: expected labels in 0 … {num_classes - 1}, '
            f'received {labels.min()} … {labels.max()}')
