"""The epoch loop, the same before and after surgery: train, measure, let the method act, save."""
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfprune.data.image_data import ImageData
from tfprune.machine import peak_process_bytes
from tfprune.runs.checkpoints import Position
from tfprune.runs.first_epoch import FirstEpoch, note_lowered
from tfprune.runs.state import Interrupted, State
from tfprune.training.options import TrainingOptions
from tfprune.training.seeding import derived_seed, set_seed
from tfprune.training.step import Evaluator, NonFiniteLossError, Schedule, StopTraining, Trainer


@dataclasses.dataclass(frozen=True)
class Stage:
    """Epochs under one learning-rate schedule: begin <= epoch < end.

    Attributes:
        data: what is trained on.
        steps: of the whole stage; its last epoch may be cut short.
        per_epoch: steps of each other epoch.
    """
    begin: int
    end: int
    data: ImageData
    steps: int
    per_epoch: int
    schedule: Schedule

    @classmethod
    def of(cls, begin: int, steps: int, options: TrainingOptions, data: ImageData, peak: float,
           warmup_epochs: float = 0.0) -> 'Stage':
        """The stage of so many steps from epoch `begin` on."""
        per_epoch = data.num_train // options.batch_size
        return cls(begin, begin + -(-steps // per_epoch), data, steps, per_epoch, Schedule(
            options.schedule, peak, steps, round(warmup_epochs * per_epoch)))

    def steps_in(self, epoch: int) -> int:
        """Steps of an epoch."""
        return min(self.per_epoch, self.steps - (epoch - self.begin) * self.per_epoch)

    def learning_rate(self, epoch: int, step: int) -> float:
        """The schedule's rate at a step of an epoch."""
        return self.schedule((epoch - self.begin) * self.per_epoch + step)


@dataclasses.dataclass(frozen=True)
class TrainedEpoch:
    """What training an epoch has come to.

    Attributes:
        means: of the loss and its like.
        seconds: of its steps, those before an interruption too.
        held_out_accuracy: after it.
    """
    epoch: int
    means: Mapping[str, float]
    seconds: float
    held_out_accuracy: float


class EpochLoop:
    """Epochs of a trainer, with a row in metrics.jsonl and a checkpoint for each.

        for epoch in loop.epochs_left():
            with loop.acting(loop.train(epoch)) as row:
                row |= …  # what the stage adds to the epoch's row

    Args:
        saved: what a checkpoint holds; the loop begins where `state` stands, to which it is to be
            restored.
        stages: one after the other.

    Raises:
        Interrupted: the run has stopped where it can go on.
        NonFiniteLossError: names epoch and step; the checkpoints before it stand.
    """

    def __init__(self, state: State, trainer: Trainer, saved: tf.train.Checkpoint,
                 stages: Sequence[Stage]):
        self.saved = saved
        self._state, self._trainer, self._stages = state, trainer, stages
        self._batch_size = state.config.training.batch_size
        self._held_out = state.held_out_batches()
        self.evaluate = Evaluator(trainer.model, trainer.strategy,
                                  jit_compile=state.config.training.jit_compile)
        self._scalars = _Scalars(state.folder.path / 'tensorboard', state.is_chief)

    def epochs_left(self) -> range:
        """From where the run stands to the end of the stages."""
        return range(self._state.position.epoch, self._stages[-1].end if self._stages else 0)

    def train(self, epoch: int) -> TrainedEpoch:
        """Trains an epoch, or what the run has left of it; measures it on held-out images, never
        test data."""
        position = self._state.position
        return self._train_from(position if epoch == position.epoch else Position(epoch))

    def begin_again(self, trained: TrainedEpoch, judged: FirstEpoch) -> TrainedEpoch:
        """Trains the first epoch, which has ruined given weights, anew at a lower rate.

        ValueError: see `FirstEpoch.begin_again`.
        """
        state, trainer = self._state, self._trainer
        peak = self._stage(trained.epoch).schedule.peak * float(trainer.rate_factor)
        state.checkpoints.clear()  # the mended command, too, begins anew
        said = judged.begin_again(trainer, trained.held_out_accuracy, peak)
        state.progress.warn(f'{said}.')
        note_lowered(state.folder, {float(trainer.rate_factor): said})
        return self._train_from(Position(trained.epoch))

    @contextlib.contextmanager
    def acting(self, trained: TrainedEpoch) -> Iterator[dict[str, Any]]:
        """What is done after an epoch, which adds to its row; then all is saved."""
        epoch, state, begun = trained.epoch, self._state, time.perf_counter()
        row: dict[str, Any] = {'reward_accuracy': trained.held_out_accuracy}
        try:
            yield row
        except StopTraining:
            raise self._interrupted(epoch) from None
        stage = self._stage(epoch)
        steps = stage.steps_in(epoch)
        rate = stage.learning_rate(epoch, steps - 1) * float(self._trainer.rate_factor)
        self._write({'epoch': epoch, 'learning_rate': rate, **trained.means,
                     'images_per_second': steps * self._batch_size / trained.seconds,
                     'train_seconds': trained.seconds,
                     'method_seconds': time.perf_counter() - begun,
                     'peak_process_bytes': peak_process_bytes(), **row})
        state.checkpoints.save(Position(epoch + 1), self.saved)
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
        return TrainedEpoch(epoch, means, seconds, self.evaluate(self._held_out))

    def _train(self, start: Position) -> tuple[Mapping[str, float], float]:
        """(means, seconds)."""
        state, stage, begun = self._state, self._stage(start.epoch), time.perf_counter()
        steps, planned = stage.steps_in(start.epoch), state.config.epochs

        def seconds() -> float:
            return start.seconds + time.perf_counter() - begun

        def on_step(step: int, means: dict[str, float]) -> None:
            state.progress.step(self._batch_size, means)
            state.poll()

        state.progress.start_epoch(f'epoch {start.epoch + 1}/{planned.total}',
                                   steps * self._batch_size, start.step * self._batch_size)
        try:
            means = self._trainer.train_epoch(
                stage.data.train_batches(start.epoch, self._batch_size).take(steps),
                lambda step: stage.learning_rate(start.epoch, step), on_step=on_step)
        except StopTraining:
            step = int(self._trainer.steps_done)
            state.checkpoints.save(Position(start.epoch, step, seconds()), self.saved)
            raise self._interrupted(start.epoch) from None
        except NonFiniteLossError as error:
            before = start.epoch < planned.search
            flag = 'learning_rate' if before else 'fine_tune_learning_rate'
            raise NonFiniteLossError(
                f'epoch {start.epoch + 1}: {error} A lower --{flag} may help or, in a model of '
                'your own, a Rescaling layer of its pixels.') from None
        finally:
            state.progress.end_epoch()
        return means, seconds()

    def _write(self, row: Mapping[str, Any]) -> None:
        row = {name: value for name, value in row.items() if value == value}  # no NaN in JSON
        self._state.folder.append_rows('metrics.jsonl', [row])
        self._scalars.write(row)
        self._state.progress.say(_summary(row))

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


def _summary(row: Mapping[str, Any]) -> str:
    names = ('phase', 'loss', 'accuracy', 'reward_accuracy', 'subnetwork_accuracy', 'reward_mean',
             'reward_max', 'strength')
    shown = [f'{name} {row[name]:.4g}' if isinstance(row[name], float) else f'{name} {row[name]}'
             for name in names if name in row]
    return (f'epoch {row["epoch"] + 1}: {", ".join(shown)}, '
            f'{row["images_per_second"]:.0f} images/s, {row["method_seconds"]:.1f} s of scoring')
