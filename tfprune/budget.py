"""The budget as a bound on each action, in exact integers.

At step g, with w_1..w_{g-1} fixed and cost(.) the exact integer cost, the widths allowed are

    w_g <= hi = the largest  w with cost(w_<g, w, w_min,>g) <= T
    w_g >= lo = the smallest w with cost(w_<g, w, C_>g)     >= T

(w_min the smallest allowed widths, C the dense ones). hi keeps the rest feasible, lo keeps the
budget used. Cost never falls with a width, so that lo exceeds hi by at most one width step, and
then hi is taken. Hence any sequence of actions ends at widths w with cost(w) <= T and

    cost(w) = T,  or  cost(w with w_g one step wider) > T for some group g:

what is left of the budget is less than one width step of that group. (Proof: where lo <= hi at each
step, the last one gives cost(w) = T. At the first step with lo > hi, hi is not the dense width, and
cost(w_<g, hi + one step, w_min) > T.) AMC, arXiv 1802.03494, section 3.3, bounds an additive
estimate of the cost; here in- and out-widths multiply, as they do.
"""
import fractions
import math
from typing import Sequence

import numpy as np

from tfprune.config import TARGETS
from tfprune.costs import CostModel
from tfprune.groups import ChannelGroups
from tfprune.masks import allowed_widths


class InfeasibleBudgetError(ValueError):
    """The budget cannot be reached; the message names the smallest reachable."""


class Budget:
    """Widths under a limit on one cost.

    Args:
        groups: the prunable groups, name -> dense width.
        cost_model: exact cost of integer widths.
        target: a field of Cost: 'macs', 'params' or 'peak_memory_bytes'.
        ratio: the allowed share of the dense cost, in (0, 1].
        width_multiple, min_keep_ratio: see masks.allowed_widths.

    Raises:
        ValueError: an unknown target, or a ratio outside (0, 1].
        InfeasibleBudgetError: even the smallest allowed widths cost more.
    """

    def __init__(self, groups: ChannelGroups, cost_model: CostModel, *, target: str = 'macs',
                 ratio: float = 0.5, width_multiple: int = 1, min_keep_ratio: float = 0.1):
        if target not in TARGETS:
            raise ValueError(f'Unknown target {target!r}. Available: {", ".join(sorted(TARGETS))}')
        if not 0 < ratio <= 1:
            raise ValueError(f'budget_ratio must be in (0, 1]; received {ratio!r}.')
        self.names = tuple(groups)
        self.dense_widths = np.array([groups[name] for name in self.names], np.int64)
        self.allowed = [allowed_widths(int(c), multiple=width_multiple,
                                       min_keep_ratio=min_keep_ratio) for c in self.dense_widths]
        self.min_widths = np.array([a[0] for a in self.allowed], np.int64)
        self.target, self.ratio = target, ratio
        self._cost_model = cost_model
        self.dense_cost = self.cost(self.dense_widths)
        # The ratio as written: the float 0.57 times 100 is 56.99999999999999.
        self.limit = math.floor(fractions.Fraction(str(ratio)) * self.dense_cost)
        smallest = self.cost(self.min_widths) if self.names else self.dense_cost
        if smallest > self.limit:
            reachable = _round_up(smallest / self.dense_cost)
            raise InfeasibleBudgetError(
                f'budget_ratio={ratio:g} allows {self.limit:,} {target}, but the smallest '
                f'reachable is {smallest:,} (ratio {reachable}); raise the budget, lower '
                '--min_keep_ratio or pass --prune_residual_groups.')

    def costs(self, widths: np.ndarray) -> np.ndarray:
        """Target cost, int64 [N], of integer widths [N, G]."""
        return self._cost_model.batch(np.asarray(widths, np.int64))[self.target]

    def cost(self, widths: Sequence[int] | np.ndarray) -> int:
        """Target cost of one width vector [G]."""
        return int(self.costs(np.asarray(widths, np.int64)[None])[0])

    def bounds(self, decided: Sequence[int]) -> tuple[int, int]:
        """Smallest and largest allowed width of group g = len(decided), given w_<g."""
        g = len(decided)
        choices = self.allowed[g]
        trial = np.empty((2, len(choices), len(self.names)), np.int64)
        trial[..., :g] = np.asarray(decided, np.int64)
        trial[..., g] = choices
        trial[0, :, g + 1:] = self.min_widths[g + 1:]
        trial[1, :, g + 1:] = self.dense_widths[g + 1:]
        cheapest, dearest = self.costs(trial.reshape(-1, len(self.names))).reshape(2, -1)
        hi = max(int(np.searchsorted(cheapest, self.limit, side='right')) - 1, 0)
        lo = min(int(np.searchsorted(dearest, self.limit, side='left')), hi)
        return int(choices[lo]), int(choices[hi])

    def clip(self, decided: Sequence[int], width: int) -> int:
        """`width`, an allowed one of the next group, moved into the bounds."""
        lo, hi = self.bounds(decided)
        return min(max(width, lo), hi)

    def fill(self, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """Spends what is left: raises the relatively narrowest group by one step while one fits.

        Returns int64 [G], inside the budget where `widths` is; then no group's next step fits.
        """
        filled = np.array(widths, np.int64)
        open_groups = set(range(len(self.names)))
        while open_groups:
            g = min(open_groups, key=lambda i: (filled[i] / self.dense_widths[i], i))
            wider = self.allowed[g][self.allowed[g] > filled[g]]
            trial = filled.copy()
            if wider.size:
                trial[g] = wider[0]
            if not wider.size or self.cost(trial) > self.limit:
                open_groups.remove(g)
            else:
                filled = trial
        return filled

    def as_dict(self, widths: Sequence[int] | np.ndarray) -> dict[str, int]:
        """{group name: width} of a width vector [G]."""
        return {name: int(w) for name, w in zip(self.names, widths)}


def _round_up(ratio: float) -> float:
    """Four digits that are enough: the ratio that a message names must be reachable."""
    return math.ceil(ratio * 1e4) / 1e4
