"""Rewards of sub-networks on the current weights, each measured once."""
from typing import Mapping

import tensorflow as tf

from tfprune.methods.stopwatch import Stopwatch
from tfprune.pruning.masks import Masks, best_channels
from tfprune.search.problem import Problem
from tfprune.search.scoring import finite_reward
from tfprune.structure.graph import Untracked


class CurrentRewards(tf.Module):
    """Widths -> masks, and their reward, on the current weights; each channel is scored and each
    reward measured once until the weights change.

    What channels are worth is in variables, and so in checkpoints: a criterion may look at as many
    examples as a tenth of an epoch.
    """

    def __init__(self, problem: Problem, watch: Stopwatch):
        super().__init__()
        self._problem, self._watch = problem, watch
        self._measured = Untracked({})  # {widths: reward}
        self._are_ranked = tf.Variable(False, trainable=False)
        self._scores = {name: tf.Variable(tf.zeros([size], tf.float64), trainable=False)
                        for name, size in problem.groups.items()}

    def __call__(self, widths: Mapping[str, int]) -> float:
        key = tuple(widths[name] for name in self._problem.budget.names)
        rewards = self._measured.value
        if key not in rewards:
            with self._watch('scoring'):
                rewards[key] = finite_reward(self._problem.score(self.select(widths)),
                                             f'widths {dict(widths)}')
        return rewards[key]

    def select(self, widths: Mapping[str, int]) -> Masks:
        """Problem.select, with the importance by the current weights."""
        if not self._are_ranked.numpy():
            for name, scores in self._problem.channel_scores().items():
                self._scores[name].assign(scores)
            self._are_ranked.assign(True)
        return best_channels(self._problem.groups, widths, {
            name: scores.numpy() for name, scores in self._scores.items()})

    def known(self) -> dict[tuple[int, ...], float]:
        """Rewards of the width vectors measured since the last call of `forget`."""
        return dict(self._measured.value)

    def forget(self) -> None:
        """Measures anew: a search that goes on after a stop has nothing to remember either."""
        self._measured.value.clear()

    def retrained(self) -> None:
        """The weights have changed."""
        self.forget()
        self._are_ranked.assign(False)
