"""REINFORCE: policies of all layers at once and layer by layer learn, and resume bit for bit."""
import functools

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from tf_agents.environments import py_environment
from tf_agents.specs import array_spec
from tf_agents.trajectories import time_step as ts

from tfprune.runs.checkpoints import restore
from tfprune.search.agents import play
from tfprune.search.agents.base import specs
from tfprune.search.agents.reinforce import make_autoregressive, make_bidirectional

E, L, F, K = 5, 6, 3, 4  # rollouts, layers, features, choices
FEATURES = np.random.default_rng(0).uniform(size=(L, F)).astype(np.float32)


class AllAtOnce(py_environment.PyEnvironment):
    """One step: choices [L]; rewarded are zeros in the first half and ones in the second."""

    def action_spec(self):
        return array_spec.BoundedArraySpec((L,), np.int32, 0, 1)

    def observation_spec(self):
        return array_spec.BoundedArraySpec((L, F), np.float32, 0, 1)

    def _reset(self):
        return ts.restart(FEATURES)

    def _step(self, action):
        return ts.termination(FEATURES, np.mean(action == (np.arange(L) >= L // 2)))


class OneByOne(py_environment.PyEnvironment):
    """L steps of a choice in [0, K); rewarded is one more than before (mod K): it takes memory of
    the action, which is in the observation."""

    def action_spec(self):
        return array_spec.BoundedArraySpec((), np.int32, 0, K - 1)

    def observation_spec(self):
        return array_spec.BoundedArraySpec((1 + K,), np.float32, 0, 1)

    def _observation(self):
        last = np.eye(K)[self.chosen[-1]] if self.chosen else np.zeros(K)
        return np.array([len(self.chosen) / L, *last], np.float32)

    def _reset(self):
        self.chosen = []
        return ts.restart(self._observation())

    def _step(self, action):
        self.chosen.append(int(action))
        if len(self.chosen) < L:
            return ts.transition(self._observation(), 0.0)
        steps = np.diff(self.chosen) % K
        return ts.termination(self._observation(), float(np.mean(steps == 1)))


KINDS = {'bidirectional': (AllAtOnce, make_bidirectional, 3e-2),
         'autoregressive': (OneByOne, make_autoregressive, 3e-2)}


def make(kind, seed):
    env_class, build, rate = KINDS[kind]
    keras.utils.set_random_seed(seed)
    envs = [env_class() for _ in range(E)]
    return envs, build(*specs(envs[0]), units=16, learning_rate=rate, baseline_rate=0.2)


def iterate(envs, agent):
    steps, rewards = play(envs, agent.collect_policy)
    agent.observe(steps, on_policy=True)
    agent.update()
    return [np.array([step.action for step in steps]).tolist(), rewards]


def values(agent):
    return [variable.numpy() for variable in agent.variables]


def equal(ours, theirs):
    return len(ours) == len(theirs) and all(map(functools.partial(np.array_equal, equal_nan=True),
                                                ours, theirs))


@pytest.mark.parametrize('kind, chance', [
    ('bidirectional', 1 / 2), ('autoregressive', 1 / K)])
@pytest.mark.slow
def test_learns_and_continues_bit_for_bit_from_a_checkpoint(kind, chance, tmp_path):
    envs, agent = make(kind, 0)
    first = iterate(envs, agent)
    keras.utils.set_random_seed(0)  # as before each round: exploration must not be replayed
    assert iterate(envs, agent)[0] != first[0]
    prefix = str(tmp_path / 'state')
    tf.train.Checkpoint(agent=agent).write(prefix)
    saved = values(agent)
    rewards = [iterate(envs, agent) for _ in range(120)]
    assert np.mean([r for _, r in rewards[:10]]) < chance + 0.25
    assert np.mean([r for _, r in rewards[-10:]]) > chance + 0.4

    _, fresh = make(kind, 7)
    assert not equal(values(fresh), saved)
    restore(tf.train.Checkpoint(agent=fresh), prefix)
    assert equal(values(fresh), saved)
    assert [iterate(envs, fresh) for _ in range(3)] == rewards[:3]


def test_loss_is_the_return_less_its_moving_average_by_hand():
    """Before it is trained the policy knows nothing of the choices: log pi = L log 1/2."""
    envs, agent = make('bidirectional', 0)
    for variable in agent.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    steps, _ = play(envs, agent.collect_policy)
    rewards = np.array([1, 2, 3, 4, 5], np.float32)
    steps[-2] = steps[-2].replace(reward=rewards)
    agent.observe(steps, on_policy=True)
    assert agent.update() == pytest.approx(0, abs=1e-5)  # the first baseline is their mean
    assert float(agent.baseline) == pytest.approx(3)
    for variable in agent.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    steps[-2] = steps[-2].replace(reward=rewards + 2)
    agent.observe(steps, on_policy=True)
    assert agent.update() == pytest.approx(-2 * L * np.log(1 / 2), rel=1e-5)
    assert float(agent.baseline) == pytest.approx(3 + 0.2 * 2)


def test_both_directions_and_all_layers_are_seen_before_the_first_choice():
    envs, agent = make('bidirectional', 0)
    time_step = ts.restart(tf.constant(FEATURES[None]), batch_size=1)
    policy = agent.agent.collect_policy

    def logits(table):
        step = time_step._replace(observation=tf.constant(table[None]))
        return policy.distribution(step).action.distribution.logits[0].numpy()

    base = logits(FEATURES)
    assert base.shape == (L, 2)
    for layer in (0, L - 1):
        moved = FEATURES.copy()
        moved[layer] += 1
        assert (np.abs(logits(moved) - base).max(axis=1) > 1e-7).all()
