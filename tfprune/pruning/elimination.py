"""In what order channels can go when those that stay make up for them, by least squares.

    error of a channel = Σ over readers  tr(W_cᵀ [(M⁻¹)_cc]⁻¹ W_c) / tr(Wᵀ M W)

M are the second moments of what a layer reads and W its kernel; c are the channel's positions, of
which a flattened map has many. This is what the layer's output loses, in shares of it, when the
channel goes and the kernel is refitted (Hassibi and Stork 1993, the optimal brain surgeon, a
channel at a time). The cheapest goes, W and M⁻¹ become those without it, and so on: of two
channels that tell the same one goes early, the other late.
"""
from collections.abc import Sequence

import numpy as np


class Reading:
    """A kernel that reads the channels of a group, and refits itself as they go.

    Args:
        second: second moments [n, n] of what it reads, regular.
        kernel: its slices [n, m].
        places: where each of the C channels stands, [C, k].
    """

    def __init__(self, second: np.ndarray, kernel: np.ndarray, places: np.ndarray):
        self._places = places
        self._inverse = np.linalg.inv(second)  # as at the start; what left since is in _factors
        self._products = kernel @ kernel.T
        self._total = max(float(np.sum(second * self._products)), np.finfo(float).tiny)
        of_channel = places[:, :, None], places[:, None, :]
        self._inverse_blocks = self._inverse[of_channel]
        self._product_blocks = self._products[of_channel]
        # M⁻¹ = inverse − F Fᵀ;  W Wᵀ = products − U Qᵀ − Q Uᵀ; by columns only where asked for.
        shape = len(second), places.size
        self._factors, self._updates, self._shares = (np.zeros(shape) for _ in range(3))
        self._gone = 0  # positions

    def errors(self) -> np.ndarray:
        """Of each channel, [C]; nothing of those that have gone counts."""
        if self._places.shape[1] == 1:
            found = self._product_blocks[:, 0, 0] / self._inverse_blocks[:, 0, 0]
        else:
            found = np.trace(np.linalg.solve(self._inverse_blocks, self._product_blocks),
                             axis1=1, axis2=2)
        return found / self._total

    def remove(self, channel: int) -> None:
        """The channel goes."""
        for place in self._places[channel]:
            self._remove(place)
        self._inverse_blocks[channel] = np.eye(self._places.shape[1])

    def _remove(self, place: int) -> None:
        t = self._gone
        factors, updates, shares = (each[:, :t] for each in (
            self._factors, self._updates, self._shares))
        column = self._inverse[:, place] - factors @ factors[place]
        product = (self._products[:, place] - updates @ shares[place] - shares @ updates[place])
        factor = column / np.sqrt(column[place])
        update = column / column[place]
        share = product - update * product[place] / 2
        for kept, new in ((self._factors, factor), (self._updates, update), (self._shares, share)):
            kept[:, t] = new
        self._gone += 1
        factor, update, share = (each[self._places] for each in (factor, update, share))
        self._inverse_blocks -= factor[:, :, None] * factor[:, None, :]
        self._product_blocks -= (update[:, :, None] * share[:, None, :]
                                 + share[:, :, None] * update[:, None, :])


def order_of_elimination(readings: Sequence[Reading], channels: int) -> np.ndarray:
    """When each of the channels goes, from 0 on: int [C]."""
    order, stays = np.zeros(channels, int), np.ones(channels, bool)
    for turn in range(channels):
        errors = np.where(stays, sum(each.errors() for each in readings), np.inf)
        channel = int(np.argmin(errors))
        order[channel], stays[channel] = turn, False
        for each in readings:
            each.remove(channel)
    return order
