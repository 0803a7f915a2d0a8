"""Batch-norm statistics of a run's models, by training examples."""
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfprune.runs.state import State
from tfprune.structure.graph import unfold
from tfprune.training.batch_norm import reestimate_batch_norm
from tfprune.training.step import Batch


def settle(state: State, model: keras.Model, batches: Iterable[Batch],
           strategy: tf.distribute.Strategy | None = None) -> None:
    """Replaces the moving statistics of a model by those of batches, in the passes of training.

    Args:
        strategy: under which the model was created; None for that of the run.
    """
    strategy = strategy or state.strategy

    @tf.function(autograph=False)
    def forward(inputs: Any) -> None:
        strategy.run(lambda x: state.task.forward(model, x, training=True), (inputs,))

    reestimate_batch_norm(unfold(model), forward, (x for x, *_ in batches))
