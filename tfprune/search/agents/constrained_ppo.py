"""Proximal policy optimization under a constraint: PPO-Lagrangian."""
import math
from typing import Sequence

import numpy as np
import tensorflow as tf
import tf_keras
from tf_agents.trajectories import trajectory
from tf_agents.utils import common

from tfprune.search.agents.base import OnPolicyAgent, by_episode, make_generator
from tfprune.search.agents.ppo import clipped_ppo, value_network_for
from tfprune.search.environment import PruningEnv


class ConstrainedPPO(OnPolicyAgent):
    """max_pi E[reward] subject to E[cost] <= limit (Ray et al. 2019, 'Benchmarking safe exploration
    in deep reinforcement learning', section 5).

        A   = (A_reward - nu A_cost) / (1 + nu)      two critics, one for each advantage
        pi  : TF-Agents' clipped PPO on A
        nu  = softplus(rho),  rho <- a gradient step up nu (mean episode cost - limit)

    TF-Agents' agent is as it is: it can be given advantages and returns, which are computed here,
    anew in each pass. The critic of costs learns beside it. The step of rho is a plain one: Adam,
    whose steps do not shrink with the violation, swung around the limit in 30 updates.

    Args:
        limit: on the mean cost of an episode.
        multiplier: nu at first.
        multiplier_learning_rate: of rho, a step per update.

    Attributes:
        multiplier: nu, a scalar tensor.
    """
    _LEARNING_RATE = 1e-2
    _STD = 0.25

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int, limit: float,
                 multiplier: float = 1.0, multiplier_learning_rate: float = 3.0):
        rate = learning_rate or self._LEARNING_RATE
        agent, value, _ = clipped_ppo(env, rate, self._STD,
                                      compute_value_and_advantage_in_train=False)
        super().__init__(agent, make_generator())
        self._value, self._cost_value = value, value_network_for(env)
        self._cost_value.create_variables()
        self._cost_optimizer = tf_keras.optimizers.Adam(rate)
        self._cost_optimizer.build(self._cost_value.trainable_weights)
        self._limit = limit
        # The inverse of softplus, of large numbers too.
        self._rho = tf.Variable(multiplier + math.log(-math.expm1(-multiplier)), dtype=tf.float32)
        self._multiplier_optimizer = tf_keras.optimizers.SGD(multiplier_learning_rate)
        self._multiplier_optimizer.build([self._rho])
        self._train, self._updates = common.function(self._pass), updates
        self._costs = np.zeros(0, np.float32)

    @property
    def multiplier(self) -> tf.Tensor:
        return tf.nn.softplus(self._rho)

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool,
                actions: np.ndarray | None = None, epoch: int = 0,
                costs: Sequence[float] = ()) -> None:
        """Takes the trajectories of `play` and the episodes' costs [E]."""
        super().observe(steps, on_policy=on_policy)
        self._costs = np.array(costs, np.float32)
        if self._steps and self._costs.shape != steps[0].reward.shape:
            raise ValueError(f'costs must have shape {tuple(steps[0].reward.shape)}; received '
                             f'{self._costs.shape}.')

    def _learn(self, steps: list[trajectory.Trajectory]) -> tf.Tensor | float:
        experience, costs = by_episode(steps), tf.constant(self._costs)
        with tf.GradientTape() as tape:
            descent = -self.multiplier * (tf.reduce_mean(costs) - self._limit)
        gradient = tape.gradient(descent, self._rho)
        self._multiplier_optimizer.apply_gradients([(gradient, self._rho)])
        loss = float('nan')
        for _ in range(self._updates):
            loss = self._train(experience, costs)
        return loss

    def _pass(self, experience: trajectory.Trajectory, costs: tf.Tensor) -> tf.Tensor:
        """A pass over trajectories [E, G + 1] and episode costs [E]; the loss of PPO."""
        _, _, coming = trajectory.to_transition(experience)
        value, _ = self._value(experience.observation, experience.step_type)
        returns, advantages = self.agent.compute_return_and_advantage(coming, value)
        # An episode's cost is that of its last step.
        at_end = tf.where(coming.is_last(), costs[:, None], 0.0)
        cost_value, _ = self._cost_value(experience.observation, experience.step_type)
        cost_returns, cost_advantages = self.agent.compute_return_and_advantage(
            coming._replace(reward=at_end), cost_value)
        nu = self.multiplier
        padded = {'return': returns,
                  'advantage': (advantages - nu * cost_advantages) / (1 + nu)}
        loss = self.agent.train(experience.replace(policy_info={
            **experience.policy_info, 'value_prediction': value,
            **{name: tf.pad(x, [[0, 0], [0, 1]]) for name, x in padded.items()}})).loss
        self._fit_costs(experience, cost_returns)
        return loss

    def _fit_costs(self, experience: trajectory.Trajectory, returns: tf.Tensor) -> None:
        """A step of the critic of costs towards `returns` [E, G]."""
        weights = self._cost_value.trainable_weights
        with tf.GradientTape() as tape:
            value, _ = self._cost_value(experience.observation, experience.step_type,
                                        training=True)
            loss = 0.5 * tf.reduce_mean(tf.square(value[:, :-1] - tf.stop_gradient(returns)))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, weights), 0.5)
        self._cost_optimizer.apply_gradients(zip(gradients, weights))
