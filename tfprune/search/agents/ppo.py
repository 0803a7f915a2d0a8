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

from tfprune.search.agents.base import OnPolicyAgent, make_generator, specs
from tfprune.search.agents.encoder import Encoder
from tfprune.search.agents.memory import Memory
from tfprune.search.environment import EpisodicEnv, RelativeEnv


def value_network_for(env: EpisodicEnv) -> value_network.ValueNetwork:
    """A critic of observations."""
    return value_network.ValueNetwork(specs(env)[0].observation, **_hidden(env))


def clipped_ppo(env: EpisodicEnv, learning_rate: float, std: float, clip: float = 0.2,
                **options: Any) -> tuple[ppo_clip_agent.PPOClipAgent, value_network.ValueNetwork]:
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


def _hidden(env: EpisodicEnv) -> dict[str, Any]:
    return {'preprocessing_layers': Encoder(env.steps, env.context_size), 'fc_layer_params': ()}


class PPO(OnPolicyAgent):
    """Clipped PPO on the episodes of the latest epochs (Schulman et al. 2017, arXiv 1707.06347).

    Each episode is learnt from in `epochs` epochs, under the z and the probabilities with which it
    was played. Of rewards only what an episode has above the mean of its epoch counts, as the
    weights that train raise them all.

    An epoch affords few episodes. Measured on a search of known optimum (--suite=learning), so that
    the policy learns from few: the learning rate; exploration that begins with a standard deviation
    of 0.25, where TF-Agents has 0.35, and of relative actions with 0.1, since far from the uniform
    decision most are worse; their wider clipping, at half of the rate; an indicator of the group,
    so that what is learnt of one group is not taken from the others.
    """

    def __init__(self, env: EpisodicEnv, *, learning_rate: float, updates: int, episodes: int,
                 epochs: int = 1):
        rate, std, clip = (5e-3, 0.1, 0.5) if isinstance(env, RelativeEnv) else (1e-2, 0.25, 0.2)
        agent, _ = clipped_ppo(env, learning_rate or rate, std, clip)
        super().__init__(agent, make_generator())
        # Not tf.function: autograph makes ten seconds of tracing out of one.
        self._train = common.function(self.agent.train)
        self._updates = updates
        self._memory = Memory(agent.collect_data_spec, epochs * episodes, env.steps + 1)

    def _learn(self, steps: list[trajectory.Trajectory]) -> tf.Tensor | float:
        self._memory.add(steps, self._epoch)
        experience, loss = _centered(*self._memory.episodes()), float('nan')
        for _ in range(self._updates):  # advantages anew each pass (arXiv 2006.05990, section 3.5)
            loss = self._train(experience).loss
        return loss


def _centered(experience: trajectory.Trajectory, epochs: tf.Tensor) -> trajectory.Trajectory:
    """Episodes [E, G + 1] of epochs int32 [E], their rewards less the mean of their epoch."""
    rewards = experience.reward[:, -2]  # the last is the boundary
    unique, places = tf.unique(epochs)
    means = tf.math.unsorted_segment_mean(rewards, places, tf.size(unique))
    ends = tf.one_hot(experience.reward.shape[1] - 2, experience.reward.shape[1])
    return experience.replace(reward=experience.reward - tf.gather(means, places)[:, None] * ends)
