"""Widths and masks: how many channels of each group stay, and which."""

import math
from collections.abc import Iterable, Mapping

import keras
import numpy as np

from tfprune.pruning.importance import Batch, score_groups
from tfprune.structure.groups import ChannelGroups

Masks = dict[str, np.ndarray]  # group name -> bool [C_g], True = kept


def allowed_widths(dense_width: int, *, multiple: int = 1, min_keep_ratio: float = 0.1
                   ) -> np.ndarray:
    """Returns the widths that a group may have, int [K] ascending.

    They are the multiples of `multiple` from max(1, ⌈min_keep_ratio · dense_width⌉) on, and always
    the dense width itself.

    Raises:
        ValueError: if an argument is out of range.
    """
    if dense_width < 1:
        raise ValueError(f'dense_width must be at least 1, received {dense_width}')
    if multiple < 1:
        raise ValueError(f'multiple must be at least 1, received {multiple}')
    if not 0 <= min_keep_ratio <= 1:
        raise ValueError(f'min_keep_ratio must be in [0, 1], received {min_keep_ratio}')
    # 0.07 · 100 is 7.000000000000001: not a reason to keep eight.
    least = max(1, math.ceil(min_keep_ratio * dense_width - 1e-9))
    steps = np.arange(multiple, dense_width + 1, multiple)
    return np.union1d(steps[steps >= least], [dense_width])


def nearest_width(dense: int, rate: float, allowed: np.ndarray) -> int:
    """Returns the allowed width nearest to dense · (1 − rate); of two the larger.

    Raises:
        ValueError: if `rate` is not in [0, 1] or `allowed` is empty.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f'rate must be in [0, 1], received {rate}')
    if not len(allowed):
        raise ValueError('allowed must hold at least one width, received none')
    # Rounded, for a tie must not be decided by the last bit of 1 − rate.
    distance = np.abs(np.asarray(allowed) - round(dense * (1 - rate), 9))
    return int(np.max(np.asarray(allowed)[distance <= distance.min() + 1e-9]))


def select_channels(model: keras.Model, groups: ChannelGroups, widths: Mapping[str, int], *,
                    criterion: str = 'l1', seed: int = 0, data: Iterable[Batch] | None = None
                    ) -> Masks:
    """Returns masks that keep the `widths[g]` channels of highest score; of equals the first.

    Args:
        model: the dense model, whose weights are scored.
        groups: its channel groups.
        widths: group name to width; a missing group stays dense.
        criterion: a name in `importance.CRITERIA`; not those that need a reconstruction.
        seed, data: for the criteria 'random' and 'taylor', see `importance.score_groups`.

    Raises:
        ValueError, TypeError: for unknown groups, widths out of range, an unknown criterion, or one
            that lacks what it needs.
    """
    widths = check_widths(groups, widths)
    pruned = [name for name in groups if widths[name] < groups[name]]
    return best_channels(groups, widths, score_groups(
        model, groups, criterion=criterion, seed=seed, data=data, names=pruned))


def best_channels(groups: ChannelGroups, widths: Mapping[str, int],
                  scores: Mapping[str, np.ndarray]) -> Masks:
    """Returns masks that keep the `widths[g]` channels of highest score; of equals the first.

    A group without scores stays dense, and so does one without a width.
    """
    widths = check_widths(groups, widths)
    masks = open_masks(groups)
    for name, score in scores.items():
        masks[name][np.argsort(-score, kind='stable')[widths[name]:]] = False
    return masks


def open_masks(groups: ChannelGroups) -> Masks:
    """Returns masks that keep everything."""
    return {name: np.ones(width, bool) for name, width in groups.items()}


def widths_of(masks: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Returns the number of kept channels of every mask."""
    return {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}


def check_widths(groups: ChannelGroups, widths: Mapping[str, int]) -> dict[str, int]:
    """Returns one int per prunable group, the dense width where `widths` has none.

    Raises:
        ValueError: for an unknown or unprunable group, or a width outside [1, dense width].
        TypeError: for a width that is not an integer.
    """
    _check_names(groups, widths)
    for name, width in widths.items():
        if isinstance(width, bool) or not isinstance(width, int | np.integer):
            raise TypeError(f"width of group '{name}' must be an integer, received {width!r}")
        if not 1 <= width <= groups[name]:
            raise ValueError(f"width of group '{name}' must be in [1, {groups[name]}], "
                             f'received {width}')
    return {name: int(widths.get(name, dense)) for name, dense in groups.items()}


def check_masks(groups: ChannelGroups, masks: Mapping[str, np.ndarray]) -> Masks:
    """Returns one bool array [C_g] per prunable group, all True where `masks` has none.

    Raises:
        ValueError: for an unknown or unprunable group, a wrong shape, or a mask that keeps nothing.
        TypeError: for a mask that is not boolean.
    """
    _check_names(groups, masks)
    checked = open_masks(groups)
    for name, mask in masks.items():
        array = np.asarray(mask)
        if array.dtype != bool:
            raise TypeError(f"mask of group '{name}' must be boolean, received {array.dtype}")
        if array.shape != (groups[name],):
            raise ValueError(f"mask of group '{name}' must have the shape ({groups[name]},), "
                             f'received {array.shape}')
        if not array.any():
            raise ValueError(f"mask of group '{name}' must keep at least one channel, "
                             'received none')
        checked[name] = array
    return checked


def _check_names(groups: ChannelGroups, names: Iterable[str]) -> None:
    for name in names:
        if name in groups.unprunable:
            raise ValueError(groups.unprunable[name])
        if name not in groups:
            raise ValueError(f"Unknown group '{name}'. Available: {', '.join(groups)}")
