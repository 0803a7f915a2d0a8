"""The controls that a method must beat, at the same budget and the same total epochs.

dense      no pruning.
uniform    one pruning rate for all groups, the smallest that fits the budget, by bisection.
random     a uniform random pruning rate for each group, clipped to the budget; the seed's draw.
magnitude  one threshold for all groups on the mean |w| of a channel's filters, by bisection
           (global L1; Li et al. 2017, arXiv 1608.08710, across groups); by
           --magnitude.largest_rate no group loses more than that share, if the budget allows it.
scratch    the uniform architecture, trained from random weights from the first epoch on
           (Liu et al. 2019, arXiv 1810.05270).

Deviation: what the rounding to widths leaves of the budget is spent on the relatively narrowest
groups (Budget.fill), so that all controls have the same budget.
"""
import numpy as np

from tfprune.costs.budget import Budget
from tfprune.costs.proportional import smallest_fitting, uniform_widths
from tfprune.methods.base import Decision, Method
from tfprune.methods.best import within
from tfprune.methods.options import MagnitudeOptions
from tfprune.pruning.importance import score_groups
from tfprune.pruning.masks import nearest_width


class Dense(Method):
    prunes = False
    only_decides = True

    def decide(self) -> Decision:
        return Decision({})


class Uniform(Method):
    only_decides = True
    is_control = True

    def decide(self) -> Decision:
        budget = self.problem.budget
        return Decision(self.problem.select(budget.as_dict(uniform_widths(budget))))


class Scratch(Uniform):
    decides_first = True
    only_decides = False
    is_control = False


def random_widths(budget: Budget, rng: np.random.Generator) -> np.ndarray:
    """Widths [G] of a random pruning rate each, clipped to the budget, which is used up."""
    widths: list[int] = []
    for dense, allowed in zip(budget.dense_widths, budget.allowed):
        wish = nearest_width(int(dense), float(rng.uniform()), allowed)
        widths.append(budget.clip(widths, wish))
    return budget.fill(widths)


class Random(Method):
    only_decides = True
    is_control = True

    def decide(self) -> Decision:
        budget = self.problem.budget
        widths = random_widths(budget, np.random.default_rng(self.problem.seed))
        return Decision(self.problem.select(budget.as_dict(widths)))


class Magnitude(Method):
    only_decides = True
    is_control = True
    Options = MagnitudeOptions

    def decide(self) -> Decision:
        problem, budget = self.problem, self.problem.budget
        least = np.ceil((1 - self.options.largest_rate) * budget.dense_widths - 1e-9)
        scores = score_groups(problem.model, problem.groups, criterion='l1')
        # Mean |w|: a channel of a small filter is not unimportant for being small.
        ranked = [scores[name] / self._weights_per_channel(name) for name in budget.names]

        def widths_at(threshold: float) -> np.ndarray:
            wanted = [max(int((score > threshold).sum()), fewest)
                      for score, fewest in zip(ranked, least)]
            at = [max(int(np.searchsorted(allowed, width, side='right')) - 1, 0)
                  for allowed, width in zip(budget.allowed, wanted)]
            return np.array([allowed[i] for allowed, i in zip(budget.allowed, at)], np.int64)

        top = max(float(score.max()) for score in ranked)
        widths = within(budget, smallest_fitting(widths_at, budget, 0.0, top))
        return Decision(problem.select(budget.as_dict(widths)))

    def _weights_per_channel(self, name: str) -> int:
        """Kernel weights that write one channel of the group."""
        return sum(int(np.prod(part.slot.shape)) // part.slot.shape[part.axis]
                   for part in self.problem.groups.layout.slices(name)
                   if part.side == 'out' and part.slot.is_kernel)
