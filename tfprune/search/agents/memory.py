"""The replay memory of the off-policy agents, and what these share."""
from typing import Callable, Sequence

import numpy as np
import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.trajectories import trajectory
from tf_agents.utils import common

from tfprune.search.agents.base import Agent, by_episode
from tfprune.search.environment import EpisodicEnv

# epochs int32 [N] -> z float32 [N, Z]
Context = Callable[[tf.Tensor], tf.Tensor]


class Memory(tf.Module):
    """The latest `capacity` episodes of `steps` trajectories, in variables.

    TF-Agents' buffer draws with op seeds (see search.agents) and pairs the end of an episode with
    the beginning of the next.

    Attributes:
        epochs: int32 [capacity], those in which the episodes were played.
    """

    def __init__(self, spec: trajectory.Trajectory, capacity: int, steps: int):
        super().__init__()
        self._structure, self._capacity, self._steps = spec, capacity, steps
        self._fields = [tf.Variable(tf.zeros([capacity, steps, *field.shape], field.dtype),
                                    trainable=False) for field in tf.nest.flatten(spec)]
        self.epochs = tf.Variable(tf.zeros([capacity], tf.int32), trainable=False)
        self.count = tf.Variable(0, trainable=False, dtype=tf.int64)

    def add(self, steps: Sequence[trajectory.Trajectory], epoch: int = 0) -> None:
        """Adds E episodes of an epoch, `steps` trajectories of batch E."""
        episodes = by_episode(steps)
        added = len(episodes.reward)
        rows = (self.count + tf.range(added, dtype=tf.int64)) % self._capacity
        for field, values in zip(self._fields, tf.nest.flatten(episodes)):
            field.scatter_nd_update(rows[:, None], values)
        self.epochs.scatter_nd_update(rows[:, None], tf.fill([added], epoch))
        self.count.assign_add(added)

    def episodes(self) -> tuple[trajectory.Trajectory, tf.Tensor]:
        """All that are held, [n, steps], and the epochs int32 [n] of each."""
        held = tf.minimum(self.count, self._capacity)
        return tf.nest.pack_sequence_as(
            self._structure, [field[:held] for field in self._fields]), self.epochs[:held]

    def sample(self, generator: tf.random.Generator, size: int
               ) -> tuple[trajectory.Trajectory, tf.Tensor]:
        """`size` pairs of consecutive trajectories [size, 2] of one episode each, and the places of
        these episodes int64 [size] in the memory."""
        episode = generator.uniform([size, 1], maxval=tf.minimum(self.count, self._capacity),
                                    dtype=tf.int64)
        first = generator.uniform([size, 1], maxval=self._steps - 1, dtype=tf.int64)
        at = tf.stack([tf.repeat(episode, 2, axis=1), first + [[0, 1]]], axis=-1)
        return tf.nest.pack_sequence_as(
            self._structure, [tf.gather_nd(field, at) for field in self._fields]), episode[:, 0]

    def rewards(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of the episodes' rewards, those of their last steps."""
        held = tf.minimum(self.count, self._capacity)
        rewards = tf.nest.pack_sequence_as(self._structure, self._fields).reward[:held, -2]
        return tf.reduce_mean(rewards), tf.math.reduce_std(rewards)


class OffPolicyAgent(Agent):
    """Learns from pairs of steps drawn from the latest episodes, random ones included.

    Remembered are the actions as carried out (but see methods/amc.py), so that Q(s, a) is learnt of
    what happened: under a budget's bounds many actions that are asked for end in the same one. The
    other half of each batch has the same steps with the action that was asked for, of which the
    same is true: without them nothing contradicts Q where the bounds cut all off, and the actor
    stays there. Of z (search.context) the epoch is remembered and no value: the context network
    learns on, and the z_t of an episode of epoch t is computed anew at each update.

    Args:
        env: an environment like those that are played in.
        updates: passes over an epoch's steps.
        episodes: that are added at a time.
        context: the context network at present; None where observations end in no z, or in one
            that is a constant of the environment, which is then remembered.
    """
    _BATCH = 64
    _CAPACITY = 512  # episodes

    def __init__(self, agent: tf_agent.TFAgent, generator: tf.random.Generator, env: EpisodicEnv,
                 *, updates: int, episodes: int, context: Context | None = None):
        super().__init__(agent, generator)
        self._updates, self._context = updates * env.steps, context
        spec = agent.collect_data_spec
        # Numbers of an observation that are remembered.
        self._features = spec.observation.shape[-1] - (env.context_size if context else 0)
        self._memory = Memory(
            spec.replace(observation=tf.TensorSpec([self._features], spec.observation.dtype),
                         policy_info=spec.action),  # as asked for
            max(self._CAPACITY, episodes), env.steps + 1)
        self._train = common.function(lambda z: agent.train(self._prepared(self._drawn(z))))

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool,
                actions: np.ndarray, epoch: int = 0) -> None:
        del on_policy
        expected = (len(steps) - 1, *steps[0].action.shape)
        if actions.shape != expected:
            raise ValueError(f'actions must have shape {expected}; received {actions.shape}.')
        # The last trajectory is the boundary, from which nobody learns.
        held = [*actions.astype(self.agent.action_spec.dtype.as_numpy_dtype), steps[-1].action]
        self._memory.add([
            step.replace(observation=step.observation[:, :self._features], action=action,
                         policy_info=step.action) for step, action in zip(steps, held)], epoch)

    def _update(self) -> tf.Tensor | float | None:
        if not int(self._memory.count):
            return None
        # Of each remembered episode: the context network stays as it is within an update.
        z = self._context(self._memory.epochs.value()) if self._context else None
        loss = float('nan')
        for _ in range(self._updates):
            loss = self._train(z).loss
        return loss

    def _drawn(self, z: tf.Tensor | None) -> trajectory.Trajectory:
        """Pairs of steps [_BATCH, 2], whose observations end in the rows of z [capacity, Z]."""
        experience, places = self._memory.sample(self._generator, self._BATCH)
        half, asked = self._BATCH // 2, experience.policy_info
        experience = experience.replace(policy_info=(), action=tf.concat(
            [experience.action[:half], asked[half:]], axis=0))
        if z is None:
            return experience
        now = tf.repeat(tf.gather(z, places)[:, None], 2, axis=1)
        return experience.replace(observation=tf.concat([experience.observation, now], axis=-1))

    def _prepared(self, experience: trajectory.Trajectory) -> trajectory.Trajectory:
        """What is learnt from, of what was drawn [_BATCH, 2]."""
        raise NotImplementedError


def with_returns(steps: Sequence[trajectory.Trajectory]) -> list[trajectory.Trajectory]:
    """The trajectories of `play`, each with the reward that its episode ended with."""
    return [step.replace(reward=steps[-2].reward) for step in steps]
