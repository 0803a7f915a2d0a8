"""What off-policy agents learn from: actions as carried out, z of the present context network."""
import dataclasses

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but
from made_up_problem import made_up_problem, started

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.methods.amc import AmcEnv
from tfprune.runs.checkpoints import restore
from tfprune.search.agents import asked_for, carried_out, make_agent, play, random_policy
from tfprune.search.environment import FEATURES, PruningEnv
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain
from tfprune.training.step import NonFiniteLossError

PLAIN = plain()
GROUPS = trace_groups(PLAIN)  # of widths 5, 7, 11
COSTS = CostModel(PLAIN, GROUPS)
BUDGET = Budget(GROUPS, COSTS, {'macs': .5})
E, Z, F = 4, 2, len(FEATURES)


class Told:
    """A policy that is told its action, the same at each step."""

    def __init__(self, agent, action):
        self._agent, self._action = agent, action

    def action(self, time_step, policy_state=()):
        step = self._agent.collect_policy.action(time_step)
        return step.replace(action=np.full(step.action.shape, self._action, np.float32))


def envs_of(cls=PruningEnv, reward=lambda widths: 0.5, **options):
    return [cls(GROUPS, COSTS, reward, budget=BUDGET, **options) for _ in range(E)]


def agent_of(name, envs, **options):
    keras.utils.set_random_seed(0)
    return make_agent(name, envs[0], **{'learning_rate': 0, 'updates': 1, 'episodes': E, **options})


def held(agent):
    """The trajectories [E, G + 1] in memory."""
    memory = agent._memory
    fields = [field.numpy()[:int(memory.count)] for field in memory._fields]
    return tf.nest.pack_sequence_as(memory._structure, fields)


@pytest.mark.parametrize('name', ['sac', 'ddpg'])
@pytest.mark.parametrize('asked', [0.0, 1.0])
def test_memories_hold_what_the_bounds_left_of_an_action(name, asked):
    envs = envs_of()
    agent = agent_of(name, envs)
    steps, _ = play(envs, Told(agent, asked))
    agent.observe(steps, on_policy=False, actions=carried_out(envs))
    # Half of the MACs: neither dense nor the smallest widths are carried out.
    dense = np.array([5, 7, 11])
    widths = np.array(list(envs[0].widths.values()))
    assert BUDGET.fits(widths) and (widths != dense).any() and (widths > BUDGET.min_widths).any()
    actions = held(agent).action
    assert actions.shape == (E, 4, 1)
    assert actions[:, :3, 0] == pytest.approx(np.tile(1 - widths / dense, (E, 1)))
    assert np.abs(actions[:, :3] - asked).max() > .3
    # What was carried out, asked for in its state, does the same.
    again = envs_of()[0]
    again.reset()
    for action in actions[0, :3]:
        again.step(action)
    assert again.widths == envs[0].widths


def test_an_executed_action_is_in_the_terms_of_its_environment():
    env = envs_of(AmcEnv)[0]
    env.reset()
    for _ in range(3):
        env.step(np.array([1.0], np.float32))  # keep all
    widths = np.array(list(env.widths.values()))
    assert env.executed[:, 0] == pytest.approx(widths / [5, 7, 11])
    assert env.executed.shape == (3, 1) and env.executed.dtype == np.float32
    again = envs_of(AmcEnv)[0]
    again.reset()
    for action in env.executed:
        again.step(action)
    assert again.widths == env.widths


def test_ppo_learns_from_the_actions_that_it_sampled(monkeypatch):
    envs = envs_of()
    agent = agent_of('ppo', envs)
    steps, _ = play(envs, Told(agent, 0.25))
    seen = []
    monkeypatch.setattr(agent, '_train', lambda experience: (
        seen.append(experience.action.numpy()), type('info', (), {'loss': 0.0}))[1])
    agent.observe(steps, on_policy=True, actions=carried_out(envs))
    agent.update()
    assert np.abs(carried_out(envs) - 0.25).max() > .1
    assert (seen[0][:, :3] == np.float32(0.25)).all()


