"""Proximal policy optimization."""
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.networks import (actor_distribution_network, normal_projection_network,
                                value_network)
from tf_agents.trajectories import trajectory
from tf_agents.utils import common

from tfprune.search.agents.base import OnPolicyAgent, make_generator, specs
from tfprune.search.agents.encoder import Encoder, StepTable
from tfprune.search.agents.memory import Memory
from tfprune.search.environment import EpisodicEnv, RelativeEnv


def value_network_for(env: EpisodicEnv) -> value_network.ValueNetwork:
    """A critic of observations."""
    return value_network.ValueNetwork(specs(env)[0].observation, **_hidden(env))


def clipped_ppo(env: EpisodicEnv, learning_rate: float, std: float, clip: float = 0.2, *,
                spread: Callable[[tf.Tensor], tf.Tensor] = tf.nn.softplus, **options: Any
                ) -> tuple[ppo_clip_agent.PPOClipAgent, value_network.ValueNetwork,
                           tf_keras.optimizers.Optimizer]:
    """TF-Agents' agent, its critic and what trains both; `std` is the standard deviation that
    exploration begins with, which `spread` makes of a bias, a softplus by default; `clip` how far a
    pass may move the ratio of probabilities from 1."""
    time_step_spec, action_spec = specs(env)
    # A table begins at the middle of the bounds, the uniform decision.
    project = functools.partial(
        normal_projection_network.NormalProjectionNetwork,
        init_means_output_factor=1e-6 if _is_table(env) else 0.1, std_transform=spread,
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
    return agent, value, optimizer


def _is_table(env: EpisodicEnv) -> bool:
    """Whether nothing but the step tells states apart, beside chance."""
    return isinstance(env, RelativeEnv)


def _hidden(env: EpisodicEnv) -> dict[str, Any]:
    layer = StepTable if _is_table(env) else Encoder
    return {'preprocessing_layers': layer(env.steps, env.context_size), 'fc_layer_params': ()}


@dataclasses.dataclass(frozen=True)
class _Steps:
    """How PPO explores and how far it goes.

    Attributes:
        learning_rate, std: at first.
        clip: see clipped_ppo.
        decay: what both are multiplied by after each update.
        least_std: where that ends.
    """
    learning_rate: float
    std: float
    clip: float
    decay: float = 1.0
    least_std: float = 0.0


_RATES = _Steps(1e-2, 0.25, 0.2)
_RELATIVE = _Steps(2e-2, 0.2, 0.7, decay=0.85, least_std=0.03)


class PPO(OnPolicyAgent):
    """Clipped PPO on the episodes of the latest epochs (Schulman et al. 2017, arXiv 1707.06347).

    Each episode is learnt from in `epochs` epochs, under the z and the probabilities with which it
    was played. Of rewards only what an episode has above the mean of its epoch counts, as the
    weights that train raise them all.

    An epoch affords few episodes. Chosen on a search of known optimum (--suite=learning), so that
    the policy learns from few: rate, standard deviation and clipping; an indicator of the group, so
    that what is learnt of one group is not taken from the others. Relative actions are worth what
    they are whatever came before them in the episode: their policy is a table of a mean a group,
    linear in z, which begins at the uniform decision; its standard deviation falls, and the
    learning rate with it, as the mean is to move in shares of the deviation.
    """

    def __init__(self, env: EpisodicEnv, *, learning_rate: float, updates: int, episodes: int,
                 epochs: int = 1):
        chosen = self._chosen = _RELATIVE if _is_table(env) else _RATES
        self._learning_rate = learning_rate or chosen.learning_rate
        self._scale = tf.Variable(1.0, trainable=False)
        agent, _, self._optimizer = clipped_ppo(
            env, self._learning_rate, chosen.std, chosen.clip, spread=self._spread)
        super().__init__(agent, make_generator())
        # Not tf.function: autograph makes ten seconds of tracing out of one.
        self._train = common.function(self.agent.train)
        self._updates = updates
        self._memory = Memory(agent.collect_data_spec, epochs * episodes, env.steps + 1)

    def _learn(self, steps: list[trajectory.Trajectory]) -> tf.Tensor | float:
        self._memory.add(steps, self._epoch)
        experience, loss = _centered(*self._memory.episodes()), float('nan')
        self._optimizer.learning_rate.assign(self._learning_rate * self._scale)
        for _ in range(self._updates):  # advantages anew each pass (arXiv 2006.05990, section 3.5)
            loss = self._train(experience).loss
        chosen = self._chosen
        self._scale.assign(tf.maximum(self._scale * chosen.decay,
                                      chosen.least_std / chosen.std))
        return loss

    def _spread(self, bias: tf.Tensor) -> tf.Tensor:
        """The standard deviation: what is learnt, times what is left of it after so many updates.
        """
        return tf.maximum(self._scale * tf.nn.softplus(bias), self._chosen.least_std)


def _centered(experience: trajectory.Trajectory, epochs: tf.Tensor) -> trajectory.Trajectory:
    """Episodes [E, G + 1] of epochs int32 [E], their rewards less the mean of their epoch."""
    rewards = experience.reward[:, -2]  # the last is the boundary
    unique, places = tf.unique(epochs)
    means = tf.math.unsorted_segment_mean(rewards, places, tf.size(unique))
    ends = tf.one_hot(experience.reward.shape[1] - 2, experience.reward.shape[1])
    return experience.replace(reward=experience.reward - tf.gather(means, places)[:, None] * ends)
