"""What a run learns: of pictures in classes, or what the user's model is compiled with."""
import dataclasses

import keras
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.pruning.importance import Batch, BatchLoss
from tfprune.runs.state import State
from tfprune.tasks.base import Task, count_of
from tfprune.tasks.classification import Classification
from tfprune.tasks.compiled import CompiledTask
from tfprune.training.distribution import from_chief
from tfprune.training.evaluation import Evaluator

TASK_FILE = 'task.json'
_LOOKED_AT = 8  # examples by which losses and metrics are built


@dataclasses.dataclass(frozen=True)
class Monitor:
    """The compiled metric that a run is judged by; see `CompiledTask.of`."""
    name: str | None = None
    mode: str = 'auto'


def task_of(state: State, model: keras.Model, compiled: keras.Model | None, monitor: Monitor
            ) -> Task:
    """The task of a run's dense model.

    Args:
        compiled: the user's model, where what it is compiled with is the task; None for a
            classifier of pictures.
    """
    if compiled is None:
        return Classification.of(model, state.config.training.label_smoothing)
    task, batch = compiled_task(compiled, state.data, monitor)
    _check_gradients(model, task, batch)
    value = Evaluator(model, state.strategy, task=task)(state.held_out_batches())
    measure = task.measure.starting_at(value)
    # A resumed run has the rewards that it began with.
    state.folder.keep_json(TASK_FILE, measure.to_json(), observed=['start'])
    start = from_chief(state.strategy, state.is_chief and
                       state.folder.read_json(TASK_FILE)['start'])
    task.measure = dataclasses.replace(measure, start=start)
    return task


def compiled_task(model: keras.Model, data: Examples, monitor: Monitor
                  ) -> tuple[CompiledTask, Batch]:
    """What a model is compiled with, and the training examples by which it was built."""
    batch = next(iter(data.train_batches(0, min(_LOOKED_AT, data.num_train))))
    return CompiledTask.of(model, batch, monitor=monitor.name, mode=monitor.mode), batch


def mean_loss(task: Task) -> BatchLoss:
    """(model, batch) -> the mean loss of a batch, of the model as it predicts."""
    def loss(model: keras.Model, batch: Batch) -> tf.Tensor:
        x, *targets = batch
        return task.loss(task.forward(model, x, training=False), *targets) / count_of(batch)

    return loss


def _check_gradients(model: keras.Model, task: Task, batch: Batch) -> None:
    """ValueError where no weight has an influence on the loss that has a gradient."""
    x, *targets = batch
    with tf.GradientTape() as tape:
        # Not as in training, which moves the statistics of batch normalization.
        loss = task.loss(task.forward(model, x, training=False), *targets)
        loss = tf.add_n([loss, *(tf.cast(tf.reduce_sum(each), loss.dtype)
                                 for each in model.losses)])
    if all(each is None for each in tape.gradient(loss, model.trainable_variables)):
        raise ValueError(f"model '{model.name}': the loss that it is compiled with has no gradient "
                         'for any weight that trains: rounding, argmax, or numbers of NumPy '
                         'between outputs and loss?')
