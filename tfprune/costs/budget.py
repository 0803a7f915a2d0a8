"""The budget as a bound on each action, in exact integers, for one limit or several.

Widths w are *inside* if cost_k(w) <= T_k for every limit k. No cost falls with a width, so that
whatever is narrower than an inside w is inside too. At step g, with w_1..w_{g-1} fixed, the widths
allowed are

    w_g <= hi = the largest  w with (w_<g, w, w_min,>g) inside
    w_g >= lo = the smallest w with (w_<g, w, C_>g) not inside, or hi where that is above hi or none

(w_min the smallest allowed widths, C the dense ones). hi keeps the rest feasible, lo keeps the
budget used. Hence any sequence of actions ends at widths w that are inside and, unless the dense
model is inside itself (then w = C),

    for some group g, w with w_g one step wider is not inside:

what is left of the budget is less than one width step of that group. (Proof: C is not inside, and
as long as lo <= hi, (w_<=g, C_>g) is not inside for any w_g >= lo. After the last step it would
have to be, as w is; so at some step g, the first, lo > hi. There w_g = hi < lo <= C_g, and hi plus
one step is not inside even with w_min after it, the less so with w_>g.) Nothing here asks a cost to
rise: peak memory, a maximum over layers, is flat in many widths. Which limit binds depends on the
actions; the others may be left with more.

AMC, arXiv 1802.03494, section 3.3, bounds an additive estimate of the cost; here in- and out-widths
multiply, as they do.
"""
import fractions
import math
from typing import Any, Mapping, Sequence

import numpy as np

from tfprune.config import LIMITS, check_limit, is_ratio
from tfprune.costs.model import NANOSECONDS, CostModel
from tfprune.plain_text import first_few
from tfprune.pruning.masks import allowed_widths
from tfprune.structure.groups import FROZEN_REASON, ChannelGroups


class InfeasibleBudgetError(ValueError):
    """The budget cannot be reached; the message names the smallest reachable."""


