"""Proximal policy optimization."""
import functools
import math
from typing import Any

import tensorflow as tf
import tf_keras
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.networks import (actor_distribution_network, normal_projection_network,
                                value_network)
from tf_agents.trajectories import trajectory
from tf_agents.utils import common

from tfprune.search.agents.base import OnPolicyAgent, by_episode, make_generator, specs
from tfprune.search.environment import FEATURES, PruningEnv, RelativeEnv


class WithGroup(tf_keras.layers.Layer):
    """Observations [..., F] -> [..., F + G]: with an indicator of the group at hand."""

    def __init__(self, groups: int, **options: Any):
        super().__init__(**options)
        self._groups = groups

    def call(self, observations: tf.Tensor) -> tf.Tensor:
        index = tf.round(observations[..., FEATURES.index('index')] * self._groups)
        return tf.concat([observations, tf.one_hot(tf.cast(index, tf.int32) - 1, self._groups)], -1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {'groups': self._groups}  # networks copy the layer


def value_network_for(env: PruningEnv) -> value_network.ValueNetwork:
    """A critic of observations."""
    return value_network.ValueNetwork(specs(env)[0].observation, **_hidden(env))


def clipped_ppo(env: PruningEnv, learning_rate: float, std: float, clip: float = 0.2, **options: Any
                ) -> tuple[ppo_clip_agent.PPOClipAgent, value_network.ValueNetwork]:
    """TF-Agents' agent and its critic; `std` is the spread that exploration begins with, `clip` how
    far a pass may move the ratio of probabilities from 1."""
    time_step_spec, action_spec = specs(env)
    # The spread is the softplus of a bias.
    project = functools.partial(
        normal_projection_network.NormalProjectionNetwork, init_means_output_factor=0.1,
        std_bias_initializer_value=math.log(math.expm1(std)))
    actor = actor_distribution_network.ActorDistributionNetwork(
        time_step_spec.observation, action_spec, continuous_projection_net=project, **_hidden(env))
    value = value_network_for(env)
    optimizer = tf_keras.optimizers.Adam(learning_rate)
    agent = ppo_clip_agent.PPOClipAgent(
        time_step_spec, action_spec, optimizer, actor, value, importance_ratio_clipping=clip,
        discount_factor=1.0, lambda_value=1.0, use_gae=True, num_epochs=1,
        gradient_clipping=0.5, normalize_rewards=False, normalize_observations=False,
        train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False), **options)
    # Slots must exist before a checkpoint is read, in an order that no variable name decides.
    optimizer.build(actor.trainable_weights + value.trainable_weights)
    return agent, value


def _hidden(env: PruningEnv) -> dict[str, Any]:
    return {'preprocessing_layers': WithGroup(len(env.budget.names)),
            'fc_layer_params': (64, 64), 'activation_fn': tf_keras.activations.tanh}


class PPO(OnPolicyAgent):
    """Clipped PPO on the episodes of the latest epoch (Schulman et al. 2017, arXiv 1707.06347).

    An epoch affords few episodes. Measured on a search of known optimum (--suite=learning), so that
    the policy learns from few: the learning rate; exploration that begins with a standard deviation
    of 0.25, where TF-Agents has 0.35, and of relative actions with 0.1, since far from the uniform
    decision most are worse; their wider clipping, at half of the rate; an indicator of the group,
    so that what is learnt of one group is not taken from the others.
    """

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int):
        rate, std, clip = (5e-3, 0.1, 0.5) if isinstance(env, RelativeEnv) else (1e-2, 0.25, 0.2)
        agent, _ = clipped_ppo(env, learning_rate or rate, std, clip)
        super().__init__(agent, make_generator())
        # Not tf.function: autograph makes ten seconds of tracing out of one.
        self._train = common.function(self.agent.train)
        self._updates = updates

    def _learn(self, steps: list[trajectory.Trajectory]) -> tf.Tensor | float:
        experience, loss = by_episode(steps), float('nan')
        for _ in range(self._updates):  # advantages anew each pass (arXiv 2006.05990, section 3.5)
            loss = self._train(experience).loss
        return loss
