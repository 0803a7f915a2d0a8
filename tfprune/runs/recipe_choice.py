"""How weights are trained where flags do not say it: the recipe, and why.

    compiled         the optimizer and the learning rate that the model was compiled with; after
                     surgery a higher one where that cannot bring a copy of uniform widths back, as
                     a rate that training has let decay
    not compiled     SGD with momentum; the rate before surgery by `largest_harmless`, that after
                     surgery by `best_recovering` on a copy of uniform widths (training.rate_test)
    random weights   SGD with momentum at 0.1, after surgery 0.05; so, too, a model whose answers
                     are no better than chance

and no weight decay beside the regularizers of the user's own model. After surgery classifiers learn
from the answers of the model as given, too, or of the dense model just before surgery.
"""
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.costs.proportional import uniform_widths
from tfprune.pruning.surgery import prune_model
from tfprune.runs.recipe import FROM_RANDOM, Recipe
from tfprune.runs.state import State
from tfprune.search.problem import Problem
from tfprune.structure.graph import functional_graph
from tfprune.training.rate_test import (FACTORS, STEPS, RateTest, at_least, best_recovering,
                                        largest_harmless)
from tfprune.training.seeding import derived_seed
from tfprune.training.step import Optimization

DISTILLATION = 0.9  # share of the loss after surgery
_PLACE = 2 ** 20  # of the test's seed; no run has so many epochs


def choose_recipe(state: State, problem: Problem) -> Recipe:
    """How a model is trained; rates are tested where nothing else says them.

    Raises StopTraining: the run was asked to stop in a test.
    """
    options, given, compiled = state.config.training, state.given, state.compiled
    starts_trained = (given is not None and given.is_trained and not state.method.decides_first)
    reasons: list[str] = []
    rates = _Rates(state, problem, reasons)
    stated = {name: getattr(options, name) for name in (
        'learning_rate', 'fine_tune_learning_rate', 'weight_decay')
        if getattr(options, name) is not None}
    follows = bool(compiled and 'learning_rate' not in stated and compiled.goes_on(
        state.config.epochs.total * state.steps_per_epoch))
    if compiled and follows:
        before = after = compiled.scheduled_rate(0)
        until = 'until' if 'fine_tune_learning_rate' in stated else 'across'
        reasons.append(f'the model is compiled with {compiled.name} and a schedule of its rate, '
                       f'which is followed from step {compiled.iterations} on, {until} surgery')
    elif compiled and not compiled.scheduled and compiled.learning_rate:
        before = after = compiled.learning_rate
        reasons.append(f'the model is compiled with {compiled.name}, which trains it on at '
                       f'{stated.get("learning_rate", before):g}')
        if starts_trained and 'fine_tune_learning_rate' not in stated:
            after = rates.not_decayed(compiled.learning_rate)
    elif starts_trained:
        before, after = rates.tested()
    elif compiled:
        before = after = compiled.learning_rate or 1e-3
        reasons.append(f'the model is compiled with {compiled.name}, whose own schedule is not '
                       f'followed; --schedule begins at {before:g}')
    else:
        before, after = FROM_RANDOM.learning_rate, FROM_RANDOM.fine_tune_learning_rate
        if given is not None and not given.is_trained:
            reasons.append('the given model does not answer better than chance, and is trained as '
                           'from random weights, by SGD')
    decay = 0.0 if given is not None or compiled else FROM_RANDOM.weight_decay
    if given is not None and given.held_out.lost(given.held_out_floor):
        shown = state.task.shown_score
        reasons.append(
            'the batch-norm statistics of the given model are not those of the training '
            f'{state.task.examples} as they are trained on here: with theirs it scores '
            f'{shown(given.held_out_floor.mean)} in place of {shown(given.held_out.mean)} on '
            f'held-out {state.task.examples}')
    if has_own_losses(problem.model):
        reasons.append("the model's own losses (regularizers, add_loss) are part of the loss, as "
                       'in fit')
    chosen = {'learning_rate': before, 'fine_tune_learning_rate': after, 'weight_decay': decay}
    distillation = _distillation(state, starts_trained, reasons)
    return Recipe(compiled.config if compiled else None, **chosen | stated,
                  distillation=distillation, reasons=tuple(reasons), stated=tuple(stated),
                  follows=follows)


