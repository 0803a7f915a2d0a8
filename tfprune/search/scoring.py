"""The reward: accuracy of a sub-network with the current weights, on held-out training images."""
from typing import Any, Mapping, Protocol

import numpy as np
import tensorflow as tf

from tfprune.training.step import Batch, are_right

# Batches in flight at once: one's convolutions fill the cores that another's small operations
# leave idle.
_AT_ONCE = 2


class Network(Protocol):
    """What is scored: a `Subnetwork`, or a stand-in that computes the same by masks."""

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None: ...

    def __call__(self, images: tf.Tensor) -> tf.Tensor: ...


class SubnetworkScorer:
    """masks -> accuracy in [0, 1] of the sub-network that they select; weights are only read.

    Each batch is normalized by its own statistics, those of the sub-network, in the pass that
    counts. The batches are dealt out to the replicas: a replica more does not change the score.

    Args:
        network: what runs the sub-network.
        images: batches of (images [B, H, W, C], labels [B]) of the reward split, in no order of
            classes; kept in memory.

    Raises:
        ValueError: there are no images.
    """

    def __init__(self, network: Network, strategy: tf.distribute.Strategy,
                 images: tf.data.Dataset):
        self._network, self._strategy = network, strategy
        batches: list[Batch] = list(images)
        if not batches:
            raise ValueError('scoring needs reward images; received none.')
        self._images = sum(len(labels) for _, labels in batches)
        self._traced_hits = tf.function(self._hits, reduce_retracing=True, autograph=False)
        dealt = _deal(batches, strategy)
        self._calls = [dealt[first:first + _AT_ONCE] for first in range(0, len(dealt), _AT_ONCE)]

    def __call__(self, masks: Mapping[str, np.ndarray]) -> float:
        self._network.set_masks(masks)
        # Fetched at the end: the batches follow one another without waiting for Python.
        counts = [self._count(batches) for batches in self._calls]
        return int(tf.add_n(counts)) / self._images

    @tf.function(reduce_retracing=True, autograph=False)  # halves the tracing of deep networks
    def _count(self, batches: list[tuple[Any, Any, Any]]) -> tf.Tensor:
        return tf.add_n([self._strategy.reduce(
            tf.distribute.ReduceOp.SUM, self._strategy.run(self._traced_hits, batch), axis=None)
            for batch in batches])

    def _hits(self, images: tf.Tensor, labels: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
        outputs = self._network(tf.cast(images, tf.float32))
        return tf.reduce_sum(tf.cast(are_right(outputs, labels), tf.int32)) * counted


def _deal(batches: list[Batch], strategy: tf.distribute.Strategy) -> list[tuple[Any, Any, Any]]:
    """(images, labels, 1) for all replicas at a time; 0 marks a batch that fills the last round."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return [(images, labels, tf.constant(1)) for images, labels in batches]

    def per_replica(first: int, field: int) -> Any:
        def value(context: tf.distribute.InputContext) -> tf.Tensor:
            place = first + context.replica_id_in_sync_group
            if field == 2:
                return tf.constant(int(place < len(batches)))
            return batches[place % len(batches)][field]

        return strategy.experimental_distribute_values_from_function(value)

    return [(per_replica(first, 0), per_replica(first, 1), per_replica(first, 2))
            for first in range(0, len(batches), replicas)]
