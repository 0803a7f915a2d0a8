"""Batch-norm statistics of a run's models, by training examples."""
import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.runs.state import State
from tfprune.significance import Scored
from tfprune.structure.graph import unfold
from tfprune.structure.layer_state import KeptState
from tfprune.tasks.base import Task
from tfprune.training.batch_norm import batch_norm_layers, reestimate_batch_norm
from tfprune.training.evaluation import Evaluator
from tfprune.training.seeding import set_seed
from tfprune.training.step import Batch

_EPOCH_BATCHES = 20


def shown_examples(data: Examples, batch_size: int) -> tf.data.Dataset:
    """Those of the first epoch, as it shows them, that tell the statistics of a model."""
    return data.train_batches(0, batch_size).take(_EPOCH_BATCHES)


@dataclasses.dataclass(frozen=True)
class Lagging:
    """What a model was before its moving statistics, which lagged behind its weights, were
    re-estimated.

    Attributes:
        statistics: these.
        held_out: its scores on held-out examples by them.
    """
    statistics: KeptState
    held_out: Scored


def settle_if_lagging(state: State, model: keras.Model, seed: int) -> Lagging | None:
    """Re-estimates the batch-norm statistics of one of a run's models where it is then clearly
    better on held-out examples; else None, and it has its own.

    Few steps of training leave moving averages behind the weights: with a momentum of 0.99 half of
    them is older than 69 steps. A pruned model has statistics of training examples, and would be
    held against one that has none.

    Args:
        seed: of what random layers draw.
    """
    if not batch_norm_layers(model):
        return None
    evaluate, own = Evaluator(model, state.strategy, task=state.task), KeptState([model])
    before = evaluate.scored(state.held_out_batches())
    calibrate(state, model, seed)
    if evaluate.scored(state.held_out_batches()).lost(before):
        return Lagging(own, before)
    own.restore()
    return None


def calibrate(state: State, model: keras.Model, seed: int) -> None:
    """Gives one of a run's models statistics of training examples, the same in every run."""
    set_seed(seed, model)
    settle(model, state.task, state.calibration_batches(), state.strategy)


def settle(model: keras.Model, task: Task, batches: Iterable[Batch],
           strategy: tf.distribute.Strategy) -> None:
    """Replaces the moving statistics of a model, created under `strategy`, by those of batches, in
    the passes of training."""

    @tf.function(autograph=False)
    def forward(inputs: Any) -> None:
        strategy.run(lambda x: task.forward(model, x, training=True), (inputs,))

    reestimate_batch_norm(unfold(model), forward, (x for x, *_ in batches))
