"""Alignment: pulls the weights towards the selected sub-network while they train, by a penalty or
by a decay that ends at zero.

    penalty = lambda * sum_g || (1 - v_g) * W_g ||_2

with v_g the mask of group g and W_g all that the group owns in kernels: the output filters of its
producers and the matching input slices of its consumers (RLAL, arXiv 2403.19490, 'soft
regularization'; the sum of norms, not of squares, is read in public code). What SGD can take
off a norm is lambda * sum lr / (1 - momentum), on short schedules far less than there is.

The decay (ours) shrinks what reads the channels that v removes, the input slices of consumers that
train, after each step t:

    W <- W * max(0, 1 - kappa * lr_t / S_t),  S_t = lr_t + lr_(t+1) + ... to surgery

A slice without a gradient is its first value times (S_t / S_0)^kappa or less, and with any gradient
exactly zero after the last step, whatever the schedule: full model and sub-network are then one but
for their batch-norm statistics, and where a channel also goes through what is no kernel: a
normalization over channels, the product of two tensors.
"""
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.pruning.masks import check_masks, open_masks
from tfprune.structure.graph import Untracked
from tfprune.structure.groups import ChannelGroups
from tfprune.structure.layout import WeightSlice

# The derivative of a norm at 0 is infinite: what is aligned already must not turn into NaN.
_EPSILON = 1e-12


class AlignmentPenalty(tf.Module):
    """The penalty as a function of variables: masks and strength change without a retrace.

    Attributes:
        strength: lambda, a float32 variable >= 0.
    """

    def __init__(self, model: keras.Model, groups: ChannelGroups, *, strength: float = 0.0):
        super().__init__()
        check_strength(strength)
        self._groups = groups
        self.strength = tf.Variable(strength, trainable=False, dtype=tf.float32, name='strength')
        self.masks = {name: tf.Variable(mask.astype(np.float32), trainable=False, name='mask')
                      for name, mask in open_masks(groups).items()}
        self._terms: dict[str, list[Callable[[tf.Tensor], tf.Tensor]]] = {
            name: [_square_sum(model, part) for part in groups.layout.slices(name)
                   if part.slot.is_kernel] for name in groups}

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Sets v, {group name: bool [C_g]}; True = kept, a missing group opens.

        Raises:
            ValueError, TypeError: for unknown groups or masks of another shape or type.
        """
        for name, mask in check_masks(self._groups, masks).items():
            self.masks[name].assign(mask.astype(np.float32))

    def get_masks(self) -> dict[str, np.ndarray]:
        """v as {group name: bool [C_g]}."""
        return {name: mask.numpy() > 0.5 for name, mask in self.masks.items()}

    def __call__(self) -> tf.Tensor:
        """The penalty, a float32 scalar >= 0."""
        norms = []
        for name, terms in self._terms.items():
            pruned = 1.0 - self.masks[name]
            squares = tf.add_n([term(pruned) for term in terms])
            norms.append(tf.sqrt(squares + _EPSILON) - _EPSILON ** 0.5)
        return self.strength * tf.add_n(norms) if norms else tf.constant(0.0)


class AlignmentDecay(tf.Module):
    """The decay as a function of variables: masks change, and it goes on or off, without a retrace.

    Args:
        masks: v, the variables of an AlignmentPenalty.

    Attributes:
        is_on: a bool variable.
    """
    kappa = 1.2

    def __init__(self, model: keras.Model, groups: ChannelGroups, masks: Mapping[str, tf.Variable]):
        super().__init__()
        self.is_on = tf.Variable(False, trainable=False)
        self._masks = masks
        by_axis: dict[tuple[str, int], tuple[Any, list[tuple[str, WeightSlice]]]] = {}
        for name in groups:
            for part in groups.layout.slices(name):
                if part.slot.is_kernel and part.slot.trainable and part.side == 'in':
                    variable = part.slot.variable(model)
                    key = variable.path, part.axis
                    by_axis.setdefault(key, (variable, []))[1].append((name, part))
        self._kernels = Untracked(tuple(by_axis.values()))

    def __call__(self, rate_share: tf.Tensor) -> None:
        """Shrinks the weights after a step; `rate_share` is lr_t / S_t."""
        taken = tf.where(self.is_on, tf.minimum(self.kappa * rate_share, 1.0), 0.0)
        for variable, parts in self._kernels.value:
            axis = parts[0][1].axis
            kept = tf.ones([variable.shape[axis]])
            for name, part in parts:
                pruned = tf.gather(1.0 - self._masks[name], part.index)
                kept = tf.tensor_scatter_nd_sub(kept, part.positions[:, None], taken * pruned)
            shape = [-1 if place == axis else 1 for place in range(len(variable.shape))]
            variable.assign(variable * tf.cast(tf.reshape(kept, shape), variable.dtype))


def _square_sum(model: keras.Model, part: WeightSlice) -> Callable[[tf.Tensor], tf.Tensor]:
    """pruned [C_g] -> sum of squares of the pruned channels along one axis of a kernel."""
    variable = part.slot.variable(model)
    others = [axis for axis in range(len(part.slot.shape)) if axis != part.axis]

    def squares(pruned: tf.Tensor) -> tf.Tensor:
        by_channel = tf.reduce_sum(tf.square(tf.convert_to_tensor(variable)), axis=others)
        here = tf.gather(by_channel, part.positions)
        return tf.reduce_sum(here * tf.gather(pruned, part.index))

    return squares


def alignment_penalty(model: keras.Model, groups: ChannelGroups, masks: Mapping[str, np.ndarray],
                      *, strength: float) -> tf.Tensor:
    """The penalty of `model` towards `masks`, a scalar >= 0; see the module.

    Raises:
        ValueError, TypeError: strength is negative or not finite; masks do not fit the groups.
    """
    penalty = AlignmentPenalty(model, groups, strength=strength)
    penalty.set_masks(masks)
    return penalty()


class StrengthController:
    """Adaptive lambda: multiplies it by `factor` while the gap between the full model's accuracy
    and the sub-network's exceeds the target, and divides it while the gap is below (ours)."""

    def __init__(self, strength: tf.Variable, *, target_gap: float, factor: float = 1.5,
                 smallest: float = 1e-6, largest: float = 1e-1):
        self._strength, self._target_gap, self._factor = strength, target_gap, factor
        self._smallest, self._largest = smallest, largest

    def update(self, full_accuracy: float, subnetwork_accuracy: float) -> float:
        """Sets lambda after an epoch; returns it."""
        gap = full_accuracy - subnetwork_accuracy
        scale = self._factor if gap > self._target_gap else 1 / self._factor
        value = float(np.clip(float(self._strength.numpy()) * scale, self._smallest, self._largest))
        self._strength.assign(value)
        return value


def check_strength(strength: float) -> None:
    """ValueError unless lambda is one."""
    if not np.isfinite(strength) or strength < 0:
        raise ValueError(f'strength must be finite and at least 0; received {strength}.')
