"""The reward: accuracy of a sub-network with today's weights, on held-out training images."""
import contextlib
from typing import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune.gates import GatedModel
from tfprune.masks import open_masks
from tfprune.training import Batch, batch_norm_layers, count_correct, reestimate_batch_norm


class SubnetworkScorer:
    """masks -> accuracy in [0, 1] of the gated model, statistics re-estimated for the sub-network.

    Weights are read only; masks and batch-norm statistics are as before when a call returns.

    Args:
        gated: gates at the consumers.
        calibration: batches of training images [B, H, W, C] for the statistics.
        images: batches of (images, labels) of the reward split.
    """

    def __init__(self, gated: GatedModel, strategy: tf.distribute.Strategy,
                 calibration: tf.data.Dataset, images: tf.data.Dataset):
        self._gated, self._strategy = gated, strategy
        self._calibration = [batch for batch, _ in calibration]
        self._images: list[Batch] = list(images)
        if not self._calibration or not self._images:
            raise ValueError('scoring needs calibration batches and reward images; received none.')
        self._layers = batch_norm_layers(gated.model)

    def __call__(self, masks: Mapping[str, np.ndarray]) -> float:
        with self._as_it_was():
            self._gated.set_masks(masks)
            reestimate_batch_norm(self._gated.graph, self._forward, self._calibration)
            counts = sum(self._count(images, labels).numpy() for images, labels in self._images)
            return float(counts[0] / counts[1])

    @contextlib.contextmanager
    def _as_it_was(self) -> Iterator[None]:
        statistics = [(v, keras.ops.convert_to_numpy(v)) for layer in self._layers
                      for v in (layer.moving_mean, layer.moving_variance)]
        try:
            yield
        finally:
            self._gated.set_masks(open_masks(self._gated.groups))
            for variable, value in statistics:
                variable.assign(value)

    # Every replica scores the same images: the batch is not split, so one replica's answer counts.
    @tf.function(reduce_retracing=True)
    def _forward(self, images: tf.Tensor) -> None:
        self._strategy.run(lambda x: self._gated.model(tf.cast(x, tf.float32), training=True),
                           (images,))

    @tf.function(reduce_retracing=True)
    def _count(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        counts = self._strategy.run(lambda x, y: count_correct(self._gated.model, x, y),
                                    (images, labels))
        return self._strategy.experimental_local_results(counts)[0]
