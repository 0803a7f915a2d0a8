"""Pruning beside a user's own training: to a budget at once, or by a score of one's own.

Nothing is trained here, and nothing is asked of what a model is for: several inputs and outputs,
any loss. What comes back is a plain Keras model for the user's own `fit`.
"""
import dataclasses
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.config import flag_fields
from tfprune.costs.model import Cost
from tfprune.costs.options import BudgetOptions
from tfprune.costs.proportional import uniform_widths
from tfprune.errors import first_line, near
from tfprune.methods.base import Decision, Method
from tfprune.methods.names import METHODS, make_method
from tfprune.models.calibration import calibration_batches
from tfprune.progress import Progress
from tfprune.pruning.importance import Batch
from tfprune.pruning.options import PruningOptions
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.runs.config import method_options
from tfprune.runs.problem import budget_of, cost_model_of
from tfprune.search.problem import Problem, trace_problem_groups
from tfprune.structure.graph import unfold
from tfprune.structure.options import StructureOptions
from tfprune.training.batch_norm import batch_norm_layers, reestimate_batch_norm
from tfprune.training.options import Epochs
from tfprune.training.seeding import derived_seed, set_seed

RewardFn = Callable[[keras.Model], float]
_PARTS = (BudgetOptions, StructureOptions, PruningOptions)


def prune_to_budget(model: keras.Model, *, calibration_data: Iterable[Any] | None = None,
                    criterion_data: Iterable[Batch] | None = None, seed: int = 0,
                    **options: Any) -> keras.Model:
    """Removes channels until a budget is kept: one pruning rate for all groups, no training.

        pruned = tfprune.prune_to_budget(model, macs=0.5)
        pruned.compile(…); pruned.fit(…)

    Args:
        model: a functional or Sequential Keras 3 model, which stays as it is.
        calibration_data: batches of what the model takes, or (x, y) of which x is, some hundred
            training examples in all; of one input also an array [N, …]. Those channels go whose
            norms are low and that the others make up for (criterion 'combined'), what the others
            tell of them is added to the kernels that read them, and the batch-norm statistics of
            the pruned model are re-estimated, without which it is worth little until it has been
            trained. None: channels go by norms ('l1'), the rest stays as it is.
        criterion_data: for criterion='taylor', batches (images, integer labels) of some thousand
            training examples.
        seed: of criterion='random'.
        options: the budget (macs, params, peak_memory_bytes, each a ratio up to 1 or a number, …),
            criterion, and what may be pruned (prune_residual_groups, frozen, …): see
            BudgetOptions, PruningOptions, StructureOptions.

    Returns:
        A plain Keras model, not compiled; its remaining weights are those of `model`.

    Raises:
        TypeError, ValueError: name the option, what was expected and what was received.
        InfeasibleBudgetError: names the smallest that can be reached.
    """
    calibration = calibration_batches(model, calibration_data)
    problem = _problem(model, seed, criterion_data, calibration, options)
    widths = problem.budget.as_dict(uniform_widths(problem.budget))
    return _Pruned(problem, calibration)(problem.select(widths))


@dataclasses.dataclass(frozen=True, repr=False)
class SearchResult:
    """What a search of widths has come to.

    Attributes:
        decision: which channels stay; for `tfprune.callbacks.Alignment`.
        model: the pruned model, plain Keras, not compiled.
        reward: that `reward_fn` gives it.
        dense_cost, cost: before and after.
        episodes: a row each sub-network that was tried: its reward, who chose it, its widths.
    """
    decision: Decision
    model: keras.Model
    reward: float
    dense_cost: Cost
    cost: Cost
    episodes: tuple[Mapping[str, Any], ...]

    def __repr__(self) -> str:
        return (f'SearchResult(reward={self.reward:.4g}, cost={self.cost}, '
                f'dense_cost={self.dense_cost}, widths={self.widths})')

    @property
    def widths(self) -> dict[str, int]:
        """{group name: channels that stay}."""
        return self.decision.widths


