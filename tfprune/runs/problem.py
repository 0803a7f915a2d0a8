"""Makes the problem of a run: data, dense model, groups, costs, budget."""
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfprune.costs.budget import Budget, check_counted
from tfprune.costs.model import CostModel
from tfprune.costs.options import BudgetOptions
from tfprune.data.examples import Examples
from tfprune.data.image_data import ImageData, as_pictures
from tfprune.data.loading import load
from tfprune.data.user_examples import UserExamples
from tfprune.export.options import INT8_QUANTIZATIONS
from tfprune.export.tflite import INT8
from tfprune.latency.table import LatencyTable
from tfprune.methods.base import Method
from tfprune.models.building import DTYPE_POLICIES, build_model
from tfprune.models.compiled import (CompiledOptimizer, compiled_optimizer,
                                     compiled_optimizer_of_files)
from tfprune.models.initial_weights import load_initial_weights
from tfprune.models.model_files import as_classifier, at_shapes
from tfprune.models.names import is_model_file
from tfprune.pruning.importance import AUTO, OBSERVING, score_groups
from tfprune.pruning.options import PruningOptions
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.pruning.surgery import plain_copy
from tfprune.runs.config import Config
from tfprune.runs.deployment import Deployment, check_convertible, check_deployable
from tfprune.runs.learning import Monitor, mean_loss, task_of
from tfprune.runs.state import State
from tfprune.search.problem import Problem, trace_problem_groups
from tfprune.structure.keras_internals import compiled_with, uncompiled
from tfprune.structure.groups import ChannelGroups
from tfprune.tasks.compiled import check_steps
from tfprune.tasks.fingerprint import fingerprint
from tfprune.training.batch_norm import use_fused_batch_norm
from tfprune.training.distribution import num_workers


@dataclasses.dataclass(frozen=True, eq=False)
class OwnModel:
    """A user's own model and data, in place of those that a configuration names.

    Attributes:
        model: with its weights; it is copied.
        data: its examples.
        monitor: what it is judged by, where its task is what it is compiled with; None of a
            classifier of pictures.
        callbacks: Keras' callbacks, which see its training.
        batch_size: of the data, if they come in batches.
        class_weight: {class: weight in the loss}; None for none.
    """
    model: keras.Model
    data: Examples
    monitor: Monitor | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    batch_size: int | None = None
    class_weight: Mapping[int, float] | None = None

    def digest(self) -> str:
        """sha256 of the model's configuration, weights and optimizer."""
        with uncompiled(self.model):  # Keras numbers optimizers and metrics
            digest = hashlib.sha256(self.model.to_json().encode())
        for value in self.model.get_weights():
            digest.update(np.ascontiguousarray(value).tobytes())
        compiled = compiled_optimizer(self.model)
        digest.update(json.dumps(compiled and compiled.config, default=str).encode())
        digest.update(repr(self.monitor).encode() if self.monitor else b'')
        return digest.hexdigest()

    def task_digest(self) -> str:
        """sha256 of losses, their weights and metrics, the same in every process."""
        weights = self.class_weight and {int(label): float(weight)
                                         for label, weight in self.class_weight.items()}
        given = compiled_with(self.model) if self.monitor else None
        return fingerprint(given and vars(given), weights)


def make_problem(state: State, own: OwnModel | None = None) -> Problem:
    """What the run works on; data.json, groups.json and cost.json say it. Whatever is impossible
    fails here.

    Adds to the state: the data, the sizes that fit them, whether the model came with weights and
    with which optimizer.
    """
    state.data = data = own.data if own else load(state.config.of_data())
    state.config = config = state.config.sized(data.num_reward)
    if data.num_train < config.training.batch_size:
        state.config = config = _of_small_set(state, data.num_train)
    keras.utils.set_random_seed(config.seed)
    with state.strategy.scope():
        model = _own_model(own) if own else _named_model(config, as_pictures(data))
    check_steps(own.model if own else model)
    groups = trace_problem_groups(model, config.structure)
    costs = config.costs
    cost_model = cost_model_of(model, groups, costs)
    _say_of_table(state, cost_model)
    compiled = own.model if own and own.monitor else None
    state.callbacks = own.callbacks if own else ()
    state.compiled_with = compiled_with(compiled) if compiled else None
    state.task = task = task_of(state, model, compiled, own and own.monitor or Monitor())
    if state.method.needs_examples and not task.is_classification:
        raise ValueError(f'method {config.method!r} teaches students by the logits of a classifier '
                         'of pictures; take another for this task, such as rlal, amc or uniform')
    check_deployable(model, task, data, Deployment.of(config.export, config.training))
    is_file = is_model_file(config.models.model)
    if own or is_file:
        check_convertible(model)
    # What has no budget cannot miss it.
    limits = costs.limits if state.method.needs_budget else {'macs': 1.0}
    budget = budget_of(groups, cost_model, costs, limits)
    # Some methods ask for scores after hours only: what is wrong with the criterion is said now.
    loss = mean_loss(task) if compiled else None
    reconstruction = _reconstruction(state, model, groups)
    pruning = _of_method(config.pruning, state.method)
    if reconstruction is None or pruning.criterion not in OBSERVING:
        score_groups(model, groups, criterion=pruning.criterion, loss=loss,
                     data=state.plain_batches(1))
    state.has_weights = bool(own or config.models.initial_weights or is_file)
    state.compiled = _compiled(config, own)
    # Random augmentation of a user's dataset may show other pixels each time.
    # In another process Keras may number the inputs and outputs of a model otherwise.
    state.folder.keep_json('data.json', data.to_json(),
                           observed=['pixel_range', 'inputs', 'outputs'])
    state.folder.write_json('groups.json', groups.to_json())
    state.folder.write_json('cost.json', {
        'dense': dataclasses.asdict(cost_model.dense),
        'budgets': budget.to_json(), 'uncounted': cost_model.uncounted})
    return Problem(model, groups, cost_model, budget, config.seed, config.epochs, config.structure,
                   pruning, config.training, scope=state.strategy.scope, loss=loss,
                   measure=task.measure, reconstruction=reconstruction)


