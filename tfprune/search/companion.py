"""A sub-network that trains beside the network that it is a part of.

In every n-th step (the sandwich rule: Yu, Huang 2019, arXiv 1903.05134; BigNAS, arXiv 2003.11142)

    loss = loss(f(x)) + divergence of f_v(x) from f(x)

f is the whole network and f_v the sub-network, by the sliced weights by which it is scored; the
answers of f are constants there (in-place distillation). Of a task whose outputs are no targets the
sub-network has the task's own loss. It normalizes by the batch, each replica by its own part of it,
as where it is scored; no moving statistics are of it. Neither are its kernels reconstructed, and
layers that draw at random in training, such as dropout, do not in it. A step holds both passes in
memory.
"""
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.graph import Untracked


class Companion(tf.Module):
    """The sub-network of a model that masks select, for `Trainer(companion=)`.

    Create it under the scope of the strategy under which it trains.

    Args:
        network: of the model that trains.
        masks: the variables of an AlignmentPenalty.
        every: n >= 1.

    Attributes:
        is_on: a bool variable, False at first.
    """

    def __init__(self, network: Subnetwork, masks: Mapping[str, tf.Variable], every: int):
        super().__init__()
        if every < 1:
            raise ValueError(f'every must be at least 1; received {every}.')
        # In no checkpoint: the masks are.
        self._network, self._masks, self._every = Untracked(network), Untracked(masks), every
        self._followed = b''
        self.is_on = tf.Variable(False, trainable=False)
        self._steps = tf.Variable(0, trainable=False, dtype=tf.int64)

    def joins(self, step: int) -> bool:
        """Whether it trains in this step of an epoch, counted from 0."""
        if not self.is_on.numpy() or step % self._every:
            return False
        # Whoever has assigned them: a method, a checkpoint, another worker.
        masks = {name: mask.numpy() > 0.5 for name, mask in self._masks.value.items()}
        followed = b''.join(mask.tobytes() for mask in masks.values())
        if followed != self._followed:
            self._network.value.set_masks(masks)
            self._followed = followed
        return True

    def __call__(self, inputs: Any) -> Any:
        """Outputs for the inputs of a batch, differentiable; for use in a tf.function."""
        return self._network.value(inputs)

    def count(self) -> None:
        """It has trained in a step."""
        self._steps.assign_add(1)

    def take_steps(self) -> int:
        """The steps in which it trained since the last call."""
        steps = int(self._steps.numpy())
        self._steps.assign(0)
        return steps
