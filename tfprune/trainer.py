"""One configuration, one run folder: train, search, prune, fine-tune, export, report."""
import dataclasses
import os
import pathlib
import time
from typing import Any, Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune import data as data_sets
from tfprune.budget import Budget
from tfprune.checkpoints import Checkpoints, Position, restore
from tfprune.config import Config
from tfprune.costs import CostModel
from tfprune.data import ImageData
from tfprune.gates import insert_gates
from tfprune.groups import ChannelGroups, trace_groups
from tfprune.methods import Decision, Problem, check_method, make_method
from tfprune.models import build_model, load_initial_weights
from tfprune.outcome import finish
from tfprune.progress import Progress
from tfprune.runs import RunFolder
from tfprune.scoring import SubnetworkScorer
from tfprune.surgery import prune_model
from tfprune.training import (Evaluator, Optimisation, Schedule, StopTraining, Trainer,
                              batch_norm_layers, make_strategy, reestimate_batch_norm)


class Interrupted(Exception):
    """The run was asked to stop and has saved itself; the same command resumes it."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run gives.

    Attributes:
        run_dir: its folder.
        model: the pruned and fine-tuned float32 Keras model.
        report: the content of report.json.
    """
    run_dir: pathlib.Path
    model: keras.Model
    report: Mapping[str, Any]


def train_and_prune(config: Config, run_dir: str | os.PathLike, *,
                    should_stop: Callable[[], bool] = lambda: False,
                    progress: bool = True) -> RunResult:
    """Runs `config` in `run_dir`, or resumes it there; a finished run is only read.

    Args:
        should_stop: asked after each step; True saves and raises Interrupted.
        progress: whether to show a progress bar.

    Raises:
        ValueError, TypeError, OSError: what is wrong with the configuration, the data, the run
            folder, in one line, before any training.
        NonFiniteLossError: the loss is NaN or infinite; the checkpoints before it stand.
        Interrupted: see should_stop.
    """
    check_method(config.method)
    # Bit for bit reproducible on CPU; must stand before the first operation.
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel('WARNING')
    strategy = make_strategy(config.replicas)
    folder = RunFolder(run_dir, config)
    try:
        return _Run(config, folder, strategy, should_stop, Progress(progress)).run()
    finally:
        folder.close()


