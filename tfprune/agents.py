"""Agents of TF-Agents, behind one small contract: collect episodes in lockstep, observe, update."""
import math
from typing import Callable, Protocol, Sequence

import numpy as np
import tensorflow as tf
import tf_keras
from tf_agents.agents import tf_agent
from tf_agents.agents.ddpg import critic_network
from tf_agents.agents.ppo import ppo_clip_agent
from tf_agents.agents.sac import sac_agent, tanh_normal_projection_network
from tf_agents.environments import batched_py_environment
from tf_agents.networks import actor_distribution_network, value_network
from tf_agents.policies import py_tf_eager_policy, random_py_policy
from tf_agents.replay_buffers import tf_uniform_replay_buffer
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts
from tf_agents.trajectories import trajectory

from tfprune.environment import PruningEnv


class Policy(Protocol):
    """What plays an episode."""

    def action(self, time_step: ts.TimeStep, policy_state: tuple = ()) -> object: ...


def play(envs: Sequence[PruningEnv], policy: Policy) -> tuple[list[trajectory.Trajectory], list[float]]:
    """One episode in each of E environments, in lockstep: a policy call serves all.

    Returns:
        G + 1 trajectories of batch E (the last is the boundary that TF-Agents' returns need), and
        the episodes' rewards [E].
    """
    env = batched_py_environment.BatchedPyEnvironment(list(envs), multithreading=False)
    steps, rewards = [], [0.0] * len(envs)
    time_step = env.reset()
    for _ in range(len(envs[0].budget.names)):
        action = policy.action(time_step)
        next_step = env.step(action.action)
        steps.append(trajectory.from_transition(time_step, action, next_step))
        time_step = next_step
    rewards = [float(r) for r in time_step.reward]
    # The boundary LAST -> FIRST has no effect on the environments, whose widths are read next.
    action = policy.action(time_step)
    steps.append(trajectory.from_transition(time_step, action, ts.restart(
        time_step.observation, batch_size=len(envs))))
    return steps, rewards


def random_policy(env: PruningEnv, seed: int) -> Policy:
    """Uniform random actions in the action's bounds."""
    return random_py_policy.RandomPyPolicy(env.time_step_spec(), env.action_spec(), seed=seed,
                                           observation_and_action_constraint_splitter=None)


class Agent(tf.Module):
    """A TF-Agents agent with its memory; all its state is in variables.

    Attributes:
        collect_policy: stochastic; what episodes are played with.
        greedy_policy: its mode.
    """

    def __init__(self, agent: tf_agent.TFAgent):
        super().__init__()
        self.agent = agent
        agent.initialize()
        self.collect_policy = py_tf_eager_policy.PyTFEagerPolicy(
            agent.collect_policy, use_tf_function=True, batch_time_steps=False)
        self.greedy_policy = py_tf_eager_policy.PyTFEagerPolicy(
            agent.policy, use_tf_function=True, batch_time_steps=False)
        self._train = tf.function(agent.train)

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool) -> None:
        """Takes the trajectories of `play`; on_policy=False are random ones."""
        raise NotImplementedError

    def update(self) -> float:
        """Trains on what was observed; the loss, NaN where there was nothing to learn from."""
        raise NotImplementedError


