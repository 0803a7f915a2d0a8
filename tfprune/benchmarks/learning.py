"""What agents reach on a search whose optimum is known, by the number of episodes.

RLAL itself runs, on the groups, costs and budget of ResNet-20 at half of the MACs; only the
accuracy of a sub-network is made up (known_optimum.py). A share of the optimum is

    (reward - mean reward of random actions) / (optimum - mean reward of random actions)

under the accuracy of that epoch: 0 is chance, 1 the best decision there is.
"""
import functools
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from scipy import stats

from tfprune.benchmarks.known_optimum import DRIFTS, AdditiveAccuracy, Knapsack, resnet
from tfprune.costs.proportional import uniform_widths
from tfprune.methods.options import RlalOptions
from tfprune.methods.rlal import RLAL
from tfprune.pruning.masks import widths_of
from tfprune.report.intervals import paired
from tfprune.search.agents import play, random_policy
from tfprune.search.environment import PruningEnv
from tfprune.search.problem import Problem
from tfprune.search.surrogate import predict
from tfprune.training.options import Epochs

OPTIONS = ('search_epochs', 'search_episodes', 'search_seeds', 'search_first_seed',
           'search_period')
_PLAIN = dict(context_size=0, context_updates=0)
# Variant -> flags. The decoder's share of the scorings is taken from the agent's episodes.
VARIANTS: dict[str, Mapping[str, Any]] = {
    'random': dict(_PLAIN, random=True, agent='random', action='rate'),
    'random relative': dict(_PLAIN, random=True, agent='random'),
    'ppo': dict(_PLAIN, agent='ppo', agent_epochs=1),
    'ppo of 3 epochs': dict(_PLAIN, agent='ppo'),
    'ppo of rates': dict(_PLAIN, agent='ppo', action='rate', agent_epochs=1),
    'sac': dict(_PLAIN, agent='sac'),
    'ddpg': dict(_PLAIN, agent='ddpg'),
    'ppo+z': dict(agent='ppo'),
    'ppo+z+decoder': dict(agent='ppo', surrogate_candidates=256, surrogate_scored=4),
    'ppo+decoder': dict(agent='ppo', context_size=0, surrogate_candidates=256, surrogate_scored=4),
}


def rows(only: Sequence[str] = (), *, search_epochs: int = 30, search_episodes: int = 20,
         search_seeds: int = 5, search_first_seed: int = 0, search_period: int = 20
         ) -> Iterator[dict[str, Any]]:
    """Yields a row a drift, variant and seed; `only` names drifts and variants; `search_period` is
    that of the oscillating one, in epochs.

    Raises:
        ValueError: for a name of neither.
    """
    for name in only:
        if name not in (*DRIFTS, *VARIANTS):
            raise ValueError(f'Unknown drift or variant {name!r}. '
                             f'Available: {", ".join((*DRIFTS, *VARIANTS))}')
    drifts = [name for name in DRIFTS if name in only] or DRIFTS
    variants = [name for name in VARIANTS if name in only] or list(VARIANTS)
    search = Search(*resnet())
    for drift in drifts:
        for seed in range(search_first_seed, search_first_seed + search_seeds):
            for variant in variants:
                start = time.perf_counter()
                accuracy = AdditiveAccuracy.draw(search.budget.dense_widths, seed, drift,
                                                 search_epochs, search_period)
                yield {'drift': drift, 'variant': variant, 'seed': seed,
                       'episodes_per_epoch': search_episodes, 'period': search_period,
                       **search.run(VARIANTS[variant], accuracy, seed, search_episodes),
                       'seconds': round(time.perf_counter() - start, 1)}


