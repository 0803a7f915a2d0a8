"""Evaluation of a Keras 3 model under tf.distribute."""
import contextlib
import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfprune.significance import Scored
from tfprune.tasks.base import Task, scored
from tfprune.tasks.classification import Classification
from tfprune.training.distribution import DistributedBatches
from tfprune.training.step import Batch, by_xla


class Evaluator:
    """Metrics of a model, traced once.

    Args:
        task: what is measured; None for the accuracy of a classifier of pictures.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy, *,
                 task: Task | None = None, jit_compile: bool = False):
        self.model, self.strategy, self._task = model, strategy, task or Classification.of(model)
        self._sums = {name: tf.function(functools.partial(self._reduced, by_xla(
            functools.partial(self._of_replica, name), jit_compile)), reduce_retracing=True,
            autograph=False)
            for name in ('tally', 'spread')}

    def __call__(self, batches: tf.data.Dataset) -> float:
        """The metric that the task is judged by, over all batches."""
        return self._task.value(self._total('tally', batches))

    def metrics(self, batches: tf.data.Dataset) -> dict[str, float]:
        """All metrics of the task."""
        return self._task.metrics(self._total('tally', batches))

    def scored(self, batches: tf.data.Dataset) -> Scored:
        """Mean of the task's scores of examples."""
        return scored(self._total('spread', batches))

    def _total(self, kind: str, batches: tf.data.Dataset) -> np.ndarray:
        total = np.zeros(self._task.tally_size if kind == 'tally' else 3)
        with contextlib.closing(DistributedBatches(batches, self.strategy)) as iterator:
            for batch in iterator:
                total = total + self._sums[kind](batch).numpy()
        return total

    def _reduced(self, of_replica: Callable[[Batch], tf.Tensor], batch: Batch) -> tf.Tensor:
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(
            of_replica, (batch,)), axis=None)

    def _of_replica(self, kind: str, batch: Batch) -> tf.Tensor:
        x, *targets = batch

        def sums() -> tf.Tensor:
            outputs = self._task.forward(self.model, x, training=False)
            return getattr(self._task, kind)(outputs, *targets)

        if self.strategy.num_replicas_in_sync == 1:
            return sums()
        # Of a batch of fewer examples than replicas some have none, which not all layers bear.
        size = self._task.tally_size if kind == 'tally' else 3
        return tf.cond(tf.shape(tf.nest.flatten(x)[0])[0] > 0, sums,
                       lambda: tf.zeros([size], tf.float64))
