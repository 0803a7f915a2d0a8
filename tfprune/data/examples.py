"""What every set of examples gives: splits as tf.data, of whatever a model takes and learns."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import Self

from tfprune.data.pixels import PixelRange


@dataclasses.dataclass(frozen=True)
class Examples(abc.ABC):
    """Train, reward and test examples; the reward split is disjoint from what is trained on.

    A batch is (x, y) or (x, y, weights), each a tensor or a structure of tensors [B, …].

    Attributes:
        name: how reports call the data.
        num_train: examples that are trained on (without the reward split).
        num_reward: training examples held out for rewards.
        num_test: examples seen once, at the end.
        augmentation: of training examples, where it can be taken back; None for those that are
            augmented elsewhere or not.
        class_names: of the outputs of a classifier; () of other tasks.
        pixels: what a byte of a picture is in the examples; None of examples that are no pictures.
        py_dataset: Keras' PyDataset of training examples, which is told of epochs, as by `fit`;
            None of others.
    """

    name: str
    num_train: int
    num_reward: int
    num_test: int
    augmentation: Any = dataclasses.field(default=None, kw_only=True)
    class_names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    pixels: PixelRange | None = dataclasses.field(default=None, kw_only=True)
    py_dataset: keras.utils.PyDataset | None = dataclasses.field(default=None, kw_only=True)

    @property
    def augmented(self) -> str:
        """What is done to training examples: 'shifted and mirrored', 'not augmented'."""
        return self.augmentation.text if self.augmentation else 'not augmented'

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What tells this data from other data."""

    @abc.abstractmethod
    def with_released(self, score_images: int) -> Self:
        """A copy that trains on what nothing scores, for after the decision.

        Its reward split is the first `score_images` of this one, in the same order; the other
        held-out examples are training examples: num_train grows by num_reward - score_images.

        Raises ValueError if score_images is not in 1 … num_reward.
        """

    @abc.abstractmethod
    def train_batches(self, epoch: int, batch_size: int) -> tf.data.Dataset:
        """num_train // batch_size whole batches, shuffled and augmented.

        Order and augmentation are functions of (seed, epoch) alone.

        Raises ValueError if epoch < 0 or batch_size is not in 1 … num_train.
        """

    def in_order(self, x: Any) -> list[Any]:
        """The tensors of inputs in the order in which the model takes them."""
        return tf.nest.flatten(x)

    def begin_epoch(self) -> None:
        """Before an epoch, or the rest of one, is trained on."""
        if self.py_dataset is not None:
            self.py_dataset.on_epoch_begin()

    def end_epoch(self) -> None:
        """After an epoch that was trained on to its end."""
        if self.py_dataset is not None:
            self.py_dataset.on_epoch_end()

    @abc.abstractmethod
    def reward_batches(self, batch_size: int) -> tf.data.Dataset:
        """All held-out examples, in a fixed order, not augmented; the last batch partial."""

    @abc.abstractmethod
    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        """All test examples, in a fixed order, not augmented; the last batch partial."""

    def plain_batches(self, batch_size: int, examples: int) -> tf.data.Dataset:
        """`calibration_batches` of at least so many examples, as far as there are."""
        return self.calibration_batches(
            batch_size, min(-(-examples // batch_size), self.num_train // batch_size))

    @abc.abstractmethod
    def calibration_batches(self, batch_size: int, count: int) -> tf.data.Dataset:
        """`count` whole batches of training examples, not augmented, always the same for one seed.

        For the re-estimation of batch-norm statistics. None comes twice before all came once.
        """

    def _check_released(self, score_images: int) -> None:
        if not 1 <= score_images <= self.num_reward:
            raise ValueError(f'score_images: expected 1 … {self.num_reward}, the reward '
                             f'examples of {self.name}, received {score_images}')

    def _check_training(self, epoch: int, batch_size: int) -> None:
        if epoch < 0:
            raise ValueError(f'epoch: expected at least 0, received {epoch}')
        self._check_batch_size(batch_size)
        if batch_size > self.num_train:
            raise ValueError(f'batch_size: expected at most {self.num_train}, the training '
                             f'examples of {self.name}, received {batch_size}')

    def _check_batch_size(self, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f'batch_size: expected at least 1, received {batch_size}')

    def _check_count(self, count: int) -> None:
        if count < 1:
            raise ValueError(f'count: expected at least 1 batch, received {count}')
