"""Budget: no action sequence ends above it, or more than one width step below it."""
import itertools
import math

import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest

from tfprune.budget import Budget, InfeasibleBudgetError
from tfprune.costs import CostModel
from tfprune.groups import trace_groups
from tfprune.masks import nearest_width
from tfprune.models import build_model
from tfprune.testing import TOYS, plain

MEAN, STD = (.5, .5, .5), (.25, .25, .25)


def resnet20():
    return build_model('resnet20', image_shape=(32, 32, 3), num_classes=10, mean=MEAN, std=STD)


def problem(model, residual=True):
    groups = trace_groups(model)
    groups = groups if residual else groups.without_residual()
    return groups, CostModel(model, groups)


@pytest.fixture(scope='module')
def problems():
    resnet = resnet20()
    return {**{name: problem(toy.build()) for name, toy in TOYS.items()},
            'residual inner': problem(TOYS['residual'].build(), residual=False),
            'resnet20': problem(resnet), 'resnet20 inner': problem(resnet, residual=False)}


def play(budget, actions):
    """Widths that the pruning rates [G] lead to, each clipped to the bounds."""
    widths = []
    for dense, allowed, rate in zip(budget.dense_widths, budget.allowed, actions):
        widths.append(budget.clip(widths, nearest_width(int(dense), float(rate), allowed)))
    return np.array(widths)


def wider(budget, widths):
    """Each [G] that has one group one allowed step wider."""
    for g, allowed in enumerate(budget.allowed):
        steps = allowed[allowed > widths[g]]
        if steps.size:
            yield np.concatenate([widths[:g], steps[:1], widths[g + 1:]])


def assert_property(budget, widths):
    """The property of the module's docstring."""
    cost = budget.cost(widths)
    assert cost <= budget.limit
    for width, allowed in zip(widths, budget.allowed):
        assert width in allowed
    if cost < budget.limit:
        steps = [budget.cost(more) - cost for more in wider(budget, widths)]
        assert budget.limit - cost < max(steps)


@pytest.mark.parametrize('target', ['macs', 'params'])
@pytest.mark.parametrize('name', ['plain', 'residual', 'residual inner', 'branches', 'resnet20',
                                  'resnet20 inner'])
def test_any_actions_end_inside_and_at_most_one_step_below(problems, name, target):
    rng = np.random.default_rng(len(name))
    ended, multiples = 0, (1, 8) if 'resnet' in name else (1, 4)
    for multiple, ratio in itertools.product(multiples, (.3, .5, .7, .9)):
        try:
            budget = Budget(*problems[name], target=target, ratio=ratio, width_multiple=multiple)
        except InfeasibleBudgetError:
            continue
        size = len(budget.names)
        extremes = [np.zeros(size), np.ones(size), np.arange(size) % 2, 1 - np.arange(size) % 2]
        for actions in (*extremes, *rng.uniform(size=(12, size)), *rng.integers(0, 2, (4, size))):
            assert_property(budget, play(budget, actions))
            ended += 1
    assert ended >= 60  # not all of it infeasible


def test_peak_memory_may_plateau_at_the_limit(problems):
    for ratio in (.5, .7, 1.0):
        budget = Budget(*problems['residual'], target='peak_memory_bytes', ratio=ratio)
        for actions in np.random.default_rng(0).uniform(size=(20, len(budget.names))):
            assert_property(budget, play(budget, actions))


def test_a_budget_of_all_is_dense(problems):
    budget = Budget(*problems['residual'], ratio=1.0)
    assert play(budget, np.ones(6)).tolist() == budget.dense_widths.tolist()


@pytest.mark.parametrize('multiple', [1, 4])
@pytest.mark.parametrize('ratio', [.45, .6])
def test_bounds_equal_brute_force(problems, multiple, ratio):
    """hi: some rest fits; lo: the smallest under which some rest reaches T, or hi."""
    budget = Budget(*problems['branches'], ratio=ratio, width_multiple=multiple,
                    min_keep_ratio=0.0)
    every = np.array(list(itertools.product(*budget.allowed)))
    costs = budget.costs(every)
    checked = 0

    def walk(decided):
        nonlocal checked
        g = len(decided)
        if g == len(budget.names):
            return
        below = (every[:, :g] == decided).all(1)
        fits = every[below & (costs <= budget.limit), g]
        uses = every[below & (costs >= budget.limit), g]
        hi = fits.max()
        lo = min(uses.min(initial=hi), hi)
        assert budget.bounds(decided) == (lo, hi), decided
        checked += 1
        for width in {lo, hi, int(np.median(budget.allowed[g][(budget.allowed[g] >= lo)
                                                              & (budget.allowed[g] <= hi)]))}:
            if width in budget.allowed[g]:
                walk([*decided, int(width)])

    walk([])
    assert checked >= 3


