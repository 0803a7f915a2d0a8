"""What all agents share: the contract, and draws from a generator of their own."""
import math
from typing import Protocol, Sequence

import numpy as np
import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.policies import greedy_policy, py_tf_eager_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts
from tf_agents.utils import common

from tfprune.search.environment import EpisodicEnv
from tfprune.training.step import NonFiniteLossError


def draw_seed(generator: tf.random.Generator) -> tf.Tensor:
    """A seed int32 [2] for one stateless draw."""
    return tf.cast(generator.make_seeds(1)[:, 0], tf.int32)


class SampledPolicy:
    """Samples the actions of a TF-Agents policy with draws of `generator`; see search.agents."""

    def __init__(self, policy: tf_policy.TFPolicy, generator: tf.random.Generator):
        self._policy, self._generator = policy, generator
        self._sample = common.function(self._sample_eagerly)

    def action(self, time_step: ts.TimeStep, policy_state: tuple = ()) -> policy_step.PolicyStep:
        del policy_state
        return self._sample(tf.nest.map_structure(tf.convert_to_tensor, time_step))

    def _sample_eagerly(self, time_step: ts.TimeStep) -> policy_step.PolicyStep:
        step = self._policy.distribution(time_step)
        return step.replace(action=step.action.sample(seed=draw_seed(self._generator)))


class Policy(Protocol):
    """What plays an episode."""

    def action(self, time_step: ts.TimeStep, policy_state: tuple = ()
               ) -> policy_step.PolicyStep: ...


class Agent(tf.Module):
    """A TF-Agents agent with its memory; all its state is in variables.

    Attributes:
        collect_policy: stochastic; what episodes are played with.
        greedy_policy: its mode.
        is_on_policy: whether it learns of its own latest episodes alone.
    """
    is_on_policy = False

    collect_policy: Policy

    def __init__(self, agent: tf_agent.TFAgent, generator: tf.random.Generator):
        super().__init__()
        self.agent, self._generator = agent, generator
        agent.initialize()
        self.collect_policy = SampledPolicy(agent.collect_policy, generator)
        self.greedy_policy = py_tf_eager_policy.PyTFEagerPolicy(
            greedy_policy.GreedyPolicy(agent.policy), use_tf_function=True, batch_time_steps=False)

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool,
                actions: np.ndarray, epoch: int = 0) -> None:
        """Takes the trajectories of `play`.

        Args:
            on_policy: False of random actions.
            actions: [steps, E, ...] for a memory: `carried_out` or, where a method learns of
                what was wanted, `asked_for`.
            epoch: whose z the observations end in.
        """
        raise NotImplementedError

    def update(self) -> float:
        """Trains on what was observed; the loss, NaN where there was nothing to learn from.

        Raises:
            NonFiniteLossError: the loss has become NaN or infinite.
        """
        try:
            loss = self._update()
        except tf.errors.InvalidArgumentError as error:  # of TF-Agents' own check_numerics
            if 'inf or nan' not in str(error):
                raise
            loss = float('nan')
        if loss is None:
            return float('nan')
        if not math.isfinite(loss):
            raise NonFiniteLossError(f'the loss of agent {type(self).__name__} is {float(loss)}: '
                                     'a lower learning rate of the agent may help.')
        return float(loss)

    def _update(self) -> tf.Tensor | float | None:
        """The loss, None where there was nothing to learn from."""
        raise NotImplementedError


class OnPolicyAgent(Agent):
    """Learns from its own latest episodes, once.

    From the actions as sampled: the policy's gradient is that of their log-probabilities, and
    that a budget carries out others is a part of the environment, as its transitions are. The
    probability of an action that the bounds put in its place is another number, under a policy
    that has not drawn it.
    """
    is_on_policy = True

    def __init__(self, agent: tf_agent.TFAgent, generator: tf.random.Generator):
        super().__init__(agent, generator)
        self._steps: list[trajectory.Trajectory] = []
        self._epoch = 0

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool,
                actions: np.ndarray | None = None, epoch: int = 0) -> None:
        del actions
        self._steps, self._epoch = list(steps) if on_policy else [], epoch

    def _update(self) -> tf.Tensor | float | None:
        if not self._steps:
            return None
        steps, self._steps = list(self._steps), []
        return self._learn(steps)

    def _learn(self, steps: list[trajectory.Trajectory]) -> tf.Tensor | float:
        """Trains on the trajectories of `play` in epoch `_epoch`; the loss."""
        raise NotImplementedError


def by_episode(steps: Sequence[trajectory.Trajectory]) -> trajectory.Trajectory:
    """The trajectories of `play` as one of shape [E, G + 1]."""
    return tf.nest.map_structure(lambda *x: tf.stack(x, axis=1), *steps)


def make_generator() -> tf.random.Generator:
    """A stream of its own, decided by the global seed."""
    return tf.random.Generator.from_seed(
        int(tf.random.uniform((), maxval=2 ** 31 - 1, dtype=tf.int32)))


def specs(env: EpisodicEnv) -> tuple[ts.TimeStep, tensor_spec.BoundedTensorSpec]:
    return (tensor_spec.from_spec(env.time_step_spec()), tensor_spec.from_spec(env.action_spec()))