class Search:
    """Searches over the widths of one model."""

    def __init__(self, model: keras.Model, groups: Any, costs: Any, budget: Any):
        self.model, self.groups, self.costs, self.budget = model, groups, costs, budget
        self.knapsack = Knapsack(budget)

    @functools.cached_property
    def random_widths(self) -> np.ndarray:
        """What random actions lead to, widths [500, G]."""
        envs = [PruningEnv(self.groups, self.costs, lambda widths: 0.0, budget=self.budget)
                for _ in range(500)]
        play(envs, random_policy(envs[0], 0))
        return np.array([list(env.widths.values()) for env in envs])

    def run(self, variant: Mapping[str, Any], accuracy: AdditiveAccuracy, seed: int, episodes: int
            ) -> dict[str, Any]:
        """The shares of the optimum of a search, a list over the epochs each.

        mean: of the policy's episodes; best: of the best reward so far (static only); decision: of
        v; spearman: of the decoder's and the true rewards of 500 random decisions, after the epoch.
        """
        epochs = accuracy.epochs
        options, planned = self._options(variant, epochs, episodes)
        epoch, scorings = 0, 0

        def score(masks: Mapping[str, np.ndarray]) -> float:
            nonlocal scorings
            scorings += 1
            return float(accuracy(np.array(list(widths_of(masks).values())), epoch))

        keras.utils.set_random_seed(seed)
        method = RLAL(options)
        method.start(Problem(self.model, self.groups, self.costs, self.budget, seed, planned,
                             score=score))
        best, found = -np.inf, []
        for epoch in range(epochs):
            keras.utils.set_random_seed(seed + epoch)
            played = method.after_epoch(epoch, epoch + 1).episodes
            by_source: dict[str, list[float]] = {}
            for row in played:
                by_source.setdefault(row['source'], []).append(row['reward'])
            best = max(best, *(row['reward'] for row in played))
            others = accuracy(self.random_widths, epoch)
            low, high = others.mean(), accuracy(self.knapsack.best(accuracy, epoch), epoch)
            values: dict[str, Any] = {
                'mean': np.mean(by_source.get('policy') or by_source['random']),
                'decision': accuracy(method.best_widths.numpy(), epoch)}
            if accuracy.drift == 'static':
                values['best'] = best
            if 'surrogate' in by_source:
                values['ranked'] = np.mean(by_source['surrogate'])
            shares = {name: round(float((value - low) / (high - low)), 4)
                      for name, value in values.items()}
            if options.context_updates:
                predicted = predict(method.context, self.budget, self.random_widths, epoch)
                shares['spearman'] = round(float(stats.spearmanr(predicted, others)[0]), 4)
            found.append(shares)
        names = dict.fromkeys(name for shares in found for name in shares)
        uniform = accuracy(uniform_widths(self.budget), epoch)
        return {'scorings': scorings, 'optimum': round(float(high), 5),
                'random_mean': round(float(low), 5),
                'uniform': round(float((uniform - low) / (high - low)), 4),
                **{name: [shares.get(name) for shares in found] for name in names}}

    @staticmethod
    def _options(variant: Mapping[str, Any], epochs: int, episodes: int
                 ) -> tuple[RlalOptions, Epochs]:
        """One epoch of random actions, then the agent's; all are random for `random`."""
        changes = dict(variant)
        first = epochs if changes.pop('random', False) else 1
        if changes.get('surrogate_candidates'):
            episodes -= changes['surrogate_scored']
        planned = Epochs(warmup_epochs=0, random_epochs=first, joint_epochs=epochs - first,
                         alignment_epochs=0)
        return RlalOptions(alignment='none', episodes_per_epoch=episodes,
                           random_reference_episodes=0, comparison_episodes=0, **changes), planned


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table: shares of the optimum over seeds, mean ± standard deviation.

    By epochs the policy's mean reward; then, over the last five epochs, the mean reward of what the
    decoder chose; v, the decision to be followed, and the best reward at the end; the decoder's
    rank correlation on random decisions, over all but the first epoch.
    """
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found:
        cases.setdefault((row['drift'], row['variant']), []).append(row)
    spans = [(1, 5), (5, 10), (10, 15), (15, 20), (20, 30), (30, 42)]
    spans = [span for span in spans if any(len(row['mean']) > span[0] for row in found)]
    lines = ['| reward | search | '
             + ' | '.join(f'epochs {first + 1} to {last}' for first, last in spans)
             + ' | chosen by the decoder | v | best | rank correlation |',
             '|---|---|' + '---:|' * (len(spans) + 4)]
    for (drift, variant), cells in cases.items():
        shown = [_spread([np.mean(row['mean'][first:last]) for row in cells
                          if len(row['mean']) > first]) for first, last in spans]
        shown.append(_spread([np.mean([share for share in row['ranked'][-5:] if share is not None])
                              for row in cells if 'ranked' in row]))
        shown.append(_spread([row['decision'][-1] for row in cells]))
        shown.append(_spread([row['best'][-1] for row in cells if 'best' in row]))
        shown.append(_spread([np.mean(row['spearman'][1:]) for row in cells if 'spearman' in row]))
        lines.append(f'| {drift} | {variant} | {" | ".join(shown)} |')
    for drift in dict.fromkeys(drift for drift, _ in cases):
        shares = {row['seed']: row['uniform'] for row in found if row['drift'] == drift}
        lines.append(f'| {drift} | uniform widths |{" |" * (len(spans) + 1)} '
                     f'{_spread(list(shares.values()))} | | |')
    return '\n'.join(lines + _of_context(cases))


def _of_context(cases: Mapping[tuple[str, str], Sequence[dict[str, Any]]]) -> list[str]:
    """What z adds to PPO that learns from as many epochs, and from one: the policy's mean from the
    seventh epoch on."""
    lines = []
    for drift, reference in itertools.product(DRIFTS, ('ppo of 3 epochs', 'ppo')):
        with_z, without = ({row['seed']: np.mean(row['mean'][6:]) for row in cases.get(
            (drift, name), ()) if len(row['mean']) > 6} for name in ('ppo+z', reference))
        seeds = [seed for seed in with_z if seed in without]
        if len(seeds) > 1:
            gain = paired([with_z[seed] for seed in seeds], [without[seed] for seed in seeds])
            lines.append(f'{drift}: z adds {gain.mean:+.3f} to {reference} from epoch 7 on (95%: '
                         f'{gain.low:+.3f} to {gain.high:+.3f}, {len(seeds)} seeds, paired).')
    return ['', *lines] if lines else []


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ''
    return f'{np.mean(values):.2f} ± {np.std(values, ddof=min(1, len(values) - 1)):.2f}'
