"""What a search costs beside training, in epochs of the dense model's training."""
import contextlib
from typing import Iterator

import tensorflow as tf

_FORWARDS = 3  # a step forward and backward costs three forward passes


class EpochAccount(tf.Module):
    """The compute that a method spends on its search, in epoch-equivalents.

    One epoch-equivalent is the compute of training the dense model for an epoch: `num_train` images
    forward and backward, which is three forward passes of each. Costs are taken to be proportional
    to MACs. What trains the network itself, and is an epoch of the schedule, is not counted here.

    Args:
        num_train: images of a training epoch.
        dense_macs: MACs of the dense model.
    """

    def __init__(self, num_train: int, dense_macs: int):
        super().__init__()
        self._epoch = _FORWARDS * num_train * dense_macs
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
        self.forward(_FORWARDS * images, macs)

    def charge(self, epochs: float) -> None:
        """Charges that many epoch-equivalents."""
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
