"""Knapsack: the channels whose scores are worth most within the budget, without an episode.

    max_w  sum_g sum of the w_g highest scores of group g,   cost(w) inside the budget

Scores are those of the first-order Taylor criterion (Molchanov et al. 2019, arXiv 1906.10771): they
add up over channels and compare across groups, as the loss that goes with them. Of separable costs
this is a knapsack (Aflalo et al. 2020, arXiv 2002.08258; Shen et al. 2022, arXiv 2110.10811); here
widths of neighbours multiply. From dense widths the step of a group with the least score lost for
the cost saved goes, on the exact cost model, until all limits hold; what the last step leaves is
spent on the most score for the cost.

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
        return Decision(best_channels(problem.groups, problem.budget.as_dict(widths), scores))


def worth_most(budget: Budget, scores: list[np.ndarray]) -> np.ndarray:
    """Widths [G] inside the budget, by scores [C_g] of each group's channels, at least 0."""
    values = [np.concatenate([[0.0], np.cumsum(np.sort(score)[::-1])]) for score in scores]
    places = np.array([len(allowed) - 1 for allowed in budget.allowed])
    while not budget.fits(_widths(budget, places)):
        narrower = [g for g in range(len(places)) if places[g]]
        places[_cheapest(budget, values, places, narrower, -1)] -= 1
    while True:
        wider = [g for g in range(len(places)) if places[g] + 1 < len(budget.allowed[g])
                 and budget.fits(_widths(budget, _moved(places, g, 1)))]
        if not wider:
            return _widths(budget, places)
        places[_cheapest(budget, values, places, wider, 1)] += 1


def _cheapest(budget: Budget, values: list[np.ndarray], places: np.ndarray, groups: list[int],
              step: int) -> int:
    """Of groups, that with the least score lost, or the most score won, for the cost of a step."""
    tried = np.array([_widths(budget, _moved(places, g, step)) for g in groups])
    now = _widths(budget, places)
    to_save = np.maximum(budget.dense_costs - budget.limits, 1)
    costs = (np.abs(budget.costs(now) - budget.costs(tried)) / to_save).sum(-1)
    worth = np.array([abs(values[g][now[g]] - values[g][trial[g]])
                      for g, trial in zip(groups, tried)])
    rate = worth / np.maximum(costs, 1e-12)
    return groups[int(np.argmin(rate) if step < 0 else np.argmax(rate))]


def _moved(places: np.ndarray, group: int, step: int) -> np.ndarray:
    moved = places.copy()
    moved[group] += step
    return moved


def _widths(budget: Budget, places: np.ndarray) -> np.ndarray:
    return np.array([allowed[place] for allowed, place in zip(budget.allowed, places)], np.int64)
