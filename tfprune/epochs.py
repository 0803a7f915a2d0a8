"""The epoch loop, the same before and after surgery: train, measure, let the method act, save."""
import contextlib
import dataclasses
import pathlib
import time
from typing import Any, Callable, Iterator, Mapping

import tensorflow as tf

from tfprune.checkpoints import Checkpoints, Position
from tfprune.config import Config
from tfprune.data import ImageData
from tfprune.distribution import is_chief
from tfprune.progress import Progress
from tfprune.runs import RunFolder, peak_process_bytes
from tfprune.seeding import derived_seed, set_seed
from tfprune.training import Evaluator, NonFiniteLossError, Schedule, StopTraining, Trainer


class Interrupted(Exception):
    """The run was asked to stop and has saved itself; the same command resumes it."""


@dataclasses.dataclass(frozen=True)
class EpochLoop:
    """Runs epochs of a trainer, with a row in metrics.jsonl and a checkpoint for each.

    Attributes:
        held_out: batches whose accuracy is measured after each epoch; never test data.
        should_stop: asked after each step and before each score; True saves and stops.
    """
    config: Config
    data: ImageData
    folder: RunFolder
    checkpoints: Checkpoints
    held_out: tf.data.Dataset
    should_stop: Callable[[], bool]
    progress: Progress

    def run(self, trainer: Trainer, state: tf.train.Checkpoint, position: Position, end: int,
            after_epoch: Callable[[int], Mapping[str, Any]]) -> None:
        """Trains from `position`, to which `state` has been restored, to epoch `end`.

        Args:
            state: what a checkpoint holds.
            after_epoch: epoch -> what it adds to the epoch's row.

        Raises:
            Interrupted: the run has stopped where it can go on.
            NonFiniteLossError: names epoch and step; the checkpoints before it stand.
        """
        evaluate = Evaluator(trainer.model, trainer.strategy,
                             jit_compile=self.config.jit_compile)
        scalars = _Scalars(self.folder.path / 'tensorboard', is_chief(trainer.strategy))
        for epoch in range(position.epoch, end):
            set_seed(derived_seed(self.config.seed, epoch), trainer.model)
            start = position if epoch == position.epoch else Position(epoch)
            trained = self._train(trainer, state, start)
            begun = time.perf_counter()
            try:
                row = {'reward_accuracy': evaluate(self.held_out), **after_epoch(epoch)}
            except StopTraining:
                raise self._interrupted(epoch) from None
            images = self._steps * self.config.batch_size
            rate = self._learning_rate(epoch, self._steps - 1)
            self._write({'epoch': epoch, 'learning_rate': rate, **trained.means,
                         'images_per_second': images / trained.seconds,
                         'train_seconds': trained.seconds,
                         'method_seconds': time.perf_counter() - begun,
                         'peak_process_bytes': peak_process_bytes(), **row}, scalars)
            self.checkpoints.save(Position(epoch + 1), state)
            if self.should_stop():
                raise self._interrupted(epoch + 1)

    @property
    def _steps(self) -> int:
        """Steps an epoch."""
        return self.data.num_train // self.config.batch_size

    def _train(self, trainer: Trainer, state: tf.train.Checkpoint, start: Position) -> '_Trained':
        """Trains what is left of an epoch; a checkpoint then has all of its steps."""
        batch, begun = self.config.batch_size, time.perf_counter()

        def seconds() -> float:
            return start.seconds + time.perf_counter() - begun

        def on_step(step: int, means: dict[str, float]) -> None:
            self.progress.step(batch, means)
            if self.should_stop():
                raise StopTraining()

        self.progress.start_epoch(f'epoch {start.epoch + 1}/{self.config.total_epochs}',
                                  self._steps * batch, start.step * batch)
        try:
            means = trainer.train_epoch(
                self.data.train_batches(start.epoch, batch),
                lambda step: self._learning_rate(start.epoch, step), on_step=on_step)
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
        trained = _Trained(means, seconds())
        # What comes next may take long: a kill then costs none of the steps.
        trainer.steps_done.assign(self._steps)
        self.checkpoints.save(Position(start.epoch, self._steps, trained.seconds), state)
        trainer.steps_done.assign(0)
        return trained

    def _write(self, row: Mapping[str, Any], scalars: '_Scalars') -> None:
        row = {name: value for name, value in row.items() if value == value}  # no NaN in JSON
        self.folder.append_rows('metrics.jsonl', [row])
        scalars.write(row)
        self.progress.say(_summary(row))

    def _interrupted(self, epoch: int) -> Interrupted:
        return Interrupted(f'stopped after {epoch} of {self.config.total_epochs} epochs; the same '
                           f'command resumes {self.folder.path}.')

    def _learning_rate(self, epoch: int, step: int) -> float:
        """Learning rate of a step of an epoch; after surgery the schedule starts anew."""
        config, steps = self.config, self._steps
        if epoch < config.search_epochs:
            return Schedule(config.schedule, config.learning_rate, config.search_epochs * steps,
                            round(config.lr_warmup_epochs * steps))(epoch * steps + step)
        return Schedule(config.schedule, config.fine_tune_learning_rate,
                        config.fine_tune_epochs * steps)(
                            (epoch - config.search_epochs) * steps + step)


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