class PPO(Agent):
    """Clipped PPO on the episodes of the latest epoch (Schulman et al. 2017, arXiv 1707.06347)."""

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int):
        time_step_spec, action_spec = _specs(env)
        observation_spec = time_step_spec.observation
        actor = actor_distribution_network.ActorDistributionNetwork(
            observation_spec, action_spec, fc_layer_params=(64, 64), activation_fn=tf_keras.activations.tanh)
        value = value_network.ValueNetwork(
            observation_spec, fc_layer_params=(64, 64), activation_fn=tf_keras.activations.tanh)
        optimizer = tf_keras.optimizers.Adam(learning_rate)
        super().__init__(ppo_clip_agent.PPOClipAgent(
            time_step_spec, action_spec, optimizer, actor, value, importance_ratio_clipping=0.2,
            discount_factor=1.0, lambda_value=1.0, use_gae=True, num_epochs=1,
            gradient_clipping=0.5, normalize_rewards=False, normalize_observations=False,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)))
        # Slots must exist before a checkpoint is read.
        optimizer.build(sorted(actor.trainable_weights + value.trainable_weights,
                               key=lambda variable: variable.name))
        self._updates = updates
        self._steps: list[trajectory.Trajectory] = []

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool) -> None:
        self._steps = list(steps) if on_policy else []

    def update(self) -> float:
        if not self._steps:
            return float('nan')
        experience = tf.nest.map_structure(lambda *x: tf.stack(x, axis=1), *self._steps)
        self._steps = []
        loss = float('nan')
        for _ in range(self._updates):  # advantages anew each pass (arXiv 2006.05990, section 3.5)
            loss = self._train(experience).loss
        return float(loss)


class SAC(Agent):
    """Soft actor-critic with a fixed temperature of 0.1 (Haarnoja et al. 2018, arXiv 1812.05905).

    Learning rates as in RLAL's public code: the actor's as given, the critics' ten times that.
    """
    _BATCH = 64
    _CAPACITY = 4096

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int, episodes: int):
        time_step_spec, action_spec = _specs(env)
        observation_spec = time_step_spec.observation
        actor = actor_distribution_network.ActorDistributionNetwork(
            observation_spec, action_spec, fc_layer_params=(64, 64),
            continuous_projection_net=tanh_normal_projection_network.TanhNormalProjectionNetwork)
        critic = critic_network.CriticNetwork((observation_spec, action_spec),
                                              joint_fc_layer_params=(64, 64))
        super().__init__(sac_agent.SacAgent(
            time_step_spec, action_spec, critic_network=critic, actor_network=actor,
            actor_optimizer=tf_keras.optimizers.legacy.Adam(learning_rate),
            critic_optimizer=tf_keras.optimizers.legacy.Adam(10 * learning_rate),
            alpha_optimizer=tf_keras.optimizers.legacy.SGD(0.0), initial_log_alpha=math.log(0.1),
            target_update_tau=0.005, gamma=1.0,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)))
        self._updates = updates * len(env.budget.names)
        self._buffer = tf_uniform_replay_buffer.TFUniformReplayBuffer(
            self.agent.collect_data_spec, batch_size=episodes, max_length=self._CAPACITY // episodes)

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool) -> None:
        for step in steps:
            self._buffer.add_batch(tf.nest.map_structure(tf.convert_to_tensor, step))

    def update(self) -> float:
        if int(self._buffer.num_frames()) == 0:
            return float('nan')
        loss = float('nan')
        batches = self._buffer.as_dataset(sample_batch_size=self._BATCH, num_steps=2)
        for experience, _ in batches.take(self._updates):
            loss = self._train(experience).loss
        return float(loss)


# name -> (env, learning_rate=, updates=, episodes=) -> Agent
AGENTS: dict[str, Callable[..., Agent]] = {
    'ppo': lambda env, *, learning_rate, updates, episodes: PPO(
        env, learning_rate=learning_rate, updates=updates),
    'sac': SAC,
}


def make_agent(name: str, env: PruningEnv, *, learning_rate: float, updates: int,
               episodes: int) -> Agent:
    """The agent called `name`, built from the environment's specs.

    Args:
        episodes: environments played in lockstep.
        updates: passes over an epoch's steps.

    Raises:
        ValueError: no such agent.
    """
    if name not in AGENTS:
        raise ValueError(f'Unknown agent {name!r}. Available: {", ".join(sorted(AGENTS))}')
    return AGENTS[name](env, learning_rate=learning_rate, updates=updates, episodes=episodes)


def _specs(env: PruningEnv) -> tuple[ts.TimeStep, tensor_spec.BoundedTensorSpec]:
    return (tensor_spec.from_spec(env.time_step_spec()), tensor_spec.from_spec(env.action_spec()))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the mean."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else float('nan')
    return float(array.mean()), float(error)