def _of_small_set(state: State, num_train: int) -> Config:
    """The configuration with batches of all of so few examples."""
    config = state.config
    size = num_train // config.training.replicas * config.training.replicas
    if not size:
        raise ValueError(f'there are {num_train} training examples, fewer than '
                         f'--replicas={config.training.replicas}.')
    state.progress.warn(f'there are {num_train} training examples: a batch has {size} of them, '
                        f'not {config.training.batch_size}.')
    return config.replace(batch_size=size)


def _of_method(pruning: PruningOptions, method: Method) -> PruningOptions:
    """The options with norms in place of 'auto' for a method that chooses of random weights, for
    each student anew, or while weights train, which an alignment follows."""
    if pruning.criterion != AUTO or method.only_decides and not method.needs_examples:
        return pruning
    return dataclasses.replace(pruning, criterion='l1')


def _reconstruction(state: State, model: keras.Model, groups: ChannelGroups
                    ) -> Reconstruction | None:
    """None where it is not wanted, nothing trained is cut, or workers might differ in the last bit.
    """
    method = state.method
    if (not state.config.pruning.reconstruction or method.decides_first or not method.prunes
            or num_workers(state.strategy) > 1):
        return None
    use_fused_batch_norm(model)  # as when it trains: a resumed run may not do that again
    return Reconstruction(model, groups, state.reconstruction_batches())


def cost_model_of(model: keras.Model, groups: ChannelGroups, costs: BudgetOptions) -> CostModel:
    """What the model costs; its latency by the table that options name."""
    table = LatencyTable.load(costs.latency_table) if costs.latency_table else None
    return CostModel(model, groups, latency_table=table)


def _say_of_table(state: State, cost_model: CostModel) -> None:
    """A budget of the latency of int8 files holds for no other: says how to have one."""
    table, wanted = cost_model.latency_table, state.config.export.quantizations
    if table is not None and table.about['form'] == INT8 and not any(
            name in wanted for name in INT8_QUANTIZATIONS):
        state.progress.warn(f'{state.config.costs.latency_table} has the times of int8 files, and '
                            'this run writes none: --quantize=int8 does.')


def budget_of(groups: ChannelGroups, cost_model: CostModel, costs: BudgetOptions,
              limits: Mapping[str, float]) -> Budget:
    """The budget of these limits; ValueError for a share of what is not counted."""
    if not costs.accept_uncounted:
        check_counted(cost_model, limits)
    return Budget(groups, cost_model, limits, width_multiple=costs.width_multiple,
                  min_keep_ratio=costs.min_keep_ratio)


def _compiled(config: Config, own: OwnModel | None) -> CompiledOptimizer | None:
    """The optimizer that the given model was compiled with, if any and if it is wanted: that of the
    file of its weights, else that of its architecture."""
    if config.training.optimizer != 'compiled':
        return None
    if own:
        return compiled_optimizer(own.model)
    files = [name for name in (config.models.initial_weights, config.models.model)
             if name.endswith('.keras')]
    return compiled_optimizer_of_files(*files)


def _own_model(own: OwnModel) -> keras.Model:
    source = f"model '{own.model.name}'"
    if isinstance(own.data, UserExamples):
        model = at_shapes(own.model, own.data.inputs, source)
    else:
        data = as_pictures(own.data)
        model = as_classifier(own.model, source=source, image_shape=data.image_shape,
                              num_classes=data.num_classes)
    return plain_copy(model)


def _named_model(config: Config, data: ImageData) -> keras.Model:
    model = build_model(config.models.model, image_shape=data.image_shape,
                        num_classes=data.num_classes, mean=data.mean, std=data.std,
                        seed=config.seed,
                        dtype_policy=DTYPE_POLICIES[config.training.mixed_precision])
    if config.models.initial_weights:
        load_initial_weights(model, config.models.initial_weights)
    return model
