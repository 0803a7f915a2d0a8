"""The problem that is left where residual blocks are removed."""
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import keras

from tfprune.config import Config, split_names
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.pruning.depth import remove_blocks
from tfprune.structure.graph import unfold
from tfprune.structure.groups import ChannelGroups, trace_groups


class Work(Protocol):
    """What a run works on, a frozen dataclass: `methods.Problem` or `outcome.Setup`."""
    @property
    def config(self) -> Config: ...

    @property
    def model(self) -> keras.Model: ...

    @property
    def groups(self) -> ChannelGroups: ...

    @property
    def cost_model(self) -> CostModel: ...

    @property
    def budget(self) -> Budget: ...


WorkT = TypeVar('WorkT', bound=Work)


def without_blocks(work: WorkT, names: Sequence[str]) -> WorkT:
    """Returns `work` with the model without these blocks, as `remove_blocks` gives it, its groups
    and costs, traced anew, and the same limits in numbers; `work` itself for none.

    Raises:
      ValueError: see `remove_blocks`.
      InfeasibleBudgetError: what is left cannot be narrowed so far.
    """
    if not names:
        return work
    config, model = work.config, remove_blocks(work.model, names)
    graph = unfold(model)
    options: dict[str, Any] = {'unknown_layers': config.unknown_layers,
                               'prune_frozen': config.prune_frozen}
    traced = trace_groups(model, **options)
    frozen = [name for name in split_names(config.frozen)
              if name in graph.layers or name in traced.groups]
    groups = trace_groups(model, frozen=frozen, **options)
    groups = groups if config.prune_residual_groups else groups.without_residual()
    cost_model = CostModel(model, groups)
    limits = {row['target']: row['limit'] for row in work.budget.to_json()}
    budget = Budget(groups, cost_model, limits, width_multiple=config.width_multiple,
                    min_keep_ratio=config.min_keep_ratio)
    return dataclasses.replace(work, model=model, groups=groups,  # type: ignore[type-var]
                               cost_model=cost_model, budget=budget)
