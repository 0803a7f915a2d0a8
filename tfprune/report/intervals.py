"""What a few runs show: intervals over seeds, over seeds of several tasks, and over decisions.

Intervals are of 95%. Those by bootstrap draw with the same random numbers each time, so that one
table is made of the same rows twice.
"""
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
NORMAL = float(stats.norm.ppf((1 + LEVEL) / 2))  # standard errors on either side
_DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Paired:
    """Differences over pairs.

    Attributes:
        mean: of the differences; NaN without pairs.
        half_width: of its interval by Student's t; NaN for fewer than two pairs, and for equal
            differences, which do not say how they are spread.
        pairs: how many.
    """
    mean: float
    half_width: float
    pairs: int

    @property
    def low(self) -> float:
        """Where the interval begins."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.mean + self.half_width


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and its interval by bootstrap, NaN where it cannot be drawn."""
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Two models on the same examples: how many the one alone answers right, and the other alone,
    and the two-sided p of as uneven a split by chance."""
    ours: int
    theirs: int
    p: float


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """ours - theirs over pairs, [n] each:

        mean(d) ± t_(n-1)(0.975) · sd(d) / √n
    """
    differences = np.subtract(ours, theirs, dtype=float)
    number = len(differences)
    if not number:
        return Paired(math.nan, math.nan, 0)
    mean = float(differences.mean())
    rounding = 1e-9 * np.max(np.abs([ours, theirs]))
    if number < 2 or np.ptp(differences) <= rounding:
        return Paired(mean, math.nan, number)
    return Paired(mean, t_quantile(number) * float(stats.sem(differences)), number)


def t_quantile(pairs: int) -> float:
    """Standard errors on either side of the mean of that many, at least 2, in an interval."""
    return float(stats.t.ppf((1 + LEVEL) / 2, pairs - 1))


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> McNemar:
    """The exact test of two vectors of right answers, bool [N] each, to the same examples."""
    if ours.shape != theirs.shape:
        raise ValueError(f'the answers must be to the same examples; received {len(ours)} and '
                         f'{len(theirs)}.')
    one, other = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    return McNemar(one, other, float(stats.binomtest(one, one + other).pvalue)
                   if one + other else 1.0)


def interquartile_mean(tasks: Sequence[Sequence[float]],
                       controls: Sequence[Sequence[float]] = ()) -> Estimate:
    """The mean of all scores without the lowest and the highest quarter; bootstrap over the seeds
    of each task (Agarwal et al. 2021, section 4.3).

    Args:
        tasks: scores of a method's seeds, a sequence a task, on one scale.
        controls: of each task the scores of another method's seeds, in whose mean, drawn anew as
            well, they are measured.
    """
    number = len(tasks)

    def statistic(*scores: np.ndarray, axis: int) -> np.ndarray:
        units = [each.mean(axis, keepdims=True) for each in scores[number:]] or [1.0] * number
        shares = [each / unit for each, unit in zip(scores, units)]
        return stats.trim_mean(np.concatenate(shares, axis), 0.25, axis)

    return _bootstrapped(statistic, [*tasks, *controls])


def probability_of_improvement(ours: Sequence[Sequence[float]],
                               theirs: Sequence[Sequence[float]]) -> Estimate:
    """P(X > Y) of a run X of one method and a run Y of another on one task, mean over tasks, where
    equal scores count half; bootstrap over the seeds of each method and task (Agarwal et al. 2021,
    section 4.3).

    Args:
        ours, theirs: scores of seeds, a sequence a task, in the same order of tasks.
    """
    number = len(ours)

    def statistic(*scores: np.ndarray, axis: int) -> np.ndarray:
        del axis  # the last
        found = []
        for x, y in zip(scores[:number], scores[number:]):
            x, y = x[..., :, None], y[..., None, :]
            found.append(np.mean((x > y) + 0.5 * (x == y), axis=(-2, -1)))
        return np.mean(found, axis=0)

    return _bootstrapped(statistic, [*ours, *theirs])


def spearman(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """The rank correlation of x and y [n]; bootstrap over pairs. NaN for fewer than three, and
    where all x or all y are equal."""
    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        ranks = stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis)
        return stats.pearsonr(*ranks, axis=axis).statistic

    if len(x) < 3:
        return Estimate(math.nan, math.nan, math.nan)
    return _bootstrapped(statistic, [x, y], paired=True)


def _bootstrapped(statistic: Callable[..., np.ndarray], samples: Sequence[Sequence[float]], *,
                  paired: bool = False) -> Estimate:
    """A statistic and its percentile interval, each sample drawn by itself unless `paired`."""
    arrays = [np.asarray(sample, float) for sample in samples]
    with warnings.catch_warnings():  # a draw of equal values has no correlation
        warnings.simplefilter('ignore', stats.DegenerateDataWarning)
        value = float(statistic(*arrays, axis=-1))
        if math.isnan(value) or min(map(len, arrays)) < 2:  # one seed says nothing of the others
            return Estimate(value, math.nan, math.nan)
        drawn = stats.bootstrap(arrays, statistic, n_resamples=_DRAWS, method='percentile',
                                paired=paired, vectorized=True, rng=np.random.default_rng(0))
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(drawn.bootstrap_distribution, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))
