"""Batch-norm statistics of a run's models, by training examples."""
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.structure.graph import unfold
from tfprune.tasks.base import Task
from tfprune.training.batch_norm import reestimate_batch_norm
from tfprune.training.step import Batch

_EPOCH_BATCHES = 20


def shown_examples(data: Examples, batch_size: int) -> tf.data.Dataset:
    """Those of the first epoch, as it shows them, that tell the statistics of a model."""
    return data.train_batches(0, batch_size).take(_EPOCH_BATCHES)


def settle(model: keras.Model, task: Task, batches: Iterable[Batch],
           strategy: tf.distribute.Strategy) -> None:
    """Replaces the moving statistics of a model, created under `strategy`, by those of batches, in
    the passes of training."""

    @tf.function(autograph=False)
    def forward(inputs: Any) -> None:
        strategy.run(lambda x: task.forward(model, x, training=True), (inputs,))

    reestimate_batch_norm(unfold(model), forward, (x for x, *_ in batches))
