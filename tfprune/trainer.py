"""One configuration, one run folder: train, search, prune, fine-tune, export, report."""
import dataclasses
import hashlib
import os
import pathlib
from typing import Any, Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune import data as data_sets
from tfprune.batch_norm import reestimate_batch_norm, synchronise_batch_norm
from tfprune.budget import Budget
from tfprune.checkpoints import CheckpointError, Position, SharedCheckpoints, restore
from tfprune.config import LIMITS, Config, differing_fields, split_names
from tfprune.costs import CostModel
from tfprune.criteria import score_groups
from tfprune.data import DataOptions, ImageData
from tfprune.deployment import Deployment, check_deployable
from tfprune.distribution import (SharedScorer, any_worker, check_compilable, from_chief, is_chief,
                                  losing_workers, make_strategy, worker_index)
from tfprune.epochs import EpochLoop, Interrupted
from tfprune.export.tflite import convert
from tfprune.graph import unfold
from tfprune.groups import trace_groups
from tfprune.latency_table import LatencyTable
from tfprune.masks import Masks
from tfprune.methods import Decision, Problem, check_method, make_method
from tfprune.models import (as_classifier, build_model, is_model_file, load_initial_weights,
                            run_custom_layers)
from tfprune.outcome import Setup, finish, read_finished
from tfprune.progress import Progress
from tfprune.reuse import take_epochs
from tfprune.runs import RunFolder, WatchedFolder, replacing
from tfprune.scoring import SubnetworkScorer
from tfprune.subnetwork import Subnetwork
from tfprune.surgery import prune_model
from tfprune.training import Optimisation, StopTraining, Trainer, make_deterministic


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run gives.

    Attributes:
        run_dir: its folder.
        model: the pruned and fine-tuned float32 Keras model.
        report: the content of report.json; empty in workers that are not the chief.
    """
    run_dir: pathlib.Path
    model: keras.Model
    report: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class OwnProblem:
    """A user's own model and data, in place of those that a configuration names.

    Attributes:
        model: a classifier with its weights; it is copied.
        data: its images.
    """
    model: keras.Model
    data: ImageData

    def digest(self) -> str:
        """sha256 of the model's configuration and weights."""
        digest = hashlib.sha256(self.model.to_json().encode())
        for value in self.model.get_weights():
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


def train_and_prune(config: Config, run_dir: str | os.PathLike, *, own: OwnProblem | None = None,
                    should_stop: Callable[[], bool] = lambda: False,
                    progress: bool = True) -> RunResult:
    """Runs `config` in `run_dir`, or resumes it there; a finished run is only read.

    Args:
        own: the user's model and data; config.model and config.dataset are then mere names.
        should_stop: asked after each step and each score; True saves and raises Interrupted.
        progress: whether to show a progress bar.

    Raises:
        ValueError, TypeError, OSError: what is wrong with the configuration, the data, the run
            folder, in one line, before any training.
        NonFiniteLossError: the loss is NaN or infinite; the checkpoints before it stand.
        Interrupted: see should_stop; in all workers, of whichever it was asked.
        WorkerLostError: another worker is gone; call it again, in a new process.
    """
    method = check_method(config.method)
    names = tuple(LIMITS)
    if method.prunes and not config.budgets:
        raise ValueError(f'method {config.method!r} needs a budget: '
                         f'--{", --".join(names[:-1])} or --{names[-1]}.')
    if method.decides_first and config.initial_weights:
        raise ValueError(f'method {config.method!r} trains from random weights; '
                         f'initial_weights must be empty, received {config.initial_weights!r}.')
    make_deterministic(not config.jit_compile)
    tf.get_logger().setLevel('WARNING')
    strategy = make_strategy(config.replicas)
    if config.jit_compile:
        check_compilable(strategy)
    run_custom_layers(config.custom_layers)
    with losing_workers():
        return _train_and_prune(config, pathlib.Path(run_dir), own, strategy, should_stop, progress)


def _train_and_prune(config: Config, run_dir: pathlib.Path, own: OwnProblem | None,
                     strategy: tf.distribute.Strategy, should_stop: Callable[[], bool],
                     progress: bool) -> RunResult:
    chief = is_chief(strategy)
    folder, shown = _open_folder(config, run_dir, own, strategy), Progress(progress and chief)
    try:
        finished = read_finished(folder) if chief else None
        if from_chief(strategy, finished is not None):
            finished = finished or read_finished(folder)
        if finished:
            shown.say(f'{folder.path} is finished.')
            return RunResult(folder.path, *finished)
        try:
            setup = prepare(config, strategy, own)
        except Exception:
            folder.forget_if_new()
            raise
        folder.keep_json('data.json', setup.data.to_json())
        folder.write_json('groups.json', setup.groups.to_json())
        folder.write_json('cost.json', {
            'dense': dataclasses.asdict(setup.cost_model.dense),
            'budgets': setup.budget.to_json(), 'uncounted': setup.cost_model.uncounted})
        model, decision = _Run(setup, folder, strategy,
                               lambda: any_worker(strategy, should_stop()), shown).run()
        if not chief:
            return RunResult(folder.path, model, {})
        try:
            report = finish(setup, folder, model, decision, shown, should_stop)
        except StopTraining:
            raise Interrupted('stopped before the end of quantisation-aware fine-tuning; the same '
                              f'command begins it anew in {folder.path}.') from None
        return RunResult(folder.path, model, report)
    finally:
        folder.close()


