"""Accuracies of sub-networks on the current weights, each measured once."""
from typing import Mapping

import numpy as np

from tfprune.methods.stopwatch import Stopwatch
from tfprune.pruning.masks import Masks, best_channels
from tfprune.search.problem import Problem
from tfprune.search.scoring import finite_reward


class CurrentRewards:
    """Widths -> masks, and their accuracy, on the current weights; each channel is scored and each
    accuracy measured once until the weights change."""

    def __init__(self, problem: Problem, watch: Stopwatch):
        self._problem, self._watch = problem, watch
        self._rewards: dict[tuple[int, ...], float] = {}
        self._scores: Mapping[str, np.ndarray] | None = None

    def __call__(self, widths: Mapping[str, int]) -> float:
        key = tuple(widths[name] for name in self._problem.budget.names)
        if key not in self._rewards:
            with self._watch('scoring'):
                self._rewards[key] = finite_reward(self._problem.score(self.select(widths)),
                                                   f'widths {dict(widths)}')
        return self._rewards[key]

    def select(self, widths: Mapping[str, int]) -> Masks:
        """Problem.select, with the importance by the current weights."""
        if self._scores is None:
            self._scores = self._problem.channel_scores()
        return best_channels(self._problem.groups, widths, self._scores)

    def known(self) -> dict[tuple[int, ...], float]:
        """Rewards of the width vectors measured in this epoch."""
        return dict(self._rewards)

    def forget(self) -> None:
        """The weights have changed."""
        self._rewards.clear()
        self._scores = None
