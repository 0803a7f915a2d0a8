"""CRL: the price of the constraint follows its violation, and the policy follows the price."""
import math

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from made_up_problem import made_up_problem, play_rounds, searched, started

from tfprune.methods.crl import CRL
from tfprune.runs.checkpoints import restore
from tfprune.search.agents import ConstrainedPPO, play
from tfprune.search.environment import PruningEnv

ROUNDS, E = 20, 8


@pytest.fixture(scope='module')
def envs():
    _, groups, costs, budget, accuracy, _ = searched()
    return [PruningEnv(groups, costs, lambda widths: accuracy(list(widths.values())),
                       budget=budget, bounded=False) for _ in range(E)]


def agent_of(envs, **options):
    keras.utils.set_random_seed(0)
    return ConstrainedPPO(envs[0], learning_rate=0, **{'updates': 3, 'limit': 1.0, **options})


def overruns(envs):
    budget = envs[0].budget
    return [float(budget.costs(list(env.widths.values()))[0] / budget.limits[0]) for env in envs]


@pytest.fixture(scope='module')
def method():
    keras.utils.set_random_seed(0)
    return started('crl', made_up_problem(), rounds=ROUNDS, episodes=E)


@pytest.fixture(scope='module')
def searched_by(method, tmp_path_factory):
    """(metrics of ROUNDS rounds of `method`, its checkpoint before the last two)."""
    results, prefix = play_rounds(method, 0, ROUNDS - 2), str(
        tmp_path_factory.mktemp('crl') / 'state')
    tf.train.Checkpoint(method=method).write(prefix)
    results += play_rounds(method, ROUNDS - 2, ROUNDS)
    return [result.metrics for result in results], prefix


@pytest.mark.parametrize('cost, rises', [
    (1.5, True), pytest.param(0.6, False, marks=pytest.mark.slow)])
def test_the_multiplier_follows_the_violation(cost, rises, envs):
    agent = agent_of(envs, updates=1, multiplier_learning_rate=2.0)
    assert float(agent.multiplier) == pytest.approx(1)
    steps, _ = play(envs, agent.collect_policy)
    before = float(agent.multiplier)
    agent.observe(steps, on_policy=True, costs=[cost] * E)
    assert math.isfinite(agent.update())
    after = float(agent.multiplier)
    assert (after > before) == rises
    # d softplus(rho) / d rho = 1 - exp(-nu): rho moves by 2 (1 - 1 / e) (cost - 1).
    rho = math.log(math.e - 1) + 2 * (1 - 1 / math.e) * (cost - 1)
    assert after == pytest.approx(math.log1p(math.exp(rho)), rel=1e-5)


def test_advantages_are_of_reward_less_priced_cost(envs, monkeypatch):
    agent = agent_of(envs, updates=1, multiplier=2.0, multiplier_learning_rate=1e-9)
    steps, rewards = play(envs, agent.collect_policy)
    costs = overruns(envs)
    observations = tf.stack([step.observation for step in steps], 1)
    value, cost_value = (network(observations)[0].numpy()[:, :-1]
                         for network in (agent._value, agent._cost_value))
    seen = []
    monkeypatch.setattr(agent.agent, 'train', lambda experience: (
        seen.append(experience.policy_info), type('info', (), {'loss': tf.constant(0.0)}))[1])
    monkeypatch.setattr(agent, '_train', agent._pass)
    agent.observe(steps, on_policy=True, costs=costs)
    agent.update()
    info, = seen
    expected = (np.array(rewards)[:, None] - value - 2 * (np.array(costs)[:, None] - cost_value)
                ) / 3
    assert info['advantage'].numpy()[:, :-1] == pytest.approx(expected, abs=1e-5)
    assert info['return'].numpy()[:, :-1] == pytest.approx(
        np.repeat(np.array(rewards)[:, None], envs[0].steps, 1))


def test_both_critics_learn(envs):
    agent = agent_of(envs, updates=60)
    steps, rewards = play(envs, agent.collect_policy)
    costs = overruns(envs)
    agent.observe(steps, on_policy=True, costs=costs)
    agent.update()
    observations = tf.stack([step.observation for step in steps], 1)
    for network, targets in ((agent._value, rewards), (agent._cost_value, costs)):
        value = network(observations)[0].numpy()[:, :-1]
        assert np.mean(value) == pytest.approx(np.mean(targets), abs=.05)


def test_costs_must_be_of_the_episodes(envs):
    agent = agent_of(envs)
    steps, _ = play(envs, agent.collect_policy)
    with pytest.raises(ValueError, match=r'costs must have shape \(8,\); received \(0,\)'):
        agent.observe(steps, on_policy=True)
    agent.observe(steps, on_policy=False)
    assert math.isnan(agent.update())


@pytest.mark.slow
def test_mean_cost_approaches_the_limit_and_the_reward_grows(searched_by):
    metrics, _ = searched_by
    costs = [row['cost_mean'] for row in metrics]
    rewards = [row['reward_mean'] for row in metrics]
    assert np.abs(np.array(costs[-5:]) - 1).mean() < .12
    # More accuracy at that cost than the first policy got for it.
    worth = np.array(rewards) / np.array(costs)
    assert np.mean(worth[-5:]) > np.mean(worth[:2]) and np.mean(rewards[-5:]) > rewards[0]
    for before, after in zip(metrics, metrics[1:]):
        rises = after['multiplier'] > before['multiplier']
        assert rises == (after['cost_mean'] > 1)


@pytest.mark.slow
def test_a_fresh_method_goes_on_bit_for_bit(method, searched_by):
    metrics, prefix = searched_by
    keras.utils.set_random_seed(77)
    fresh = CRL(method.options)
    fresh.start(method.problem)
    restore(tf.train.Checkpoint(method=fresh), prefix)
    for again, before in zip(play_rounds(fresh, ROUNDS - 2, ROUNDS), metrics[ROUNDS - 2:],
                             strict=True):
        assert {name: value for name, value in again.metrics.items() if 'seconds' not in name} == {
            name: value for name, value in before.items() if 'seconds' not in name}
    ours, theirs = method.decide().masks, fresh.decide().masks
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_decision_is_the_best_inside_filled(method, searched_by):
    *_, budget, accuracy, optimum = searched()
    widths = list(method.decide().widths.values())
    assert budget.fits(widths) and np.array_equal(budget.fill(widths), widths)
    assert accuracy(widths) >= float(method.best.value.numpy())
    assert .9 * optimum < accuracy(widths) <= optimum + 1e-9


def test_where_none_is_inside_the_cheapest_is_clipped(envs):
    *_, budget, _, _ = searched()
    crl = started('crl', made_up_problem(), rounds=1, episodes=2)
    dense = budget.dense_widths
    crl.best.offer(dense, -2.0, False)
    cheaper = np.maximum(dense - 1, 1)
    crl.best.offer(cheaper, -1.9, False)
    crl.best.offer(dense, -1.95, False)
    assert np.array_equal(crl.best.choices.numpy(), cheaper)
    widths = list(crl.decide().widths.values())
    assert budget.fits(widths) and np.array_equal(budget.fill(widths), widths)
    crl.best.offer(budget.min_widths, 0.1, True)
    crl.best.offer(dense, 0.9, False)
    assert np.array_equal(crl.best.choices.numpy(), budget.min_widths)
