"""Widths of given proportions, as wide as a budget allows."""
from collections.abc import Callable

import numpy as np

from tfprune.costs.budget import Budget
from tfprune.pruning.masks import nearest_width


def smallest_fitting(widths_at: Callable[[float], np.ndarray], budget: Budget, low: float,
                     high: float) -> np.ndarray:
    """Widths [G] at the smallest x in [low, high] that fits; costs fall with x."""
    if budget.fits(widths_at(low)):
        return widths_at(low)
    for _ in range(60):
        middle = (low + high) / 2
        if budget.fits(widths_at(middle)):
            high = middle
        else:
            low = middle
    return widths_at(high)


def proportional_widths(budget: Budget, factors: np.ndarray) -> np.ndarray:
    """Widths [G] of kept shares min(1, s * factors), factors [G] above 0, with the largest s that
    fits, by bisection; what the rounding leaves of the budget is spent by Budget.fill."""
    def widths_at(rate: float) -> np.ndarray:
        rates = np.clip(1 - (1 - rate) * factors, 0, 1)
        return np.array([nearest_width(int(dense), float(own), allowed) for dense, own, allowed
                         in zip(budget.dense_widths, rates, budget.allowed)], np.int64)

    # Below 0 the rate asks for more than all of a group whose factor is above 1.
    return budget.fill(smallest_fitting(widths_at, budget, 1 - 1 / np.min(factors), 1.0))


def uniform_widths(budget: Budget) -> np.ndarray:
    """Widths [G] of one pruning rate for all groups, the budget used up."""
    return proportional_widths(budget, np.ones(len(budget.names)))
