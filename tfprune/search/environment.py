"""Pruning as an episodic environment: one step a group, the action its pruning rate."""
from typing import Callable, Sequence

import numpy as np
from tf_agents.environments import py_environment
from tf_agents.specs import array_spec
from tf_agents.trajectories import time_step as ts

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.costs.proportional import proportional_widths
from tfprune.pruning.masks import nearest_width
from tfprune.search.scoring import finite_reward
from tfprune.structure.groups import ChannelGroups

FEATURES = ('index', 'in_channels', 'channels', 'stride', 'kernel', 'layer_cost', 'cost_spent',
            'cost_left', 'previous_action')


class EpisodicEnv(py_environment.PyEnvironment):
    """An environment whose episodes all have `steps` steps; the first number of an observation
    tells the one at hand as a share of all.

    Attributes:
        context_size: how many of the last numbers of an observation are z, see search.context.
    """
    steps: int

    def __init__(self, context_size: int = 0):
        super().__init__(handle_auto_reset=True)
        self.context_size, self._z = context_size, np.zeros(context_size, np.float32)

    def set_context(self, z: Sequence[float] | np.ndarray) -> None:
        """Sets z, float32 [context_size] in [-1, 1], for all coming observations."""
        z = np.array(z, np.float32)
        if z.shape != self._z.shape:
            raise ValueError(f'z must have shape {self._z.shape}; received {z.shape}.')
        if not np.isfinite(z).all():
            raise ValueError(f'z must be finite; received {z}.')
        self._z = z

    @property
    def executed(self) -> np.ndarray:
        """The actions as carried out so far in this episode [<= steps, *shape of an action]: each,
        asked for in its state, does what was done."""
        raise NotImplementedError


class PruningEnv(EpisodicEnv):
    """Decides the widths of all groups within a budget.

    Observation: float32 [len(FEATURES) + context_size], the features of the group at hand, all in
    [0, 1], then z (one flat vector, as TF-Agents' critics want it). Action: float32 [1] in [0, 1],
    the group's pruning rate; the width is the allowed one nearest to C_g (1 - a_g), clipped to the
    budget's bounds (costs.budget); a Gaussian policy's action beyond [0, 1] counts as 0 or 1.
    What is carried out is therefore often another action than was asked for: `executed`.
    Reward: 0 until the last group, then evaluate(widths).

    Two features tell of the budget, as shares of a dense cost: cost_spent, what the decided groups
    have saved, the others dense, of the cost that is then furthest above its limit; cost_left, what
    every limit leaves, the others at their smallest.

    Args:
        groups, cost_model: as traced from the model.
        evaluate: {group name: width} -> reward, usually the sub-network's accuracy.
        budget: of the same groups and cost model; environments may share one.
        context_size: length of z, 0 for none.
        bounded: False leaves the actions as they are, whatever they cost.

    A method of other features or another action is a subclass: `features` names what `_features`
    returns, `_rate` reads the action or `_decide` acts on it, `executed` writes it.

    Raises:
        ValueError: from a step: an action that is NaN; a reward that is NaN or infinite.

    Source: METHODS 'RLAL'; the features are those of AMC, arXiv 1802.03494, section 3.1.
    """
    features: tuple[str, ...] = FEATURES

    def __init__(self, groups: ChannelGroups, cost_model: CostModel,
                 evaluate: Callable[[dict[str, int]], float], *, budget: Budget,
                 context_size: int = 0, bounded: bool = True):
        super().__init__(context_size)
        if not len(groups):
            raise ValueError('PruningEnv needs at least one prunable group; received none.')
        self.budget, self._evaluate, self._bounded = budget, evaluate, bounded
        self.steps = len(budget.names)
        self._static = _static_features(groups, cost_model)
        self._widths: list[int] = []
        self._rates: list[float] = []

    def action_spec(self) -> array_spec.BoundedArraySpec:
        return array_spec.BoundedArraySpec((1,), np.float32, 0.0, 1.0, name='pruning_rate')

    def observation_spec(self) -> array_spec.BoundedArraySpec:
        low = np.concatenate([np.zeros(len(self.features)), np.full(self._z.size, -1)])
        high = np.ones(len(self.features) + self._z.size)
        return array_spec.BoundedArraySpec(low.shape, np.float32, low.astype(np.float32),
                                           high.astype(np.float32), name='observation')

    @property
    def widths(self) -> dict[str, int]:
        """The widths decided so far in this episode."""
        return self.budget.as_dict(self._widths)

    @property
    def rates(self) -> np.ndarray:
        """Pruning rates as carried out so far, float32 [<= G]."""
        return np.array(self._rates, np.float32)

    @property
    def executed(self) -> np.ndarray:
        """The pruning rates as carried out, float32 [<= G, 1]."""
        return self.rates[:, None]

    def _reset(self) -> ts.TimeStep:
        self._widths, self._rates = [], []
        return ts.restart(self._observation())

    def _step(self, action: np.ndarray) -> ts.TimeStep:
        self._decide(float(np.ravel(action)[0]))
        if len(self._rates) < self.steps:
            return ts.transition(self._observation(), reward=0.0)
        reward = finite_reward(self._evaluate(self.widths), f'widths {self.widths}')
        return ts.termination(self._observation(), reward=reward)

    def _decide(self, action: float) -> None:
        """Adds the width and the pruning rate of the group at hand."""
        g = len(self._widths)
        dense = int(self.budget.dense_widths[g])
        wish = nearest_width(dense, self._rate(action), self.budget.allowed[g])
        width = self.budget.clip(self._widths, wish) if self._bounded else wish
        self._widths.append(width)
        self._rates.append(1 - width / dense)

    def _rate(self, action: float) -> float:
        """The pruning rate in [0, 1] that an action asks for."""
        return float(np.clip(action, 0, 1))

    def _observation(self) -> np.ndarray:
        return np.concatenate([self._features(), self._z]).astype(np.float32)

    def _features(self) -> np.ndarray:
        """Of the group at hand, of the last one at the end: [len(features)] in [0, 1]."""
        budget, g = self.budget, len(self._widths)
        decided = np.array(self._widths, np.int64)
        ends = np.stack([np.concatenate([decided, budget.dense_widths[g:]]),
                         np.concatenate([decided, budget.min_widths[g:]])])
        most, least = budget.costs(ends) / budget.dense_costs
        allowed = budget.limits / budget.dense_costs
        here = self._static[min(g, len(self._static) - 1)]
        moving = [1 - most[np.argmax(most / allowed)], np.clip(np.min(allowed - least), 0, 1),
                  self._rates[-1] if self._rates else 0.0]
        return np.concatenate([here, moving])


