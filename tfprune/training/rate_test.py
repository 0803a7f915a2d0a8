"""A learning rate for weights that were given: a short test on a copy, at several rates.

From the same weights STEPS steps are trained at each rate r, which rises over the first quarter and
then falls to zero by a cosine: what is left is what the rate has done, not its noise. Batch-norm
statistics are re-estimated before images are counted.
"""
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.significance import paired
from tfprune.structure.graph import unfold
from tfprune.tasks.base import Task, count_of
from tfprune.tasks.classification import Classification
from tfprune.training.batch_norm import reestimate_batch_norm
from tfprune.training.schedule import Schedule
from tfprune.training.step import Batch, NonFiniteLossError, Optimization, StopTraining, Trainer

STEPS = 40
FACTORS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # of the largest rate that is tried
_ABOVE = (3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)  # of one that may be too low
_FAR = 2.0  # standard errors by which one rate is clearly worse than another
_WORST = -1e9  # score of an example after a loss that became NaN, where scores have no end


class RateTest:
    """What a model's copy scores after a few steps at a rate.

    Args:
        model: it is trained here, from its current weights for each rate.
        batches: STEPS batches to train on.
        calibration: batches of inputs, as often as they are iterated over.
        scored: held-out batches.
        seed: sets all random streams before each rate.
        should_stop: asked after each step; True raises StopTraining.
        say: is told what each rate has done.
        task: what is trained; None for a classifier of pictures.
    """

    def __init__(self, model: keras.Model, optimization: Optimization,
                 batches: tf.data.Dataset, calibration: Iterable[Any],
                 scored: Iterable[Batch], seed: int,
                 should_stop: Callable[[], bool] = lambda: False,
                 say: Callable[[str], None] = lambda _: None, task: Task | None = None):
        self.task = task = task or Classification.of(model, optimization.label_smoothing)
        self._say = say
        self._model, self._batches, self._scored, self._seed = model, batches, scored, seed
        self._calibration, self._should_stop = calibration, should_stop
        self._trainer = Trainer(model, tf.distribute.get_strategy(), optimization, task=task)
        self._start = [keras.ops.convert_to_numpy(v).copy() for v in model.variables]
        self._forward = tf.function(
            lambda x: task.forward(model, x, training=True), autograph=False)
        self._scores = tf.function(lambda x, *targets: task.scores(
            task.forward(model, x, training=False), *targets), autograph=False)

    def scores(self, rate: float) -> np.ndarray:
        """How well each held-out example is answered after the steps, [n], see Task.scores; as
        badly as can be where the loss became NaN. Rate 0 trains nothing."""
        keras.utils.set_random_seed(self._seed)
        self._trainer.restart(self._start, 1.0)
        if rate:
            schedule = Schedule('cosine', rate, STEPS, STEPS // 4)
            try:
                self._trainer.train_epoch(self._batches, schedule, on_step=self._poll)
            except NonFiniteLossError:
                count = sum(count_of(batch) for batch in self._scored)
                return np.full(count, 0.0 if self.task.is_classification else _WORST)
        reestimate_batch_norm(unfold(self._model), self._forward, self._calibration)
        scores = np.concatenate([self._scores(*batch).numpy() for batch in self._scored])
        scores = np.where(np.isnan(scores), _WORST, scores.astype(np.float64))
        done = f'learning rate {rate:g}, {STEPS} steps' if rate else 'before any step'
        self._say(f'    {done}: {self.shown(scores)} {self.on}')
        return scores

    def shown(self, scores: np.ndarray) -> str:
        """The mean of scores, in words."""
        return self.task.shown_score(float(scores.mean()))

    @property
    def on(self) -> str:
        """'on held-out images'."""
        return f'on held-out {self.task.examples}'

    def _poll(self, *_: object) -> None:
        if self._should_stop():
            raise StopTraining()


def largest_harmless(test: RateTest, rates: Sequence[float]) -> tuple[float, str]:
    """The largest of falling `rates` that does not lower the score of held-out examples, by more
    than a standard error of the paired difference; with the reason, a sentence."""
    before = test.scores(0.0)
    for rate in rates:
        after = test.scores(rate)
        gain, error = paired(before, after)
        if gain >= -error:
            return rate, (f'{rate:g} is the largest of {_listed(rates)} that leaves a copy as good '
                          f'as it was {test.on} after {STEPS} steps '
                          f'({test.shown(before)}, then {test.shown(after)})')
    return rates[-1], (f'{rates[-1]:g} is the smallest that was tried; all of {_listed(rates)} '
                       f'make a copy worse {test.on} in {STEPS} steps '
                       f'({test.shown(before)}, then {test.shown(after)})')


def best_recovering(test: RateTest, rates: Sequence[float]) -> tuple[float, str]:
    """The largest of falling `rates` that recovers as much as the best, within a standard error of
    the paired difference; with the reason, a sentence."""
    before, after = test.scores(0.0), [test.scores(rate) for rate in rates]
    best = max(after, key=lambda scores: scores.sum())
    if best.sum() <= before.sum():
        return rates[-1], (f'{rates[-1]:g} is the smallest of {_listed(rates)}, none of which '
                           f'brought a copy, pruned to uniform widths, back in {STEPS} steps')
    for rate, scores in zip(rates, after):
        gain, error = paired(best, scores)
        if gain >= -error:
            return rate, (f'{rate:g} is the largest of {_listed(rates)} that recovers as much as '
                          f'any in {STEPS} steps on a copy, pruned to uniform widths '
                          f'({test.shown(before)} to {test.shown(scores)} {test.on})')
    raise AssertionError('the best rate is as good as the best')


def at_least(test: RateTest, rate: float, steps: int, highest: float) -> tuple[float, str]:
    """`rate`, unless a larger one up to `highest` recovers more than twice of what it does in so
    many steps; with the reason, a sentence, '' where `rate` recovers enough.

    Few steps of a network that is cut say little of many: large rates move it fastest, and ruin it
    later. A small rate goes about as far in many steps as a larger one in few: taken for what
    `rate` recovers is the most that any does up to rate * steps / STEPS.
    """
    reach = rate * max(1.0, steps / STEPS)
    before, seen, best = test.scores(0.0), {rate: test.scores(rate)}, rate
    falls = 0
    for higher in (rate * factor for factor in _ABOVE if rate * factor <= 1.001 * highest):
        recovered, error = paired(before, seen[best])
        seen[higher] = test.scores(higher)
        gain, gain_error = paired(seen[best], seen[higher])
        falls = falls + 1 if gain < -_FAR * gain_error else 0
        if falls == 2 or recovered > _FAR * error and gain <= gain_error:
            break  # larger ones ruin it; or nothing is left to recover
        best = max(best, higher, key=lambda each: seen[each].sum())
    most, error = paired(before, seen[best])
    enough = max((each for each in seen if each <= reach), key=lambda each: seen[each].sum())
    ours, _ = paired(before, seen[enough])
    if most <= _FAR * error:
        return rate, (f'{rate:g}, though neither it nor a larger one brought a copy, pruned to '
                      f'uniform widths, back from {test.shown(before)} {test.on} in {STEPS} steps')
    more, more_error = paired(seen[enough], seen[best])
    if 2 * ours >= most or more <= _FAR * more_error:
        return rate, ''
    return best, (f'{best:g} brings a copy, pruned to uniform widths, from {test.shown(before)} to '
                  f'{test.shown(seen[best])} {test.on} in {STEPS} steps, {rate:g} to '
                  f'{test.shown(seen[rate])}')


def _listed(rates: Sequence[float]) -> str:
    return ', '.join(f'{rate:g}' for rate in rates)
