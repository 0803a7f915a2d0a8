"""Uniform random actions behind the contract of agents that learn: the ablation of learning."""
from typing import Sequence

import numpy as np
import tensorflow as tf
from tf_agents.specs import array_spec
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.trajectories import time_step as ts

from tfprune.search.agents.base import Agent, make_generator
from tfprune.search.environment import PruningEnv


class _UniformPolicy:
    """Draws each action uniformly in its bounds."""

    def __init__(self, spec: array_spec.BoundedArraySpec, generator: tf.random.Generator):
        self._spec, self._generator = spec, generator

    def action(self, time_step: ts.TimeStep, policy_state: tuple = ()) -> policy_step.PolicyStep:
        shape = (len(time_step.step_type), *self._spec.shape)
        return policy_step.PolicyStep(
            self._generator.uniform(shape, self._spec.minimum, self._spec.maximum), policy_state)


class RandomAgent(Agent):
    """Acts at random and learns nothing."""

    def __init__(self, env: PruningEnv):
        tf.Module.__init__(self)  # there is no agent of TF-Agents behind it
        self._generator = make_generator()
        self.collect_policy = _UniformPolicy(env.action_spec(), self._generator)

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool,
                actions: np.ndarray | None = None, epoch: int = 0) -> None:
        pass

    def _update(self) -> None:
        return None
