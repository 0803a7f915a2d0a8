"""Criteria: a score per channel of a group; the channels of highest score are kept.

Adding one is a function and a line in `CRITERIA`.
"""

import zlib
from collections.abc import Callable, Iterable

import keras
import numpy as np

from tfprune.groups import ChannelGroups

# (model, groups, group name, seed) -> score [C_g]
Criterion = Callable[[keras.Model, ChannelGroups, str, int], np.ndarray]


def _filters(model: keras.Model, groups: ChannelGroups, name: str,
             reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns Σ over producers of reduce(filters [F, weights per filter]), by channel [C_g]."""
    score = np.zeros(groups[name])
    for part in groups.layout.slices(name):
        if part.side == 'out' and part.slot.is_kernel:
            filters = np.moveaxis(_values(part.slot.variable(model)), part.axis, 0)
            np.add.at(score, part.index, reduce(filters.reshape(len(filters), -1))[part.positions])
    return score


def _values(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def l1(model: keras.Model, groups: ChannelGroups, name: str, seed: int) -> np.ndarray:
    """Σ over producers of Σ|W| of the filter (Li et al. 2017, arXiv 1608.08710)."""
    del seed
    return _filters(model, groups, name, lambda filters: np.abs(filters).sum(1))


def l2(model: keras.Model, groups: ChannelGroups, name: str, seed: int) -> np.ndarray:
    """Σ over producers of ‖W‖₂ of the filter."""
    del seed
    return _filters(model, groups, name, lambda filters: np.sqrt(np.square(filters).sum(1)))


def bn_scale(model: keras.Model, groups: ChannelGroups, name: str, seed: int) -> np.ndarray:
    """Σ over the group's batch normalisations of |γ| (Liu et al. 2017, arXiv 1708.06519)."""
    del seed
    score = np.zeros(groups[name])
    parts = [part for part in groups.layout.slices(name) if part.slot.weight == 'gamma']
    if not parts:
        raise ValueError(f"criterion 'bn_scale' needs a batch normalisation with a scale; group "
                         f"'{name}' has none")
    for part in parts:
        gamma = np.abs(_values(part.slot.variable(model)))
        np.add.at(score, part.index, gamma[part.positions])
    return score


def random(model: keras.Model, groups: ChannelGroups, name: str, seed: int) -> np.ndarray:
    """Uniform in [0, 1), a stream per group: another group's absence changes nothing."""
    del model
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).random(groups[name])


CRITERIA: dict[str, Criterion] = {'l1': l1, 'l2': l2, 'bn_scale': bn_scale, 'random': random}


def score_groups(model: keras.Model, groups: ChannelGroups, *, criterion: str = 'l1',
                 seed: int = 0, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Returns the scores, float64 [C_g], of the prunable groups (or of `names` among them).

    Raises:
      ValueError: for an unknown criterion, or one that a group has no weights for.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"Unknown criterion '{criterion}'. Available: "
                         f"{', '.join(sorted(CRITERIA))}")
    return {name: CRITERIA[criterion](model, groups, name, seed)
            for name in (groups if names is None else names)}
