"""What every data set gives: splits as tf.data, and what a model must know of the images."""

import abc
import dataclasses
from typing import Any, Self

import tensorflow as tf

from tfprune.data.pixels import BYTES, PixelRange


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random shift up to `max_shift` pixels, mirroring if `flip`, outside `fill` (C of 0..255)."""

    max_shift: int
    flip: bool
    fill: tuple[int, ...]

    @property
    def text(self) -> str:
        """'shifted and mirrored'."""
        return 'shifted and mirrored' if self.flip else 'shifted'

    def weaker(self) -> 'Augmentation | None':
        """Without mirroring; then none."""
        return dataclasses.replace(self, flip=False) if self.flip else None


@dataclasses.dataclass(frozen=True)
class ImageData(abc.ABC):
    """Train, reward and test images; the reward split is disjoint from what is trained on.

    Every batch is (images [B, H, W, C], labels int32 [B]), images as uint8 or as a user's dataset
    gives them; the consumer casts on the device.

    Attributes:
        name: key in DATASETS, or a set of tensorflow-datasets.
        image_shape: (H, W, C).
        num_classes: labels are 0 … num_classes - 1.
        class_names: of length num_classes.
        mean: per channel, of pixels in [0, 1]; constants that models are built with.
        std: per channel, of pixels in [0, 1].
        num_train: images that are trained on (without the reward split).
        num_reward: training images held out for rewards.
        num_test: images seen once, at the end.
        pixel_range: the lowest and the highest pixel value of all splits; (0, 255) of pictures.
        pixels: what a byte of a picture is in the images.
        augmentation: of training images; None for plain ones, and for those of a user's dataset,
            which are augmented there or not.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_train: int
    num_reward: int
    num_test: int
    pixel_range: tuple[float, float] = dataclasses.field(default=(0.0, 255.0), kw_only=True)
    pixels: PixelRange = dataclasses.field(default=BYTES, kw_only=True)
    augmentation: Augmentation | None = dataclasses.field(default=None, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        """What tells this data from other data: sizes, class names, range of pixels."""
        return {'name': self.name, 'image_shape': list(self.image_shape),
                'num_train': self.num_train, 'num_reward': self.num_reward,
                'num_test': self.num_test, 'class_names': list(self.class_names),
                'pixel_range': list(self.pixel_range)}

    @abc.abstractmethod
    def with_released(self, score_images: int) -> 'ImageData':
        """A copy that trains on what nothing scores, for after the decision.

        Its reward split is the first `score_images` of this one, in the same order; the other
        held-out images are training images: num_train grows by num_reward - score_images.

        Raises ValueError if score_images is not in 1 … num_reward.
        """

    @abc.abstractmethod
    def train_batches(self, epoch: int, batch_size: int) -> tf.data.Dataset:
        """num_train // batch_size whole batches, shuffled and augmented.

        Order and augmentation are functions of (seed, epoch) alone.

        Raises ValueError if epoch < 0 or batch_size is not in 1 … num_train.
        """

    @abc.abstractmethod
    def reward_batches(self, batch_size: int) -> tf.data.Dataset:
        """All held-out training images, in a fixed order, not augmented; the last batch partial."""

    @abc.abstractmethod
    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        """All test images, in a fixed order, not augmented; the last batch partial."""

    @abc.abstractmethod
    def calibration_batches(self, batch_size: int, count: int) -> tf.data.Dataset:
        """`count` whole batches of training images, not augmented, always the same for one seed.

        For the re-estimation of batch-norm statistics. No image comes twice before all came once.
        """

    @property
    def augmented(self) -> str:
        """What is done to training images: 'shifted and mirrored', 'not augmented'."""
        return self.augmentation.text if self.augmentation else 'not augmented'

    def with_augmentation(self, augmentation: Augmentation | None) -> Self:
        """A copy whose training images are augmented so."""
        return dataclasses.replace(self, augmentation=augmentation)

    def weaker(self) -> Self:
        """A copy that does less to training images: first without mirroring, then without any."""
        return self.with_augmentation(self.augmentation and self.augmentation.weaker())

    def _check_released(self, score_images: int) -> None:
        if not 1 <= score_images <= self.num_reward:
            raise ValueError(f'score_images: expected 1 … {self.num_reward}, the reward images of '
                             f'{self.name}, received {score_images}')

    def _check_training(self, epoch: int, batch_size: int) -> None:
        if epoch < 0:
            raise ValueError(f'epoch: expected at least 0, received {epoch}')
        self._check_batch_size(batch_size)
        if batch_size > self.num_train:
            raise ValueError(f'batch_size: expected at most {self.num_train}, the training images '
                             f'of {self.name}, received {batch_size}')

    def _check_batch_size(self, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f'batch_size: expected at least 1, received {batch_size}')

    def _check_count(self, count: int) -> None:
        if count < 1:
            raise ValueError(f'count: expected at least 1 batch, received {count}')
