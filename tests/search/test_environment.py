"""PruningEnv: TF-Agents' validation, features by hand, actions inside and beyond the bounds."""
import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest
from tf_agents.environments import utils

from tfprune.benchmarks.known_optimum import resnet
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.models.building import build_model
from tfprune.costs.proportional import uniform_widths
from tfprune.search.environment import FEATURES, PruningEnv, RelativeEnv
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, plain

PLAIN = plain()
GROUPS = trace_groups(PLAIN)
COSTS = CostModel(PLAIN, GROUPS)


def env_of(model, limits, residual=True, evaluate=lambda widths: 0.25, context_size=0, **kwargs):
    groups = trace_groups(model)
    groups = groups if residual else groups.without_residual()
    costs = CostModel(model, groups)
    return PruningEnv(groups, costs, evaluate, context_size=context_size,
                      budget=Budget(groups, costs, limits, **kwargs))


def make(evaluate=lambda widths: 0.5, limits={'macs': .5}, context_size=0, **kwargs):
    return PruningEnv(GROUPS, COSTS, evaluate, context_size=context_size,
                      budget=Budget(GROUPS, COSTS, limits, **kwargs))


def step(env, rate):
    return env.step(np.array([rate], np.float32))


def named(observation):
    return dict(zip(FEATURES, observation.tolist()))


@pytest.mark.parametrize('context_size, limits', [
    (0, {'macs': .6}), (3, {'macs': .6, 'params': .7, 'peak_memory_bytes': .9})])
@pytest.mark.parametrize('name', TOYS)
def test_tf_agents_validates_it(name, context_size, limits):
    env = env_of(TOYS[name].build(), limits, context_size=context_size)
    utils.validate_py_environment(env, episodes=5)
    assert env.observation_spec().shape == (len(FEATURES) + context_size,)  # however many limits


def test_tf_agents_validates_it_on_a_resnet():
    model = build_model('resnet20', image_shape=(8, 8, 3), num_classes=10, mean=(0, 0, 0),
                        std=(1, 1, 1))
    for residual, size in ((True, 12), (False, 9)):
        env = env_of(model, {'params': .5}, residual, width_multiple=4)
        assert len(env.budget.names) == size
        utils.validate_py_environment(env, episodes=3)


@pytest.mark.parametrize('limits', [
    {'macs': .4}, {'macs': .5, 'params': .4}, {'macs': .5, 'peak_memory_bytes': 10 ** 9}])
def test_features_are_in_0_1_under_any_actions(limits):
    env = env_of(TOYS['residual'].build(), limits)
    rng = np.random.default_rng(0)
    seen = []
    for episode in range(20):
        seen.append(env.reset().observation)
        while not env.current_time_step().is_last():
            seen.append(step(env, rng.uniform() if episode else 1.0).observation)
    seen = np.array(seen)
    assert seen.dtype == np.float32 and seen.shape == (20 * 7, len(FEATURES))
    assert seen.min() >= 0 and seen.max() <= 1
    varied = dict(zip(FEATURES, np.ptp(seen, axis=0) > 0))
    assert [name for name in FEATURES if not varied[name]] == ['kernel']  # all are 3x3


def test_features_by_hand():
    # image 6x6x3 - conv1 5, 3x3 - conv2 7, 3x3 /2 - flatten 63 - hidden 11 - logits 2.
    # MACs 36·27·5 = 4860, 9·45·7 = 2835, 63·11 = 693; dense 8410, limit 4205.
    env = make()
    first = named(env.reset().observation)
    least = 36 * 27 + 81 + 9 * 2 + 2 * 2  # at widths 1, 1, 2
    assert first == pytest.approx({
        'index': 1 / 3, 'in_channels': 3 / 63, 'channels': 5 / 11, 'stride': 1 / 2, 'kernel': 1,
        'layer_cost': 1, 'cost_spent': 0, 'cost_left': (4205 - least) / 8410,
        'previous_action': 0}, abs=1e-6)
    second = named(step(env, 0.4).observation)  # conv1 keeps 3 of 5
    spent = 8410 - (972 * 3 + 81 * 3 * 7 + 693 + 22)
    least = 972 * 3 + 81 * 3 + 18 + 4
    assert second == pytest.approx({
        'index': 2 / 3, 'in_channels': 5 / 63, 'channels': 7 / 11, 'stride': 1, 'kernel': 1,
        'layer_cost': 2835 / 4860, 'cost_spent': spent / 8410, 'cost_left': (4205 - least) / 8410,
        'previous_action': 2 / 5}, abs=1e-6)
    third = named(step(env, 0.0).observation)  # conv2: 4 of 7, whatever was asked for
    assert third['previous_action'] == pytest.approx(3 / 7)
    assert (third['stride'], third['kernel']) == pytest.approx((1 / 2, 1 / 3))
    assert third['in_channels'] == 1 and third['layer_cost'] == pytest.approx(693 / 4860)


