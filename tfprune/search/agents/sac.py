"""Soft actor-critic."""
import math

import tensorflow as tf
import tf_keras
from tf_agents.agents.ddpg import critic_network
from tf_agents.agents.sac import sac_agent, tanh_normal_projection_network
from tf_agents.networks import actor_distribution_network
from tf_agents.trajectories import time_step as ts
from tf_agents.trajectories import trajectory
from tf_agents.utils import common

from tfprune.search.agents.base import draw_seed, make_generator, specs
from tfprune.search.agents.memory import Context, OffPolicyAgent
from tfprune.search.environment import PruningEnv


class _SacAgent(sac_agent.SacAgent):
    """With the actions in its losses drawn from `generator`; see tfprune.search.agents."""
    generator: tf.random.Generator

    def _actions_and_log_probs(self, time_steps: ts.TimeStep, training: bool = False
                               ) -> tuple[tf.Tensor, tf.Tensor]:
        policy = self._train_policy if training else self._policy
        distribution = policy.distribution(time_steps).action
        actions = distribution.sample(seed=draw_seed(self.generator))
        return actions, common.log_probability(distribution, actions, self.action_spec)


class SAC(OffPolicyAgent):
    """Soft actor-critic with a fixed temperature of 0.1 (Haarnoja et al. 2018, arXiv 1812.05905).

    An episode's reward is standardized by those in memory: accuracies differ by a few hundredths,
    next to which the temperature would be all that counts.

    The critics' learning rate is ten times the actor's, as in RLAL's public code, whose 1e-4 did
    not leave chance within 400 episodes of a search of known optimum (--suite=learning, one seed);
    1e-3 hardly does.
    The target networks follow with 0.05 a step, ten times the usual: an epoch affords too few steps
    for the terminal reward to reach the first group otherwise.
    """
    _LEARNING_RATE = 1e-3

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int, episodes: int,
                 context: Context | None = None):
        learning_rate = learning_rate or self._LEARNING_RATE
        time_step_spec, action_spec = specs(env)
        observation_spec = time_step_spec.observation
        actor = actor_distribution_network.ActorDistributionNetwork(
            observation_spec, action_spec, fc_layer_params=(64, 64),
            continuous_projection_net=tanh_normal_projection_network.TanhNormalProjectionNetwork)
        critic = critic_network.CriticNetwork((observation_spec, action_spec),
                                              joint_fc_layer_params=(64, 64))
        super().__init__(_SacAgent(
            time_step_spec, action_spec, critic_network=critic, actor_network=actor,
            actor_optimizer=tf_keras.optimizers.legacy.Adam(learning_rate),
            critic_optimizer=tf_keras.optimizers.legacy.Adam(10 * learning_rate),
            alpha_optimizer=tf_keras.optimizers.legacy.SGD(0.0), initial_log_alpha=math.log(0.1),
            target_update_tau=0.05, gamma=1.0,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)), make_generator(),
            env, updates=updates, episodes=episodes, context=context)
        self.agent.generator = self._generator

    def _prepared(self, experience: trajectory.Trajectory) -> trajectory.Trajectory:
        mean, spread = self._memory.rewards()
        standard = (experience.reward - mean) / tf.maximum(spread, 1e-4)
        ended = experience.next_step_type == ts.StepType.LAST
        return experience.replace(reward=tf.where(ended, standard, tf.zeros_like(standard)))
