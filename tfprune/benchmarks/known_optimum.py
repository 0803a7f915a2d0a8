"""A search whose best decision is known: an additive accuracy over the widths of a real model.

    accuracy(w, t) = level_t * sum_g weight_g,t * f_g(w_g),    sum_g weight_g,t = 1
    f_g(w)         = (1 - exp(-k_g w / C_g)) / (1 - exp(-k_g)), concave, f_g(C_g) = 1

Where the cost is additive too, as the MACs of the inner groups of a CIFAR ResNet are, the best
widths under the budget are those of a knapsack with one choice a group, exact by dynamic
programming over the cost in units of its greatest common divisor.
"""
import dataclasses

import numpy as np

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.models.building import build_model
from tfprune.structure.groups import ChannelGroups, trace_groups

DRIFTS = ('static', 'moving', 'oscillating')


@dataclasses.dataclass(frozen=True)
class AdditiveAccuracy:
    """See the module.

    Attributes:
        dense: dense widths [G].
        profiles: weights [2, G] between which they drift, each of sum 1.
        curvature: k_g > 0 [G].
        drift: 'static': the first profile; 'moving': from the first to the second in `epochs`;
            'oscillating': there and back every `period` epochs. Both drifts raise the level from
            0.6 towards 1, as training does.
    """
    dense: np.ndarray
    profiles: np.ndarray
    curvature: np.ndarray
    drift: str
    epochs: int
    period: int = 20

    @classmethod
    def draw(cls, dense: np.ndarray, seed: int, drift: str, epochs: int, period: int = 20
             ) -> 'AdditiveAccuracy':
        """Weights log-normal, k uniform in [1, 6]; ValueError for an unknown drift."""
        if drift not in DRIFTS:
            raise ValueError(f'Unknown drift {drift!r}. Available: {", ".join(DRIFTS)}')
        rng = np.random.default_rng(seed)
        weights = np.exp(rng.normal(size=(2, len(dense))))
        return cls(np.asarray(dense), weights / weights.sum(1, keepdims=True),
                   rng.uniform(1, 6, len(dense)), drift, epochs, period)

    def weights(self, epoch: int) -> np.ndarray:
        """level_t * weight_g,t, [G]."""
        if self.drift == 'static':
            return self.profiles[0]
        share = epoch / max(self.epochs - 1, 1)
        if self.drift == 'oscillating':
            share = (1 - np.cos(2 * np.pi * epoch / self.period)) / 2
        level = 1 - 0.4 * np.exp(-epoch / 10)
        return level * ((1 - share) * self.profiles[0] + share * self.profiles[1])

    def __call__(self, widths: np.ndarray, epoch: int) -> np.ndarray:
        """Accuracies [...] of widths [..., G]."""
        return self._shares(np.asarray(widths, np.float64)) @ self.weights(epoch)

    def of_group(self, g: int, widths: np.ndarray, epoch: int) -> np.ndarray:
        """What group g contributes at widths [...]."""
        full = np.zeros((len(widths), len(self.dense)))
        full[:, g] = widths
        return self._shares(full)[:, g] * self.weights(epoch)[g]

    def _shares(self, widths: np.ndarray) -> np.ndarray:
        return (1 - np.exp(-self.curvature * widths / self.dense)) / (1 - np.exp(-self.curvature))


class Knapsack:
    """The exact optimum of additive rewards under a budget of one additive cost.

    Raises:
        ValueError: several limits, or a cost in which groups multiply.
    """

    def __init__(self, budget: Budget):
        if len(budget.targets) != 1:
            raise ValueError(f'expected one limit, received {", ".join(budget.targets)}')
        self.budget = budget
        least = budget.costs(budget.min_widths)[0]
        costs = []  # of each allowed width above that of the smallest, a row a group
        for g, allowed in enumerate(budget.allowed):
            widths = np.tile(budget.min_widths, (len(allowed), 1))
            widths[:, g] = allowed
            costs.append(budget.costs(widths)[:, 0] - least)
        # What is additive at random widths by so much as a unit is additive.
        rng = np.random.default_rng(0)
        picked = [rng.integers(len(allowed), size=64) for allowed in budget.allowed]
        widths = np.stack([allowed[i] for allowed, i in zip(budget.allowed, picked)], axis=1)
        added = least + sum(cost[i] for cost, i in zip(costs, picked))
        if not np.array_equal(budget.costs(widths)[:, 0], added):
            raise ValueError(f'{budget.targets[0]} is not additive over these groups')
        unit = np.gcd.reduce(np.concatenate(costs))
        self._costs = [cost // unit for cost in costs]
        self._room = int((budget.limits[0] - least) // unit)

    def best(self, accuracy: AdditiveAccuracy, epoch: int) -> np.ndarray:
        """The widths [G] of the highest accuracy inside the budget."""
        # best[r]: the most that the groups so far give within r units.
        best = np.zeros(self._room + 1)
        choices = []
        for g, (allowed, costs) in enumerate(zip(self.budget.allowed, self._costs)):
            values = accuracy.of_group(g, allowed, epoch)
            table = np.full((len(allowed), self._room + 1), -np.inf)
            for row, cost, value in zip(table, costs, values):
                if cost <= self._room:
                    row[cost:] = best[:self._room + 1 - cost] + value
            choices.append(table.argmax(axis=0))
            best = table.max(axis=0)
        room, picked = self._room, []
        for allowed, costs, choice in reversed(
                list(zip(self.budget.allowed, self._costs, choices))):
            at = choice[room]
            picked.append(int(allowed[at]))
            room -= int(costs[at])
        return np.array(picked[::-1], np.int64)


def resnet(name: str = 'resnet20', side: int = 32, macs: float = 0.5
           ) -> tuple[object, ChannelGroups, CostModel, Budget]:
    """Model, its inner groups, costs and a budget of `macs`, a ratio of dense."""
    model = build_model(name, image_shape=(side, side, 3), num_classes=10, mean=(.5,) * 3,
                        std=(.5,) * 3)
    groups = trace_groups(model).without_residual()
    costs = CostModel(model, groups)
    return model, groups, costs, Budget(groups, costs, {'macs': macs})