class Budget:
    """Widths under limits that all hold.

    Args:
        groups: the prunable groups, name -> dense width.
        cost_model: exact cost of integer widths.
        limits: {name: limit} by 'macs', 'params', 'peak_memory_bytes', a limit being a ratio of the
            dense cost, in (0, 1], or a whole number above 1; by 'latency_ratio', in (0, 1], and
            'latency_ms', in milliseconds, both of which need a cost model with a latency table.
        width_multiple, min_keep_ratio: see masks.allowed_widths.

    Attributes:
        names, dense_widths, min_widths, allowed: of the groups, in order [G].
        targets, limits, dense_costs: of the K limits; fields of Cost, what they allow and what
            dense costs, int64, latency in nanoseconds.

    Raises:
        ValueError: no limit, an unknown target, or a limit that is neither.
        InfeasibleBudgetError: even the smallest allowed widths cost more.
    """

    def __init__(self, groups: ChannelGroups, cost_model: CostModel, limits: Mapping[str, float],
                 *, width_multiple: int = 1, min_keep_ratio: float = 0.1):
        if not limits:
            raise ValueError(f'a budget needs a limit on {" or ".join(LIMITS)}; received none.')
        for name, limit in limits.items():
            if name not in LIMITS:
                raise ValueError(f'Unknown target {name!r}. '
                                 f'Available: {", ".join(sorted(LIMITS))}')
            check_limit(name, limit)
            if LIMITS[name] == 'latency_ms' and cost_model.dense.latency_ms is None:
                raise ValueError(f'{name} needs --latency_table, a table of operator times that '
                                 'tfprune benchmark --suite=latency_table measures.')
        self._groups, self._rounding = groups, (width_multiple, min_keep_ratio)
        self.names = tuple(groups)
        self.dense_widths = np.array([groups[name] for name in self.names], np.int64)
        self.allowed = [allowed_widths(int(c), multiple=width_multiple,
                                       min_keep_ratio=min_keep_ratio) for c in self.dense_widths]
        self.min_widths = np.array([a[0] for a in self.allowed], np.int64)
        self._names, self._asked = tuple(limits), tuple(limits.values())
        self.targets = tuple(LIMITS[name] for name in limits)
        self._cost_model = cost_model
        self.dense_costs = self.costs(self.dense_widths)
        self.limits = np.array([
            _allowance(name, limit, int(dense)) for name, limit, dense
            in zip(self._names, self._asked, self.dense_costs)], np.int64)
        self._check_feasible()

    def _check_feasible(self) -> None:
        # The smallest widths have the smallest of every cost: each limit can be asked alone.
        smallest = self.costs(self.min_widths)
        missed = [
            f'{name}={asked if asked % 1 or asked <= 1 else int(asked)} allows '
            f'{_shown(target, limit):,}, but the smallest reachable is {_shown(target, least):,} '
            f'(ratio {_round_up(least / dense)})'
            for name, target, asked, limit, least, dense in zip(
                self._names, self.targets, self._asked, self.limits, smallest, self.dense_costs)
            if least > limit]
        if missed:
            frozen = [name for name, why in self._groups.unprunable.items() if FROZEN_REASON in why]
            fixed = self._cost_model.fixed if 'macs' in self.targets else ()
            rules = ''
            if fixed:
                share = sum(call.macs for call in fixed) / self._cost_model.dense.macs
                rules = (f' {first_few(dict.fromkeys(call.name for call in fixed))}: without a '
                         f'rule, keep {share:.1%} of the multiply-adds.')
            hint = (' Frozen layers (trainable=False) keep the channels of '
                    f'{first_few(frozen)}; --prune_frozen prunes them.' if frozen else '')
            remedy = (
                'raise the budget, lower --min_keep_ratio or --width_multiple, or pass '
                '--prune_residual_groups.' if self.names else 'no channels can go, or none without '
                '--prune_residual_groups; tfprune analyze says of each layer why.')
            raise InfeasibleBudgetError(f'{"; ".join(missed)}: {remedy}{rules}{hint}')

    def costs(self, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """Limited costs, int64 [..., K], of integer widths [..., G]."""
        widths = np.asarray(widths, np.int64)
        *batch, size = widths.shape
        rows = self._cost_model.batch(widths.reshape(math.prod(batch), size))
        if 'latency_ms' in rows:
            rows['latency_ms'] = np.rint(rows['latency_ms'] * NANOSECONDS).astype(np.int64)
        return np.stack([rows[target] for target in self.targets], -1).reshape(*batch, -1)

    def fits(self, widths: Sequence[int] | np.ndarray) -> np.ndarray:
        """Whether all limits hold, bool [...], for integer widths [..., G]."""
        return np.asarray((self.costs(widths) <= self.limits).all(-1))

    def bounds(self, decided: Sequence[int]) -> tuple[int, int]:
        """Smallest and largest allowed width of group g = len(decided), given w_<g."""
        g = len(decided)
        choices = self.allowed[g]
        trial = np.empty((2, len(choices), len(self.names)), np.int64)
        trial[..., :g] = np.asarray(decided, np.int64)
        trial[..., g] = choices
        trial[0, :, g + 1:] = self.min_widths[g + 1:]
        trial[1, :, g + 1:] = self.dense_widths[g + 1:]
        # In the order of widths, those that fit come first.
        with_least, with_dense = np.count_nonzero(self.fits(trial), axis=1)
        hi = max(with_least - 1, 0)
        return int(choices[min(with_dense, hi)]), int(choices[hi])

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
            if not wider.size or not self.fits(trial):
                open_groups.remove(g)
            else:
                filled = trial
        return filled

    def scaled(self, ratio: float) -> 'Budget':
        """The budget of another ratio.

        Raises:
            ValueError: this one is not a single limit that is a ratio.
            InfeasibleBudgetError: see the class.
        """
        if len(self._names) != 1 or not is_ratio(self._names[0], self._asked[0]):
            raise ValueError('several budgets out of one search need one limit, a ratio; received '
                             + ', '.join(f'{n}={a:g}' for n, a in zip(self._names, self._asked)))
        return self.with_limits({self._names[0]: ratio})

    def with_limits(self, limits: Mapping[str, float]) -> 'Budget':
        """The budget of other limits on the same groups, with the same widths to choose from."""
        multiple, least = self._rounding
        return Budget(self._groups, self._cost_model, limits, width_multiple=multiple,
                      min_keep_ratio=least)

    def of(self, groups: ChannelGroups, cost_model: CostModel) -> 'Budget':
        """The same limits, in numbers, on other groups."""
        multiple, least = self._rounding
        return Budget(groups, cost_model, {row['target']: row['limit'] for row in self.to_json()},
                      width_multiple=multiple, min_keep_ratio=least)

    def as_dict(self, widths: Sequence[int] | np.ndarray) -> dict[str, int]:
        """{group name: width} of a width vector [G]."""
        return {name: int(w) for name, w in zip(self.names, widths)}

    def to_json(self) -> list[dict[str, Any]]:
        """A row a limit: target, the limit as asked for, whether that is a ratio, the cost it
        allows, the dense cost."""
        return [{'target': target, 'asked': asked, 'is_ratio': is_ratio(name, asked),
                 'limit': _shown(target, limit), 'dense': _shown(target, dense)}
                for name, target, asked, limit, dense in zip(
                    self._names, self.targets, self._asked, self.limits, self.dense_costs)]


def check_counted(cost_model: CostModel, limits: Mapping[str, float]) -> None:
    """ValueError if a limit is a share of multiply-adds that are not all counted."""
    limit = limits.get('macs', 0)
    if cost_model.uncounted and limit and is_ratio('macs', limit) and limit != 1:
        raise ValueError(
            f'macs={limit:g} is a share of all multiply-adds, and those of '
            f'{", ".join(cost_model.uncounted)} cannot be counted: give a number above 1, or pass '
            '--accept_uncounted for a share of the others.')


def _allowance(name: str, limit: float, dense: int) -> int:
    """The whole number that a limit allows."""
    # The ratio as written: the float 0.57 times 100 is 56.99999999999999.
    exact = fractions.Fraction(str(limit))
    if is_ratio(name, limit):
        return math.floor(exact * dense)
    return math.floor(exact * (NANOSECONDS if name == 'latency_ms' else 1))


def _shown(target: str, cost: int) -> int | float:
    """A cost in the unit of its target."""
    return int(cost) / NANOSECONDS if target == 'latency_ms' else int(cost)


def _round_up(ratio: float) -> float:
    """Four digits that are enough: the ratio that a message names must be reachable."""
    return math.ceil(ratio * 1e4) / 1e4
