"""Starts the method, runs its rounds of search on trained weights, and takes its decision."""
import contextlib
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.errors import Fault
from tfprune.files import replacing
from tfprune.methods.base import Decision
from tfprune.methods.names import make_method
from tfprune.pruning.masks import widths_of
from tfprune.runs.checkpoints import Position, restore
from tfprune.runs.decision_files import with_saved_zeros, with_zeros
from tfprune.runs.reuse import RATIOS_FILE, take_search
from tfprune.runs.state import State, plain_float32
from tfprune.runs.statistics import calibrate, settle_if_lagging
from tfprune.search.problem import Problem
from tfprune.search.scoring import SubnetworkScorer
from tfprune.search.subnetwork import Subnetwork
from tfprune.training.account import EpochAccount
from tfprune.training.distribution import SharedScorer, from_chief
from tfprune.training.seeding import NO_EPOCH, derived_seed, set_seed
from tfprune.training.step import StopTraining

_PLACE = 3  # of its seed, beside those of tfprune.runs.teacher and tfprune.runs.given


def start_method(state: State, problem: Problem) -> Problem:
    """The problem with its reward, on which the state's method has started.

    ValueError where the method has nothing to search on, or a budget that it serves is impossible.
    """
    with state.strategy.scope():
        network = Subnetwork(problem.model, problem.groups, problem.reconstruction)
    state.scorer = SharedScorer(state.strategy, _Stoppable(state, SubnetworkScorer(
        network, state.strategy, state.held_out_batches(), state.task)))
    account = EpochAccount(state.data.num_train, problem.cost_model.dense.macs)
    total, batch_size = problem.epochs.total, problem.training.batch_size
    problem = dataclasses.replace(
        problem, score=_Charged(state, problem, account), account=account,
        measure=state.task.measure, criterion_batches=state.criterion_batches(),
        held_out=state.held_out_batches(),
        # Epochs that no schedule has.
        train_batches=lambda round_: state.data.train_batches(total + round_, batch_size),
        poll=state.poll_alone, say=state.progress.say)
    method = state.method
    method.start(problem)
    if method.rounds() and not (state.surgery_epoch or state.has_weights):
        raise ValueError(f'method {state.config.method!r} searches on trained weights: give it '
                         'initial_weights, or epochs before surgery.')
    for ratio in method.ratios():
        problem.budget.scaled(ratio)  # what is impossible is said now
    return problem


def search(state: State, problem: Problem) -> None:
    """The rounds of search, from where the run stands, weights frozen, and the decision.

    Adds the decision to the state, and decision.json and dense.keras to the folder. What comes next
    stands at the first epoch after surgery.
    """
    decision = None
    if state.took_epochs:
        decision = take_search(state.config, state.folder)
    if decision is None:
        _run_rounds(state, problem)
        decision = _decide(state, problem)
    _check_within_budget(state, problem, decision)
    state.decision = decision
    if state.surgery_epoch:
        seed = derived_seed(problem.seed, NO_EPOCH, _PLACE)
        if state.method.constrain():  # what it does after each step goes past the statistics
            calibrate(state, problem.model, seed)
        else:
            settle_if_lagging(state, problem.model, seed)
    # What the search was made of, images and networks, is not kept through fine-tuning.
    state.method = make_method(state.config.method, state.config.options)
    state.scorer = None  # type: ignore[assignment]
    state.position, state.prefix = Position(state.surgery_epoch), None
    if not state.is_chief:
        return
    if state.surgery_epoch or (state.has_weights and not state.method.decides_first):
        # The model as it is before surgery: the report's dense side.
        with replacing(state.folder.path / 'dense.keras') as path:
            plain_float32(problem.model).save(path)
    state.folder.write_json('decision.json', decision.to_json())


@dataclasses.dataclass(frozen=True)
class _Stoppable:
    """A reward that first asks whether the run is to stop."""
    state: State
    scorer: SubnetworkScorer

    def __call__(self, masks: Mapping[str, np.ndarray]) -> float:
        self.state.poll()
        return self.scorer(masks)


@dataclasses.dataclass(frozen=True)
class _Charged:
    """A reward that charges the account."""
    state: State
    problem: Problem
    account: EpochAccount

    def __call__(self, masks: Mapping[str, np.ndarray]) -> float:
        self.account.forward(self.state.config.scoring.score_images,
                             self.problem.cost_model(widths_of(masks)).macs)
        return self.state.scorer(masks)


def _run_rounds(state: State, problem: Problem) -> None:
    method = state.method
    saved = tf.train.Checkpoint(model=problem.model, method=method, account=problem.account)
    if state.prefix:
        restore(saved, state.prefix)
    if method.rounds() and method.needs_budget and not method.needs_examples:  # scores channels
        with (problem.account.uncharged() if state.position.round  # charged before the stop
              else contextlib.nullcontext()):
            problem.observe()
    for round_ in range(state.position.round, method.rounds()):
        set_seed(derived_seed(problem.seed, state.surgery_epoch, round_), problem.model)
        begun = time.perf_counter()
        try:
            result = state.scorer.lead(lambda: method.search(round_), method)
        except StopTraining:
            raise state.interrupted(_rounds(round_, method.rounds())) from None
        if result is not None:
            place = {'round': round_, 'epoch': max(0, state.surgery_epoch - 1)}
            state.folder.append_rows('episodes.jsonl',
                                     [{**place, **row} for row in result.episodes])
            state.folder.append_rows('rounds.jsonl', [{
                **place, **result.metrics, 'seconds': time.perf_counter() - begun,
                'search_equivalents': problem.account.epochs}])
            shown = ', '.join(f'{name} {value:.4g}' for name, value in result.metrics.items())
            state.progress.say(f'round {round_ + 1} of {method.rounds()}: {shown}')
        state.checkpoints.save(Position(state.surgery_epoch, round=round_ + 1), saved)
        if state.should_stop():
            raise state.interrupted(_rounds(round_ + 1, method.rounds()))


def _rounds(done: int, of: int) -> str:
    return f'after {done} of {of} rounds of search'


def _decide(state: State, problem: Problem) -> Decision:
    method, folder = state.method, state.folder

    def decide() -> dict[str, Any]:
        made = with_saved_zeros(folder, method.decide())
        ratios = {repr(ratio): method.decide_for(problem.budget.scaled(ratio)).to_json()
                  for ratio in method.ratios()}
        spent = {'search_equivalents': problem.account.epochs}
        if ratios:
            ratios |= {repr(limit): made for limit in state.config.costs.limits.values()}
            folder.write_json(RATIOS_FILE, {
                ratio: values | spent for ratio, values in ratios.items()})
        return made | spent

    try:
        made = state.scorer.lead(decide, method)
    except StopTraining:
        raise state.interrupted('before the decision') from None
    return with_zeros(folder, from_chief(state.strategy, made))


def _check_within_budget(state: State, problem: Problem, decision: Decision) -> None:
    """Fault where a method decided on more than the budget allows: a fault of its own."""
    left = problem.without(decision.removed)
    widths = [decision.widths.get(name, width) for name, width in left.groups.items()]
    if not left.budget.fits(widths):
        cost = left.cost_model(dict(zip(left.groups, widths)))
        raise Fault(f'method {state.config.method!r} decided on {cost}, which the budget '
                    f'{left.budget.to_json()} does not allow')
