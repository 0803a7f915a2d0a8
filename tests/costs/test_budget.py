"""Budget: no action sequence ends above it, or more than one width step below it."""
import itertools
import math

import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest

from tfprune.config import TARGETS
from tfprune.costs.budget import Budget, InfeasibleBudgetError
from tfprune.costs.model import CostModel
from tfprune.models.building import build_model
from tfprune.pruning.masks import nearest_width
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, plain

MEAN, STD = (.5, .5, .5), (.25, .25, .25)
# Alone, in pairs and all; ratios of the dense cost, the last of each tight.
LIMITS = [
    *({target: ratio} for target in TARGETS for ratio in (.3, .5, .7, .9)),
    {'macs': .7, 'params': .5}, {'macs': .5, 'params': .7}, {'params': .6, 'macs': .6},
    {'macs': .8, 'peak_memory_bytes': .7}, {'peak_memory_bytes': .9, 'params': .5},
    {'macs': .6, 'params': .7, 'peak_memory_bytes': .8},
    {'macs': .9, 'params': .8, 'peak_memory_bytes': .6},
]


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


def action_sequences(size, rng, count):
    """Extremes, uniform ones, and random corners, each [G]."""
    extremes = [np.zeros(size), np.ones(size), np.arange(size) % 2, 1 - np.arange(size) % 2]
    return (*extremes, *rng.uniform(size=(count, size)), *rng.integers(0, 2, (count // 3, size)))


def wider(budget, widths):
    """Each [G] that has one group one allowed step wider."""
    for g, allowed in enumerate(budget.allowed):
        steps = allowed[allowed > widths[g]]
        if steps.size:
            yield np.concatenate([widths[:g], steps[:1], widths[g + 1:]])


def assert_property(budget, widths):
    """The property of the module's docstring."""
    assert (budget.costs(widths) <= budget.limits).all()
    for width, allowed in zip(widths, budget.allowed):
        assert width in allowed
    if (budget.dense_costs <= budget.limits).all():
        assert widths.tolist() == budget.dense_widths.tolist()
    else:
        assert any((budget.costs(more) > budget.limits).any() for more in wider(budget, widths))


@pytest.mark.parametrize('name', ['plain', 'residual', 'residual inner', 'branches', 'resnet20',
                                  'resnet20 inner'])
def test_any_actions_end_inside_and_at_most_one_step_below(problems, name):
    rng = np.random.default_rng(len(name))
    ended, multiples = 0, (1, 8) if 'resnet' in name else (1, 4)
    for multiple, limits in itertools.product(multiples, LIMITS):
        try:
            budget = Budget(*problems[name], limits, width_multiple=multiple)
        except InfeasibleBudgetError:
            continue
        for actions in action_sequences(len(budget.names), rng, 6):
            assert_property(budget, play(budget, actions))
            ended += 1
    assert ended >= 150  # not all of it infeasible


def test_one_limit_of_a_rising_cost_leaves_less_than_the_largest_step(problems):
    for name, target in itertools.product(problems, ('macs', 'params')):
        budget = Budget(*problems[name], {target: .6})
        for actions in action_sequences(len(budget.names), np.random.default_rng(0), 6):
            widths = play(budget, actions)
            cost, = budget.costs(widths)
            steps = [budget.costs(more)[0] - cost for more in wider(budget, widths)]
            assert budget.limits[0] - cost < max(steps)


@pytest.mark.parametrize('limits', [
    {'macs': 1.0}, {'macs': 1, 'params': 1, 'peak_memory_bytes': 1}, {'macs': 10 ** 9},
    {'params': 1.0, 'peak_memory_bytes': 10 ** 9}])
def test_a_budget_of_all_is_dense(problems, limits):
    budget = Budget(*problems['residual'], limits)
    for rate in (0, .5, 1):
        assert play(budget, np.full(6, rate)).tolist() == budget.dense_widths.tolist()


@pytest.mark.parametrize('name', ['residual', 'resnet20 inner'])
def test_a_limit_that_binds_nothing_changes_nothing(problems, name):
    """Not even peak memory, which pruned widths may leave at the dense value."""
    one = Budget(*problems[name], {'macs': .5})
    more = Budget(*problems[name], {'peak_memory_bytes': 1.0, 'macs': .5, 'params': 10 ** 9})
    for actions in action_sequences(len(one.names), np.random.default_rng(3), 12):
        assert play(one, actions).tolist() == play(more, actions).tolist()


def test_peak_memory_is_flat_in_some_widths(problems):
    """What the property has to stand: a width that costs no memory."""
    budget = Budget(*problems['resnet20'], {'peak_memory_bytes': .8})
    flat = rising = 0
    for actions in action_sequences(12, np.random.default_rng(0), 12):
        widths = play(budget, actions)
        rises = [int(budget.costs(more)[0] - budget.costs(widths)[0])
                 for more in wider(budget, widths)]
        flat, rising = flat + (0 in rises), rising + (max(rises) > 0)
    assert flat and rising


@pytest.mark.parametrize('multiple', [1, 4])
@pytest.mark.parametrize('limits', [
    {'macs': .45}, {'macs': .6}, {'macs': .6, 'params': .55}, {'peak_memory_bytes': .8},
    {'macs': .8, 'peak_memory_bytes': .8}])
def test_bounds_equal_brute_force(problems, multiple, limits):
    """hi: some rest fits; lo: the smallest under which some rest does not, or hi."""
    budget = Budget(*problems['branches'], limits, width_multiple=multiple, min_keep_ratio=0.0)
    every = np.array(list(itertools.product(*budget.allowed)))
    inside = (budget.costs(every) <= budget.limits).all(1)
    assert inside.tolist() == budget.fits(every).tolist()
    checked = 0

    def walk(decided):
        nonlocal checked
        g = len(decided)
        if g == len(budget.names):
            return
        below = (every[:, :g] == decided).all(1)
        hi = every[below & inside, g].max()
        lo = min(every[below & ~inside, g].min(initial=hi), hi)
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
    budget = Budget(*problems['plain'], {'macs': .5})
    assert (budget.dense_costs.tolist(), budget.limits.tolist()) == ([8410], [4205])
    assert [a[0] for a in budget.allowed] == [1, 1, 2]
    # w1 = 4: 3888 + 324 + 18 + 4 > 4205 already; w1 = 3 fits. Dense rest: w1 = 2 gives
    # 1944 + 1134 + 693 + 22 = 3793 < T, w1 = 3 gives 2916 + 1701 + 715 > T.
    assert budget.bounds([]) == (3, 3)
    # w1 = 3: 2916 + 243 w2 + 9 w2 w3 + 2 w3. w3 = 2: w2 = 4 gives 2916 + 972 + 72 + 4 = 3964 and
    # w2 = 5 gives 4225 > T. w3 = 11: w2 = 3 gives 3964, w2 = 4 gives 4306 > T.
    assert budget.bounds([3]) == (4, 4)
    # 2916 + 972 + 38 w3 <= 4205: w3 <= 8.3.
    assert budget.bounds([3, 4]) == (8, 8)
    assert budget.clip([3, 4], 2) == 8 and budget.clip([3, 4], 11) == 8
    # Parameters: 27 w1 + 2 w1 + 9 w1 w2 + w2 + 9 w2 w3 + w3 + 2 w3 + 2; at most 300 leaves
    # 87 + 108 + 4 + 36 w3 + 3 w3 + 2 <= 300: w3 <= 2.5, which is tighter than the MACs.
    both = Budget(*problems['plain'], {'macs': .5, 'params': 300})
    assert both.limits.tolist() == [4205, 300]
    assert both.bounds([3, 4]) == (2, 2)


@pytest.mark.parametrize('name, limits', [
    ('residual', {'macs': .4}), ('resnet20', {'macs': .6, 'params': .4}),
    ('resnet20 inner', {'params': .4}), ('resnet20', {'params': .8, 'peak_memory_bytes': .8})])
def test_fill_never_exceeds_and_leaves_no_step(problems, name, limits):
    for multiple in (1, 4):
        budget = Budget(*problems[name], limits, width_multiple=multiple)
        rng = np.random.default_rng(1)
        starts = [budget.min_widths, *(play(budget, rng.uniform(size=len(budget.names)))
                                       for _ in range(2))]
        for start in starts:
            filled = budget.fill(start)
            assert (filled >= start).all() and (budget.costs(filled) <= budget.limits).all()
            assert all((budget.costs(more) > budget.limits).any()
                       for more in wider(budget, filled))


def test_fill_raises_the_relatively_narrowest_first(problems):
    # From (1, 1, 2) of (5, 7, 11): 1/7 is the narrowest, then 2/11 < 1/5.
    budget = Budget(*problems['plain'], {'macs': .5})
    trail = []
    original = budget.fits
    budget.fits = lambda w: trail.append(tuple(int(x) for x in w)) or original(w)  # type: ignore
    budget.fill(budget.min_widths)
    assert trail[:2] == [(1, 2, 2), (1, 2, 3)]


def test_widths_that_a_device_likes(problems):
    """Narrower groups than the multiple stay dense: plain is 5, 7, 11 wide."""
    budget = Budget(*problems['plain'], {'macs': .98}, width_multiple=8)
    assert [allowed.tolist() for allowed in budget.allowed] == [[5], [7], [8, 11]]
    assert play(budget, np.ones(3)).tolist() == play(budget, np.zeros(3)).tolist() == [5, 7, 8]
    # 8410 − 3 · (63 + 2) = 8215.
    with pytest.raises(InfeasibleBudgetError, match='reachable is 8,215 .*--width_multiple'):
        Budget(*problems['plain'], {'macs': .5}, width_multiple=8)


def test_infeasible_names_the_smallest_reachable(problems):
    # plain at (1, 1, 2): 972 + 81 + 18 + 4 = 1075 of 8410 MACs: 12.783%, which rounds up.
    with pytest.raises(InfeasibleBudgetError) as caught:
        Budget(*problems['plain'], {'macs': .1})
    message = str(caught.value)
    assert 'macs=0.1 allows 841, but the smallest reachable is 1,075 (ratio 0.1279)' in message
    assert '\n' not in message and 'params' not in message
    assert Budget(*problems['plain'], {'macs': .1279}).costs([1, 1, 2]) == 1075
    with pytest.raises(InfeasibleBudgetError):
        Budget(*problems['plain'], {'macs': .1278})


def test_infeasible_names_every_limit_that_is_missed_and_no_other(problems):
    # Parameters at (1, 1, 2): 27 + 4 + 9 + 1 + 18 + 2 + 4 + 2 = 67.
    with pytest.raises(InfeasibleBudgetError) as caught:
        Budget(*problems['plain'], {'macs': 1000.0, 'peak_memory_bytes': .9, 'params': 66})
    message = str(caught.value)
    assert 'macs=1000 allows 1,000, but the smallest reachable is 1,075' in message
    assert 'params=66 allows 66, but the smallest reachable is 67' in message
    assert 'peak_memory' not in message and '\n' not in message
    Budget(*problems['plain'], {'macs': 1075, 'peak_memory_bytes': .9, 'params': 67})


def test_every_ratio_that_a_refusal_names_is_reachable(problems):
    for name in problems:
        with pytest.raises(InfeasibleBudgetError) as caught:
            Budget(*problems[name], {'macs': 1e-4, 'params': 1e-4}, min_keep_ratio=.3)
        ratios = [float(part.split(')')[0]) for part in str(caught.value).split('(ratio ')[1:]]
        Budget(*problems[name], dict(zip(('macs', 'params'), ratios, strict=True)),
               min_keep_ratio=.3)


def test_without_groups_only_the_dense_budget_is_feasible():
    model = plain()
    groups = trace_groups(model, frozen=['conv1', 'conv2', 'hidden'])
    assert not len(groups)
    costs = CostModel(model, groups)
    assert Budget(groups, costs, {'macs': 1.0}).fill([]).tolist() == []
    with pytest.raises(InfeasibleBudgetError, match='is 8,410 .*no channels can go, or .* analyze'):
        Budget(groups, costs, {'macs': .5})


def test_the_limit_is_exact_in_the_ratio_as_written(problems):
    dense = int(Budget(*problems['plain'], {'macs': 1.0}).dense_costs[0])
    for hundredths in range(20, 101):
        budget = Budget(*problems['plain'], {'macs': hundredths / 100})
        assert budget.limits.tolist() == [dense * hundredths // 100]
    assert math.floor(.57 * 100) == 56  # why


def test_vectors_dicts_and_rows(problems):
    budget = Budget(*problems['plain'], {'params': .9, 'macs': 8000})
    widths = {'hidden': 7, 'conv1': 2, 'conv2': 3}
    assert budget.as_dict([2, 3, 7]) == widths
    cost = problems['plain'][1](widths)
    assert budget.costs([2, 3, 7]).tolist() == [cost.params, cost.macs]
    assert budget.costs([[[2, 3, 7]], [[5, 7, 11]]]).tolist() == [
        [[cost.params, cost.macs]], [[1205, 8410]]]
    assert budget.fits([2, 3, 7]) and not budget.fits([5, 7, 11])
    assert budget.fits([[2, 3, 7], [5, 7, 11]]).tolist() == [True, False]
    assert budget.to_json() == [
        {'target': 'params', 'asked': .9, 'is_ratio': True, 'limit': 1084, 'dense': 1205},
        {'target': 'macs', 'asked': 8000, 'is_ratio': False, 'limit': 8000, 'dense': 8410}]


def test_bad_input(problems):
    with pytest.raises(ValueError, match=r"Unknown target 'flops'. Available: latency_ms, lat"):
        Budget(*problems['plain'], {'macs': .5, 'flops': .5})
    with pytest.raises(ValueError, match='a budget needs a limit on macs or params or .* received'):
        Budget(*problems['plain'], {})
    for limit in (0, -1, 1.01, 300.5, math.nan, math.inf):
        with pytest.raises(ValueError, match=r'params must be a ratio in \(0, 1\] or a whole num'):
            Budget(*problems['plain'], {'params': limit})