def test_bounds_by_hand(problems):
    # plain: 36·9·3·w1 + 9·9·w1·w2 + 9·w2·w3 + w3·2, dense 972·5 + 81·35 + 9·77 + 22 = 8410,
    # half of which is 4205; each at least 1 (10% of 5, 7, 11 rounded up: 1, 1, 2).
    budget = Budget(*problems['plain'], ratio=.5)
    assert (budget.dense_cost, budget.limit) == (8410, 4205)
    assert [a[0] for a in budget.allowed] == [1, 1, 2]
    # w1 = 4: 3888 + 324 + 18 + 4 > 4205 already; w1 = 3 fits. Dense rest: w1 = 2 gives
    # 1944 + 1134 + 693 + 22 = 3793 < T, w1 = 3 gives 2916 + 1701 + 715 > T.
    assert budget.bounds([]) == (3, 3)
    # w1 = 3: 2916 + 243 w2 + 9 w2 w3 + 2 w3. w3 = 2: w2 = 4 gives 2916 + 972 + 72 + 4 = 3964 and
    # w2 = 5 gives 4225 > T. w3 = 11: w2 = 3 gives 3964, w2 = 4 gives 4306 >= T.
    assert budget.bounds([3]) == (4, 4)
    # 2916 + 972 + 38 w3 <= 4205: w3 <= 8.3.
    assert budget.bounds([3, 4]) == (8, 8)
    assert budget.clip([3, 4], 2) == 8 and budget.clip([3, 4], 11) == 8


@pytest.mark.parametrize('name', ['residual', 'resnet20', 'resnet20 inner'])
def test_fill_never_exceeds_and_leaves_no_step(problems, name):
    for multiple, ratio in ((1, .4), (4, .8)):
        budget = Budget(*problems[name], ratio=ratio, width_multiple=multiple)
        rng = np.random.default_rng(1)
        starts = [budget.min_widths, *(play(budget, rng.uniform(size=len(budget.names)))
                                       for _ in range(3))]
        for start in starts:
            filled = budget.fill(start)
            assert (filled >= start).all() and budget.cost(filled) <= budget.limit
            assert all(budget.cost(more) > budget.limit for more in wider(budget, filled))


def test_fill_raises_the_relatively_narrowest_first(problems):
    # From (1, 1, 2) of (5, 7, 11): 1/7 is the narrowest, then 2/11 < 1/5.
    budget = Budget(*problems['plain'], ratio=.5)
    cost = {(1, 1, 2): 0, (1, 2, 2): 0, (1, 2, 3): 0}
    trail = []
    original = budget.cost
    budget.cost = lambda w: trail.append(tuple(int(x) for x in w)) or original(w)  # type: ignore
    budget.fill(budget.min_widths)
    assert trail[:2] == list(cost)[1:]


def test_infeasible_names_the_smallest_reachable(problems):
    # plain at (1, 1, 2): 972 + 81 + 18 + 4 = 1075 of 8410 MACs: 12.783%, which rounds up.
    with pytest.raises(InfeasibleBudgetError) as caught:
        Budget(*problems['plain'], ratio=.1)
    message = str(caught.value)
    assert 'budget_ratio=0.1 allows 841 macs' in message
    assert '1,075' in message and '(ratio 0.1279)' in message and '\n' not in message
    assert Budget(*problems['plain'], ratio=.1279).cost([1, 1, 2]) == 1075
    with pytest.raises(InfeasibleBudgetError):
        Budget(*problems['plain'], ratio=.1278)


def test_every_ratio_that_a_refusal_names_is_reachable(problems):
    for name, target in itertools.product(problems, ('macs', 'params')):
        with pytest.raises(InfeasibleBudgetError) as caught:
            Budget(*problems[name], target=target, ratio=1e-4, min_keep_ratio=.3)
        ratio = float(str(caught.value).split('(ratio ')[1].split(')')[0])
        Budget(*problems[name], target=target, ratio=ratio, min_keep_ratio=.3)


def test_without_groups_only_the_dense_budget_is_feasible():
    model = plain()
    groups = trace_groups(model, frozen=['conv1', 'conv2', 'hidden'])
    assert not len(groups)
    costs = CostModel(model, groups)
    assert Budget(groups, costs, ratio=1.0).fill([]).tolist() == []
    with pytest.raises(InfeasibleBudgetError, match='smallest reachable is 8,410'):
        Budget(groups, costs, ratio=.5)


def test_the_limit_is_exact_in_the_ratio_as_written(problems):
    dense = Budget(*problems['plain'], ratio=1.0).dense_cost
    for hundredths in range(20, 101):
        budget = Budget(*problems['plain'], ratio=hundredths / 100)
        assert budget.limit == dense * hundredths // 100
    assert math.floor(.57 * 100) == 56  # why


def test_vectors_and_dicts(problems):
    budget = Budget(*problems['plain'])
    widths = {'hidden': 7, 'conv1': 2, 'conv2': 3}
    assert budget.as_dict([2, 3, 7]) == widths
    assert budget.cost([2, 3, 7]) == problems['plain'][1](widths).macs
    assert budget.costs([[2, 3, 7], [5, 7, 11]]).tolist() == [budget.cost([2, 3, 7]), 8410]


def test_bad_input(problems):
    with pytest.raises(ValueError, match=r"Unknown target 'flops'. Available: macs, params, peak_"):
        Budget(*problems['plain'], target='flops')
    for ratio in (0, -1, 1.01, math.nan):
        with pytest.raises(ValueError, match=r'budget_ratio must be in \(0, 1\]; received'):
            Budget(*problems['plain'], ratio=ratio)