def test_amc_learns_of_actions_as_asked_for_as_its_public_code():
    method = started('amc', made_up_problem(), episodes=3, warmup_episodes=2, lockstep=2)
    played = []
    observe = method.agent.observe
    method.agent.observe = lambda steps, **options: (played.append(steps),
                                                     observe(steps, **options))
    method.search(0)
    actions = held(method.agent).action[:, :-1]
    assert np.array_equal(actions, np.moveaxis(asked_for(played[0]), 0, 1))
    assert np.abs(actions - np.moveaxis(carried_out(method._envs), 0, 1)).max() > .1


@pytest.mark.parametrize('name', slow_but(['sac', 'ddpg'], ['ddpg']))
def test_z_is_that_of_the_context_network_when_a_batch_is_learnt_from(name, monkeypatch):
    table = tf.Variable(np.linspace(-.9, .9, 8 * Z).reshape(8, Z), dtype=tf.float32)
    rewards = {3: 0.25, 5: 0.75}
    epoch = 3
    envs = envs_of(reward=lambda widths: rewards[epoch], context_size=Z)
    agent = agent_of(name, envs, context=lambda epochs: tf.gather(table, epochs))
    for epoch in rewards:
        for env in envs:
            env.set_context(table[epoch])
        steps, _ = play(envs, random_policy(envs[0], epoch))
        agent.observe(steps, on_policy=False, actions=carried_out(envs), epoch=epoch)
    # No z is remembered, but when it was.
    assert held(agent).observation.shape == (2 * E, 4, F)
    assert agent._memory.epochs.numpy()[:2 * E].tolist() == [3] * E + [5] * E

    seen, prepared = [], agent._prepared
    monkeypatch.setattr(agent, '_prepared', lambda drawn: (seen.append(drawn), prepared(drawn))[1])
    tf.config.run_functions_eagerly(True)
    try:
        for change in (0.0, 0.05):
            table.assign_add(tf.fill(table.shape, change))
            seen.clear()
            agent.update()
            assert len(seen) == 3  # steps of an episode
            for drawn in seen:
                z = drawn.observation.numpy()[..., F:]
                assert drawn.observation.shape[-1] == F + Z
                # The reward says of which epoch a pair that ends an episode is.
                reward = drawn.reward.numpy()[:, 0]
                for e, value in rewards.items():
                    rows = z[reward == np.float32(value)]
                    assert len(rows) and (rows == table.numpy()[e]).all()
                assert {tuple(row) for pair in z for row in pair} == {
                    tuple(table.numpy()[e]) for e in rewards}
    finally:
        tf.config.run_functions_eagerly(False)


def test_without_a_context_network_the_condition_is_remembered():
    envs = envs_of(context_size=1)
    for env, ratio in zip(envs, (.3, .5, .7, .9)):
        env.set_context([ratio])
    agent = agent_of('ddpg', envs)
    steps, _ = play(envs, random_policy(envs[0], 0))
    agent.observe(steps, on_policy=False, actions=carried_out(envs))
    assert held(agent).observation[:, 0, -1] == pytest.approx([.3, .5, .7, .9])


