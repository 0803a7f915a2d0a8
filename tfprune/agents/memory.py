"""The replay memory of the off-policy agents, and what these share."""
from typing import Sequence

import tensorflow as tf
from tf_agents.agents import tf_agent
from tf_agents.trajectories import trajectory
from tf_agents.utils import common

from tfprune.agents.base import Agent, by_episode
from tfprune.environment import EpisodicEnv


class Memory(tf.Module):
    """The latest `capacity` episodes of `steps` trajectories, in variables.

    TF-Agents' buffer draws with op seeds (see tfprune.agents) and pairs the end of an episode with
    the beginning of the next.
    """

    def __init__(self, spec: trajectory.Trajectory, capacity: int, steps: int):
        super().__init__()
        self._structure, self._capacity, self._steps = spec, capacity, steps
        self._fields = [tf.Variable(tf.zeros([capacity, steps, *field.shape], field.dtype),
                                    trainable=False) for field in tf.nest.flatten(spec)]
        self.count = tf.Variable(0, trainable=False, dtype=tf.int64)

    def add(self, steps: Sequence[trajectory.Trajectory]) -> None:
        """Adds E episodes, `steps` trajectories of batch E."""
        episodes = by_episode(steps)
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

    def rewards(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of the episodes' rewards, those of their last steps."""
        held = tf.minimum(self.count, self._capacity)
        rewards = tf.nest.pack_sequence_as(self._structure, self._fields).reward[:held, -2]
        return tf.reduce_mean(rewards), tf.math.reduce_std(rewards)


class OffPolicyAgent(Agent):
    """Learns from pairs of steps drawn from the latest episodes, random ones included.

    Args:
        env: an environment like those that are played in.
        updates: passes over an epoch's steps.
        episodes: that are added at a time.
    """
    _BATCH = 64
    _CAPACITY = 512  # episodes

    def __init__(self, agent: tf_agent.TFAgent, generator: tf.random.Generator, env: EpisodicEnv,
                 *, updates: int, episodes: int):
        super().__init__(agent, generator)
        self._updates = updates * env.steps
        self._memory = Memory(agent.collect_data_spec, max(self._CAPACITY, episodes), env.steps + 1)
        self._train = common.function(lambda: agent.train(
            self._prepared(self._memory.sample(self._generator, self._BATCH))))

    def observe(self, steps: Sequence[trajectory.Trajectory], *, on_policy: bool) -> None:
        self._memory.add(steps)

    def update(self) -> float:
        if not int(self._memory.count):
            return float('nan')
        loss = float('nan')
        for _ in range(self._updates):
            loss = self._train().loss
        return float(loss)

    def _prepared(self, experience: trajectory.Trajectory) -> trajectory.Trajectory:
        """What is learnt from, of what was drawn [_BATCH, 2]."""
        raise NotImplementedError