def test_the_last_observation_shows_the_final_cost():
    env = make()
    env.reset()
    for rate in (.4, .4, .3):
        last = step(env, rate)
    assert last.is_last()
    cost, = env.budget.costs(list(env.widths.values()))
    assert named(last.observation)['cost_spent'] == pytest.approx(1 - cost / 8410)
    assert named(last.observation)['cost_left'] == pytest.approx((4205 - cost) / 8410)


def test_the_budget_features_tell_of_the_tightest_limit():
    # params: 27·5 + 4·5 + 45·7 + 7 + 63·11 + 11 + 22 + 2 = 1205; at (1, 1, 2) 27 + 4 + 9 + 1
    # + 18 + 2 + 4 + 2 = 67. 4205 of 8410 MACs is tighter than 723 of 1205 parameters.
    env = make(limits={'params': .6, 'macs': .5})
    least = 36 * 27 + 81 + 9 * 2 + 2 * 2
    first = named(env.reset().observation)
    assert first['cost_spent'] == 0
    assert first['cost_left'] == pytest.approx(min((4205 - least) / 8410, (723 - 67) / 1205))
    # conv1 keeps 2 of 5: MACs 972·2 + 81·2·7 + 693 + 22 = 3793 fit now, parameters 27·2 + 4·2
    # + 18·7 + 7 + 693 + 11 + 22 + 2 = 923 do not: the tightest is another.
    env = make(limits={'params': .6, 'macs': .5}, min_keep_ratio=.3)
    env.reset()
    assert env.budget.allowed[0][0] == 2
    decided = step(env, .6)
    assert env.widths == {'conv1': 2}
    assert named(decided.observation)['cost_spent'] == pytest.approx(1 - 923 / 1205)


def test_a_limit_that_binds_nothing_changes_no_observation():
    one, other = make(), make(limits={'macs': .5, 'params': 10 ** 9})
    for rate in (None, .3, .9, .1):
        seen = [(env.reset() if rate is None else step(env, rate)).observation.tolist()
                for env in (one, other)]
        assert seen[0] == seen[1]


def test_one_reward_at_the_end():
    calls = []
    env = make(lambda widths: calls.append(dict(widths)) or 0.875)
    env.reset()
    steps = [step(env, .4) for _ in range(3)]
    assert [float(s.reward) for s in steps] == [0, 0, 0.875]
    assert [float(s.discount) for s in steps] == [1, 1, 0]
    assert calls == [{'conv1': 3, 'conv2': 4, 'hidden': 8}] == [env.widths]
    assert env.rates.tolist() == pytest.approx([2 / 5, 3 / 7, 3 / 11])
    # The next step begins a new episode, whatever the action.
    assert step(env, 1.0).is_first()
    assert env.widths == {} and env.rates.shape == (0,) and len(calls) == 1


def test_widths_are_the_nearest_allowed():
    env = make(limits={'macs': .8}, width_multiple=4, min_keep_ratio=.2)
    assert [a.tolist() for a in env.budget.allowed] == [[4, 5], [4, 7], [4, 8, 11]]
    for rate, width in ((.15, 4), (.05, 5)):  # of 4.25 and 4.75
        env.reset()
        step(env, rate)
        assert env.widths == {'conv1': width}


@pytest.mark.parametrize('beyond, inside', [(-3.0, 0.0), (2.5, 1.0), (np.inf, 1.0)])
def test_an_action_beyond_the_bounds_is_the_bound(beyond, inside):
    outcomes = []
    for rate in (beyond, inside):
        env = make(limits={'macs': .7})
        env.reset()
        for _ in range(3):
            step(env, rate)
        outcomes.append(env.widths)
    assert outcomes[0] == outcomes[1]


