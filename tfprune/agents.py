"""Agents of TF-Agents, behind one small contract: collect episodes in lockstep, observe, update.

All randomness comes from one tf.random.Generator per agent, a variable. TF-Agents itself draws with
TensorFlow's op seeds, which are fixed when a function is traced: every `set_random_seed` would
replay the same exploration noise, and a resumed run, which traces later, would draw another.
"""
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
from tf_agents.policies import greedy_policy, py_tf_eager_policy, random_py_policy, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts
from tf_agents.trajectories import policy_step, trajectory
from tf_agents.utils import common

from tfprune.environment import PruningEnv


class Policy(Protocol):
    """What plays an episode."""

    def action(self, time_step: ts.TimeStep, policy_state: tuple = ()
               ) -> policy_step.PolicyStep: ...


def play(envs: Sequence[PruningEnv], policy: Policy
         ) -> tuple[list[trajectory.Trajectory], list[float]]:
    """One episode in each of E environments, in lockstep: a policy call serves all.

    Returns:
        G + 1 trajectories of batch E (the last is the boundary that TF-Agents' returns need), and
        the episodes' rewards [E].
    """
    env = batched_py_environment.BatchedPyEnvironment(list(envs), multithreading=False)
    steps = []
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


def _draw_seed(generator: tf.random.Generator) -> tf.Tensor:
    """A seed int32 [2] for one stateless draw."""
    return tf.cast(generator.make_seeds(1)[:, 0], tf.int32)


class _SampledPolicy:
    """Samples the actions of a TF-Agents policy with draws of `generator`; see the module."""

    def __init__(self, policy: tf_policy.TFPolicy, generator: tf.random.Generator):
        self._policy, self._generator = policy, generator
        self._sample = common.function(self._sample_eagerly)

    def action(self, time_step: ts.TimeStep, policy_state: tuple = ()) -> policy_step.PolicyStep:
        del policy_state
        return self._sample(tf.nest.map_structure(tf.convert_to_tensor, time_step))

    def _sample_eagerly(self, time_step: ts.TimeStep) -> policy_step.PolicyStep:
        step = self._policy.distribution(time_step)
        return step.replace(action=step.action.sample(seed=_draw_seed(self._generator)))


class Agent(tf.Module):
    """A TF-Agents agent with its memory; all its state is in variables.

    Attributes:
        collect_policy: stochastic; what episodes are played with.
        greedy_policy: its mode.
    """

    def __init__(self, agent: tf_agent.TFAgent, generator: tf.random.Generator):
        super().__init__()
        self.agent, self._generator = agent, generator
        agent.initialize()
        self.collect_policy = _SampledPolicy(agent.collect_policy, generator)
        self.greedy_policy = py_tf_eager_policy.PyTFEagerPolicy(
            greedy_policy.GreedyPolicy(agent.policy), use_tf_function=True, batch_time_steps=False)

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool) -> None:
        """Takes the trajectories of `play`; on_policy=False are random ones."""
        raise NotImplementedError

    def update(self) -> float:
        """Trains on what was observed; the loss, NaN where there was nothing to learn from."""
        raise NotImplementedError


class PPO(Agent):
    """Clipped PPO on the episodes of the latest epoch (Schulman et al. 2017, arXiv 1707.06347)."""
    # An epoch affords few episodes: measured against 3e-4 and 3e-3 on a known surrogate.
    _LEARNING_RATE = 1e-2

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int):
        time_step_spec, action_spec = _specs(env)
        observation_spec = time_step_spec.observation
        actor = actor_distribution_network.ActorDistributionNetwork(
            observation_spec, action_spec, fc_layer_params=(64, 64),
            activation_fn=tf_keras.activations.tanh)
        value = value_network.ValueNetwork(
            observation_spec, fc_layer_params=(64, 64), activation_fn=tf_keras.activations.tanh)
        optimizer = tf_keras.optimizers.Adam(learning_rate or self._LEARNING_RATE)
        super().__init__(ppo_clip_agent.PPOClipAgent(
            time_step_spec, action_spec, optimizer, actor, value, importance_ratio_clipping=0.2,
            discount_factor=1.0, lambda_value=1.0, use_gae=True, num_epochs=1,
            gradient_clipping=0.5, normalize_rewards=False, normalize_observations=False,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)), _make_generator())
        # Slots must exist before a checkpoint is read, in an order that no variable name decides.
        optimizer.build(actor.trainable_weights + value.trainable_weights)
        # Not tf.function: autograph makes ten seconds of tracing out of one.
        self._train = common.function(self.agent.train)
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


class _SacAgent(sac_agent.SacAgent):
    """With the actions in its losses drawn from `generator`; see the module."""
    generator: tf.random.Generator

    def _actions_and_log_probs(self, time_steps: ts.TimeStep, training: bool = False
                               ) -> tuple[tf.Tensor, tf.Tensor]:
        policy = self._train_policy if training else self._policy
        distribution = policy.distribution(time_steps).action
        actions = distribution.sample(seed=_draw_seed(self.generator))
        return actions, common.log_probability(distribution, actions, self.action_spec)


