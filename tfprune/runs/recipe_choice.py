"""How weights are trained where flags do not say it: the recipe, and why.

    compiled         the optimizer and the learning rate that the model was compiled with; after
                     surgery a higher one, up to the default of its class, where that cannot bring
                     a copy of uniform widths back, as a rate that training has let decay
    not compiled     SGD with momentum; of GIVEN_RATES that before surgery by `largest_harmless`
                     or, where there are no epochs before, that after surgery by `best_recovering`
                     on a copy of uniform widths (training.rate_test)
    random weights   SGD with momentum at 0.1; so, too, a model whose answers are no better than
                     chance

One schedule with this peak spans the epochs before and after surgery, and the optimizer keeps its
state across it, unless the rate after surgery is another: because a flag says it, because nothing
trains before, because the compiled one has decayed, or because the model just before surgery is the
teacher, and so is to have come to the end of a schedule. With --fine_tune_schedule=restart the rate
after surgery is that of `best_recovering` in any case, 0.05 of random weights.

There is no weight decay beside the regularizers of the user's own model. Classifiers learn from the
answers of a teacher, too: after surgery and, of given weights, before it (tfprune.runs.teacher).
"""
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.costs.proportional import uniform_widths
from tfprune.pruning.masks import best_channels
from tfprune.runs.recipe import FROM_RANDOM, Recipe
from tfprune.runs.state import State
from tfprune.search.problem import Problem
from tfprune.structure.graph import functional_graph
from tfprune.training.rate_test import (FACTORS, STEPS, RateTest, at_least, best_recovering,
                                        largest_harmless)
from tfprune.training.seeding import NO_EPOCH, derived_seed
from tfprune.training.step import Optimization

DISTILLATION = 0.9  # a teacher's share of the loss, at most
_CALIBRATION = 1024  # examples that batch-norm statistics of tested copies come from
GIVEN_RATES = (0.02, 0.01, 0.003, 0.001, 0.0003)  # of SGD, by which given weights train on


def choose_recipe(state: State, problem: Problem) -> Recipe:
    """How a model is trained; rates are tested where nothing else says them.

    Raises StopTraining: the run was asked to stop in a test.
    """
    options, given, compiled = state.config.training, state.given, state.compiled
    epochs = state.config.epochs
    reasons: list[str] = []
    starts_trained = (given is not None and given.is_trained and not state.method.decides_first)
    stated = {name: getattr(options, name) for name in (
        'learning_rate', 'fine_tune_learning_rate', 'weight_decay')
        if getattr(options, name) is not None}
    if options.fine_tune_schedule == 'continue' and 'learning_rate' in stated and not epochs.search:
        stated.setdefault('fine_tune_learning_rate', stated['learning_rate'])  # all epochs'
    distillation, of_teacher = _distillation(state, starts_trained)
    continues = (options.fine_tune_schedule == 'continue'
                 and 'fine_tune_learning_rate' not in stated
                 and bool(epochs.search and epochs.fine_tune_epochs)
                 and (starts_trained or not distillation))  # a teacher has come to its end
    follows = bool(compiled and 'learning_rate' not in stated and compiled.goes_on(
        epochs.total * state.steps_per_epoch))
    before, after = _Rates(state, problem, stated, reasons, continues).peaks(
        follows, starts_trained)
    continues &= after == before
    if continues:
        after = stated.get('learning_rate', before)
        reasons.append('one schedule of the rate spans the epochs before and after surgery, across '
                       'which the optimizer keeps its state (--fine_tune_schedule)')
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
    return Recipe(compiled.config if compiled else None, **chosen | stated,
                  distillation=distillation, reasons=(*reasons, *of_teacher), stated=tuple(stated),
                  follows=follows, continues=continues)


def _distillation(state: State, starts_trained: bool) -> tuple[float, list[str]]:
    """Share of the loss; sentences for what was left to us."""
    options, epochs = state.config.training, state.config.epochs
    before = starts_trained and epochs.search and options.distillation_before_surgery
    after = epochs.fine_tune_epochs and (
        starts_trained or epochs.search and not state.method.decides_first)
    if not ((before or after) and state.task.can_distil):
        return 0.0, []
    if options.distillation is not None or not state.task.is_distilled:
        return options.distillation or 0.0, []
    when = 'after surgery' if after else 'before surgery'
    teacher = 'the model as given' if starts_trained else 'the dense model just before surgery'
    if starts_trained and epochs.search and after:
        teacher += ' or, where it is better then, just before surgery'
    share, kind = f'{DISTILLATION:.0%}', options.distillation_schedule
    if kind != 'constant':
        share = f'at most {share}'
    better = ', as far as they are better than those of the model that learns'
    said = [f'{when} {share} of the loss is the divergence, at a temperature of '
            f'{options.distillation_temperature:g}, from the answers of {teacher}'
            f'{better * (kind == "adaptive")} (--distillation)']
    if before and after:
        said.append('before surgery the model as given teaches likewise '
                    '(--distillation_before_surgery)')
    return DISTILLATION, said


def has_own_losses(model: keras.Model) -> bool:
    """Whether a pass through the model has losses of its own."""
    inputs = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec([tensor.shape[0] or 1, *tensor.shape[1:]], tensor.dtype),
        functional_graph(model).input)
    found: list[int] = []

    def forward(x: Any) -> None:
        model(x, training=True)
        found.append(len(model.losses))

    tf.function(forward, autograph=False).get_concrete_function(inputs)
    return any(found)


