"""The epoch loop, the same before and after surgery: train, measure, let the method act, save."""
import contextlib
import dataclasses
import pathlib
import time
from typing import Any, Callable, Iterator, Mapping, Sequence

import tensorflow as tf

from tfprune.config import Config
from tfprune.data import ImageData
from tfprune.machine import peak_process_bytes
from tfprune.progress import Progress
from tfprune.runs.checkpoints import Checkpoints, Position
from tfprune.runs.first_epoch import FirstEpoch, note_lowered
from tfprune.runs.folder import RunFolder
from tfprune.training.distribution import is_chief
from tfprune.training.seeding import derived_seed, set_seed
from tfprune.training.step import Evaluator, NonFiniteLossError, Schedule, StopTraining, Trainer


class Interrupted(Exception):
    """The run was asked to stop and has saved itself; the same command resumes it."""


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
    def of(cls, begin: int, steps: int, config: Config, data: ImageData, peak: float,
           warmup_epochs: float = 0.0) -> 'Stage':
        """The stage of so many steps from epoch `begin` on."""
        per_epoch = data.num_train // config.batch_size
        return cls(begin, begin + -(-steps // per_epoch), data, steps, per_epoch, Schedule(
            config.schedule, peak, steps, round(warmup_epochs * per_epoch)))

    def steps_in(self, epoch: int) -> int:
        """Steps of an epoch."""
        return min(self.per_epoch, self.steps - (epoch - self.begin) * self.per_epoch)

    def learning_rate(self, epoch: int, step: int) -> float:
        """The schedule's rate at a step of an epoch."""
        return self.schedule((epoch - self.begin) * self.per_epoch + step)


@dataclasses.dataclass(frozen=True)
class EpochLoop:
    """Runs epochs of a trainer, with a row in metrics.jsonl and a checkpoint for each.

    Attributes:
        held_out: batches whose accuracy is measured after each epoch; never test data.
        should_stop: asked after each step and before each score; True saves and stops.
    """
    config: Config
    folder: RunFolder
    checkpoints: Checkpoints
    held_out: tf.data.Dataset
    should_stop: Callable[[], bool]
    progress: Progress

    def run(self, trainer: Trainer, state: tf.train.Checkpoint, position: Position,
            stages: Sequence[Stage], after_epoch: Callable[[int], Mapping[str, Any]],
            first_epoch: FirstEpoch | None = None) -> None:
        """Trains from `position`, to which `state` has been restored, to the end of the stages.

        Args:
            state: what a checkpoint holds.
            stages: one after the other.
            after_epoch: epoch -> what it adds to the epoch's row.
            first_epoch: what epoch 0 must not ruin.

        Raises:
            Interrupted: the run has stopped where it can go on.
            NonFiniteLossError: names epoch and step; the checkpoints before it stand.
            ValueError: see FirstEpoch.
        """
        evaluate = Evaluator(trainer.model, trainer.strategy,
                             jit_compile=self.config.jit_compile)
        scalars = _Scalars(self.folder.path / 'tensorboard', is_chief(trainer.strategy))
        for epoch in range(position.epoch, stages[-1].end if stages else 0):
            stage = next(stage for stage in stages if epoch < stage.end)
            place = position if epoch == position.epoch else Position(epoch)
            trained = self._train_from(trainer, state, place, stage)
            accuracy = evaluate(self.held_out)
            while (epoch == 0 and first_epoch is not None
                   and first_epoch.is_ruined(accuracy, evaluate)):
                peak = stage.schedule.peak * float(trainer.rate_factor)
                self.checkpoints.clear()  # the mended command, too, begins anew
                said = first_epoch.begin_again(trainer, accuracy, peak)
                self.progress.warn(f'{said}.')
                note_lowered(self.folder, {float(trainer.rate_factor): said})
                trained = self._train_from(trainer, state, Position(epoch), stage)
                accuracy = evaluate(self.held_out)
            begun = time.perf_counter()
            try:
                row = {'reward_accuracy': accuracy, **after_epoch(epoch)}
            except StopTraining:
                raise self._interrupted(epoch) from None
            steps = stage.steps_in(epoch)
            rate = stage.learning_rate(epoch, steps - 1) * float(trainer.rate_factor)
            self._write({'epoch': epoch, 'learning_rate': rate, **trained.means,
                         'images_per_second': steps * self.config.batch_size / trained.seconds,
                         'train_seconds': trained.seconds,
                         'method_seconds': time.perf_counter() - begun,
                         'peak_process_bytes': peak_process_bytes(), **row}, scalars)
            self.checkpoints.save(Position(epoch + 1), state)
            if self.should_stop():
                raise self._interrupted(epoch + 1)
        trainer.finish()

    def _train_from(self, trainer: Trainer, state: tf.train.Checkpoint, place: Position,
                    stage: Stage) -> '_Trained':
        """Trains what is left of an epoch, its random streams set; a checkpoint then has all of
        its steps."""
        set_seed(derived_seed(self.config.seed, place.epoch), trainer.model)
        trained = self._train(trainer, state, place, stage)
        # What comes next may take long: a kill then costs none of the steps.
        steps = stage.steps_in(place.epoch)
        trainer.steps_done.assign(steps)
        self.checkpoints.save(Position(place.epoch, steps, trained.seconds), state)
        trainer.steps_done.assign(0)
        return trained

    def _train(self, trainer: Trainer, state: tf.train.Checkpoint, start: Position, stage: Stage
               ) -> '_Trained':
        batch, begun = self.config.batch_size, time.perf_counter()
        steps = stage.steps_in(start.epoch)

        def seconds() -> float:
            return start.seconds + time.perf_counter() - begun

        def on_step(step: int, means: dict[str, float]) -> None:
            self.progress.step(batch, means)
            if self.should_stop():
                raise StopTraining()

        self.progress.start_epoch(f'epoch {start.epoch + 1}/{self.config.total_epochs}',
                                  steps * batch, start.step * batch)
        try:
            means = trainer.train_epoch(
                stage.data.train_batches(start.epoch, batch).take(steps),
                lambda step: stage.learning_rate(start.epoch, step), on_step=on_step)
        except StopTraining:
            step = int(trainer.steps_done)
            self.checkpoints.save(Position(start.epoch, step, seconds()), state)
            raise self._interrupted(start.epoch) from None
        except NonFiniteLossError as error:
            before = start.epoch < self.config.search_epochs
            flag = 'learning_rate' if before else 'fine_tune_learning_rate'
            raise NonFiniteLossError(
                f'epoch {start.epoch + 1}: {error} A lower --{flag} may help or, in a model of '
                'your own, a Rescaling layer of its pixels.') from None
        finally:
            self.progress.end_epoch()
        return _Trained(means, seconds())

    def _write(self, row: Mapping[str, Any], scalars: '_Scalars') -> None:
        row = {name: value for name, value in row.items() if value == value}  # no NaN in JSON
        self.folder.append_rows('metrics.jsonl', [row])
        scalars.write(row)
        self.progress.say(_summary(row))

    def _interrupted(self, epoch: int) -> Interrupted:
        return Interrupted(f'stopped after {epoch} of {self.config.total_epochs} epochs; the same '
                           f'command resumes {self.folder.path}.')


@dataclasses.dataclass(frozen=True)
class _Trained:
    means: Mapping[str, float]
    seconds: float


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
