"""What a search costs beside training, in epochs of the dense model's training."""
import contextlib
import math
from typing import Iterator

import tensorflow as tf

FORWARDS = 3  # a step forward and backward costs three forward passes


def steps_left(fine_tune_epochs: float, steps_per_epoch: int, search_equivalents: float) -> int:
    """Training steps that fine-tuning keeps where the search is charged to it.

        max(0, floor((fine_tune_epochs - search_equivalents) * steps_per_epoch))

    The unit of both is an epoch of the dense model's training (EpochAccount), of which a step is
    one in `steps_per_epoch`, before surgery and after: a step of the pruned model is charged as one
    of the dense model, as the epochs of all methods are, though it computes less. A part of a step
    that was spent is a whole one; a millionth of a step is the rounding of a sum.

    Args:
        fine_tune_epochs: what was asked for, at least 0.
        steps_per_epoch: at least 1.
        search_equivalents: what the search has cost, at least 0.

    Raises:
        ValueError: one of them is not such a number.
    """
    for name, value, least in (('fine_tune_epochs', fine_tune_epochs, 0),
                               ('steps_per_epoch', steps_per_epoch, 1),
                               ('search_equivalents', search_equivalents, 0)):
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f'{name} must be finite and at least {least}; received {value}.')
    left = (fine_tune_epochs - search_equivalents) * steps_per_epoch
    return max(0, math.floor(left + 1e-6))


class EpochAccount(tf.Module):
    """The compute that a method spends on its search, in epoch-equivalents.

    One epoch-equivalent is the compute of training the dense model for an epoch: `num_train` images
    forward and backward, which is three forward passes of each. Costs are taken to be proportional
    to MACs. What trains the network itself, and is an epoch of the schedule, is not counted here;
    neither is what every method does alike, such as the batch-norm statistics after surgery and
    the teacher's answers (a third of an epoch each, which the report adds), nor
    what the agent's own small networks compute: the 400 episodes of AMC on ResNet-20 come to about
    a twentieth of one epoch of CIFAR-10.

    Charged are: scores (Problem.score), criteria that need data (Problem.channel_scores), students
    with their teacher, their statistics and their scores (training.distillation).

    Args:
        num_train: images of a training epoch.
        dense_macs: MACs of the dense model.
    """

    def __init__(self, num_train: int, dense_macs: int):
        super().__init__()
        self._epoch = FORWARDS * num_train * dense_macs
        self._spent = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._charging = True

    @property
    def epochs(self) -> float:
        """Epoch-equivalents spent."""
        return float(self._spent.numpy())

    def forward(self, images: int, macs: int) -> None:
        """Charges the forward passes of `images` through a network of `macs` MACs."""
        self.charge(images * macs / self._epoch)

    def train(self, images: int, macs: int) -> None:
        """Charges training steps over `images` in all."""
        self.forward(FORWARDS * images, macs)

    def charge(self, epochs: float) -> None:
        """Charges that many epoch-equivalents; ValueError unless finite and at least 0."""
        if not (math.isfinite(epochs) and epochs >= 0):
            raise ValueError(f'a charge must be finite and at least 0; received {epochs}.')
        if self._charging:
            self._spent.assign_add(epochs)

    @contextlib.contextmanager
    def uncharged(self) -> Iterator[None]:
        """Within: measurements for the report, of which the method learns nothing."""
        before, self._charging = self._charging, False
        try:
            yield
        finally:
            self._charging = before
