"""Deep deterministic policy gradient."""
from typing import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tf_agents.agents.ddpg import actor_network, critic_network, ddpg_agent
from tf_agents.policies import tf_policy
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from tfprune.search.agents.base import SampledPolicy, draw_seed, make_generator, specs
from tfprune.search.agents.memory import Context, OffPolicyAgent, with_returns
from tfprune.search.environment import PruningEnv


class _NoisyPolicy(SampledPolicy):
    """The actor's actions with truncated normal noise: a_t ~ N(mu(s_t), std^2) in [0, 1].

    Args:
        std: the noise's standard deviation in the next episode, which decays from one to the next.
    """

    def __init__(self, policy: tf_policy.TFPolicy, generator: tf.random.Generator, std: tf.Variable,
                 decay: float):
        super().__init__(policy, generator)
        self._std, self._decay = std, decay

    def _sample_eagerly(self, time_step: ts.TimeStep) -> policy_step.PolicyStep:
        step = self._policy.action(time_step)
        # The episodes in lockstep are those that would have followed one another.
        later = tf.range(tf.shape(step.action)[0], dtype=tf.float32)[:, None]
        std = tf.maximum(self._std * self._decay ** later, 1e-4)
        noisy = tfp.distributions.TruncatedNormal(step.action, std, 0.0, 1.0)
        return step.replace(action=noisy.sample(seed=draw_seed(self._generator)))


class DDPG(OffPolicyAgent):
    """DDPG (Lillicrap et al. 2016, arXiv 1509.02971) as AMC uses it (arXiv 1802.03494, section 3).

    The episode's reward is that of each of its steps, discount 1, less a moving average of the
    rewards that were learnt from. The noise shrinks with each of the agent's own episodes.
    Learning rates: the actor's 1e-4, the critic's ten times the actor's.

    Args:
        updates: for each group, steps on a batch of 64 an epoch; AMC's is one an episode.
        noise, noise_decay: the standard deviation of episode n is noise * noise_decay ** n.
        baseline_rate: weight of the newest batch in the moving average.
    """
    _LEARNING_RATE = 1e-4

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int, episodes: int,
                 context: Context | None = None, noise: float = 0.5, noise_decay: float = 0.95,
                 baseline_rate: float = 0.5):
        learning_rate = learning_rate or self._LEARNING_RATE
        time_step_spec, action_spec = specs(env)
        observation_spec = time_step_spec.observation
        actor = actor_network.ActorNetwork(observation_spec, action_spec,
                                           fc_layer_params=(300, 300))
        critic = critic_network.CriticNetwork((observation_spec, action_spec),
                                              joint_fc_layer_params=(300, 300))
        generator = make_generator()
        super().__init__(ddpg_agent.DdpgAgent(
            time_step_spec, action_spec, actor_network=actor, critic_network=critic,
            actor_optimizer=tf_keras.optimizers.legacy.Adam(learning_rate),
            critic_optimizer=tf_keras.optimizers.legacy.Adam(10 * learning_rate),
            target_update_tau=0.01, gamma=1.0,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)), generator, env,
            updates=updates, episodes=episodes, context=context)
        self.noise = tf.Variable(noise, trainable=False)
        self._noise_decay, self._baseline_rate = noise_decay, baseline_rate
        self._baseline = tf.Variable(np.nan, trainable=False, dtype=tf.float32)
        self.collect_policy = _NoisyPolicy(self.agent.policy, generator, self.noise, noise_decay)

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool,
                actions: np.ndarray, epoch: int = 0) -> None:
        super().observe(with_returns(steps), on_policy=on_policy, actions=actions, epoch=epoch)
        if on_policy:
            self.noise.assign(self.noise * self._noise_decay ** len(steps[0].reward))

    def _prepared(self, experience: trajectory.Trajectory) -> trajectory.Trajectory:
        mean = tf.reduce_mean(experience.reward[:, 0])
        first = tf.math.is_nan(self._baseline)
        self._baseline.assign(tf.where(first, mean, self._baseline + self._baseline_rate
                                       * (mean - self._baseline)))
        return experience.replace(reward=experience.reward - self._baseline)
