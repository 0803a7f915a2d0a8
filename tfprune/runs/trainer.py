"""One configuration, one run folder: train, search, prune, fine-tune, export, report."""
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune import data as data_sets
from tfprune.config import Config, differing_fields, split_names
from tfprune.costs.budget import Budget, check_counted
from tfprune.costs.model import CostModel
from tfprune.data import DataOptions, ImageData
from tfprune.latency.table import LatencyTable
from tfprune.methods import check_configuration, check_method
from tfprune.models import (CompiledOptimizer, as_classifier, build_model, compiled_optimizer,
                            compiled_optimizer_of_file, is_model_file, load_initial_weights,
                            run_custom_layers)
from tfprune.progress import Progress, hush_retracing
from tfprune.pruning.importance import score_groups
from tfprune.pruning.surgery import prune_model
from tfprune.runs.deployment import Deployment, check_convertible, check_deployable
from tfprune.runs.epochs import Interrupted
from tfprune.runs.folder import RunFolder, WatchedFolder
from tfprune.runs.given import with_recipe
from tfprune.runs.outcome import finish, read_finished
from tfprune.runs.phases import Phases
from tfprune.runs.problem import Setup, criterion_batches
from tfprune.runs.reuse import other_ratios
from tfprune.structure.groups import trace_groups
from tfprune.training.distribution import (any_worker, check_compilable, from_chief, is_chief,
                                           losing_workers, make_strategy, num_workers, worker_index)
from tfprune.training.step import StopTraining, make_deterministic


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
        """sha256 of the model's configuration, weights and optimizer."""
        digest = hashlib.sha256(self.model.to_json().encode())
        for value in self.model.get_weights():
            digest.update(np.ascontiguousarray(value).tobytes())
        compiled = compiled_optimizer(self.model)
        digest.update(json.dumps(compiled and compiled.config, default=str).encode())
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
    check_configuration(config)
    make_deterministic(not config.jit_compile)
    tf.get_logger().setLevel('WARNING')
    strategy = make_strategy(config.replicas)
    if config.jit_compile:
        check_compilable(strategy)
    run_custom_layers(config.custom_layers)
    with losing_workers(), hush_retracing():
        result = _train_and_prune(config, pathlib.Path(run_dir), own, strategy, should_stop,
                                  progress)
        for ratio, other in other_ratios(config, result.run_dir).items():
            _train_and_prune(other, result.run_dir / 'ratios' / ratio, own, strategy, should_stop,
                             progress)
    return result


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
        setup = prepare(config, strategy, own)
        # Random augmentation of a user's dataset may show other pixels each time.
        folder.keep_json('data.json', setup.data.to_json(), observed=['pixel_range'])
        folder.write_json('groups.json', setup.groups.to_json())
        folder.write_json('cost.json', {
            'dense': dataclasses.asdict(setup.cost_model.dense),
            'budgets': setup.budget.to_json(), 'uncounted': setup.cost_model.uncounted})
        setup = with_recipe(setup, folder, strategy, shown,
                            should_stop if num_workers(strategy) == 1 else lambda: False)
        phases = Phases(setup, folder, strategy, lambda: any_worker(strategy, should_stop()), shown)
        model, decision = phases.run()
        if not chief:
            return RunResult(folder.path, model, {})
        try:
            report = finish(setup, folder, model, decision, shown, should_stop,
                            phases.missing)
        except StopTraining:
            raise Interrupted('stopped before the end of the export; the same command begins it '
                              f'anew in {folder.path}.') from None
        return RunResult(folder.path, model, report)
    except BaseException:
        folder.forget_unbegun()
        raise
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
                          unknown_layers=config.unknown_layers, prune_frozen=config.prune_frozen)
    if not config.prune_residual_groups:
        groups = groups.without_residual()
    table = LatencyTable.load(config.latency_table) if config.latency_table else None
    cost_model = CostModel(model, groups, latency_table=table)
    check_deployable(model, data, Deployment.of(config))
    if own or is_model_file(config.model):
        check_convertible(model)
    # What has no budget cannot miss it.
    method = check_method(config.method)
    limits = config.budgets if method.needs_budget(method.parse(config)) else {'macs': 1.0}
    if not config.accept_uncounted:
        check_counted(cost_model, limits)
    budget = Budget(groups, cost_model, limits, width_multiple=config.width_multiple,
                    min_keep_ratio=config.min_keep_ratio)
    # Some methods ask for scores after hours only: what is wrong with the criterion is said now.
    score_groups(model, groups, criterion=config.criterion,
                 data=criterion_batches(config, data).take(1))
    has_weights = bool(own or config.initial_weights or is_model_file(config.model))
    return Setup(config, data, model, groups, cost_model, budget, has_weights,
                 compiled=_compiled(config, own))


def _compiled(config: Config, own: OwnProblem | None) -> CompiledOptimizer | None:
    """The optimizer that the given model was compiled with, if any and if it is wanted."""
    if config.optimizer != 'compiled':
        return None
    if own:
        return compiled_optimizer(own.model)
    files = [name for name in (config.initial_weights, config.model) if name.endswith('.keras')]
    return compiled_optimizer_of_file(files[0]) if files else None


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


def _load_data(config: Config) -> ImageData:
    return data_sets.load_data(config.dataset, **DataOptions.names_in(config.to_json()))
