"""Agents: they learn, their randomness is theirs, and a checkpoint holds all of them."""
import collections
import math

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from cases import slow_but
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.runs.checkpoints import restore
from tfprune.search.agents import (AGENTS, SAC, carried_out, make_agent, mean_and_error, play,
                                   random_policy)
from tfprune.search.agents.encoder import WithStep
from tfprune.search.agents.memory import Memory
from tfprune.search.environment import FEATURES, PruningEnv
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain, residual

E = 8  # environments in lockstep
Z = 3
CONTEXT = (.5, -.5, .25)


def reward(widths):
    """Keep ratios of the first two groups: at most 4, about 2.6 where actions are random."""
    return 2 * (widths['stem'] / 5 + widths['s1_conv1'] / 7)


@pytest.fixture(scope='module')
def envs():
    model = residual()
    groups = trace_groups(model)
    costs = CostModel(model, groups)
    budget = Budget(groups, costs, {'macs': .5})
    made = [PruningEnv(groups, costs, reward, budget=budget, context_size=Z) for _ in range(E)]
    for env in made:
        env.set_context(CONTEXT)
    return made


def make(name, envs, *, seed, updates=10, learning_rate=3e-3):
    keras.utils.set_random_seed(seed)
    return make_agent(name, envs[0], learning_rate=learning_rate, updates=updates, episodes=E,
                      epochs=2)


def epoch(agent, envs, seed):
    """Play, observe, update, as in a run; the rewards [E]."""
    keras.utils.set_random_seed(seed)
    rewards = show(agent, envs, agent.collect_policy, on_policy=True)
    assert math.isfinite(agent.update())
    return rewards


def show(agent, envs, policy, *, on_policy, epoch=0):
    """The agent observes an episode in each environment; the rewards [E]."""
    steps, rewards = play(envs, policy)
    agent.observe(steps, on_policy=on_policy, actions=carried_out(envs), epoch=epoch)
    return rewards


def actions(envs, policy):
    return np.array([step.action for step in play(envs, policy)[0]])[..., 0]


def values(agent):
    return [variable.numpy() for variable in agent.variables]


def equal(ours, theirs):
    return len(ours) == len(theirs) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(ours, theirs))


# Whole runs of AMC and of RLAL with SAC try the others, too.
@pytest.fixture(scope='module', params=slow_but(sorted(AGENTS.keys() - {'random'}), ['ppo']))
def trained(request, envs, tmp_path_factory):
    """(name, agent, its checkpoint after two epochs of random actions and one of its own, state
    then, rewards and state after another epoch)."""
    agent = make(request.param, envs, seed=0, updates=3)
    for seed in (1, 2):
        show(agent, envs, random_policy(envs[0], seed), on_policy=False)
    epoch(agent, envs, 11)
    prefix = str(tmp_path_factory.mktemp('agent') / 'state')
    tf.train.Checkpoint(agent=agent).write(prefix)
    saved = values(agent)
    rewards = epoch(agent, envs, 12)
    return request.param, agent, prefix, saved, rewards, values(agent)


@pytest.mark.slow
def test_a_fresh_agent_continues_bit_for_bit(trained, envs):
    name, _, prefix, saved, rewards, after = trained
    fresh = make(name, envs, seed=77, updates=3)
    assert not equal(values(fresh), saved)
    # As at a resumption: read before anything is traced, optimizer slots included.
    restore(tf.train.Checkpoint(agent=fresh), prefix)
    assert equal(values(fresh), saved)
    assert epoch(fresh, envs, 12) == rewards
    assert equal(values(fresh), after)


def test_the_random_agent_learns_nothing(envs, tmp_path):
    agent = make('random', envs, seed=0, updates=3)
    steps = play(envs, agent.collect_policy)[0]
    actions = np.concatenate([np.ravel(step.action) for step in steps])
    assert 0 <= actions.min() < 0.2 and 0.8 < actions.max() <= 1
    agent.observe(steps, on_policy=True, actions=carried_out(envs))
    assert math.isnan(agent.update())
    prefix = tf.train.Checkpoint(agent=agent).write(str(tmp_path / 'state'))
    rewards = play(envs, agent.collect_policy)[1]
    fresh = make('random', envs, seed=77, updates=3)
    restore(tf.train.Checkpoint(agent=fresh), prefix)
    assert play(envs, fresh.collect_policy)[1] == rewards


