"""Random search: the best of so many decisions that nobody has learnt (Li, Talwalkar, 2019,
arXiv 1902.07638: the baseline that searches of architectures must beat).

Each decision is scored once, on the weights that the method finds, as any search scores; the first
is the uniform one. around_uniform=0 draws a pruning rate for each group from [0, 1], clipped to the
budget, as the control `random` does. Above 0 the logarithm of each group's kept share is the
uniform one's plus normal noise of that size, and one factor for all groups is found by bisection
that meets the budget.
"""
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune.costs.budget import Budget
from tfprune.costs.proportional import proportional_widths, uniform_widths
from tfprune.methods.base import Decision, EpochResult, Method
from tfprune.methods.best import BestEpisode
from tfprune.methods.controls import random_widths
from tfprune.methods.options import RandomSearchOptions
from tfprune.methods.rewards import CurrentRewards
from tfprune.methods.stopwatch import Stopwatch
from tfprune.search.problem import Problem

_A_ROUND = 20  # decisions


class RandomSearch(Method):
    """See the module."""
    only_decides = True
    is_control = True
    Options = RandomSearchOptions

    def start(self, problem: Problem) -> None:
        super().start(problem)
        self._reward = CurrentRewards(problem, Stopwatch())
        self.best = BestEpisode(len(problem.groups))

    def rounds(self) -> int:
        return -(-self.options.decisions // _A_ROUND)

    def search(self, round_: int) -> EpochResult:
        budget = self.problem.budget
        rows: list[Mapping[str, Any]] = []
        first = round_ * _A_ROUND
        for number in range(first, min(first + _A_ROUND, self.options.decisions)):
            widths = self._drawn(np.random.default_rng((self.problem.seed, number)), number)
            reward = self._reward(budget.as_dict(widths))
            self.best.offer(widths, reward, feasible=True)
            rows.append({'source': 'random', 'reward': reward, 'widths': budget.as_dict(widths)})
        rewards = [row['reward'] for row in rows]
        return EpochResult({'reward_mean': float(np.mean(rewards)), 'reward_max': max(rewards),
                            'best_reward': float(self.best.value)}, tuple(rows))

    def decide(self) -> Decision:
        budget = self.problem.budget
        return Decision(self._reward.select(budget.as_dict(self.best.choices.numpy())))

    def _drawn(self, rng: np.random.Generator, number: int) -> np.ndarray:
        budget, noise = self.problem.budget, self.options.around_uniform
        if not number:
            return uniform_widths(budget)
        return near_uniform(budget, noise, rng) if noise else random_widths(budget, rng)


def near_uniform(budget: Budget, noise: float, rng: np.random.Generator) -> np.ndarray:
    """`near` uniform widths."""
    return near(np.ones(len(budget.names)), budget, noise, rng)


def near(shares: np.ndarray, budget: Budget, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Widths [G] whose kept shares are these, [G] above 0, times exp(noise * normal) and one
    factor, the budget used up."""
    return proportional_widths(budget, shares * np.exp(noise * rng.normal(size=len(shares))))
