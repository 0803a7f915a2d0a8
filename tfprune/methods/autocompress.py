"""AutoCompress: an automatic DNN structured pruning framework for ultra-high compression rates.
Liu, Ma, Xu, Wang, Tang, Ye, AAAI 2020, arXiv 1907.03141.

No agent: simulated annealing over the groups' pruning rates a, and training that moves the weights
towards what was found, in progressive rounds k = 1..K.

    repeat for T = 100, 90, 81, ... above 20:                                (on frozen weights)
        a' = rescaled(a + u),  u_g ~ U(-m, m),  m = 0.35 T / 100
        a <- a'  with probability  min(1, exp(-(E(a') - E(a)) / T)),   E = -3000 accuracy
    v <- masks of the best a; train  CE(W) + lambda sum_g ||(1 - v_g) * W_g||_2

`rescaled` multiplies all rates by the number that makes them just fit the round's budget, whose
ratio is ratio^(k/K). The last round's v is the decision. --warmup_epochs is the pretraining; the
other epochs before surgery are divided among the rounds, each with its search after the epoch
before. Where weights are given and there are no such epochs, one search on them decides; a round of
the harness is then a temperature.

Deviations: 1. The training core is group lasso towards the fixed v (search.alignment), where the
paper has ADMM, whose target moves with its duals; no purification. 2. Filters only, no columns.
3. Progressive rounds remove nothing before the last: what one leaves out is held near zero.
4. A search needs an epoch before it: the first epoch on weights that are given is plain. 5. The
units of E are ours: for accuracies in [0, 1], as in public code, temperatures of 100 to 20 accept
anything. On made-up accuracies of known optimum, six of them, the best of the search fell short of
it by 0.035 so, by 0.024 with 1000, 0.010 with 3000 (uniform: 0.052). 6. The start is uniform rates,
then the last round's; the paper's is guided by layer size. 7. What rounding leaves of the budget is
filled.
"""
import math
from typing import Any, Mapping

import numpy as np
import tensorflow as tf

from tfprune.costs.budget import Budget
from tfprune.costs.proportional import smallest_fitting, uniform_widths
from tfprune.methods.base import Decision, EpochResult, Method, Trained
from tfprune.methods.options import AutoCompressOptions
from tfprune.methods.rewards import CurrentRewards
from tfprune.methods.stopwatch import Stopwatch
from tfprune.pruning.masks import nearest_width
from tfprune.search.alignment import AlignmentPenalty
from tfprune.search.problem import Problem

_LEAST_RATE = 0.01  # what is 0 could not be scaled


def rescaled(rates: np.ndarray, budget: Budget) -> np.ndarray:
    """Widths [G] of rates [G] in [0, 1], all times the smallest number that fits the budget; what
    rounding leaves of it is filled."""
    rates = np.maximum(rates, _LEAST_RATE)

    def widths_at(scale: float) -> np.ndarray:
        return np.array([nearest_width(int(c), min(scale * float(rate), 1.0), allowed) for c, rate,
                         allowed in zip(budget.dense_widths, rates, budget.allowed)], np.int64)

    return budget.fill(smallest_fitting(widths_at, budget, 0.0, 1 / _LEAST_RATE))


def accepted(now: float, proposed: float, temperature: float, energy: float, chance: float) -> bool:
    """Metropolis' rule, for accuracies and a uniform `chance` in [0, 1)."""
    return proposed >= now or chance < math.exp(-energy * (now - proposed) / temperature)


class Annealing(tf.Module):
    """Simulated annealing of pruning rates; what it has come to is in variables.

    Attributes:
        rates: a [G]; reward: its accuracy, NaN before the first is scored.
        best_widths, best_reward: of this search.
    """

    def __init__(self, options: AutoCompressOptions, start: np.ndarray):
        super().__init__()
        self._options = options
        self.rates = tf.Variable(np.zeros(len(start)), trainable=False)
        self.reward = tf.Variable(np.nan, trainable=False, dtype=tf.float64)
        self.best_widths = tf.Variable(start, trainable=False)
        self.best_reward = tf.Variable(-np.inf, trainable=False, dtype=tf.float64)

    def begin(self, widths: np.ndarray, budget: Budget, reward: Any) -> Mapping[str, Any]:
        """Starts from these widths; the episode's row. `reward` is {group: width} -> accuracy."""
        accuracy = reward(budget.as_dict(widths))
        self._move(widths, budget, accuracy)
        self.best_widths.assign(widths)
        self.best_reward.assign(accuracy)
        return {'source': 'annealing', 'accepted': True, 'reward': accuracy,
                'widths': budget.as_dict(widths)}

    def step(self, temperature: float, budget: Budget, reward: Any, rng: np.random.Generator
             ) -> list[Mapping[str, Any]]:
        """The proposals of one temperature; a row for each."""
        options = self._options
        rows: list[Mapping[str, Any]] = []
        size = options.perturbation * temperature / options.temperature
        for _ in range(options.proposals):
            moved = np.clip(self.rates.numpy() + rng.uniform(-size, size, self.rates.shape), 0, 1)
            chance, widths = rng.uniform(), rescaled(moved, budget)
            accuracy = reward(budget.as_dict(widths))
            taken = accepted(float(self.reward.numpy()), accuracy, temperature, options.energy,
                             chance)
            if taken:
                self._move(widths, budget, accuracy)
            if accuracy > self.best_reward:
                self.best_widths.assign(widths)
                self.best_reward.assign(accuracy)
            rows.append({'source': 'annealing', 'temperature': temperature, 'accepted': taken,
                         'reward': accuracy, 'widths': budget.as_dict(widths)})
        return rows

    def _move(self, widths: np.ndarray, budget: Budget, accuracy: float) -> None:
        self.rates.assign(1 - widths / budget.dense_widths)
        self.reward.assign(accuracy)