def test_half_of_a_batch_is_of_actions_as_asked_for():
    """Without them an actor whose wishes are all cut off stays there: nothing contradicts Q."""
    envs = envs_of()
    agent = agent_of('ddpg', envs)
    steps, _ = play(envs, Told(agent, 1.0))
    agent.observe(steps, on_policy=False, actions=carried_out(envs))
    drawn = agent._drawn(None)
    assert drawn.policy_info == ()
    action, size = drawn.action.numpy()[:, 0, 0], len(drawn.action)
    g = np.rint(drawn.observation.numpy()[:, 0, FEATURES.index('index')] * 3).astype(int) - 1
    executed = carried_out(envs)[:, 0, 0]
    assert (action[:size // 2] == executed[g[:size // 2]]).all()
    assert (action[size // 2:] == 1.0).all()


RLAL = dict(agent='ddpg', action='rate', alignment='none', episodes_per_epoch=2,
            random_reference_episodes=0,
            comparison_episodes=0, context_size=4, context_updates=5, agent_updates=1)


def rlal(seed):
    keras.utils.set_random_seed(seed)
    return started('rlal', made_up_problem(
        warmup_epochs=0, random_epochs=1, joint_epochs=2, alignment_epochs=0), **RLAL)


@pytest.mark.slow
def test_rlal_learns_on_todays_z_and_goes_on_bit_for_bit(tmp_path):
    whole = rlal(0)
    groups = len(whole.problem.groups)
    for epoch in (0, 1):
        keras.utils.set_random_seed(10 + epoch)
        whole.after_epoch(epoch, epoch + 1)
    memory = whole.agent._memory
    assert memory.epochs.numpy()[:4].tolist() == [0, 0, 1, 1]
    rates, _, epochs = whole.history.arrays()
    assert np.array_equal(held(whole.agent).action[:, :groups, 0], rates)
    assert np.array_equal(memory.epochs.numpy()[:4], epochs)
    before = whole.agent._context(memory.epochs.value()).numpy()
    assert np.array_equal(before[[0, 2]], whole.context.network(np.array([0, 1])).numpy())

    prefix = tf.train.Checkpoint(method=whole).write(str(tmp_path / 'state'))
    fresh = rlal(77)
    restore(tf.train.Checkpoint(method=fresh), prefix)
    after = []
    for method in (whole, fresh):
        keras.utils.set_random_seed(12)
        after.append(method.after_epoch(2, 3))
    assert after[0].episodes == after[1].episodes
    for name in ('agent_loss', 'context_loss'):
        assert after[0].metrics[name] == after[1].metrics[name]
    for one, other in zip(whole.agent.variables, fresh.agent.variables, strict=True):
        assert np.array_equal(one.numpy(), other.numpy())
    assert np.array_equal(whole.context.network.increments.numpy(),
                          fresh.context.network.increments.numpy())
    # The context has learnt of the epoch: its z moves under what is remembered.
    moved = whole.agent._context(memory.epochs.value()).numpy()
    assert np.abs(moved[:4] - before[:4]).max() > 1e-4


# What is no number is named where it comes from.

@pytest.mark.parametrize('reward', [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_no_number_is_an_error(reward):
    envs = envs_of(reward=lambda widths: reward)
    with pytest.raises(ValueError, match=rf"reward of widths {{'conv1': .*}} is {reward}"):
        play(envs, random_policy(envs[0], 0))


@pytest.mark.parametrize('name', slow_but(['ppo', 'sac', 'ddpg'], ['ppo']))
def test_a_loss_that_is_no_number_is_an_error(name):
    envs = envs_of()
    agent = agent_of(name, envs)
    steps, _ = play(envs, agent.collect_policy)
    for weight in agent.agent.collect_policy.variables():
        weight.assign(tf.fill(weight.shape, tf.cast(np.nan, weight.dtype)))
    agent.observe(steps, on_policy=True, actions=carried_out(envs))
    with pytest.raises(NonFiniteLossError, match=rf'agent {name.upper()} is nan: a lower learning'):
        for _ in range(2):
            agent.update()


def test_actions_must_be_of_the_episodes():
    envs = envs_of()
    agent = agent_of('ddpg', envs)
    steps, _ = play(envs, random_policy(envs[0], 0))
    with pytest.raises(ValueError, match=r'shape \(3, 4, 1\); received \(3, 2, 1\)'):
        agent.observe(steps, on_policy=False, actions=carried_out(envs[:2]))


def test_a_context_that_is_no_number_is_an_error():
    method = rlal(0)
    problem = dataclasses.replace(method.problem, score=lambda masks: float('nan'))
    with pytest.raises(ValueError, match=r'the reward of widths {.*} is nan'):
        started('rlal', problem, **RLAL).after_epoch(0, 1)
    with pytest.raises(ValueError, match='the reward of an episode is inf'):
        method.history.append(0, np.zeros(9), np.inf)
    method.history.append(0, np.zeros(9), 0.5)
    method.context.network.decoder.weights[-1].assign([np.nan])
    with pytest.raises(NonFiniteLossError, match='context network is nan: a lower --context_learn'):
        method.context.fit(1)
    increments = method.context.network.increments
    increments.assign(tf.fill(increments.shape, np.float32(np.nan)))
    with pytest.raises(ValueError, match='z must be finite'):
        method.after_epoch(0, 1)