def _open_folder(config: Config, run_dir: pathlib.Path, own: OwnProblem | None,
                 strategy: tf.distribute.Strategy) -> RunFolder:
    """The chief's run folder; what is wrong with it, or with other workers' flags, ends all."""
    folder, error = None, None
    if is_chief(strategy):
        try:
            folder = RunFolder(run_dir, config, {'model': own.digest()} if own else {})
        except (ValueError, OSError) as caught:
            error = caught
    theirs = from_chief(strategy, {'config': config.to_json(), 'error': error and str(error)})
    if error:
        raise error
    if theirs['error']:
        raise ValueError(theirs['error'])
    differing = differing_fields(config, theirs['config'])
    if differing:
        raise ValueError(f'worker {worker_index(strategy)} was started with other flags than '
                         f'worker 0: {"; ".join(differing)}.')
    return folder or WatchedFolder(run_dir)


def prepare(config: Config, strategy: tf.distribute.Strategy,
            own: OwnProblem | None = None) -> Setup:
    """Data, dense model, groups, costs, budget: whatever is impossible fails here."""
    data = own.data if own else _load_data(config)
    config = config.sized(data.num_reward)
    if data.num_train < config.batch_size:
        raise ValueError(f'batch_size={config.batch_size} is larger than the {data.num_train} '
                         'training images.')
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        model = _own_model(own) if own else _named_model(config, data)
    groups = trace_groups(model, frozen=split_names(config.frozen),
                          unknown_layers=config.unknown_layers)
    if not config.prune_residual_groups:
        groups = groups.without_residual()
    table = LatencyTable.load(config.latency_table) if config.latency_table else None
    cost_model = CostModel(model, groups, latency_table=table)
    check_deployable(model, data, Deployment.of(config))
    if own or is_model_file(config.model):
        convert(model)  # names operators that TFLite lacks
    # What does not prune cannot miss a budget.
    limits = config.budgets if check_method(config.method).prunes else {'macs': 1.0}
    budget = Budget(groups, cost_model, limits, width_multiple=config.width_multiple,
                    min_keep_ratio=config.min_keep_ratio)
    # Some methods ask for scores after hours only: what is wrong with the criterion is said now.
    score_groups(model, groups, criterion=config.criterion,
                 data=_criterion_batches(config, data).take(1))
    has_weights = bool(own or config.initial_weights or is_model_file(config.model))
    return Setup(config, data, model, groups, cost_model, budget, has_weights)


def _own_model(own: OwnProblem) -> keras.Model:
    model = as_classifier(own.model, source=f"model '{own.model.name}'",
                          image_shape=own.data.image_shape, num_classes=own.data.num_classes)
    return prune_model(model, trace_groups(model), {})  # a copy


def _named_model(config: Config, data: ImageData) -> keras.Model:
    policy = 'mixed_bfloat16' if config.mixed_precision == 'bfloat16' else 'float32'
    model = build_model(config.model, image_shape=data.image_shape, num_classes=data.num_classes,
                        mean=data.mean, std=data.std, seed=config.seed, dtype_policy=policy)
    if config.initial_weights:
        load_initial_weights(model, config.initial_weights)
    return model


