"""The reward of a sub-network with the current weights, on held-out training examples."""
import math
from typing import Any, Mapping, Protocol

import numpy as np
import tensorflow as tf

from tfprune.tasks.base import Task
from tfprune.tasks.classification import Classification
from tfprune.training.step import Batch

# Batches in flight at once: one's convolutions fill the cores that another's small operations
# leave idle.
_AT_ONCE = 2


def finite_reward(reward: float, of: str) -> float:
    """`reward`; ValueError where it is NaN or infinite, of which nothing can be learnt."""
    if not math.isfinite(reward):
        raise ValueError(f'the reward of {of} is {reward}; expected a finite number.')
    return float(reward)


class Network(Protocol):
    """What is scored: a `Subnetwork`, or a stand-in that computes the same by masks."""

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None: ...

    def __call__(self, inputs: Any, /) -> Any: ...


class SubnetworkScorer:
    """masks -> reward of the sub-network that they select, by the task's measure; weights are only
    read.

    Each batch is normalized by its own statistics, those of the sub-network, in the pass that
    counts. The batches are dealt out to the replicas: a replica more does not change the score.

    Args:
        network: what runs the sub-network.
        held_out: batches (x, y) or (x, y, weights) of the reward split, in no order of classes;
            kept in memory.
        task: what is measured; None for the accuracy of a classifier of pictures.

    Raises:
        ValueError: there are no examples.
    """

    def __init__(self, network: Network, strategy: tf.distribute.Strategy,
                 held_out: tf.data.Dataset, task: Task | None = None):
        self._network, self._strategy = network, strategy
        self._task = task or Classification()
        batches: list[Batch] = list(held_out)
        if not batches:
            raise ValueError('scoring needs reward examples; received none.')
        self._traced_tally = tf.function(self._tally, reduce_retracing=True, autograph=False)
        dealt = _deal(batches, strategy)
        self._calls = [dealt[first:first + _AT_ONCE] for first in range(0, len(dealt), _AT_ONCE)]

    def __call__(self, masks: Mapping[str, np.ndarray]) -> float:
        self._network.set_masks(masks)
        # Fetched at the end: the batches follow one another without waiting for Python.
        sums = [self._sum(batches) for batches in self._calls]
        return self._task.measure.reward(self._task.value(tf.add_n(sums).numpy()))

    @tf.function(reduce_retracing=True, autograph=False)  # halves the tracing of deep networks
    def _sum(self, batches: list[tuple[Batch, Any]]) -> tf.Tensor:
        return tf.add_n([self._strategy.reduce(
            tf.distribute.ReduceOp.SUM, self._strategy.run(self._traced_tally, dealt), axis=None)
            for dealt in batches])

    def _tally(self, batch: Batch, counted: tf.Tensor) -> tf.Tensor:
        x, *targets = batch
        outputs = self._task.forward(lambda inputs, training: self._network(inputs), x,
                                     training=False)
        return tf.where(counted, self._task.tally(outputs, *targets), tf.constant(0.0, tf.float64))


def _deal(batches: list[Batch], strategy: tf.distribute.Strategy) -> list[tuple[Batch, Any]]:
    """(batch, True) for all replicas at a time; False marks a batch that fills the last round."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return [(batch, tf.constant(True)) for batch in batches]

    def per_replica(first: int, of: Any) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: of(first + context.replica_id_in_sync_group))

    def field(first: int, place: int) -> Any:
        return per_replica(first, lambda number: tf.nest.flatten(
            batches[number % len(batches)])[place])

    def dealt(first: int) -> tuple[Batch, Any]:
        fields = [field(first, place) for place in range(len(tf.nest.flatten(batches[0])))]
        return (tf.nest.pack_sequence_as(batches[0], fields),
                per_replica(first, lambda number: tf.constant(number < len(batches))))

    return [dealt(first) for first in range(0, len(batches), replicas)]
