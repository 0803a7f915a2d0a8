"""Training of a Keras 3 model under tf.distribute.

One step is the same code for one replica and for several; losses of several equal those of one up
to float error, because batch normalization is then synchronized and every sum is over the global
batch.
"""
import contextlib
import dataclasses
import math
from typing import Any, Callable, Mapping, Protocol, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import config as tf_config  # has no public name for 'off'

from tfprune.models.compiled import make_optimizer
from tfprune.pruning.sparsity import kernels_of
from tfprune.structure.graph import Untracked
from tfprune.tasks.base import Task
from tfprune.tasks.classification import Classification
from tfprune.training.batch_norm import synchronize_batch_norm, use_fused_batch_norm
from tfprune.training.distribution import DistributedBatches
from tfprune.training.optimizer_state import OptimizerState, steps_of
from tfprune.training.teacher import Teacher

Batch = tuple[Any, ...]  # (x, y) or (x, y, weights)


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the message names the term and the step."""


class StopTraining(Exception):
    """Raised by a step callback: save what is there and leave."""


def make_deterministic(on: bool = True) -> None:
    """Makes runs reproducible bit for bit on a CPU; must come before the first operation.

    Off for XLA, which would refuse the gradient of max pooling.
    """
    if not on:
        tf_config.disable_op_determinism()
    elif not tf.config.list_physical_devices('GPU'):
        tf.config.experimental.enable_op_determinism()


_TERMS = 6  # of the sums of an epoch, before the tally
_MOMENTUM = 0.9  # of the averages by which a teacher's share of the loss is found


@dataclasses.dataclass(frozen=True)
class Optimization:
    """What a training step needs beside the model: see the flags of the same names.

    optimizer: the configuration of a Keras optimizer, as `keras.optimizers.serialize` gives it;
        None for SGD with `momentum`.
    average: momentum of the moving average that weights become at the end, as Keras' use_ema;
        0 for none but the optimizer's own.
    """
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0  # of a classifier that is not compiled
    global_batch_size: int = 128
    jit_compile: bool = False
    optimizer: Mapping[str, Any] | None = None
    average: float = 0.0

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        """A new optimizer; its learning rate is assigned before each step."""
        made = (keras.optimizers.SGD(0.0, momentum=self.momentum) if self.optimizer is None
                else make_optimizer(self.optimizer))
        inner = steps_of(made)
        if self.average and not inner.use_ema:
            inner.use_ema, inner.ema_momentum = True, self.average
        return made


class Companion(Protocol):
    """What trains beside a model, by the same variables, in some of the steps: see
    tfprune.search.companion."""

    def joins(self, step: int) -> bool:
        """Whether it trains in this step of an epoch."""

    def __call__(self, inputs: Any, /) -> Any:
        """Outputs for the inputs of a batch."""

    def count(self) -> None:
        """It has trained in a step."""


class Trainer(tf.Module):
    """Steps of an optimizer on one model; all of its state is in variables.

    loss = (1 - a) * task's loss + a * divergence from the teacher's answers, if there is one,
             a by its schedule
           + sum(model.losses) + weight_decay / 2 * sum |kernel|^2 + penalty()
           + in the steps that a companion joins, its divergence from the model's answers or, of a
             task that cannot distil, its loss; the loss that is logged is without

    model.losses are those of regularisers and of add_loss, as in `fit`; the optimizer applies the
    constraints of weights. The loss that is returned and logged has no term of weight decay.

    Args:
        model: created under `strategy`.
        penalty: a scalar of variables that every step adds, such as the alignment; None adds 0.
        teacher: of a task that can distil; it answers the examples as they are augmented.
        constrain: called across replicas after each step, to assign weights, with the step's
            share of the rates that are left.
        companion: trains beside the model.
        task: loss and metrics; None for those of a classifier of pictures.

    Attributes:
        optimizer: made here.
        state: what it keeps.

    Raises:
        ValueError: the model was not created under `strategy`.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy,
                 optimization: Optimization,
                 penalty: Callable[[], tf.Tensor | None] | None = None,
                 teacher: Teacher | None = None,
                 constrain: Callable[[tf.Tensor], None] | None = None,
                 companion: Companion | None = None, task: Task | None = None):
        super().__init__()
        self.model, self.strategy = model, strategy
        self._task = Untracked(task or Classification.of(model, optimization.label_smoothing))
        self._teacher = None if teacher is None else Untracked(teacher)  # in no checkpoint
        self._settings, self._penalty, self._constrain = optimization, penalty, constrain
        self._companion = None if companion is None else Untracked(companion)
        # The update is left out: XLA knows no collectives on CPU, and has little to fuse there.
        self._gradients = by_xla(self._uncompiled_gradients, optimization.jit_compile)
        self._kernels = kernels_of(model)
        synchronize_batch_norm(model, strategy.num_replicas_in_sync > 1)
        use_fused_batch_norm(model)
        if teacher is not None:
            use_fused_batch_norm(teacher.model)
        with strategy.scope():
            self.optimizer = optimization.make_optimizer()
            try:
                self.state = OptimizerState(self.optimizer, model.trainable_variables)
            except ValueError:
                raise ValueError(f"model '{model.name}' must be created under the strategy's "
                                 'scope().') from None
            self.share = tf.Variable(teacher.share if teacher else 0.0, trainable=False)
        # Moving averages of the distances from the targets: the student's, the teacher's.
        self.compared = tf.Variable(tf.zeros(2, tf.float64), trainable=False)
        # Sums over the epoch so far, in the checkpoint for a resumption within an epoch: loss of
        # the task, distillation, what is learnt of them, penalty, both distances, tally.
        size = _TERMS + self._task.value.tally_size
        self.sums = tf.Variable(tf.zeros(size, tf.float64), trainable=False)
        self.steps_done = tf.Variable(0, trainable=False, dtype=tf.int64)
        # The schedule's rate is multiplied by it: see tfprune.runs.first_epoch.
        self.rate_factor = tf.Variable(1.0, trainable=False, dtype=tf.float64)
        self.rate_share = tf.Variable(0.0, trainable=False)
        self.last_rate = tf.Variable(0.0, trainable=False, dtype=tf.float64)  # of the last step
        # Dropout's streams: Keras keeps them where a checkpoint of the model does not look.
        self.seeds = [v for v in model.variables if v.path.endswith('seed_generator_state')]

    def train_epoch(self, batches: tf.data.Dataset, learning_rate: Callable[[int], float],
                    *, on_step: Callable[[int, dict[str, float]], None] | None = None,
                    rate_share: Callable[[int], float] | None = None,
                    share_left: Callable[[int], float] | None = None) -> dict[str, float]:
        """Trains on what is left of the epoch's batches after `steps_done`.

        Args:
            batches: the epoch's (x, y) or (x, y, weights).
            learning_rate: step within the epoch -> rate.
            on_step: called with (steps done, running means) after each; may raise StopTraining.
            rate_share: step within the epoch -> its rate over the sum of those that are left.
            share_left: step within the epoch -> the share of all steps that are left as it begins,
                1 to 0, for the schedule of a teacher; None for all.

        Returns:
            Means over the epoch: loss, that of the task alone, penalty, and the task's metrics;
            where there is a teacher distillation, the divergence from it, student_loss and
            teacher_loss, the distances of both from the targets (Task.distance), and
            distillation_share, its share of the loss in the last step.

        Raises:
            NonFiniteLossError: a term of the loss or, after the last step, a weight is NaN or
                infinite.
            ValueError: there are no batches.
        """
        first, factor = int(self.steps_done), float(self.rate_factor)
        if first == 0:
            self.sums.assign(tf.zeros_like(self.sums))
        left = DistributedBatches(batches.skip(first), self.strategy)
        with contextlib.closing(left) as iterator:
            for step, batch in enumerate(iterator, start=first):
                rate = learning_rate(step) * factor
                self.optimizer.learning_rate.assign(rate)
                self.last_rate.assign(rate)
                if rate_share:
                    self.rate_share.assign(rate_share(step))
                if self._teacher is not None:
                    self._assign_share(self._teacher.value, share_left(step) if share_left else 1.0)
                sums = self._train(step, batch)
                self.steps_done.assign(step + 1)
                means = self._means(sums.numpy(), step + 1)
                if on_step:
                    on_step(step + 1, means)
        # From the variables: a run stopped after the last step resumes with no batch left.
        steps = int(self.steps_done)
        if not steps:
            raise ValueError('the training data hold no whole batch.')
        for variable in self.model.variables:
            if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
                raise NonFiniteLossError(f'{variable.path} is not finite after step {steps} of '
                                         'this epoch.')
        self.steps_done.assign(0)
        return self._means(self.sums.numpy(), steps)

    def _assign_share(self, teacher: Teacher, left: float) -> None:
        self.share.assign(teacher.share_of(left, *self.compared.numpy().tolist()))

    @property
    def steps_in_all(self) -> int:
        """Steps of the optimizer so far, in all epochs."""
        return int(keras.ops.convert_to_numpy(self.optimizer.iterations))

    def finish(self) -> None:
        """After the last step: the weights become their moving averages where the optimizer keeps
        such (use_ema)."""
        # The averages begin at zero: without a step there is none.
        if self.averages and self.steps_in_all:
            self.optimizer.finalize_variable_values(self.model.trainable_variables)
            self.constrain(1.0)  # the averages are of values before it

    def constrain(self, rate_share: float = 0.0) -> None:
        """What is done after each step, after weights have been assigned otherwise."""
        if self._constrain:
            self._constrain(tf.constant(rate_share))

    @property
    def averages(self) -> bool:
        """Whether the optimizer keeps moving averages of the weights."""
        return bool(steps_of(self.optimizer).use_ema)

    def restart(self, weights: Sequence[np.ndarray], factor: float) -> None:
        """Back to a first step: the model's variables, a new optimizer's state, a rate factor."""
        for variable, value in zip(self.model.variables, weights, strict=True):
            variable.assign(value)
        with self.strategy.scope():
            fresh = self._settings.make_optimizer()
            fresh.build(self.model.trainable_variables)
        for variable, value in zip(self.optimizer.variables, fresh.variables, strict=True):
            variable.assign(value)
        self.compared.assign(tf.zeros_like(self.compared))
        self.steps_done.assign(0)
        self.rate_factor.assign(factor)

    def _means(self, sums: np.ndarray, steps: int) -> dict[str, float]:
        task, count = self._task.value, self._settings.global_batch_size * steps
        terms = {task.loss_name: float(sums[0] / count), 'penalty': float(sums[3] / steps)}
        if self._teacher is not None:
            terms |= {'distillation': float(sums[1] / count),
                      'student_loss': float(sums[4] / count),
                      'teacher_loss': float(sums[5] / count),
                      'distillation_share': float(self.share.numpy())}
        for name, value in terms.items():
            if not math.isfinite(value):
                name = name.replace('_', '-')
                raise NonFiniteLossError(f'{name} is {value} at step {steps} of this epoch.')
        loss = float(sums[2] / count) + terms['penalty']
        return {**task.metrics(sums[_TERMS:]), 'loss': loss, **terms}

    def _train(self, step: int, batch: Batch) -> tf.Tensor:
        if self._companion is None or not self._companion.value.joins(step):
            return self._train_step(batch)
        sums = self._train_both(batch)
        self._companion.value.count()
        return sums

    @tf.function(autograph=False)
    def _train_step(self, batch: Batch) -> tf.Tensor:
        return self._step(batch, joined=False)

    @tf.function(autograph=False)
    def _train_both(self, batch: Batch) -> tf.Tensor:
        return self._step(batch, joined=True)

    def _step(self, batch: Batch, joined: bool) -> tf.Tensor:
        per_replica = self.strategy.run(self._replica_step, (batch, joined))
        if self._constrain:
            self._constrain(self.rate_share.value())
        total = self.strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
        self.sums.assign_add(total)
        if self._teacher is not None:
            self.compared.assign(_MOMENTUM * self.compared
                                 + (1 - _MOMENTUM) * total[4:6])
        return self.sums.value()

    def _replica_step(self, batch: Batch, joined: bool) -> tf.Tensor:
        # For XLA each selection of channels would be another program.
        if joined:
            gradients, sums = self._uncompiled_gradients(batch, joined)
        else:
            gradients, sums = self._gradients(batch, joined)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables))
        return sums

    def _uncompiled_gradients(self, batch: Batch, joined: bool
                              ) -> tuple[list[tf.Tensor], tf.Tensor]:
        settings, replicas = self._settings, self.strategy.num_replicas_in_sync
        task, (x, *targets) = self._task.value, batch
        with tf.GradientTape() as tape:
            outputs = task.forward(self.model, x, training=True)
            losses = list(self.model.losses)  # a companion's pass has its own
            summed, divergence, distances, taught = self._losses(x, outputs, *targets)
            learnt = taught
            if joined and self._companion is not None:
                learnt = taught + self._of_companion(self._companion.value, x, outputs, *targets)
            penalty = self._penalty() if self._penalty else None
            penalty = tf.constant(0.0) if penalty is None else penalty
            if losses:
                penalty += tf.add_n([tf.reduce_sum(tf.cast(value, tf.float32))
                                     for value in losses])
            loss = self.optimizer.scale_loss(learnt / settings.global_batch_size
                                             + (self._decay() + penalty) / replicas)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        return gradients, tf.concat([
            [tf.cast(value, tf.float64) for value in (
                summed, divergence, taught, penalty / replicas, *distances)],
            task.tally(outputs, *targets)], 0)

    def _of_companion(self, companion: Companion, x: Any, outputs: Any, *targets: Any
                      ) -> tf.Tensor:
        """The companion's loss, summed over a batch of which the model has these outputs."""
        task = self._task.value
        own = task.forward(lambda inputs, training: companion(inputs), x, training=True)
        if not task.can_distil:
            return task.loss(own, *targets)
        return task.divergence(own, tf.nest.map_structure(tf.stop_gradient, outputs), 1.0)

    def _decay(self) -> tf.Tensor | float:
        if not self._settings.weight_decay or not self._kernels:
            return 0.0
        return self._settings.weight_decay * tf.add_n([
            tf.nn.l2_loss(tf.convert_to_tensor(kernel)) for kernel in self._kernels])

    def _losses(self, x: Any, outputs: Any, *targets: Any
                ) -> tuple[tf.Tensor, tf.Tensor, Sequence[tf.Tensor], tf.Tensor]:
        """Sums over a batch: the task's loss, the divergence from the teacher, the distances from
        targets, what is learnt."""
        task = self._task.value
        loss = task.loss(outputs, *targets)
        if self._teacher is None:
            nothing = tf.constant(0.0)
            return loss, nothing, (nothing, nothing), loss
        teacher: Teacher = self._teacher.value
        answers = tf.nest.map_structure(tf.stop_gradient,
                                        task.forward(teacher.model, x, training=False))
        divergence = task.divergence(outputs, answers, teacher.temperature)
        share = self.share.value()
        return (loss, divergence, [task.distance(each, *targets) for each in (outputs, answers)],
                (1 - share) * loss + share * divergence)


def by_xla(function: Callable, jit_compile: bool) -> Callable:
    """The function, compiled by XLA where that is asked for."""
    return tf.function(function, jit_compile=True, autograph=False) if jit_compile else function
