"""A run under way: what it was asked, where it writes, and what it has come to so far."""
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.methods.base import Decision, Method
from tfprune.models.compiled import CompiledOptimizer
from tfprune.progress import Progress
from tfprune.pruning.importance import criterion_batches
from tfprune.pruning.reconstruction import EXAMPLES
from tfprune.pruning.surgery import float32_copy
from tfprune.runs.checkpoints import Checkpoints, Position
from tfprune.runs.config import Config
from tfprune.runs.folder import RunFolder
from tfprune.runs.recipe import FROM_RANDOM, Given, Recipe
from tfprune.search.problem import Problem
from tfprune.structure.keras_internals import CompiledWith
from tfprune.tasks.base import Task
from tfprune.training.account import steps_left
from tfprune.training.batch_norm import synchronize_batch_norm
from tfprune.training.distribution import SharedScorer, any_worker, is_chief, num_workers
from tfprune.training.step import Optimization, StopTraining, Trainer


class Interrupted(Exception):
    """The run was asked to stop and has saved itself; the same command resumes it."""


@dataclasses.dataclass
class State:
    """What the stages of a run read, and what each adds for those that follow.

    Attributes:
        config: what the run was asked; `problem` fills its sizes in.
        method: resolved, not started until `start_method`.
        folder, strategy, progress: where it writes, computes and says something.
        asked_to_stop: the user's function, asked after each step and each score.
        checkpoints: in the folder.
        data: the examples; `judge_given` may weaken their augmentation.
        task: what is learnt, and by what it is judged.
        callbacks, compiled_with: the user's own, and what the user's model is compiled with.
        has_weights, compiled: whether the dense model came with weights, with which optimizer.
        given, recipe: what it scored as given, and how it is trained.
        given_model: with weights as given, where it is a teacher.
        scorer: the method's reward, shared by all workers.
        position, prefix: where the newest checkpoint stands, and its path; None for none.
        missing: what of the run's files was lost while it was interrupted.
        took_epochs: whether those before surgery came from another run.
        decision: what stays of the model.
        left, pruned: the problem without the removed blocks; the model after surgery.
    """
    config: Config
    method: Method
    folder: RunFolder
    strategy: tf.distribute.Strategy
    progress: Progress
    asked_to_stop: Callable[[], bool]
    checkpoints: Checkpoints
    data: Examples = None  # type: ignore[assignment]
    task: Task = None  # type: ignore[assignment]
    callbacks: Sequence[keras.callbacks.Callback] = ()
    compiled_with: CompiledWith | None = None
    has_weights: bool = False
    compiled: CompiledOptimizer | None = None
    given: Given | None = None
    recipe: Recipe = FROM_RANDOM
    given_model: keras.Model | None = None
    scorer: SharedScorer = None  # type: ignore[assignment]
    position: Position = Position()
    prefix: str | None = None
    missing: Sequence[str] = ()
    took_epochs: bool = False
    decision: Decision = None  # type: ignore[assignment]
    left: Problem = None  # type: ignore[assignment]
    pruned: keras.Model = None

    @property
    def surgery_epoch(self) -> int:
        """The first epoch after surgery."""
        return 0 if self.method.decides_first else self.config.epochs.search

    @property
    def has_decided(self) -> bool:
        """Whether the newest checkpoint is from after surgery."""
        return self.prefix is not None and (
            self.method.decides_first
            or (self.position.epoch, self.position.step) > (self.surgery_epoch, 0))

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes."""
        return is_chief(self.strategy)

    @property
    def steps_per_epoch(self) -> int:
        """Before surgery."""
        return self.data.num_train // self.config.training.batch_size

    def should_stop(self) -> bool:
        """Whether any worker was asked to stop."""
        return any_worker(self.strategy, self.asked_to_stop())

    def poll(self) -> None:
        """Raises StopTraining where the run is to stop."""
        if self.should_stop():
            raise StopTraining()

    def stops_alone(self) -> bool:
        """Whether to stop in work that each worker does by itself: never where there are several,
        as the others would not."""
        return num_workers(self.strategy) == 1 and self.asked_to_stop()

    def poll_alone(self) -> None:
        """Raises StopTraining where such work is to stop."""
        if self.stops_alone():
            raise StopTraining()

    def interrupted(self, where: str) -> Interrupted:
        """The end of a run that was asked to stop, 'after …' or 'before …'."""
        return Interrupted(f'stopped {where}; the same command resumes {self.folder.path}.')

    def held_out_batches(self) -> tf.data.Dataset:
        """The held-out training examples that score sub-networks and epochs."""
        scoring = self.config.scoring
        return self.data.reward_batches(scoring.score_batch_size).take(scoring.score_batches)

    def calibration_batches(self, count: int | None = None) -> tf.data.Dataset:
        """So many batches of training examples, not augmented, for batch-norm statistics; None for
        as many as the configuration says."""
        return self.data.calibration_batches(self.config.scoring.score_batch_size,
                                             count or self.config.training.calibration_batches)

    def criterion_batches(self) -> tf.data.Dataset:
        """Those of the run, for criteria that need data."""
        return criterion_batches(self.data, self.config.pruning, self.config.training.batch_size)

    def reconstruction_batches(self) -> tf.data.Dataset:
        """Batches of training examples that tell channels by one another."""
        return self.plain_batches(EXAMPLES)

    def plain_batches(self, examples: int) -> tf.data.Dataset:
        """Batches of training examples, not augmented, of at least so many, as far as there are."""
        return self.data.plain_batches(self.config.training.batch_size, examples)

    def trainer(self, model: keras.Model, *, average: float = 0.0, **extras: Any) -> Trainer:
        """What trains a model by the run's recipe; `average` is that of Optimization, `extras` are
        further arguments of Trainer."""
        options, recipe = self.config.training, self.recipe
        return Trainer(model, self.strategy, Optimization(
            options.momentum, recipe.weight_decay, options.label_smoothing, options.batch_size,
            options.jit_compile, recipe.optimizer, average), task=self.task, **extras)


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What is trained after the decision.

    Attributes:
        data: the training images, those among them that were held out and that nothing scores.
        steps: in all.
        per_epoch: steps of an epoch.
    """
    data: Examples
    steps: int
    per_epoch: int

    @property
    def epochs(self) -> float:
        """Epochs of its data."""
        return self.steps / self.per_epoch

    @classmethod
    def planned(cls, state: State) -> 'FineTuning':
        """As the configuration says."""
        data = state.data.with_released(state.config.scoring.score_images)
        per_epoch = data.num_train // state.config.training.batch_size
        return cls(data, state.config.epochs.fine_tune_epochs * per_epoch, per_epoch)

    @classmethod
    def after(cls, state: State) -> 'FineTuning':
        """As planned, less the search where that is charged."""
        plan, epochs = cls.planned(state), state.config.epochs
        if not epochs.charge_search:
            return plan
        # An epoch of the account is one before the decision.
        charged = state.decision.search_equivalents * state.steps_per_epoch / plan.per_epoch
        return dataclasses.replace(
            plan, steps=steps_left(epochs.fine_tune_epochs, plan.per_epoch, charged))


def plain_float32(model: keras.Model) -> keras.Model:
    """A copy in float32, without what training set on its layers."""
    synchronize_batch_norm(model, False)
    return float32_copy(model)
