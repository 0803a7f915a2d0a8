"""The epoch loop, the same before and after surgery: train, measure, let the method act, save."""
import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfprune.errors import Fault
from tfprune.machine import peak_process_bytes
from tfprune.report.number_text import duration
from tfprune.runs.announcement import seconds_left
from tfprune.runs.checkpoints import Position
from tfprune.runs.first_epoch import FirstEpoch, note_lowered
from tfprune.runs.stages import Stage
from tfprune.runs.state import Interrupted, State
from tfprune.runs.user_callbacks import Phase, UserCallbacks
from tfprune.tasks.base import Task
from tfprune.training.seeding import derived_seed, set_seed
from tfprune.training.evaluation import Evaluator
from tfprune.training.step import NonFiniteLossError, StopTraining, Trainer


@dataclasses.dataclass(frozen=True)
class TrainedEpoch:
    """What training an epoch has come to.

    Attributes:
        means: of the loss and its like.
        seconds: of its steps, those before an interruption too.
        held_out: metrics after it, on held-out examples.
    """
    epoch: int
    means: Mapping[str, float]
    seconds: float
    held_out: Mapping[str, float]


class EpochLoop:
    """Epochs of a trainer, with a row in metrics.jsonl and a checkpoint for each.

        for epoch in loop.epochs_left():
            with loop.acting(loop.train(epoch)) as row:
                row |= …  # what the stage adds to the epoch's row

    Args:
        saved: what a checkpoint holds; the loop begins where `state` stands, to which it is to be
            restored.
        stages: one after the other.
        phase: of an epoch; callbacks that stop the training end it.

    Attributes:
        coming: the epoch that comes after the one that is acted on.

    Raises:
        Interrupted: the run has stopped where it can go on.
        NonFiniteLossError: names epoch and step; the checkpoints before it stand.
    """

    def __init__(self, state: State, trainer: Trainer, saved: tf.train.Checkpoint,
                 stages: Sequence[Stage], phase: Phase):
        self.saved = saved
        self._state, self._trainer, self._stages = state, trainer, stages
        self._phase, self._left = phase, ''
        self._batch_size = state.config.training.batch_size
        self._held_out = state.held_out_batches()
        self._evaluate = Evaluator(trainer.model, trainer.strategy, task=state.task,
                                   jit_compile=state.config.training.jit_compile)
        self._scalars = _Scalars(state.folder.path / 'tensorboard', state.is_chief)
        self._callbacks = UserCallbacks(
            state.callbacks, trainer, phase, state.compiled_with,
            lambda: next(iter(state.held_out_batches())))
        self._end = stages[-1].end if stages else 0
        self.coming = 0

    def epochs_left(self) -> Iterator[int]:
        """From where the run stands to the end of the stages, without those that a callback has
        left out."""
        self.coming = self._state.position.epoch
        while self.coming < self._end:
            epoch = self.coming
            yield epoch
            if self.coming == epoch:
                raise Fault(f'nothing was done after epoch {epoch}.')

    def train(self, epoch: int) -> TrainedEpoch:
        """Trains an epoch, or what the run has left of it; measures it on held-out examples, never
        test data."""
        position = self._state.position
        return self._train_from(position if epoch == position.epoch else Position(epoch))

    def not_ruined(self, trained: TrainedEpoch, judged: FirstEpoch) -> TrainedEpoch:
        """The first epoch, trained anew at a lower rate as long as it ruins given weights.

        ValueError: see `FirstEpoch.begin_again`.
        """
        state, trainer, score = self._state, self._trainer, self._evaluate.scored
        held_out = score(self._held_out)
        while judged.is_ruined(held_out, score):
            peak = self._stage(trained.epoch).schedule.peak * float(trainer.rate_factor)
            if self._callbacks.holds_rate:  # a lower one would not be taken
                judged = dataclasses.replace(judged, may_lower=False)
                peak = float(trainer.last_rate)
            state.checkpoints.clear()  # the mended command, too, begins anew
            said = judged.begin_again(trainer, held_out, peak)
            self._callbacks.forget_rate()
            state.progress.warn(f'{said}.')
            note_lowered(state.folder, {float(trainer.rate_factor): said})
            trained = self._train_from(Position(trained.epoch))
            held_out = score(self._held_out)
        return trained

    @contextlib.contextmanager
    def acting(self, trained: TrainedEpoch) -> Iterator[dict[str, Any]]:
        """What is done after an epoch, which adds to its row; then all is saved.

        A phase, and after the last epoch the trainer, is finished before: what acts on the weights,
        and what is saved, are those that callbacks leave.
        """
        epoch, state, begun = trained.epoch, self._state, time.perf_counter()
        name = state.task.measure.name
        row: dict[str, Any] = {f'reward_{name}': trained.held_out[name]}
        self.coming = epoch + 1
        if self._callbacks.end_epoch(epoch, trained.means, trained.held_out):
            self.coming = self._callbacks.after(epoch, self._end)
            row['stopped_until'] = self.coming
        if self.coming == self._end:
            self._trainer.finish()  # as fit does, before its on_train_end
        self._callbacks.end_phase(epoch, self.coming, self._end)
        self._trainer.constrain()
        try:
            yield row
        except StopTraining:
            raise self._interrupted(epoch) from None
        examples = self._stage(epoch).steps_in(epoch) * self._batch_size
        self._write({'epoch': epoch, 'learning_rate': float(self._trainer.last_rate),
                     **trained.means, 'images_per_second': examples / trained.seconds,
                     'train_seconds': trained.seconds,
                     'method_seconds': time.perf_counter() - begun,
                     'peak_process_bytes': peak_process_bytes(), **row})
        state.checkpoints.save(Position(self.coming), self.saved)
        if state.should_stop():
            raise self._interrupted(epoch + 1)

    def _stage(self, epoch: int) -> Stage:
        return next(stage for stage in self._stages if epoch < stage.end)

    def _train_from(self, place: Position) -> TrainedEpoch:
        """Trains what is left of an epoch, its random streams set; a checkpoint then has all of
        its steps."""
        trainer, epoch = self._trainer, place.epoch
        set_seed(derived_seed(self._state.config.seed, epoch), trainer.model)
        means, seconds = self._train(place)
        # What comes next may take long: a kill then costs none of the steps.
        steps = self._stage(epoch).steps_in(epoch)
        trainer.steps_done.assign(steps)
        self._state.checkpoints.save(Position(epoch, steps, seconds), self.saved)
        trainer.steps_done.assign(0)
        return TrainedEpoch(epoch, means, seconds, self._evaluate.metrics(self._held_out))

    def _train(self, start: Position) -> tuple[Mapping[str, float], float]:
        """(means, seconds)."""
        state, stage, begun = self._state, self._stage(start.epoch), time.perf_counter()
        steps, planned = stage.steps_in(start.epoch), state.config.epochs

        def seconds() -> float:
            return start.seconds + time.perf_counter() - begun

        def learning_rate(step: int) -> float:
            return self._callbacks.begin_step(step, stage.learning_rate(start.epoch, step))

        def on_step(step: int, means: dict[str, float]) -> None:
            self._callbacks.end_step(step - 1, means)
            if step == steps:  # here, as the run may stop at this step and be resumed after it
                stage.data.end_epoch()
            state.progress.step(self._batch_size, means, state.task.measure.name)
            state.poll()

        state.progress.start_epoch(f'epoch {start.epoch + 1}/{planned.total}{self._left}',
                                   steps * self._batch_size, start.step * self._batch_size,
                                   state.task.examples)
        self._callbacks.begin_epoch(start.epoch, stage.learning_rate(start.epoch, start.step),
                                    steps, self._end)
        if start.step < steps:
            stage.data.begin_epoch()
        try:
            means = self._trainer.train_epoch(
                stage.data.train_batches(start.epoch, self._batch_size).take(steps),
                learning_rate, on_step=on_step,
                rate_share=functools.partial(stage.rate_share, start.epoch),
                share_left=functools.partial(stage.left, start.epoch))
        except StopTraining:
            step = int(self._trainer.steps_done)
            state.checkpoints.save(Position(start.epoch, step, seconds()), self.saved)
            raise self._interrupted(start.epoch) from None
        except NonFiniteLossError as error:
            begun = start.epoch < planned.search or state.recipe.continues
            flag = 'learning_rate' if begun else 'fine_tune_learning_rate'
            raise NonFiniteLossError(
                f'epoch {start.epoch + 1}: {error} A lower --{flag} may help or, in a model of '
                'your own, a Rescaling or Normalization layer of its inputs.') from None
        finally:
            state.progress.end_epoch()
        return means, seconds()

    def _write(self, row: Mapping[str, Any]) -> None:
        row = {name: value for name, value in row.items() if value == value}  # no NaN in JSON
        self._state.folder.append_rows('metrics.jsonl', [row])
        self._scalars.write(row)
        self._left = self._time_left()
        self._state.progress.say(_summary(row, self._state.task) + self._left)

    def _time_left(self) -> str:
        """', about 3 min left' of all epochs that come; '' after the last."""
        total = self._state.config.epochs.total
        coming = [self._phase(epoch) if epoch < self._end else 'fine_tune'
                  for epoch in range(self.coming, total)]
        rows = self._state.folder.read_rows('metrics.jsonl')
        if not coming or not rows:
            return ''
        return f', about {duration(seconds_left(rows, coming))} left'

    def _interrupted(self, epoch: int) -> Interrupted:
        return self._state.interrupted(f'after {epoch} of {self._state.config.epochs.total} epochs')


class _Scalars:
    """The numbers of rows for TensorBoard; OSError when they cannot be written."""

    def __init__(self, folder: pathlib.Path, written: bool = True):
        self._folder = folder
        with self._naming():
            self._writer = (tf.summary.create_file_writer(str(folder)) if written
                            else tf.summary.create_noop_writer())

    def write(self, row: Mapping[str, Any]) -> None:
        with self._naming(), self._writer.as_default(step=row['epoch']):
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != 'epoch':
                    tf.summary.scalar(name, value)
            self._writer.flush()

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            raise OSError(f'cannot write {self._folder}: {str(error).splitlines()[0]}') from error


def _summary(row: Mapping[str, Any], task: Task) -> str:
    metric = task.measure.name
    names = dict.fromkeys(('phase', 'loss', metric, f'reward_{metric}', f'subnetwork_{metric}',
                           'reward_mean', 'reward_max', 'strength'))
    shown = [f'{name} {row[name]:.4g}' if isinstance(row[name], float) else f'{name} {row[name]}'
             for name in names if name in row]
    return (f'epoch {row["epoch"] + 1}: {", ".join(shown)}, '
            f'{row["images_per_second"]:.0f} {task.examples}/s, {row["method_seconds"]:.1f} s of '
            'scoring')
