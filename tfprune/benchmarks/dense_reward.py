"""Episodes that PuRL's agent needs with a reward at every step, and with one at the end.

PuRL's channel form itself runs (methods/purl.py), on the groups, costs and budget of ResNet-20 at
half of the MACs; only the accuracy of a sub-network is made up (known_optimum.py). What is compared
is the reward after the last step, which both see. The paper's claim, on its networks, is 85% fewer
episodes than AMC; AMC is another agent, here only the reward differs.
"""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfprune.benchmarks.known_optimum import AdditiveAccuracy, resnet
from tfprune.methods.options import PurlOptions
from tfprune.methods.purl import PuRL
from tfprune.pruning.masks import widths_of
from tfprune.search.problem import Problem
from tfprune.training.seeding import set_seed

OPTIONS = ('search_epochs', 'search_episodes', 'search_seeds', 'search_first_seed')
REWARDS = ('dense', 'terminal')
_WINDOW = 3  # rounds whose mean is a level


def rows(only: Sequence[str] = (), *, search_epochs: int = 30, search_episodes: int = 5,
         search_seeds: int = 3, search_first_seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yields a row a seed and reward, of `search_epochs` rounds; `only` names rewards.

    A row has a list over the rounds of the mean last reward, and of the scorings until then.

    Raises:
        ValueError: for another name.
    """
    for name in only:
        if name not in REWARDS:
            raise ValueError(f'Unknown reward {name!r}. Available: {", ".join(REWARDS)}')
    model, groups, costs, budget = resnet()
    for seed in range(search_first_seed, search_first_seed + search_seeds):
        accuracy = AdditiveAccuracy.draw(budget.dense_widths, seed, 'static', 1)

        def score(masks: Mapping[str, np.ndarray],
                  accuracy: AdditiveAccuracy = accuracy) -> float:
            return float(accuracy(np.array(list(widths_of(masks).values())), 0))

        for reward in [name for name in REWARDS if name in only] or REWARDS:
            set_seed(seed, model)
            purl = PuRL(PurlOptions(reward=reward, rounds=search_epochs, episodes=search_episodes))
            purl.start(Problem(model, groups, costs, budget, seed, score=score))
            metrics = []
            for round_ in range(search_epochs):
                set_seed(1000 * seed + round_, model)
                metrics.append(purl.search(round_).metrics)
            yield {'reward': reward, 'seed': seed, 'episodes_per_round': search_episodes,
                   'last_reward': [round(row['reward_mean'], 4) for row in metrics],
                   'scorings': np.cumsum([row['scored'] for row in metrics]).astype(int).tolist()}


def levels(row: Mapping[str, Any]) -> np.ndarray:
    """Means of the last reward over three rounds in a row."""
    return np.convolve(row['last_reward'], np.ones(_WINDOW) / _WINDOW, 'valid')


def reached(row: Mapping[str, Any], level: float) -> int | None:
    """The round after which the mean of the last three rounds is at least `level`."""
    above = np.flatnonzero(levels(row) >= level)
    return int(above[0]) + _WINDOW if above.size else None


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table, a line a seed: the level, the highest that the terminal reward
    leads to, and what each reward takes to reach it."""
    by_seed: dict[int, dict[str, dict[str, Any]]] = {}
    for row in found:
        by_seed.setdefault(row['seed'], {})[row['reward']] = row
    lines = ['| seed | level of the terminal reward | of the dense one | episodes, terminal | '
             'episodes, dense | scorings, terminal | scorings, dense |', '|---:' * 7 + '|']
    for seed, cells in by_seed.items():
        if len(cells) < len(REWARDS):
            continue
        level, other = (float(levels(cells[name]).max()) for name in ('terminal', 'dense'))
        episodes, scorings = [], []
        for name in ('terminal', 'dense'):
            row, round_ = cells[name], reached(cells[name], level - 1e-9)
            episodes.append('–' if round_ is None else str(round_ * row['episodes_per_round']))
            scorings.append('–' if round_ is None else str(row['scorings'][round_ - 1]))
        lines.append(f'| {seed} | {level:.3f} | {other:.3f} | {" | ".join(episodes + scorings)} |')
    return '\n'.join(lines)
