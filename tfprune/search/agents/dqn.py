"""Deep Q-learning: actions from a list."""
from typing import Sequence

import numpy as np
import tensorflow as tf
import tf_keras
from tf_agents.agents.dqn import dqn_agent
from tf_agents.networks import q_network
from tf_agents.policies import tf_policy
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from tfprune.search.agents.base import SampledPolicy, make_generator, specs
from tfprune.search.agents.encoder import WithStep
from tfprune.search.agents.memory import OffPolicyAgent
from tfprune.search.environment import EpisodicEnv


class _EpsilonGreedy(SampledPolicy):
    """The greedy action, or with probability epsilon any, by draws of `generator`.

    Args:
        epsilon: that of the next episode, which decays from one to the next.
    """

    def __init__(self, policy: tf_policy.TFPolicy, generator: tf.random.Generator,
                 epsilon: tf.Variable, decay: float, least: float):
        super().__init__(policy, generator)
        self._epsilon, self._decay, self._least = epsilon, decay, least
        self._actions = int(policy.action_spec.maximum) + 1

    def _sample_eagerly(self, time_step: ts.TimeStep) -> policy_step.PolicyStep:
        step = self._policy.action(time_step)
        episodes = tf.shape(step.action)[0]
        # The episodes in lockstep are those that would have followed one another.
        later = tf.range(tf.cast(episodes, tf.float32))
        epsilon = tf.maximum(self._epsilon * self._decay ** later, self._least)
        explores = self._generator.uniform([episodes]) < epsilon
        anything = self._generator.uniform([episodes], maxval=self._actions,
                                           dtype=step.action.dtype)
        return step.replace(action=tf.where(explores, anything, step.action))


class DQN(OffPolicyAgent):
    """DQN (Mnih et al. 2015) on the rewards of single steps, dense or not; discount 1.

    The environment's action is an int32 scalar in {0, 1, …}. The target network follows with 0.05 a
    step, as SAC's do. Exploration shrinks with each of the agent's own episodes. The network is
    told the step by an indicator, as PPO's is. Measured on PuRL with the made-up accuracy of its
    tests, two seeds, 0 being the return of random actions and 1 the best that hill climbing found:
    episodes 41 to 55 reach 0.56 and 0.68 with 60 updates, 0.35 and 0.45 with 20; without the
    indicator 0.3 and 0.2.

    Args:
        updates: for each step of an episode, steps on a batch of 64 per update.
        epsilon, epsilon_decay, least_epsilon: episode n takes a random action with probability
            max(epsilon * epsilon_decay ** n, least_epsilon), at each step.
    """
    _LEARNING_RATE = 1e-3

    def __init__(self, env: EpisodicEnv, *, learning_rate: float, updates: int, episodes: int,
                 epsilon: float = 1.0, epsilon_decay: float = 0.95, least_epsilon: float = 0.05):
        time_step_spec, action_spec = specs(env)
        network = q_network.QNetwork(
            time_step_spec.observation, action_spec, preprocessing_layers=WithStep(env.steps),
            fc_layer_params=(64, 64))
        generator = make_generator()
        super().__init__(dqn_agent.DqnAgent(
            time_step_spec, action_spec, q_network=network,
            optimizer=tf_keras.optimizers.legacy.Adam(learning_rate or self._LEARNING_RATE),
            target_update_tau=0.05, gamma=1.0,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)), generator, env,
            updates=updates, episodes=episodes)
        self.epsilon = tf.Variable(epsilon, trainable=False)
        self._epsilon_decay = epsilon_decay
        self.collect_policy = _EpsilonGreedy(self.agent.policy, generator, self.epsilon,
                                             epsilon_decay, least_epsilon)

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool,
                actions: np.ndarray, epoch: int = 0) -> None:
        super().observe(steps, on_policy=on_policy, actions=actions, epoch=epoch)
        if on_policy:
            self.epsilon.assign(self.epsilon * self._epsilon_decay ** len(steps[0].reward))

    def _prepared(self, experience: trajectory.Trajectory) -> trajectory.Trajectory:
        return experience
