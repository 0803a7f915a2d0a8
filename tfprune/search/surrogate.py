"""The reward decoder as a surrogate: it ranks many decisions, of which only the best are scored.

    W        random decisions, and the best of this epoch perturbed, inside the budget
    r_hat    = decoder(rates(W), z_t)                                   (tfprune.search.context)
    scored   = the K of the largest r_hat that were not scored in this epoch

What is scored enters the history, so that the decoder learns where it was wrong.
"""
from collections.abc import Mapping

import numpy as np

from tfprune.costs.budget import Budget
from tfprune.pruning.masks import nearest_width
from tfprune.search.context import ContextTrainer

_CENTRES = 5  # decisions that are perturbed
_SPREAD = 0.1  # standard deviation of a perturbation, in pruning rate


def clip_to_budget(budget: Budget, wishes: np.ndarray) -> np.ndarray:
    """Widths int64 [N, G] as PruningEnv carries out pruning rates [N, G] in [0, 1]."""
    widths = np.tile(budget.min_widths, (len(wishes), 1))
    for g, (dense, choices) in enumerate(zip(budget.dense_widths, budget.allowed)):
        most = np.maximum(_fitting(budget, widths, g, budget.min_widths) - 1, 0)
        least = np.minimum(_fitting(budget, widths, g, budget.dense_widths), most)
        nearest = [nearest_width(int(dense), float(rate), choices) for rate in wishes[:, g]]
        widths[:, g] = np.clip(nearest, choices[least], choices[most])
    return widths


def _fitting(budget: Budget, widths: np.ndarray, g: int, rest: np.ndarray) -> np.ndarray:
    """How many choices of group g fit, `rest` [G] in the groups behind it; int [N]."""
    choices, trial = budget.allowed[g], widths.copy()
    trial[:, g + 1:] = rest[g + 1:]
    low, high = np.zeros(len(trial), np.int64), np.full(len(trial), len(choices))
    while (low < high).any():  # in the order of widths, those that fit come first
        middle = np.minimum((low + high) // 2, len(choices) - 1)
        trial[:, g] = choices[middle]
        fits = budget.fits(trial)
        low, high = (np.where(fits & (low < high), middle + 1, low),
                     np.where(fits | (low >= high), high, middle))
    return low


def propose(budget: Budget, known: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` different decisions [N, G] inside the budget: half of them random, half
    perturbations of `known`, pruning rates [M, G]."""
    wishes = rng.uniform(size=(count, len(budget.names)))
    if len(known):
        near = wishes[count // 2:]
        near[:] = known[rng.integers(len(known), size=len(near))]
        # About half of the groups stay: near the best, more than that at once is seldom better.
        near += rng.normal(scale=_SPREAD, size=near.shape) * (rng.uniform(size=near.shape) < 0.5)
    return np.unique(clip_to_budget(budget, np.clip(wishes, 0, 1)), axis=0)


def predict(context: ContextTrainer, budget: Budget, widths: np.ndarray, epoch: int) -> np.ndarray:
    """Rewards [N] that the decoder expects of widths [N, G] at `epoch`."""
    rates = (1 - widths / budget.dense_widths).astype(np.float32)
    return context.network.predict_rewards(rates, np.full(len(rates), epoch, np.int32)).numpy()


def best_unscored(context: ContextTrainer, budget: Budget, epoch: int, *, candidates: int,
                  count: int, rewards: Mapping[tuple[int, ...], float], rng: np.random.Generator
                  ) -> np.ndarray:
    """The `count` of `candidates` proposals that the decoder thinks best, the best first [<=K, G].

    Args:
        rewards: reward of each width vector scored at this epoch; the best of them are perturbed,
            and all of them left out.
    """
    centers = np.array(sorted(rewards, key=rewards.__getitem__)[-_CENTRES:]).reshape(
        -1, len(budget.names))
    widths = propose(budget, 1 - centers / budget.dense_widths, candidates, rng)
    widths = widths[[tuple(row) not in rewards for row in widths.tolist()]]
    return widths[np.argsort(-predict(context, budget, widths, epoch), kind='stable')[:count]]