def search_widths(model: keras.Model, reward_fn: RewardFn, *, method: str = 'amc', seed: int = 0,
                  epochs: int = 10, calibration_data: Iterable[Any] | None = None,
                  criterion_data: Iterable[Batch] | None = None, progress: bool = True,
                  **options: Any) -> SearchResult:
    """Searches the widths of a trained model by a score of one's own; nothing is trained.

        found = tfprune.search_widths(model, accuracy_on_held_out_data, macs=0.5,
                                      amc={'episodes': 60, 'warmup_episodes': 20},
                                      calibration_data=[x_train[:256]])
        found.model.compile(…); found.model.fit(…)

    Args:
        model: a functional or Sequential Keras 3 model, which stays as it is.
        reward_fn: a pruned model -> a finite number, the higher the better. It is given plain
            Keras models, not compiled, with the weights that `model` has left, and should judge
            them on held-out training data, never on test data.
        method: a name of METHODS that searches on weights that stay.
        seed: of the search; the global seeds of Python, NumPy and TensorFlow are set by it.
        epochs: of a method that searches in epochs (rlal), the first of random actions.
        calibration_data, criterion_data, options: see `prune_to_budget`; the method's own options
            under its name.
        progress: whether to say what each round has found.

    Raises:
        TypeError, ValueError: name the option, what was expected and what was received; a reward
            that is no finite number; what `reward_fn` itself raises, as a ValueError.
        InfeasibleBudgetError: names the smallest that can be reached.
    """
    own = {name: options.pop(name) for name in [*options] if name.partition('.')[0] in METHODS}
    searching = make_method(method, method_options(method, own))
    calibration = calibration_batches(model, calibration_data)
    problem = _problem(model, seed, criterion_data, calibration, options)
    pruned = _Pruned(problem, calibration)
    if not pruned.batches and batch_norm_layers(model):
        warnings.warn('search_widths scores sub-networks with the batch-norm statistics of the '
                      'whole model, which are not theirs: give calibration_data.', stacklevel=2)
    reward = _Reward(pruned, reward_fn)
    _check_method(searching, method)
    acting = 0 if searching.has_rounds or searching.only_decides else epochs
    planned = Epochs(warmup_epochs=0, random_epochs=min(1, acting), joint_epochs=max(0, acting - 1),
                     alignment_epochs=0)
    problem = dataclasses.replace(problem, score=reward, epochs=planned)
    keras.utils.set_random_seed(derived_seed(seed, 0))
    searching.check(planned)
    searching.start(problem)
    rows = _played(searching, planned, seed, model, Progress(progress))
    decision = searching.decide()
    return SearchResult(decision, pruned(decision.masks), reward(decision.masks),
                        problem.cost_model.dense, problem.cost_model(decision.widths), tuple(rows))


def _problem(model: keras.Model, seed: int, data: Iterable[Batch] | None,
             calibration: Sequence[Any], options: dict[str, Any]) -> Problem:
    if not isinstance(model, keras.Model):
        raise TypeError(f'model: expected a Keras 3 model, received {type(model).__name__}')
    known = {field.name: part for part in _PARTS for field in flag_fields(part)}
    for name in options:
        if name not in known:
            raise TypeError(f'Unknown option {name!r}.{near(name, known)} Available: '
                            f'{", ".join(sorted(known))}')
    costs, structure, pruning = (
        part(**{name: value for name, value in options.items() if known[name] is part})
        for part in _PARTS)
    if not costs.limits:
        raise ValueError('a budget is needed: macs, params, peak_memory_bytes or latency_ratio.')
    groups = trace_problem_groups(model, structure)
    cost_model = cost_model_of(model, groups, costs)
    budget = budget_of(groups, cost_model, costs, costs.limits)
    reconstruction = (Reconstruction(model, groups, [(x,) for x in calibration])
                      if calibration and pruning.reconstruction else None)
    problem = Problem(model, groups, cost_model, budget, seed, structure=structure, pruning=pruning,
                      criterion_batches=data, reconstruction=reconstruction)
    problem.observe()
    return problem


def _check_method(method: Method, name: str) -> None:
    def is_able(one: Method) -> bool:
        return one.needs_budget and not (one.needs_examples or one.decides_first)

    if not is_able(method):
        able = sorted(known for known in METHODS
                      if METHODS.is_usable(known) and is_able(METHODS[known]()))
        raise ValueError(f'method {name!r} does not search widths by a score alone. Available: '
                         f'{", ".join(able)}')


@dataclasses.dataclass(frozen=True)
class _Pruned:
    """masks -> the pruned model, its batch-norm statistics those of the batches."""
    problem: Problem
    batches: Sequence[Any]

    def __call__(self, masks: Mapping[str, np.ndarray]) -> keras.Model:
        pruned = self.problem.pruned(masks)
        if self.batches:
            reestimate_batch_norm(unfold(pruned), lambda x: pruned(x, training=True), self.batches)
        return pruned


@dataclasses.dataclass(frozen=True)
class _Reward:
    """masks -> what the user's function says of the pruned model."""
    pruned: _Pruned
    reward_fn: RewardFn

    def __call__(self, masks: Mapping[str, np.ndarray]) -> float:
        pruned = self.pruned(masks)
        try:
            reward = self.reward_fn(pruned)
        except Exception as error:
            raise ValueError(f'reward_fn raised {type(error).__name__}: '
                             f'{first_line(error)}') from error
        if hasattr(reward, 'numpy'):
            reward = reward.numpy()
        if isinstance(reward, np.ndarray) and reward.size == 1:
            reward = reward.item()
        if isinstance(reward, bool) or not isinstance(reward, numbers.Real):
            raise TypeError('reward_fn must return a number; received '
                            f'{type(reward).__name__} {reward!r:.60}')
        if not math.isfinite(reward):
            raise ValueError(f'reward_fn must return a finite number; received {reward}.')
        return float(reward)


def _played(method: Method, planned: Epochs, seed: int, model: keras.Model, progress: Progress
            ) -> list[Mapping[str, Any]]:
    """The episodes of all epochs, the weights staying as they are, and of all rounds."""
    rows: list[Mapping[str, Any]] = []
    count = method.rounds() or planned.search
    for place in range(count):
        set_seed(derived_seed(seed, 1, place), model)
        result = (method.search(place) if method.has_rounds
                  else method.after_epoch(place, place + 1))
        rows += result.episodes
        shown = ', '.join(f'{name} {result.metrics[name]:.4g}'
                          for name in ('reward_mean', 'reward_max') if name in result.metrics)
        progress.say(f'search {place + 1} of {count}: {shown}')
    return rows