class AutoCompress(Method):
    """See the module."""
    phases = {**Method.phases, 'group_lasso': 'group lasso'}
    sources = {'annealing': 'annealing'}
    Options = AutoCompressOptions

    def start(self, problem: Problem) -> None:
        super().start(problem)
        self._watch = Stopwatch()
        self._reward = CurrentRewards(problem, self._watch)
        self.annealing = Annealing(self.options, uniform_widths(problem.budget))
        with problem.scope():
            self.alignment = AlignmentPenalty(problem.model, problem.groups)
        self._follow()

    def penalty(self) -> tf.Tensor | None:
        return self.alignment()

    def phase(self, epoch: int) -> str:
        starts = self._starts()
        return 'group_lasso' if starts and epoch >= starts[0] else 'train'

    def after_epoch(self, epoch: int, coming: int, trained: Trained = Trained()) -> EpochResult:
        metrics: dict[str, float] = {'strength': float(self.alignment.strength.numpy())}
        rows: list[Mapping[str, Any]] = []
        self._reward.retrained()
        if self.phase(epoch) == 'group_lasso':
            with self._watch('rescoring', whole=True), self.problem.account.uncharged():
                measure = self.problem.measure
                metrics[f'subnetwork_{measure.name}'] = measure.value(
                    self.problem.score(self.alignment.get_masks()))
        for stage, start in enumerate(self._starts()):
            if not epoch < start <= coming:
                continue
            found = self._search(stage)
            metrics |= _summary(found)
            rows += [{'epoch': epoch, 'stage': stage, **row} for row in found]
            self._follow()
            self.alignment.strength.assign(self.options.strength)
        return EpochResult(metrics | self._watch.take(), tuple(rows))

    def rounds(self) -> int:
        return 0 if self._starts() else len(self.options.temperatures())

    def search(self, round_: int) -> EpochResult:
        """One temperature, on weights that stay as they are."""
        self._reward.forget()
        budget, rows = self.problem.budget, []
        with self._watch('annealing'):
            if not round_:
                rows.append(self.annealing.begin(uniform_widths(budget), budget, self._reward))
            rows += self.annealing.step(self.options.temperatures()[round_], budget, self._reward,
                                        self._rng(round_))
        self._follow()
        scored = round_ * self.options.proposals + bool(round_)
        return EpochResult(_summary(rows) | self._watch.take(), tuple(
            {'episode': scored + i, **row} for i, row in enumerate(rows)))

    def decide(self) -> Decision:
        return Decision(self.alignment.get_masks())

    def _starts(self) -> list[int]:
        """The first epochs of the progressive rounds; none where no epoch can follow a search."""
        planned = self.problem.epochs
        first = max(1, planned.warmup_epochs)
        epochs = planned.search - first
        count = min(self.options.progressive_rounds, epochs)
        return [first + k * epochs // count for k in range(count)]

    def _budget(self, stage: int) -> Budget:
        """ratio^(k/K) of every limit, k = stage + 1."""
        budget = self.problem.budget
        share = (stage + 1) / len(self._starts())
        if share == 1:
            return budget
        limits = {
            'latency_ratio' if target == 'latency_ms' else target:
                min(1.0, float(limit / dense)) ** share
            for target, limit, dense in zip(budget.targets, budget.limits, budget.dense_costs)}
        return budget.with_limits(limits)

    def _search(self, stage: int) -> list[Mapping[str, Any]]:
        """All temperatures on the current weights."""
        budget, rng = self._budget(stage), self._rng(self._starts()[stage] - 1)
        start = uniform_widths(budget)
        if stage:
            start = rescaled(1 - self.annealing.best_widths.numpy() / budget.dense_widths, budget)
        with self._watch('annealing'):
            rows = [self.annealing.begin(start, budget, self._reward)]
            for temperature in self.options.temperatures():
                rows += self.annealing.step(temperature, budget, self._reward, rng)
        return [{'episode': i, **row} for i, row in enumerate(rows)]

    def _follow(self) -> None:
        """v <- the best widths, by the current channels."""
        self.alignment.set_masks(self._reward.select(
            self.problem.budget.as_dict(self.annealing.best_widths.numpy())))

    def _rng(self, time: int) -> np.random.Generator:
        return np.random.default_rng((self.problem.seed, time, 0))


def _summary(rows: list[Mapping[str, Any]]) -> dict[str, float]:
    rewards = [row['reward'] for row in rows]
    return {'reward_mean': float(np.mean(rewards)), 'reward_max': max(rewards),
            'accepted': float(np.mean([row['accepted'] for row in rows]))}