class RelativeEnv(PruningEnv):
    """Decides how wide each group is relative to uniform widths, or to others.

    Action: float32 [1] in [0, 1]; of the kept shares min(1, s * c_g * exp(SPREAD (1 - 2 a_g))) s is
    the largest that fits the budget, one number for all groups, found at the end of the episode
    (costs.proportional). c_g are the shares of the widths that it is centered on, 1 of uniform
    ones. a_g = 1/2 everywhere is that decision, from which a policy begins; no action is moved into
    bounds, whatever was decided before. Widths are known at the end alone: `rates` are the actions
    until then.

    Observation: the features of the group at hand that no action changes, the mean of the actions
    so far and the last one (1/2 before the first), then z.
    """
    features = (*FEATURES[:-3], 'mean_action', 'previous_action')
    SPREAD = 1.0
    _center: np.ndarray | float = 1.0

    def center_on(self, shares: np.ndarray) -> None:
        """Of all coming episodes a_g = 1/2 everywhere is the decision of widths in proportion to
        these shares of dense ones, [G] above 0."""
        self._center = shares

    @property
    def executed(self) -> np.ndarray:
        return np.array(self._actions, np.float32)[:, None]

    def _reset(self) -> ts.TimeStep:
        self._actions: list[float] = []
        return super()._reset()

    def _decide(self, action: float) -> None:
        self._actions.append(float(np.clip(action, 0, 1)))
        self._rates = list(self._actions)
        if len(self._actions) == self.steps:
            factors = self._center * np.exp(self.SPREAD * (1 - 2 * np.array(self._actions)))
            widths = proportional_widths(self.budget, factors)
            self._widths = [int(width) for width in widths]
            self._rates = list(1 - widths / self.budget.dense_widths)

    def _features(self) -> np.ndarray:
        here = self._static[min(len(self._actions), self.steps - 1)]
        seen = self._actions or [0.5]
        return np.concatenate([here, [np.mean(seen), seen[-1]]])


def _static_features(groups: ChannelGroups, cost_model: CostModel) -> np.ndarray:
    """[G, 6] features that no action changes, each divided by its largest value."""
    rows = []
    for index, name in enumerate(groups):
        layer = cost_model.layer_of(name)
        rows.append((index + 1, layer.in_width, groups[name], max(layer.stride), max(layer.kernel),
                     layer.macs))
    table = np.array(rows, np.float64)
    return (table / table.max(axis=0)).astype(np.float32)
