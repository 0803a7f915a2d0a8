"""Knapsack: the channels whose scores are worth most within the budget, without an episode.

    max_w  sum_g sum of the w_g highest scores of group g,   cost(w) inside the budget

Scores are those of the first-order Taylor criterion (Molchanov et al. 2019, arXiv 1906.10771): they
add up over channels and compare across groups, as the loss that goes with them. Of separable costs
this is a knapsack (Aflalo et al. 2020, arXiv 2002.08258; Shen et al. 2022, arXiv 2110.10811); here
widths of neighbours multiply. From dense widths the step of a group with the least score lost for
the cost saved goes, on the exact cost model, until all limits hold; what the last step leaves is
spent on the most score for the cost. Which channels these are, the configured criterion says.

Deviation: of several limits, cost is their sum, each relative to what is to be saved of it.
"""
import numpy as np

from tfprune.costs.budget import Budget
from tfprune.methods.base import Decision, Method
from tfprune.pruning.masks import best_channels


class Knapsack(Method):
    """See the module."""
    only_decides = True
    is_control = True

    def decide(self) -> Decision:
        problem = self.problem
        scores = problem.channel_scores('taylor')
        widths = worth_most(problem.budget, [scores[name] for name in problem.budget.names])
        if problem.pruning.criterion != 'taylor':  # else these scores are its own
            scores = problem.channel_scores()
        return Decision(best_channels(problem.groups, problem.budget.as_dict(widths), scores))


def worth_most(budget: Budget, scores: list[np.ndarray]) -> np.ndarray:
    """Widths [G] inside the budget, by scores [C_g] of each group's channels, at least 0."""
    values = [np.concatenate([[0.0], np.cumsum(np.sort(score)[::-1])]) for score in scores]
    widths = budget.dense_widths
    while not budget.fits(widths):
        tried = _neighbours(budget, widths, -1)
        widths = tried[np.argmin(_rates(budget, values, widths, tried))]
    while True:
        tried = _neighbours(budget, widths, 1)
        tried = tried[budget.fits(tried)]
        if not len(tried):
            return widths
        widths = tried[np.argmax(_rates(budget, values, widths, tried))]


def _neighbours(budget: Budget, widths: np.ndarray, step: int) -> np.ndarray:
    """Widths [N, G] with one group each an allowed step wider, or narrower; N may be 0."""
    found = []
    for g, allowed in enumerate(budget.allowed):
        place = int(np.searchsorted(allowed, widths[g])) + step
        if 0 <= place < len(allowed):
            found.append(np.where(np.arange(len(widths)) == g, allowed[place], widths))
    return np.array(found, np.int64).reshape(-1, len(widths))


def _rates(budget: Budget, values: list[np.ndarray], widths: np.ndarray, tried: np.ndarray
           ) -> np.ndarray:
    """Score lost or won for the cost, [N], by each of the steps from widths to tried [N, G]."""
    to_save = np.maximum(budget.dense_costs - budget.limits, 1)
    costs = (np.abs(budget.costs(widths) - budget.costs(tried)) / to_save).sum(-1)
    worth = sum(np.abs(value[width] - value[own])
                for value, width, own in zip(values, widths, tried.T))
    return worth / np.maximum(costs, 1e-12)