class _Run:
    """The two phases of a run, before surgery and after, from wherever its checkpoints stand."""

    def __init__(self, setup: Setup, folder: RunFolder, strategy: tf.distribute.Strategy,
                 should_stop: Callable[[], bool], progress: Progress):
        config = setup.config
        self.setup, self.config, self.folder, self.strategy = setup, config, folder, strategy
        self.should_stop = should_stop
        self.decides_first = check_method(config.method).decides_first
        self.first = 0 if self.decides_first else config.search_epochs  # epoch after surgery
        self.loop = EpochLoop(
            config, setup.data, folder, SharedCheckpoints(
                folder.path / 'checkpoints', progress.warn, strategy),
            setup.data.reward_batches(config.score_batch_size).take(
                config.score_images // config.score_batch_size), should_stop, progress)

    def run(self) -> tuple[keras.Model, Decision]:
        """The pruned model in float32, trained to the last epoch, and the decision."""
        position, prefix = self.loop.checkpoints.newest() or (Position(), None)
        for name in ('metrics.jsonl', 'episodes.jsonl'):
            self.folder.forget_rows_from(name, position.epoch)
        if prefix:
            self.folder.note_resumption()
            self.loop.progress.say(f'resuming {self.folder.path} after epoch {position.epoch}, '
                                   f'step {position.step}')
        after_surgery = prefix is not None and (
            self.decides_first or (position.epoch, position.step) > (self.first, 0))
        if after_surgery:
            decision = self._read_decision()
        else:
            decision = self._search(position, prefix)
            position, prefix = Position(self.first), None
        pruned = self._prune(decision.masks)
        self._train_pruned(pruned, decision.masks, position, prefix)
        if self.should_stop():
            raise Interrupted('stopped before export; the same command resumes '
                              f'{self.folder.path}.')
        return _as_float32(pruned), decision

    def _search(self, position: Position, prefix: str | None) -> Decision:
        """Trains to surgery, the method deciding; returns the decision, which is on disk."""
        setup, config = self.setup, self.config
        scorer = SharedScorer(self.strategy, self._stoppable(self._scorer()))
        problem = Problem(config, setup.model, setup.groups, setup.cost_model, setup.budget,
                          scorer, _criterion_batches(config, setup.data), self.strategy.scope)
        method = make_method(problem)

        def after_epoch(epoch: int, accuracy: float) -> dict[str, Any]:
            result = scorer.lead(lambda: method.after_epoch(epoch, accuracy), method)
            if result is None:  # the chief's alone
                return {}
            self.folder.append_rows('episodes.jsonl', result.episodes)
            return {'phase': method.phase(epoch), **result.metrics}

        if self.first and config.before_surgery_from and not prefix:
            take_epochs(config, self.folder, setup.model)
        elif self.first:
            trainer = self._trainer(setup.model, method.penalty)
            state = tf.train.Checkpoint(model=setup.model, trainer=trainer, method=method)
            if prefix:
                restore(state, prefix)
            self.loop.run(trainer, state, position, self.first, after_epoch)
        decided = scorer.lead(lambda: method.decide().to_json(), method)
        decision = Decision.from_json(from_chief(self.strategy, decided), setup.groups)
        if not is_chief(self.strategy):
            return decision
        if self.first or (setup.has_weights and not self.decides_first):
            # The model as it is before surgery: the report's dense side.
            with replacing(self.folder.path / 'dense.keras') as path:
                _as_float32(setup.model).save(path)
        self.folder.write_json('decision.json', decision.to_json())
        return decision

    def _prune(self, masks: Masks) -> keras.Model:
        with self.strategy.scope():
            pruned = prune_model(self.setup.model, self.setup.groups, masks)
            # From scratch: initialised anew for its own widths, not a slice of the dense one.
            return keras.models.clone_model(pruned) if self.decides_first else pruned

    def _train_pruned(self, pruned: keras.Model, masks: Masks, position: Position,
                      prefix: str | None) -> None:
        """Trains the pruned model to the end."""
        trainer = self._trainer(pruned)
        state = tf.train.Checkpoint(model=pruned, trainer=trainer)
        if prefix:
            restore(state, prefix)
        elif not self.decides_first and not all(mask.all() for mask in masks.values()):
            self._settle(pruned)
        phase = 'train' if self.decides_first else 'fine_tune'
        self.loop.run(trainer, state, position, self.config.total_epochs,
                      lambda epoch, _: {'phase': phase})

    def _settle(self, pruned: keras.Model) -> None:
        """Batch-norm statistics of the sub-network, as when it was scored."""
        @tf.function
        def forward(images: tf.Tensor) -> None:
            self.strategy.run(lambda x: pruned(tf.cast(x, tf.float32), training=True), (images,))

        reestimate_batch_norm(unfold(pruned), forward,
                              (images for images, _ in self._calibration()))

    def _trainer(self, model: keras.Model, penalty: Callable[[], Any] | None = None) -> Trainer:
        config = self.config
        return Trainer(model, self.strategy, Optimisation(
            config.momentum, config.weight_decay, config.label_smoothing, config.batch_size,
            config.jit_compile), penalty)

    def _scorer(self) -> SubnetworkScorer:
        with self.strategy.scope():
            network = Subnetwork(self.setup.model, self.setup.groups)
        return SubnetworkScorer(network, self.strategy, self.loop.held_out)

    def _stoppable(self, scorer: SubnetworkScorer) -> Callable[[Mapping[str, np.ndarray]], float]:
        def score(masks: Mapping[str, np.ndarray]) -> float:
            if self.should_stop():
                raise StopTraining()
            return scorer(masks)

        return score

    def _calibration(self) -> tf.data.Dataset:
        return self.setup.data.calibration_batches(self.config.score_batch_size,
                                                   self.config.calibration_batches)

    def _read_decision(self) -> Decision:
        rows = self.folder.read_json('decision.json')
        if rows is None:
            raise CheckpointError(f'{self.folder.path} has checkpoints from after surgery and no '
                                  'decision.json; remove its checkpoints folder to start anew.')
        return Decision.from_json(rows, self.setup.groups)


def _load_data(config: Config) -> ImageData:
    return data_sets.load_data(config.dataset, **DataOptions.names_in(config.to_json()))


def _criterion_batches(config: Config, data: ImageData) -> tf.data.Dataset:
    return data.calibration_batches(config.batch_size, config.criterion_batches)


def _as_float32(model: keras.Model) -> keras.Model:
    """A plain copy in float32, without what training set on its layers."""
    synchronise_batch_norm(model, False)
    return prune_model(model, trace_groups(model), {}, dtype_policy='float32')
