"""REINFORCE with recurrent policies over the layers of a network, as in N2N learning.

TF-Agents' ReinforceAgent, twice. A policy that goes over the layers one by one (shrinkage) is its
recurrent actor network. One that sees all layers before it decides on any (removal: a bidirectional
LSTM) is no policy of steps: its episode is one step, whose observation is the table of all layers
and whose action is a vector.
"""
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tf_agents.agents.reinforce import reinforce_agent
from tf_agents.networks import actor_distribution_rnn_network, network, sequential
from tf_agents.policies import tf_policy
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts
from tf_agents.utils import common

from tfprune.search.agents.base import OnPolicyAgent, by_episode, draw_seed, make_generator


class _RecurrentPolicy:
    """Samples the actions of a TF-Agents policy step by step; its state is that of the episodes in
    lockstep, anew at their first step. Draws are those of `generator`; see search.agents."""

    def __init__(self, policy: tf_policy.TFPolicy, generator: tf.random.Generator):
        self._policy, self._generator = policy, generator
        self._sample = common.function(self._sample_eagerly)
        self._state: Any = ()

    def action(self, time_step: ts.TimeStep, policy_state: tuple = ()) -> policy_step.PolicyStep:
        del policy_state
        if time_step.is_first().all():
            self._state = self._policy.get_initial_state(len(time_step.reward))
        step = self._sample(tf.nest.map_structure(tf.convert_to_tensor, time_step), self._state)
        self._state = step.state
        return step.replace(state=())

    def _sample_eagerly(self, time_step: ts.TimeStep, state: Any) -> policy_step.PolicyStep:
        step = self._policy.distribution(time_step, state)
        return step.replace(action=step.action.sample(seed=draw_seed(self._generator)))


class _Bidirectional(tf_keras.layers.Layer):
    """Tables of all layers [..., L, F] -> logits of their choices [..., L, K]."""

    def __init__(self, units: int, choices: int, **options: Any):
        super().__init__(**options)
        self._units, self._choices = units, choices
        self._lstm = tf_keras.layers.Bidirectional(
            tf_keras.layers.LSTM(units, return_sequences=True))
        self._dense = tf_keras.layers.Dense(choices)

    def call(self, tables: tf.Tensor) -> tf.Tensor:
        rows = tf.reshape(tables, [-1, *tables.shape[-2:]])
        logits = self._dense(self._lstm(rows))
        return tf.reshape(logits, tf.concat([tf.shape(tables)[:-1], [self._choices]], 0))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {'units': self._units, 'choices': self._choices}


class Reinforce(OnPolicyAgent):
    """REINFORCE on the latest rollouts (Williams 1992), the return less a moving average:

        L = -1/E sum_e (R_e - b) sum_t log pi(a_t | s_<=t),    b <- b + baseline_rate (mean R - b)

    b is the average before these rollouts; of the first, their own mean.

    Args:
        time_step_spec, action_spec: as TF-Agents has them, of the environment.
        actor: the policy's network.
        baseline_rate: weight of the newest rollouts in the moving average.
    """

    def __init__(self, time_step_spec: ts.TimeStep, action_spec: Any, actor: network.Network, *,
                 learning_rate: float, baseline_rate: float):
        optimizer = tf_keras.optimizers.Adam(learning_rate)
        generator = make_generator()
        super().__init__(reinforce_agent.ReinforceAgent(
            time_step_spec, action_spec, actor, optimizer, normalize_returns=False, gamma=1.0,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)), generator)
        optimizer.build(actor.trainable_weights)  # slots before a checkpoint is read
        self.collect_policy = _RecurrentPolicy(self.agent.collect_policy, generator)
        self._baseline_rate = baseline_rate
        self.baseline = tf.Variable(float('nan'), trainable=False)
        self._train = common.function(self.agent.train)

    def _learn(self, steps: list[trajectory.Trajectory]) -> tf.Tensor | float:
        rewards = steps[-2].reward  # the last is the boundary
        mean = tf.reduce_mean(rewards)
        baseline = mean if tf.math.is_nan(self.baseline) else self.baseline.value()
        steps[-2] = steps[-2].replace(reward=rewards - baseline)
        self.baseline.assign(baseline + self._baseline_rate * (mean - baseline))
        return self._train(by_episode(steps)).loss


def make_bidirectional(time_step_spec: ts.TimeStep, action_spec: Any, *, units: int,
                       learning_rate: float, baseline_rate: float) -> Reinforce:
    """Decides on all L layers at once.

    Observations are tables float32 [L, F], actions int32 [L] in [0, maximum].
    """
    actor = sequential.Sequential([
        _Bidirectional(units, int(action_spec.maximum) + 1),
        tf_keras.layers.Lambda(lambda logits: tfp.distributions.Independent(
            tfp.distributions.Categorical(logits, dtype=action_spec.dtype), 1))],
        input_spec=time_step_spec.observation)
    return Reinforce(time_step_spec, action_spec, actor, learning_rate=learning_rate,
                     baseline_rate=baseline_rate)


def make_autoregressive(time_step_spec: ts.TimeStep, action_spec: Any, *, units: int,
                        learning_rate: float, baseline_rate: float) -> Reinforce:
    """Decides layer by layer; that it knows the action before is up to the observation.

    Observations are float32 [F], actions int32 [] in [0, maximum].
    """
    actor = actor_distribution_rnn_network.ActorDistributionRnnNetwork(
        time_step_spec.observation, action_spec, input_fc_layer_params=(), lstm_size=(units,),
        output_fc_layer_params=())
    return Reinforce(time_step_spec, action_spec, actor, learning_rate=learning_rate,
                     baseline_rate=baseline_rate)
