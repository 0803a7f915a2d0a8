"""The best episode of a search, across its rounds."""
from typing import Sequence

import numpy as np
import tensorflow as tf

from tfprune.costs.budget import Budget


class BestEpisode(tf.Module):
    """What the best episode did: of those inside the budget the one of highest value, and as long
    as there is none, of the others.

    Args:
        size: numbers that tell an episode, its widths or actions.

    Attributes:
        choices: int64 [size].
        value: -inf until an episode has been offered.
        feasible: whether it is inside the budget.
    """

    def __init__(self, size: int):
        super().__init__()
        self.choices = tf.Variable(tf.zeros([size], tf.int64), trainable=False)
        self.value = tf.Variable(-np.inf, trainable=False, dtype=tf.float64)
        self.feasible = tf.Variable(False, trainable=False)

    def offer(self, choices: Sequence[int] | np.ndarray, value: float, feasible: bool) -> None:
        """Takes the episode if it is better; of equals the first stays."""
        if (feasible, value) > (bool(self.feasible.numpy()), float(self.value.numpy())):
            self.choices.assign(np.array(choices, np.int64))
            self.value.assign(value)
            self.feasible.assign(feasible)


def within(budget: Budget, widths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Widths [G] brought exactly to the budget: narrowed, group by group, as far as they must be,
    and what is left spent (Budget.fill)."""
    narrowed: list[int] = []
    for width in widths:
        narrowed.append(min(int(width), budget.bounds(narrowed)[1]))
    return budget.fill(narrowed)