def test_an_action_that_is_no_number_is_refused():
    env = make()
    env.reset()
    with pytest.raises(ValueError, match='rate must be in'):
        step(env, np.nan)


def relative(limits, model=PLAIN, **kwargs):
    groups = trace_groups(model)
    costs = CostModel(model, groups)
    return RelativeEnv(groups, costs, lambda widths: 0.5, budget=Budget(groups, costs, limits),
                       **kwargs)


@pytest.mark.parametrize('name', TOYS)
def test_tf_agents_validates_the_relative_one(name):
    env = relative({'macs': .6, 'params': .7}, TOYS[name].build(), context_size=3)
    utils.validate_py_environment(env, episodes=5)
    assert env.observation_spec().shape == (len(RelativeEnv.features) + 3,)


@pytest.mark.parametrize('action', [0.2, 0.5, 0.9])
def test_equal_actions_are_the_uniform_decision(action):
    env = relative({'macs': .5})
    env.reset()
    for _ in range(env.steps):
        last = step(env, action)
    assert list(env.widths.values()) == uniform_widths(env.budget).tolist()
    assert last.is_last() and last.reward == 0.5
    np.testing.assert_allclose(env.rates, 1 - uniform_widths(env.budget) / env.budget.dense_widths)
    np.testing.assert_allclose(env.executed, np.full((3, 1), action), rtol=1e-6)


def test_a_relative_action_is_a_factor_of_the_kept_share():
    _, groups, costs, budget = resnet('resnet20', 8)
    env = RelativeEnv(groups, costs, lambda widths: 0.5, budget=budget)
    env.reset()
    actions = np.linspace(0.3, 0.7, env.steps)
    for action in actions:
        step(env, action)
    widths = np.array(list(env.widths.values()))
    expected = budget.dense_widths * np.exp(1 - 2 * actions)
    scale = np.median(widths / expected)
    beyond = np.abs(widths - np.minimum(budget.dense_widths, scale * expected))
    assert beyond[:-1].max() <= 0.5  # the last, the narrowest, has what is left of the budget
    assert budget.fits(widths) and np.array_equal(budget.fill(widths), widths)


def test_features_of_the_relative_one_by_hand():
    env = relative({'macs': .5})
    first = env.reset().observation
    second, third = step(env, 0.25).observation, step(env, 1.75).observation
    np.testing.assert_allclose([first[-2:], second[-2:], third[-2:]],
                               [[.5, .5], [.25, .25], [.625, 1.0]])
    np.testing.assert_allclose([each[0] for each in (first, second, third)], [1/3, 2/3, 1])


def test_z_is_in_every_observation_from_its_setting_on():
    env = make(context_size=4)
    assert env.observation_spec().shape == (len(FEATURES) + 4,)
    assert env.observation_spec().minimum[-4:].tolist() == [-1] * 4
    assert env.reset().observation[-4:].tolist() == [0] * 4
    z = np.array([.5, -.25, 1, -1], np.float32)
    env.set_context(z)
    for time_step in (env.reset(), step(env, .5), step(env, .5), step(env, .5)):
        assert time_step.observation[-4:].tolist() == [.5, -.25, 1, -1]
    z[:] = 0  # the caller's array is not ours
    assert env.reset().observation[-4:].tolist() == [.5, -.25, 1, -1]
    with pytest.raises(ValueError, match=r'z must have shape \(4,\); received \(3,\)'):
        env.set_context([0, 0, 0])


def test_environments_share_a_budget_but_no_state():
    budget = Budget(GROUPS, COSTS, {'macs': .7})
    a, b = (PruningEnv(GROUPS, COSTS, lambda widths: 0.5, budget=budget) for _ in range(2))
    a.reset(), b.reset()
    step(a, 1.0)
    assert a.budget is b.budget and b.widths == {} and len(a.widths) == 1


def test_bad_input():
    none = trace_groups(PLAIN, frozen=['conv1', 'conv2', 'hidden'])
    with pytest.raises(ValueError, match='needs at least one prunable group; received none'):
        PruningEnv(none, CostModel(PLAIN, none), lambda widths: 0.0,
                   budget=Budget(none, CostModel(PLAIN, none), {'macs': 1}))