class _Run:
    """The state of one call of train_and_prune."""

    def __init__(self, config: Config, folder: RunFolder, strategy: tf.distribute.Strategy,
                 should_stop: Callable[[], bool], progress: Progress):
        self.config, self.folder, self.strategy = config, folder, strategy
        self.should_stop, self.progress = should_stop, progress
        self.checkpoints = Checkpoints(folder.path / 'checkpoints', progress.say)

    def run(self) -> RunResult:
        config = self.config
        # 1. Data, dense model, groups, costs: whatever is impossible fails here.
        self.data = _load_data(config)
        keras.utils.set_random_seed(config.seed)
        model = self._build()
        groups = trace_groups(model, frozen=[name for name in config.frozen.split(',') if name])
        if not config.prune_residual_groups:
            groups = groups.without_residual()
        cost_model = CostModel(model, groups)
        budget = Budget(groups, cost_model, target=config.target, ratio=config.budget_ratio,
                        width_multiple=config.width_multiple, min_keep_ratio=config.min_keep_ratio)
        self.folder.write_json('groups.json', groups.to_json())
        self.folder.write_json('cost.json', {
            'dense': dataclasses.asdict(cost_model.dense), 'target': config.target,
            'limit': budget.limit, 'uncounted': cost_model.uncounted})
        if self.folder.read_json('report.json') is not None:
            return self._finished()
        self.score_batches = self.data.reward_batches(config.score_batch_size).take(
            config.score_images // config.score_batch_size)
        position, prefix = self.checkpoints.newest() or (Position(), None)
        for name in ('metrics.jsonl', 'episodes.jsonl'):
            self.folder.forget_rows_from(name, position.epoch)
        if prefix:
            self.progress.say(f'resuming {self.folder.path} after epoch {position.epoch}, '
                              f'step {position.step}')
        # 2. The epochs before surgery, unless a checkpoint is from after it.
        decides_first = check_method(config.method).decides_first
        first = 0 if decides_first else config.search_epochs
        pruned_before = prefix is not None and (
            decides_first or (position.epoch, position.step) > (first, 0))
        if pruned_before:
            decision = Decision.from_json(self.folder.read_json('decision.json'), groups)
        else:
            problem = Problem(config, model, groups, cost_model, budget,
                              self._scorer(model, groups), self.strategy.scope)
            decision = self._search(model, problem, first, position, prefix)
            position, prefix = Position(first), None
        # 3. Surgery, the epochs after it.
        with self.strategy.scope():
            pruned = prune_model(model, groups, decision.masks)
        self._train_pruned(pruned, first, position, prefix)
        # 4. Test data, once; export; report.
        pruned = _as_float32(pruned)
        report = finish(config, self.folder, self.data, pruned, groups, cost_model, budget,
                        decision, self.progress)
        return RunResult(self.folder.path, pruned, report)

    def _finished(self) -> RunResult:
        self.progress.say(f'{self.folder.path} is finished.')
        model = keras.models.load_model(self.folder.path / 'export' / 'pruned.keras')
        return RunResult(self.folder.path, model, self.folder.read_json('report.json'))

    def _build(self) -> keras.Model:
        config, data = self.config, self.data
        policy = 'mixed_bfloat16' if config.mixed_precision == 'bfloat16' else 'float32'
        with self.strategy.scope():
            model = build_model(config.model, image_shape=data.image_shape,
                                num_classes=data.num_classes, mean=data.mean, std=data.std,
                                seed=config.seed, dtype_policy=policy)
            if config.initial_weights:
                load_initial_weights(model, config.initial_weights)
        return model

    def _scorer(self, model: keras.Model, groups: ChannelGroups) -> SubnetworkScorer:
        with self.strategy.scope():
            gated = insert_gates(model, groups)
        return SubnetworkScorer(gated, self.strategy, self._calibration(), self.score_batches)

    def _calibration(self) -> tf.data.Dataset:
        return self.data.calibration_batches(self.config.score_batch_size,
                                             self.config.calibration_batches)

    def _search(self, model: keras.Model, problem: Problem, epochs: int, position: Position,
                prefix: str | None) -> Decision:
        """Trains `epochs` epochs, the method deciding; returns the decision, which is on disk."""
        method = make_method(problem)

        def after_epoch(epoch: int, accuracy: float) -> dict[str, Any]:
            result = method.after_epoch(epoch, accuracy)
            self.folder.append_rows('episodes.jsonl', result.episodes)
            return {'phase': method.phase(epoch), **result.metrics}

        if epochs:
            trainer = Trainer(model, self.strategy, self._optimisation(), method.penalty)
            state = tf.train.Checkpoint(model=model, trainer=trainer, method=method)
            if prefix:
                restore(state, prefix)
            self._epochs(trainer, state, position, epochs, after_epoch)
        decision = method.decide()
        if epochs or self.config.initial_weights:
            # The model as it is before surgery: the report's dense side.
            save_keras(_as_float32(model), self.folder.path / 'dense.keras')
        self.folder.write_json('decision.json', decision.to_json())
        return decision

    def _train_pruned(self, pruned: keras.Model, first: int, position: Position,
                      prefix: str | None) -> None:
        """Trains the pruned model from epoch `first` on, or from the checkpoint."""
        trainer = Trainer(pruned, self.strategy, self._optimisation())
        state = tf.train.Checkpoint(model=pruned, trainer=trainer)
        if prefix:
            restore(state, prefix)
        elif first or self.config.initial_weights:
            self._settle(pruned)
        self._epochs(trainer, state, position, self.config.total_epochs,
                     lambda epoch, _: {'phase': 'fine_tune' if first else 'train'})

    def _settle(self, pruned: keras.Model) -> None:
        """Batch-norm statistics of the sub-network, as when it was scored."""
        @tf.function
        def forward(images: tf.Tensor) -> None:
            self.strategy.run(lambda x: pruned(tf.cast(x, tf.float32), training=True), (images,))

        reestimate_batch_norm(batch_norm_layers(pruned), forward,
                              (images for images, _ in self._calibration()))

    def _epochs(self, trainer: Trainer, state: tf.train.Checkpoint, position: Position, end: int,
                after_epoch: Callable[[int, float], Mapping[str, Any]]) -> None:
        config, data = self.config, self.data
        steps = data.num_train // config.batch_size
        evaluate = Evaluator(trainer.model, self.strategy)
        for epoch in range(position.epoch, end):
            keras.utils.set_random_seed(_epoch_seed(config.seed, epoch))
            schedule = _schedule(config, epoch, steps)
            start, begun = time.perf_counter(), int(trainer.steps_done)
            self.progress.start_epoch(f'epoch {epoch + 1}/{config.total_epochs}',
                                      steps * config.batch_size, begun * config.batch_size)
            try:
                means = trainer.train_epoch(data.train_batches(epoch, config.batch_size), schedule,
                                            on_step=self._on_step)
            except StopTraining:
                self.checkpoints.save(Position(epoch, int(trainer.steps_done)), state)
                raise Interrupted(f'stopped in epoch {epoch + 1}; the same command resumes '
                                  f'{self.folder.path}.') from None
            finally:
                self.progress.end_epoch()
            trained = time.perf_counter()
            accuracy = evaluate(self.score_batches)
            extra = after_epoch(epoch, accuracy)
            row = {'epoch': epoch, 'learning_rate': schedule(steps - 1), **means,
                   'reward_accuracy': accuracy,
                   'images_per_second': (steps - begun) * config.batch_size / (trained - start),
                   'train_seconds': trained - start,
                   'method_seconds': time.perf_counter() - trained, **extra}
            row = {name: value for name, value in row.items() if value == value}  # no NaN in JSON
            self.folder.append_rows('metrics.jsonl', [row])
            self._write_scalars(row)
            self.progress.say(_summary(row))
            self.checkpoints.save(Position(epoch + 1), state)
            if self.should_stop():
                raise Interrupted(f'stopped after epoch {epoch + 1}; the same command resumes '
                                  f'{self.folder.path}.')

    def _on_step(self, step: int, means: dict[str, float]) -> None:
        self.progress.step(self.config.batch_size, means)
        if self.should_stop():
            raise StopTraining()

    def _write_scalars(self, row: Mapping[str, Any]) -> None:
        """The row for TensorBoard."""
        writer = tf.summary.create_file_writer(str(self.folder.path / 'tensorboard'))
        with writer.as_default(step=row['epoch']):
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != 'epoch':
                    tf.summary.scalar(name, value)
        writer.close()

    def _optimisation(self) -> Optimisation:
        config = self.config
        return Optimisation(config.momentum, config.weight_decay, config.label_smoothing,
                            config.batch_size)


def _load_data(config: Config) -> ImageData:
    data = data_sets.load_data(config.dataset, data_dir=config.data_dir or None,
                               reward_images=config.reward_images, seed=config.seed)
    if data.num_train < config.batch_size:
        raise ValueError(f'batch_size={config.batch_size} is larger than the {data.num_train} '
                         'training images.')
    return data


def _schedule(config: Config, epoch: int, steps: int) -> Callable[[int], float]:
    """Learning rate as a function of the step within `epoch`; after surgery it starts anew."""
    if epoch < config.search_epochs:
        schedule = Schedule(config.schedule, config.learning_rate, config.search_epochs * steps,
                            round(config.lr_warmup_epochs * steps))
        first = 0
    else:
        schedule = Schedule(config.schedule, config.fine_tune_learning_rate,
                            config.fine_tune_epochs * steps)
        first = config.search_epochs
    return lambda step: schedule((epoch - first) * steps + step)


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed of (seed, epoch): of their sum, seed 1 would repeat the epochs of seed 0."""
    return int(np.random.default_rng((seed, epoch)).integers(2 ** 31))


def _as_float32(model: keras.Model) -> keras.Model:
    """A plain copy in float32, without what training set on its layers."""
    for layer in batch_norm_layers(model):
        layer.synchronized = False
    return prune_model(model, trace_groups(model), {}, dtype_policy='float32')


def save_keras(model: keras.Model, path: pathlib.Path) -> None:
    """Writes a .keras file, whole or not at all."""
    partial = path.with_name(f'.partial_{path.name}')
    model.save(partial)
    os.replace(partial, path)


def _summary(row: Mapping[str, Any]) -> str:
    names = ('phase', 'loss', 'accuracy', 'reward_accuracy', 'subnetwork_accuracy', 'reward_mean',
             'reward_max', 'strength')
    shown = [f'{name} {row[name]:.4g}' if isinstance(row[name], float) else f'{name} {row[name]}'
             for name in names if name in row]
    return (f'epoch {row["epoch"] + 1}: {", ".join(shown)}, '
            f'{row["images_per_second"]:.0f} images/s, {row["method_seconds"]:.1f} s after')
