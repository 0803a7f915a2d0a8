"""The replay memory of the off-policy agents."""
from typing import Sequence

import tensorflow as tf
from tf_agents.trajectories import trajectory


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

    def rewards(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of the episodes' rewards, those of their last steps."""
        held = tf.minimum(self.count, self._capacity)
        rewards = tf.nest.pack_sequence_as(self._structure, self._fields).reward[:held, -2]
        return tf.reduce_mean(rewards), tf.math.reduce_std(rewards)