def _distillation(state: State, starts_trained: bool, reasons: list[str]) -> float:
    """Share of the loss after surgery; a sentence is added for what was left to us."""
    options, epochs = state.config.training, state.config.epochs
    has_teacher = starts_trained or bool(epochs.search and not state.method.decides_first)
    if not (has_teacher and state.task.can_distil and epochs.fine_tune_epochs):
        return 0.0
    if options.distillation is not None:
        return options.distillation
    teacher = 'the model as given' if starts_trained else 'the dense model just before surgery'
    reasons.append(f'after surgery {DISTILLATION:.0%} of the loss is the divergence from the '
                   f'answers of {teacher} at a temperature of '
                   f'{options.distillation_temperature:g} (--distillation)')
    return DISTILLATION


def has_own_losses(model: keras.Model) -> bool:
    """Whether a pass through the model has losses of its own."""
    inputs = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec([tensor.shape[0] or 1, *tensor.shape[1:]], tensor.dtype),
        functional_graph(model).input)
    found: list[int] = []

    def forward(x: Any) -> None:
        model(x, training=True)
        found.append(len(model.losses))

    tf.function(forward).get_concrete_function(inputs)
    return any(found)


class _Rates:
    """Learning rates by tests on copies.

    Args:
        reasons: a sentence is added for each rate that is chosen.
    """

    def __init__(self, state: State, problem: Problem, reasons: list[str]):
        self._state, self._problem, self._reasons = state, problem, reasons
        self._options, self._epochs = state.config.training, state.config.epochs
        self._narrows = state.method.prunes and state.method.needs_budget

    def tested(self) -> tuple[float, float]:
        """Rates before and after surgery; those that flags say are not tested."""
        options, compiled = self._options, self._state.compiled
        largest = (compiled.learning_rate if compiled else 0.0) or FROM_RANDOM.learning_rate
        rates = [largest * factor for factor in FACTORS]
        before, after = options.learning_rate, options.fine_tune_learning_rate
        if before is None:
            before = largest
            if self._epochs.search:
                before, why = largest_harmless(self._test({}), rates)
                self._reasons.append(f'learning rate before surgery: {why}')
        if after is None:
            after = before
            if self._epochs.fine_tune_epochs and self._narrows:
                after, why = best_recovering(self._test(self._uniform_masks()), rates)
                self._reasons.append(f'learning rate after surgery: {why}')
            elif self._epochs.fine_tune_epochs and not self._epochs.search:
                after, why = largest_harmless(self._test({}), rates)
                self._reasons.append(f'learning rate: {why}')
        return before, after

    def not_decayed(self, rate: float) -> float:
        """The rate after surgery of an optimizer that is compiled with `rate`."""
        if not self._epochs.fine_tune_epochs or not self._narrows:
            return rate
        steps = self._epochs.fine_tune_epochs * self._state.steps_per_epoch
        after, why = at_least(self._test(self._uniform_masks()), rate, steps)
        if why and after != rate:
            why += ('; as it is compiled it would be too low to make up for lost channels (before '
                    'surgery it is kept: --learning_rate says another)')
        if why:
            self._reasons.append(f'learning rate after surgery: {why}')
        return after

    def _uniform_masks(self) -> dict[str, np.ndarray]:
        budget = self._problem.budget
        return self._problem.select(budget.as_dict(uniform_widths(budget)))

    def _test(self, masks: Mapping[str, np.ndarray]) -> RateTest:
        state, problem, options = self._state, self._problem, self._options
        state.progress.say('testing learning rates on a copy'
                           + ', pruned to uniform widths' * bool(masks) + ' ...')
        total, count = self._epochs.total, -(-STEPS // state.steps_per_epoch)
        batches = state.data.train_batches(total, options.batch_size)
        for epoch in range(1, count):
            batches = batches.concatenate(
                state.data.train_batches(total + epoch, options.batch_size))
        return RateTest(
            prune_model(problem.model, problem.groups, masks),
            Optimization(options.momentum, 0.0, options.label_smoothing, options.batch_size,
                         optimizer=state.compiled.config if state.compiled else None),
            batches.take(STEPS), [x for x, *_ in state.criterion_batches()],
            list(state.held_out_batches()), derived_seed(problem.seed, _PLACE), state.stops_alone,
            state.progress.say, state.task)