class _Memory(tf.Module):
    """The latest `capacity` episodes of `steps` trajectories, in variables.

    TF-Agents' buffer draws with op seeds (see the module) and pairs the end of an episode with the
    beginning of the next.
    """

    def __init__(self, spec: trajectory.Trajectory, capacity: int, steps: int):
        super().__init__()
        self._structure, self._capacity, self._steps = spec, capacity, steps
        self._fields = [tf.Variable(tf.zeros([capacity, steps, *field.shape], field.dtype),
                                    trainable=False) for field in tf.nest.flatten(spec)]
        self.count = tf.Variable(0, trainable=False, dtype=tf.int64)

    def add(self, steps: Sequence[trajectory.Trajectory]) -> None:
        """Adds E episodes, `steps` trajectories of batch E."""
        episodes = tf.nest.map_structure(lambda *x: tf.stack(x, axis=1), *steps)
        added = len(episodes.reward)
        rows = (self.count + tf.range(added, dtype=tf.int64)) % self._capacity
        for field, values in zip(self._fields, tf.nest.flatten(episodes)):
            field.scatter_nd_update(rows[:, None], values)
        self.count.assign_add(added)

    def sample(self, generator: tf.random.Generator, size: int) -> trajectory.Trajectory:
        """`size` pairs of consecutive trajectories [size, 2] of one episode each."""
        episode = generator.uniform([size, 1], maxval=tf.minimum(self.count, self._capacity),
                                    dtype=tf.int64)
        first = generator.uniform([size, 1], maxval=self._steps - 1, dtype=tf.int64)
        at = tf.stack([tf.repeat(episode, 2, axis=1), first + [[0, 1]]], axis=-1)
        return tf.nest.pack_sequence_as(
            self._structure, [tf.gather_nd(field, at) for field in self._fields])


class SAC(Agent):
    """Soft actor-critic with a fixed temperature of 0.1 (Haarnoja et al. 2018, arXiv 1812.05905).

    Learning rates as in RLAL's public code: the actor's 1e-4, the critics' ten times the actor's.
    The target networks follow with 0.05 a step, ten times the usual: an epoch affords too few steps
    for the terminal reward to reach the first group otherwise.
    """
    _LEARNING_RATE = 1e-4
    _BATCH = 64
    _CAPACITY = 512  # episodes

    def __init__(self, env: PruningEnv, *, learning_rate: float, updates: int, episodes: int):
        learning_rate = learning_rate or self._LEARNING_RATE
        time_step_spec, action_spec = _specs(env)
        observation_spec = time_step_spec.observation
        actor = actor_distribution_network.ActorDistributionNetwork(
            observation_spec, action_spec, fc_layer_params=(64, 64),
            continuous_projection_net=tanh_normal_projection_network.TanhNormalProjectionNetwork)
        critic = critic_network.CriticNetwork((observation_spec, action_spec),
                                              joint_fc_layer_params=(64, 64))
        super().__init__(_SacAgent(
            time_step_spec, action_spec, critic_network=critic, actor_network=actor,
            actor_optimizer=tf_keras.optimizers.legacy.Adam(learning_rate),
            critic_optimizer=tf_keras.optimizers.legacy.Adam(10 * learning_rate),
            alpha_optimizer=tf_keras.optimizers.legacy.SGD(0.0), initial_log_alpha=math.log(0.1),
            target_update_tau=0.05, gamma=1.0,
            train_step_counter=tf.Variable(0, dtype=tf.int64, trainable=False)), _make_generator())
        self.agent.generator = self._generator
        groups = len(env.budget.names)
        self._updates = updates * groups
        self._memory = _Memory(self.agent.collect_data_spec, max(self._CAPACITY, episodes),
                               groups + 1)
        self._train = common.function(lambda: self.agent.train(
            self._memory.sample(self._generator, self._BATCH)))

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool) -> None:
        self._memory.add(steps)

    def update(self) -> float:
        if not int(self._memory.count):
            return float('nan')
        loss = float('nan')
        for _ in range(self._updates):
            loss = self._train().loss
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
        learning_rate: 0 takes the agent's own default.
        episodes: environments played in lockstep.
        updates: passes over an epoch's steps.

    Raises:
        ValueError: no such agent.
    """
    if name not in AGENTS:
        raise ValueError(f'Unknown agent {name!r}. Available: {", ".join(sorted(AGENTS))}')
    return AGENTS[name](env, learning_rate=learning_rate, updates=updates, episodes=episodes)


def _make_generator() -> tf.random.Generator:
    """A stream of its own, decided by the global seed."""
    return tf.random.Generator.from_seed(
        int(tf.random.uniform((), maxval=2 ** 31 - 1, dtype=tf.int32)))


def _specs(env: PruningEnv) -> tuple[ts.TimeStep, tensor_spec.BoundedTensorSpec]:
    return (tensor_spec.from_spec(env.time_step_spec()), tensor_spec.from_spec(env.action_spec()))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the mean."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else float('nan')
    return float(array.mean()), float(error)