@pytest.mark.slow
def test_the_same_seed_gives_the_same_agent(trained, envs):
    name, _, _, saved, rewards, after = trained
    again = make(name, envs, seed=0, updates=3)
    for seed in (1, 2):
        show(again, envs, random_policy(envs[0], seed), on_policy=False)
    epoch(again, envs, 11)
    assert equal(values(again), saved)
    assert epoch(again, envs, 12) == rewards and equal(values(again), after)


def test_noise_is_new_each_epoch_whatever_the_global_seed(trained, envs):
    _, agent, *_ = trained
    drawn = []
    for _ in range(3):
        keras.utils.set_random_seed(5)
        drawn.append(actions(envs, agent.collect_policy))
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[1], drawn[2])
    assert len(np.unique(drawn[0][0])) == E  # and in each environment


def test_greedy_is_without_noise_and_sees_z(trained, envs):
    _, agent, *_ = trained
    first, second = (actions(envs, agent.greedy_policy) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.ptp(first, axis=1).max() < 1e-6  # all environments do the same
    for env in envs:
        env.set_context([1, -1, 1])
    moved = actions(envs, agent.greedy_policy)
    for env in envs:
        env.set_context(CONTEXT)
    assert not np.allclose(first[0], moved[0], atol=1e-6)


def test_all_but_ppo_learn_from_random_actions(trained, envs):
    name, agent, *_ = trained
    before = values(agent)
    show(agent, envs, random_policy(envs[0], 3), on_policy=False)
    loss = agent.update()
    if name != 'ppo':
        assert math.isfinite(loss) and not equal(values(agent), before)
    else:
        assert math.isnan(loss) and equal(values(agent), before)
        assert math.isnan(agent.update())


@pytest.mark.slow  # test_relative_actions has an optimum that is known
@pytest.mark.parametrize('name, epochs', [('ppo', 14), ('sac', 10), ('ddpg', 8)])
def test_learns_a_trivial_reward(name, epochs, envs):
    random = [r for seed in range(8) for r in play(envs, random_policy(envs[0], seed))[1]]
    agent = make(name, envs, seed=1)
    show(agent, envs, random_policy(envs[0], 100), on_policy=False)
    rewards = [epoch(agent, envs, seed) for seed in range(epochs)]
    mean, error = mean_and_error(random)
    assert np.mean(rewards[-3:]) > mean + 5 * error
    assert np.mean(rewards[-3:]) > np.mean(rewards[:2]) + 5 * error
    assert np.mean(play(envs, agent.greedy_policy)[1]) > mean + 5 * error


def test_play_gives_whole_episodes(envs):
    steps, rewards = play(envs, random_policy(envs[0], 0))
    size = len(envs[0].budget.names)
    assert len(steps) == size + 1 and len(rewards) == E
    assert [int(s.step_type[0]) for s in steps] == [0, 1, 1, 1, 1, 1, 2]
    assert [int(s.next_step_type[0]) for s in steps] == [1, 1, 1, 1, 1, 2, 0]
    assert [float(s.discount[0]) for s in steps] == [1, 1, 1, 1, 1, 0, 1]
    for step in steps:
        assert step.observation.shape == (E, len(FEATURES) + Z)
        expected = rewards if step is steps[-2] else [0] * E
        assert np.asarray(step.reward).tolist() == pytest.approx(expected)
    # The environments still stand at the end of their episodes.
    assert [reward(env.widths) for env in envs] == pytest.approx(rewards)
    # The observation after an action shows it.
    rates = np.array([env.rates for env in envs])
    for g in range(1, size):
        shown = steps[g].observation[:, FEATURES.index('previous_action')]
        assert shown == pytest.approx(rates[:, g - 1])


def test_one_environment_plays_too(envs):
    steps, rewards = play(envs[:1], random_policy(envs[0], 0))
    assert rewards == [pytest.approx(reward(envs[0].widths))]
    assert steps[0].observation.shape == (1, len(FEATURES) + Z)


def test_random_actions_are_uniform_and_decided_by_their_seed(envs):
    first, again, other = (actions(envs, random_policy(envs[0], seed)) for seed in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    many = np.concatenate([actions(envs, random_policy(envs[0], s)).ravel() for s in range(20)])
    assert 0 <= many.min() < .02 and .98 < many.max() <= 1
    assert many.mean() == pytest.approx(.5, abs=3 * (1 / 12 / many.size) ** .5)


def test_ppo_credits_every_step_with_the_episodes_reward(trained, envs):
    name, agent, *_ = trained
    if name != 'ppo':
        pytest.skip('PPO only')
    steps, rewards = play(envs, agent.collect_policy)
    experience = tf.nest.map_structure(lambda *x: tf.stack(x, axis=1), *steps)
    info = agent.agent._preprocess(experience).policy_info
    expected = np.repeat(np.array(rewards)[:, None], 6, axis=1)
    assert info['return'].numpy()[:, :6] == pytest.approx(expected)
    # lambda 1: the advantage is the return less the value.
    value = info['value_prediction'].numpy()[:, :6]
    assert info['advantage'].numpy()[:, :6] == pytest.approx(expected - value, abs=1e-5)


def test_ppo_is_told_the_group_and_begins_with_its_spread(envs):
    agent = make('ppo', envs, seed=0)
    steps, _ = play(envs, agent.collect_policy)
    groups = len(envs[0].budget.names)
    for g, step in enumerate(steps[:-1]):
        told = WithStep(groups)(tf.constant(step.observation)).numpy()
        assert told.shape == (E, len(FEATURES) + Z + groups)
        assert (told[:, -groups:] == np.eye(groups)[g]).all()
        assert np.array_equal(told[:, :-groups], step.observation)
        spread = np.asarray(step.policy_info['dist_params']['scale'])
        assert spread == pytest.approx(np.full((E, 1), .25))


def test_ppo_learns_from_the_latest_epochs_each_above_its_own_mean(envs):
    keras.utils.set_random_seed(0)
    agent = make_agent('ppo', envs[0], learning_rate=0, updates=1, episodes=E, epochs=2)
    learnt = []
    agent._train = lambda experience: learnt.append(experience) or agent.agent.train(experience)
    played = []
    for epoch in range(3):
        played.append(play(envs, agent.collect_policy))
        agent.observe(played[-1][0], on_policy=True, epoch=epoch)
        assert np.isfinite(agent.update())
    assert [len(experience.reward) for experience in learnt] == [E, 2 * E, 2 * E]
    newest = learnt[2]
    last = newest.reward.shape[1] - 2
    assert (np.delete(newest.reward, last, axis=1) == 0).all()
    expected = [np.array(rewards) - np.mean(rewards) for _, rewards in (played[2], played[1])]
    np.testing.assert_allclose(newest.reward[:, -2], np.concatenate(expected), atol=1e-5)
    # Each with the probabilities under which it was played.
    for rows, (steps, _) in ((slice(0, E), played[2]), (slice(E, None), played[1])):
        told = newest.policy_info['dist_params']['loc'][rows, 0]
        np.testing.assert_array_equal(told, steps[0].policy_info['dist_params']['loc'])


def test_sac_cools_and_pairs_within_episodes(trained, envs):
    name, agent, *_ = trained
    if name != 'sac':
        pytest.skip('SAC only')
    assert isinstance(agent, SAC)
    assert .001 <= float(tf.exp(agent.agent._log_alpha)) < .1
    agent.agent.cool(.5, 1e-9)
    warm = float(agent.agent._log_alpha)
    agent.agent.cool(.5, 1e-9)
    assert float(agent.agent._log_alpha) == pytest.approx(warm - math.log(2))
    agent.agent.cool(.5, .2)
    assert math.exp(float(agent.agent._log_alpha)) == pytest.approx(.2)
    pairs, _ = agent._memory.sample(agent._generator, 256)
    index = pairs.observation.numpy()[..., 0] * 6
    assert (index[:, 0] >= 1 - 1e-6).all()
    same_or_next = np.rint(index[:, 1] - index[:, 0])
    last = pairs.next_step_type.numpy()[:, 0] == 2
    assert (same_or_next == np.where(last, 0, 1)).all() and 0 < last.sum() < 256
    assert (pairs.discount.numpy()[:, 0] == ~last).all()


def test_sac_learns_of_every_step_from_the_standardized_reward_of_its_episode(envs):
    agent = make('sac', envs, seed=3, updates=1)
    rewards = []
    for seed in (0, 1):
        rewards += show(agent, envs, random_policy(envs[0], seed), on_policy=False)
    drawn, _ = agent._memory.sample(agent._generator, 200)
    seen = agent._prepared(drawn).reward.numpy()
    expected = (np.array(rewards) - np.mean(rewards)) / np.std(rewards)
    assert np.unique(seen) == pytest.approx(np.unique(expected), abs=1e-4)
    assert (drawn.next_step_type.numpy() == 2).any()


def test_ddpg_credits_every_step_with_the_reward_less_its_moving_average(envs):
    agent = make('ddpg', envs, seed=3, updates=1)
    rewards = show(agent, envs, random_policy(envs[0], 0), on_policy=False)
    drawn, _ = agent._memory.sample(agent._generator, 200)
    assert set(np.unique(drawn.reward.numpy())) == set(np.float32(rewards))
    # The end of an episode has no successor, whatever its reward.
    last = drawn.next_step_type.numpy()[:, 0] == 2
    assert (drawn.discount.numpy()[:, 0] == ~last).all() and 0 < last.sum() < 200
    baseline, mean = None, drawn.reward.numpy()[:, 0].mean()
    for scale in (1, 3, 1):
        drawn = drawn.replace(reward=drawn.reward * scale)
        mean *= scale
        baseline = mean if baseline is None else (baseline + mean) / 2
        seen = agent._prepared(drawn).reward.numpy()
        assert seen == pytest.approx(drawn.reward.numpy() - baseline, abs=1e-5)


@pytest.mark.slow
def test_ddpg_explores_less_with_each_episode_and_within_bounds(envs):
    agent = make('ddpg', envs, seed=3, updates=1)
    mean = actions(envs, agent.greedy_policy)[0, 0]
    early = np.stack([actions(envs, agent.collect_policy)[:-1] for _ in range(10)])
    assert 0 <= early.min() < .05 and .95 < early.max() <= 1
    agent.noise.assign(.2)
    spread = np.stack([actions(envs, agent.collect_policy)[:-1] for _ in range(30)]).std((0, 1))
    # N(0.5, 0.2) within [0, 1]; the eighth of the episodes has 0.2 * 0.95^7.
    assert mean == pytest.approx(.5, abs=.02)
    assert (spread[0], spread[7]) == pytest.approx((.191, .139), abs=.03)
    agent.noise.assign(.5)
    show(agent, envs, agent.collect_policy, on_policy=False)
    assert float(agent.noise) == .5
    show(agent, envs, agent.collect_policy, on_policy=True)
    assert float(agent.noise) == pytest.approx(.5 * .95 ** E)
    agent.noise.assign(.01)
    assert np.abs(actions(envs, agent.collect_policy)[0] - mean).max() < .05


def test_memory_keeps_the_latest_episodes():
    step = collections.namedtuple('step', 'reward')
    memory = Memory(step(tf.TensorSpec((), tf.float32)), capacity=4, steps=3)

    def episodes(*numbers):
        return [step(tf.constant([n * 10. + t for n in numbers])) for t in range(3)]

    memory.add(episodes(1, 2, 3))
    generator = tf.random.Generator.from_seed(0)
    drawn = memory.sample(generator, 200)[0].reward.numpy()
    assert set(map(tuple, drawn)) == {(n * 10 + t, n * 10 + t + 1) for n in (1, 2, 3)
                                      for t in (0, 1)}
    memory.add(episodes(4, 5))  # 5 overwrites 1
    drawn = memory.sample(generator, 400)[0].reward.numpy()
    assert {int(first) // 10 for first, _ in drawn} == {2, 3, 4, 5}
    assert (drawn[:, 1] == drawn[:, 0] + 1).all()


def test_unknown_agent(envs):
    with pytest.raises(ValueError, match=r"Unknown agent 'ppp'. Available: ddpg, ppo, random, sac"):
        make_agent('ppp', envs[0], learning_rate=1e-3, updates=1, episodes=1)


def test_mean_and_error():
    # deviations -2, 0, 2: variance 8 / 2, error 2 / sqrt(3).
    assert mean_and_error([1, 3, 5]) == pytest.approx((3, 2 / math.sqrt(3)))
    mean, error = mean_and_error([7])
    assert mean == 7 and math.isnan(error)


def test_a_single_group_makes_an_agent():
    model = plain()
    groups = trace_groups(model, frozen=['conv1', 'conv2'])
    costs = CostModel(model, groups)
    env = PruningEnv(groups, costs, lambda widths: 1.0, budget=Budget(groups, costs, {'macs': .95}))
    agent = make('ppo', [env], seed=0, updates=1)
    assert len(play([env], agent.collect_policy)[0]) == 2
    show(agent, [env], agent.collect_policy, on_policy=True)
    assert math.isfinite(agent.update())