class _Rates:
    """Peaks of the learning rate, by tests on copies where nothing else says them.

    Args:
        stated: what flags say, by name.
        reasons: a sentence is added for each rate that is chosen.
        continues: whether the schedule before surgery is that after it.
    """

    def __init__(self, state: State, problem: Problem, stated: Mapping[str, float],
                 reasons: list[str], continues: bool):
        self._state, self._problem, self._reasons = state, problem, reasons
        self._stated, self._continues = stated, continues
        self._options, self._epochs = state.config.training, state.config.epochs
        self._narrows = state.method.prunes and state.method.needs_budget

    def peaks(self, follows: bool, starts_trained: bool) -> tuple[float, float]:
        """Before and after surgery; what flags say may be left out.

        Args:
            follows: whether the compiled schedule is followed.
            starts_trained: whether the weights know more than chance.
        """
        compiled, given, say = self._state.compiled, self._state.given, self._reasons.append
        after_is_stated = 'fine_tune_learning_rate' in self._stated
        if compiled and follows:
            say(f'the model is compiled with {compiled.name} and a schedule of its rate, which is '
                f'followed from step {compiled.iterations} on, '
                f'{"until" if after_is_stated else "across"} surgery')
            return (compiled.scheduled_rate(0),) * 2
        if compiled and not compiled.scheduled and compiled.learning_rate:
            rate = self._stated.get('learning_rate', compiled.learning_rate)
            say(f'the model is compiled with {compiled.name}, which trains it on at {rate:g}')
            is_tested = starts_trained and not after_is_stated
            return rate, self.not_decayed(rate, compiled.usual_rate) if is_tested else rate
        if starts_trained:
            return self.tested()
        if compiled:
            rate = compiled.learning_rate or 1e-3
            say(f'the model is compiled with {compiled.name}, whose own schedule is not followed; '
                f'--schedule begins at {rate:g}')
            return rate, rate
        if given is not None:
            say('the given model does not answer better than chance, and is trained as from random '
                'weights, by SGD')
        before = FROM_RANDOM.learning_rate
        return before, before if self._continues else FROM_RANDOM.fine_tune_learning_rate

    def tested(self) -> tuple[float, float]:
        """Rates before and after surgery; those that flags say are not tested."""
        compiled = self._state.compiled
        rates = ([compiled.learning_rate * factor for factor in FACTORS]
                 if compiled and compiled.learning_rate else GIVEN_RATES)
        before = self._stated.get('learning_rate')
        if before is None:
            before = rates[0]
            if self._epochs.search:
                before, why = largest_harmless(self._test({}), rates)
                self._reasons.append(f'learning rate before surgery: {why}')
        if self._continues:
            return before, before
        after = self._stated.get('fine_tune_learning_rate')
        return before, self._tested_after(before, rates) if after is None else after

    def _tested_after(self, before: float, rates: Sequence[float]) -> float:
        after = before
        if self._epochs.fine_tune_epochs and self._narrows:
            after, why = best_recovering(self._test(self._uniform_masks()), rates)
            self._reasons.append(f'learning rate after surgery: {why}')
        elif self._epochs.fine_tune_epochs and not self._epochs.search:
            after, why = largest_harmless(self._test({}), rates)
            self._reasons.append(f'learning rate: {why}')
        return after

    def not_decayed(self, rate: float, usual: float) -> float:
        """The rate after surgery of an optimizer that is compiled with `rate`: never raised above
        what its class has by default, from where it may have decayed."""
        if not self._epochs.fine_tune_epochs or not self._narrows or rate >= usual:
            return rate
        steps = self._epochs.fine_tune_epochs * self._state.steps_per_epoch
        after, why = at_least(self._test(self._uniform_masks()), rate, steps, usual)
        if why and after != rate:
            why += ('; as it is compiled it would be too low to make up for lost channels (before '
                    'surgery it is kept: --learning_rate says another)')
        if why:
            self._reasons.append(f'learning rate after surgery: {why}')
        return after

    def _uniform_masks(self) -> dict[str, np.ndarray]:
        budget = self._problem.budget
        # By norms: which channels they are says little of rates, and gradients take their time.
        return best_channels(self._problem.groups, budget.as_dict(uniform_widths(budget)),
                             self._problem.channel_scores('l1'))

    def _test(self, masks: Mapping[str, np.ndarray]) -> RateTest:
        state, problem, options = self._state, self._problem, self._options
        state.progress.say('testing learning rates on a copy'
                           + ', pruned to uniform widths' * bool(masks) + ' ...')
        total, count = self._epochs.total, -(-STEPS // state.steps_per_epoch)
        batches = state.data.train_batches(total, options.batch_size)
        for epoch in range(1, count):
            batches = batches.concatenate(
                state.data.train_batches(total + epoch, options.batch_size))
        if masks:
            with problem.account.uncharged():
                problem.observe()
        return RateTest(
            problem.pruned(masks),
            Optimization(options.momentum, 0.0, options.label_smoothing, options.batch_size,
                         optimizer=state.compiled.config if state.compiled else None),
            batches.take(STEPS), [x for x, *_ in state.plain_batches(_CALIBRATION)],
            list(state.held_out_batches()), derived_seed(problem.seed, NO_EPOCH), state.stops_alone,
            state.progress.say, state.task)
