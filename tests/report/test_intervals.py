"""Intervals and tests over seeds, tasks and decisions: by hand, and against SciPy's."""
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tfprune.report.intervals import (interquartile_mean, mcnemar, paired,
                                      probability_of_improvement, spearman, t_quantile)

RNG = np.random.default_rng(1)


def test_paired_by_hand():
    # Differences 1, 2, 3: sd 1, t(2) = 4.303, √3 = 1.732.
    found = paired([3, 5, 9], [2, 3, 6])
    assert (found.mean, found.half_width, found.pairs) == (2, pytest.approx(4.303 / 1.732, 1e-3), 3)
    assert [t_quantile(n) for n in (2, 3, 5)] == pytest.approx([12.706, 4.303, 2.776], 1e-3)


def test_paired_as_scipy_has_it():
    ours, theirs = RNG.normal(size=(2, 7))
    found, known = paired(ours, theirs), stats.ttest_rel(ours, theirs).confidence_interval()
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (known.low, known.high))


@pytest.mark.parametrize('ours, theirs, mean', [
    ([], [], math.nan), ([0.9], [0.8], 0.1), ([0.95, 0.94, 0.93], [0.93, 0.92, 0.91], 0.02)])
def test_no_interval_without_a_spread(ours, theirs, mean):
    """The last differences are equal but for rounding."""
    found = paired(ours, theirs)
    assert found.mean == pytest.approx(mean, nan_ok=True) and math.isnan(found.half_width)
    assert found.pairs == len(ours)


def test_mcnemar_by_hand():
    ours = np.array([1, 1, 1, 1, 1, 0, 0, 1], bool)
    theirs = np.array([0, 0, 0, 0, 0, 1, 0, 1], bool)
    # 5 against 1: 2 · (1 + 6) / 2^6
    found = mcnemar(ours, theirs)
    assert (found.ours, found.theirs, found.p) == (5, 1, pytest.approx(14 / 64))
    assert mcnemar(theirs, ours).p == found.p
    assert mcnemar(ours, ours).p == 1
    with pytest.raises(ValueError, match='same examples; received 8 and 7'):
        mcnemar(ours, theirs[1:])


def test_interquartile_mean_by_hand():
    # Of 1 … 8 the lowest two and the highest two are left out: (3 + 4 + 5 + 6) / 4.
    found = interquartile_mean([[8, 1, 3, 4], [5, 6, 7, 2]])
    assert found.value == 4.5 and 1 < found.low < 4.5 < found.high < 8
    assert interquartile_mean([[8, 1, 3, 4], [5, 6, 7, 2]]) == found


def test_strata_are_drawn_each_by_itself():
    """Within a task nothing is spread: no draw may mix the tasks."""
    found = interquartile_mean([[1.0] * 3, [5.0] * 3])
    assert (found.value, found.low, found.high) == (3, 3, 3)
    alone = interquartile_mean([[1.0, 2.0, 3.0], [5.0]])
    assert alone.value == 2.5 and math.isnan(alone.low) and math.isnan(alone.high)


def test_an_interquartile_mean_in_units_of_a_control_has_the_spread_of_both():
    ours, theirs = [[8., 12, 10]], [[4., 6, 5]]
    found = interquartile_mean(ours, theirs)
    assert found.value == pytest.approx(2)
    known = interquartile_mean(ours, [[5., 5, 5]])
    assert known.value == pytest.approx(2)
    assert found.high - found.low > 1.2 * (known.high - known.low)


def test_probability_of_improvement_by_hand():
    # First task: of 3 · 2 pairs 3 > 1, 3 > 2, 2 > 1 are better, 2 = 2 and 1 = 1 equal: 4 / 6;
    # second: all better.
    found = probability_of_improvement([[1, 2, 3], [9, 9]], [[1, 2], [5, 6, 7]])
    assert found.value == pytest.approx((4 / 6 + 1) / 2)
    assert 0.5 <= found.low < found.value < found.high <= 1
    reverse = probability_of_improvement([[1, 2], [5, 6, 7]], [[1, 2, 3], [9, 9]])
    assert reverse.value == pytest.approx(1 - found.value)
    assert math.isnan(probability_of_improvement([[1]], [[0, 2]]).low)


def test_probability_of_improvement_is_that_of_mann_and_whitney():
    ours, theirs = RNG.normal(1, size=5), RNG.normal(size=6)
    known = stats.mannwhitneyu(ours, theirs).statistic / 30
    found = probability_of_improvement([ours], [theirs])
    assert found.value == pytest.approx(known)
    # Few values: all draws of the interval can be counted.
    ours, theirs = [0.0, 2.0], [1.0, 3.0]
    drawn = [np.mean([x > y for x in xs for y in ys])
             for xs in itertools.product(ours, repeat=2)
             for ys in itertools.product(theirs, repeat=2)]
    found = probability_of_improvement([ours], [theirs])
    assert (found.low, found.high) == tuple(np.percentile(drawn, [2.5, 97.5], method='nearest'))


def test_spearman():
    x = RNG.normal(size=30)
    y = np.round(x + RNG.normal(size=30))  # has ties
    found = spearman(x, y)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert -1 < found.low < found.value < found.high < 1
    assert spearman([1, 2, 3, 4], [10, 20, 30, 25]).value == pytest.approx(0.8)  # 1 - 6 · 2 / 60
    for x, y in (([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4])):
        assert math.isnan(spearman(x, y).value) and math.isnan(spearman(x, y).high)
