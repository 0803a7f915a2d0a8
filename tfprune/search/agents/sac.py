"""Soft actor-critic."""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tf_agents.agents.sac import sac_agent, tanh_normal_projection_network
from tf_agents.networks import actor_distribution_network, network
from tf_agents.trajectories import time_step as ts
from tf_agents.trajectories import trajectory
from tf_agents.utils import common

from tfprune.search.agents.base import draw_seed, make_generator, specs
from tfprune.search.agents.encoder import WithStep
from tfprune.search.agents.memory import Context, OffPolicyAgent, with_returns
from tfprune.search.environment import PruningEnv

_UNITS = (64, 64)


class _SacAgent(sac_agent.SacAgent):
    """With the actions in its losses drawn from `generator`; see tfprune.search.agents."""
    generator: tf.random.Generator

    def _actions_and_log_probs(self, time_steps: ts.TimeStep, training: bool = False
                               ) -> tuple[tf.Tensor, tf.Tensor]:
        policy = self._train_policy if training else self._policy
        distribution = policy.distribution(time_steps).action
        actions = distribution.sample(seed=draw_seed(self.generator))
        return actions, common.log_probability(distribution, actions, self.action_spec)

    def cool(self, factor: float, least: float) -> None:
        """Multiplies the temperature by a factor, down to the least."""
        self._log_alpha.assign(tf.maximum(self._log_alpha + math.log(factor), math.log(least)))


class _Critic(network.Network):
    """Q of (observations [B, F], actions [B, A]), with an indicator of the step."""

    def __init__(self, input_tensor_spec: Any, steps: int, name: str = 'Critic'):
        super().__init__(input_tensor_spec=input_tensor_spec, state_spec=(), name=name)
        self._layers = [WithStep(steps),
                        *(tf_keras.layers.Dense(units, 'tanh') for units in _UNITS),
                        tf_keras.layers.Dense(1)]

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], step_type: Any = (),
             network_state: Any = (), training: bool = False) -> tuple[tf.Tensor, Any]:
        del step_type, training
        observations, actions = inputs
        with_step, *dense = self._layers
        hidden = tf.concat([with_step(observations), 2 * actions - 1], -1)  # those in [0, 1]
        for layer in dense:
            hidden = layer(hidden)
        return hidden[:, 0], network_state


class SAC(OffPolicyAgent):
    """Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905).

    Q is learnt from Monte-Carlo returns: the episode's reward is the target of each of its steps,
    of which an epoch affords too few for a terminal reward to be handed down from group to group.
    It is standardized by those in memory: accuracies differ by a few hundredths, next to which the
    temperature would be all that counts.

    The temperature begins at 0.1 and falls by 0.7 an update to 0.001, so that exploration ends
    within the few epochs that there are. The critics' learning rate is three times the actor's;
    RLAL's public code has 1e-3 and 1e-4, which did not leave chance within 400 episodes of a search
    of known optimum (--suite=learning).
    """
    _LEARNING_RATE = 1e-3
    _TEMPERATURE, _COOLING, _LEAST = 0.1, 0.7, 1e-3

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int, episodes: int,
                 context: Context | None = None):
        learning_rate = learning_rate or self._LEARNING_RATE
        time_step_spec, action_spec = specs(env)
        observation_spec = time_step_spec.observation
        actor = actor_distribution_network.ActorDistributionNetwork(
            observation_spec, action_spec, preprocessing_layers=WithStep(env.steps),
            fc_layer_params=_UNITS,
            continuous_projection_net=tanh_normal_projection_network.TanhNormalProjectionNetwork)
        super().__init__(_SacAgent(
            time_step_spec, action_spec, actor_network=actor,
            critic_network=_Critic((observation_spec, action_spec), env.steps),
            actor_optimizer=tf_keras.optimizers.legacy.Adam(learning_rate),
            critic_optimizer=tf_keras.optimizers.legacy.Adam(3 * learning_rate),
            alpha_optimizer=tf_keras.optimizers.legacy.SGD(0.0),
            initial_log_alpha=math.log(self._TEMPERATURE), gamma=0.0,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)), make_generator(),
            env, updates=updates, episodes=episodes, context=context)
        self.agent.generator = self._generator

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool,
                actions: np.ndarray, epoch: int = 0) -> None:
        super().observe(with_returns(steps), on_policy=on_policy, actions=actions, epoch=epoch)

    def _update(self) -> tf.Tensor | float | None:
        loss = super()._update()
        if loss is not None:
            self.agent.cool(self._COOLING, self._LEAST)
        return loss

    def _prepared(self, experience: trajectory.Trajectory) -> trajectory.Trajectory:
        mean, spread = self._memory.rewards()
        return experience.replace(
            reward=(experience.reward - mean) / tf.maximum(spread, 1e-4))
