"""Episodes played in lockstep, and what of their rewards is told."""
import math
from typing import Sequence

import numpy as np
from tf_agents.environments import batched_py_environment, py_environment
from tf_agents.policies import random_py_policy
from tf_agents.trajectories import trajectory
from tf_agents.trajectories import time_step as ts

from tfprune.search.agents.base import Policy
from tfprune.search.environment import EpisodicEnv, PruningEnv
from tfprune.search.scoring import finite_reward


def play(envs: Sequence[py_environment.PyEnvironment], policy: Policy
         ) -> tuple[list[trajectory.Trajectory], list[float]]:
    """One episode in each of E environments, in lockstep: a policy call serves all.

    All episodes have G steps; of a PruningEnv that is one a group.

    Returns:
        G + 1 trajectories of batch E (the last is the boundary that TF-Agents' returns need), with
        the actions as the policy gave them; and the episodes' rewards [E].

    Raises:
        ValueError: a reward is NaN or infinite.
    """
    env = batched_py_environment.BatchedPyEnvironment(list(envs), multithreading=False)
    steps: list[trajectory.Trajectory] = []
    time_step = env.reset()
    while not np.all(time_step.is_last()):
        action = policy.action(time_step)
        next_step = env.step(action.action)
        for reward in next_step.reward:
            finite_reward(reward, f'step {len(steps) + 1} of an episode')
        steps.append(trajectory.from_transition(time_step, action, next_step))
        time_step = next_step
    rewards = [float(r) for r in time_step.reward]
    # The boundary LAST -> FIRST has no effect on the environments, whose widths are read next.
    action = policy.action(time_step)
    steps.append(trajectory.from_transition(time_step, action, ts.restart(
        time_step.observation, batch_size=len(envs))))
    return steps, rewards


def carried_out(envs: Sequence[EpisodicEnv]) -> np.ndarray:
    """The actions [steps, E, ...] of the episodes that `play` has just ended, as the environments
    carried them out: `executed` of each."""
    return np.stack([env.executed for env in envs], axis=1)


def asked_for(steps: Sequence[trajectory.Trajectory]) -> np.ndarray:
    """The actions [steps, E, ...] of the trajectories of `play` as the policy gave them."""
    return np.stack([step.action for step in steps[:-1]])


def random_policy(env: PruningEnv, seed: int) -> Policy:
    """Uniform random actions in the action's bounds."""
    return random_py_policy.RandomPyPolicy(env.time_step_spec(), env.action_spec(), seed=seed,
                                           observation_and_action_constraint_splitter=None)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the mean."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else float('nan')
    return float(array.mean()), float(error)
