"""The controls that search: random search, the knapsack over scores, protected magnitude."""
import math

import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest
from made_up_problem import made_up_problem, searched, started

from tfprune.benchmarks import known_optimum
from tfprune.costs.proportional import uniform_widths
from tfprune.methods.knapsack import worth_most
from tfprune.methods.names import CONTROLS, METHODS
from tfprune.methods.random_search import near_uniform


def rows_of(method):
    return [row for round_ in range(method.rounds()) for row in method.search(round_).episodes]


def test_controls_are_known_without_their_classes():
    assert {name for name in METHODS if METHODS[name].is_control} == CONTROLS


@pytest.mark.parametrize('noise', [0.0, 0.3])
def test_random_search_takes_the_best_of_what_it_has_scored(noise):
    problem = made_up_problem()
    method = started('random_search', problem, decisions=45, around_uniform=noise)
    rows = rows_of(method)
    assert method.rounds() == 3 and len(rows) == 45
    assert rows[0]['widths'] == problem.budget.as_dict(uniform_widths(problem.budget))
    assert len({tuple(row['widths'].values()) for row in rows}) > 40
    for row in rows:
        widths = list(row['widths'].values())
        assert problem.budget.fits(widths) and np.array_equal(problem.budget.fill(widths), widths)
    best = max(rows, key=lambda row: row['reward'])
    assert best['reward'] > rows[0]['reward'] or not noise  # uniform is hard to beat at random
    assert method.decide().widths == best['widths']


def test_random_search_goes_on_after_a_round_as_if_it_had_not_stopped():
    whole, resumed = (started('random_search', made_up_problem(), decisions=40) for _ in range(2))
    rows = rows_of(whole)
    resumed.best.choices.assign([list(rows[0]['widths'].values())][0])
    assert [dict(row) for row in resumed.search(1).episodes] == rows[20:]


def test_noise_around_uniform_is_of_the_size_that_is_asked():
    *_, budget, _, _ = searched()
    uniform = uniform_widths(budget) / budget.dense_widths
    drawn = np.array([near_uniform(budget, 0.2, np.random.default_rng(seed)) / budget.dense_widths
                      for seed in range(200)])
    logs = np.log(drawn) - np.log(uniform)
    assert abs(logs.mean()) < 0.05
    # One factor for all keeps the budget, and takes one of nine degrees of freedom.
    assert logs.std() == pytest.approx(0.2 * math.sqrt(8 / 9), rel=0.15)
    still = near_uniform(budget, 1e-6, np.random.default_rng(0))
    assert abs(still - uniform_widths(budget)).max() <= 1  # what is left goes to others


class Scores:
    """Sorted scores of channels in the place of a drawn accuracy."""

    def __init__(self, scores):
        self._values = [np.cumsum([0.0, *sorted(score, reverse=True)]) for score in scores]

    def of_group(self, g, widths, epoch):
        return self._values[g][widths]

    def __call__(self, widths):
        return sum(values[width] for values, width in zip(self._values, widths))


@pytest.mark.parametrize('macs', [0.3, 0.5, 0.7])
def test_the_knapsack_is_nearly_the_exact_one_where_that_is_known(macs):
    *_, budget = known_optimum.resnet('resnet20', 8, macs)
    rng = np.random.default_rng(4)
    scores = [rng.exponential(rng.uniform(0.2, 2), width) for width in budget.dense_widths]
    value = Scores(scores)
    exact = value(known_optimum.Knapsack(budget).best(value, 0))
    found = worth_most(budget, scores)
    assert budget.fits(found) and np.array_equal(budget.fill(found), found)
    assert value(uniform_widths(budget)) < 0.98 * exact < 0.999 * exact <= value(found) <= exact


def test_the_knapsack_under_two_limits_keeps_both():
    _, groups, costs, budget, *_ = searched()
    both = budget.with_limits({'macs': 0.5, 'params': 0.4})
    rng = np.random.default_rng(0)
    found = worth_most(both, [rng.random(width) for width in both.dense_widths])
    assert both.fits(found) and np.array_equal(both.fill(found), found)


def test_protected_magnitude_keeps_a_share_of_each_group():
    problem = made_up_problem()
    first = problem.groups.layout.weights[1]
    kernel = first.variable(problem.model)
    before = kernel.numpy()
    kernel.assign(before * 1e-3)  # a whole layer that global magnitude removes
    try:
        plain, protected = (np.array(list(started(
            'magnitude', problem, largest_rate=rate).decide().widths.values()))
            for rate in (1.0, 0.6))
    finally:
        kernel.assign(before)
    dense = problem.budget.dense_widths
    assert (plain / dense).min() < 0.4 <= (protected / dense).min()
    assert problem.budget.fits(protected) and not np.array_equal(plain, protected)


def test_protection_yields_to_the_budget():
    problem = made_up_problem()
    decision = started('magnitude', problem, largest_rate=0.1).decide()
    assert problem.budget.fits(list(decision.widths.values()))
