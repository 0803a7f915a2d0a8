"""What is to be solved: a dense model, what it costs, a budget, and what decisions are worth."""
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.pruning.depth import remove_blocks
from tfprune.pruning.importance import OBSERVING, Batch, BatchLoss, score_groups
from tfprune.pruning.masks import Masks, best_channels
from tfprune.pruning.options import PruningOptions
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.pruning.surgery import prune_model
from tfprune.structure.graph import unfold
from tfprune.structure.groups import ChannelGroups, trace_groups
from tfprune.structure.options import StructureOptions
from tfprune.tasks.base import count_of
from tfprune.tasks.measure import ACCURACY, Measure
from tfprune.training.account import EpochAccount
from tfprune.training.options import Epochs, TrainingOptions

Score = Callable[[Mapping[str, np.ndarray]], float]


def _not_scored(masks: Mapping[str, np.ndarray]) -> float:
    raise NotImplementedError('this problem has no reward')


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a run works on, and what a method is given.

    Attributes:
        model: the dense model, whose weights train.
        groups, cost_model, budget: what may be pruned, what it costs, what is allowed.
        seed, epochs, structure, pruning, training: parts of the configuration.
        score: masks -> reward on held-out training examples, by `measure`; never test data.
            Charges the account.
        measure: the metric that gives the rewards.
        loss: (model, batch) -> the mean loss that criteria take gradients of; None for the
            cross-entropy of a classifier.
        account: to be charged with whatever else a search computes.
        criterion_batches: training data for criteria that need data; None where there are none.
        reconstruction: by which kernels make up for channels that go; None: they do not.
        held_out: the held-out batches behind `score`, for what is no mask.
        train_batches: round -> the augmented batches of an epoch, in an order of the round's own.
        scope: context manager factory under which variables are to be created.
        poll: called within long work that does not score; raises where the run is to stop.
        say: called with a line for who watches the run.
    """
    model: keras.Model
    groups: ChannelGroups
    cost_model: CostModel
    budget: Budget
    seed: int = 0
    epochs: Epochs = Epochs()
    structure: StructureOptions = StructureOptions()
    pruning: PruningOptions = PruningOptions()
    training: TrainingOptions = TrainingOptions()
    score: Score = _not_scored
    measure: Measure = ACCURACY
    loss: BatchLoss | None = None
    account: EpochAccount = dataclasses.field(default_factory=lambda: EpochAccount(1, 1))
    criterion_batches: Iterable[Batch] | None = None
    reconstruction: Reconstruction | None = None
    held_out: Iterable[Batch] = ()
    train_batches: Callable[[int], Iterable[Batch]] = lambda _: ()
    scope: Callable[[], Any] = contextlib.nullcontext
    poll: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda _: None

    def channel_scores(self, criterion: str = '') -> dict[str, np.ndarray]:
        """The importance of each channel, {group name: [C_g]}, by a criterion, by default the
        configured one, on the current weights. Charges the account with the images that the
        criterion looks at, forward and backward; with those that a reconstruction observes, too,
        unless some have been.
        """
        criterion = criterion or self.pruning.criterion
        if criterion in OBSERVING and not self._is_observed:
            self.observe()
        seen = 0

        def counted() -> Iterator[Batch]:
            nonlocal seen
            for batch in self.criterion_batches or ():
                seen += count_of(batch)
                yield batch

        scores = score_groups(
            self.model, self.groups, criterion=criterion, seed=self.seed,
            data=None if self.criterion_batches is None else counted(), loss=self.loss,
            reconstruction=self.reconstruction if self._is_observed else None)
        self.account.train(seen, self.cost_model.dense.macs)
        return scores

    @property
    def _is_observed(self) -> bool:
        return self.reconstruction is not None and self.reconstruction.has_observed

    def select(self, widths: Mapping[str, int]) -> Masks:
        """Masks of these widths by the configured criterion on the current weights."""
        return best_channels(self.groups, widths, self.channel_scores())

    def observe(self) -> None:
        """What channels tell of one another is looked at anew, by the current weights. Charges the
        account with the examples that it takes, forward."""
        if self.reconstruction:
            self.account.forward(self.reconstruction.observe(), self.cost_model.dense.macs)

    def pruned(self, masks: Mapping[str, np.ndarray]) -> keras.Model:
        """The model without the channels that masks close; see `observe`."""
        return prune_model(self.model, self.groups, masks, reconstruction=self.reconstruction)

    def without(self, blocks: Sequence[str]) -> Problem:
        """The problem that is left without these blocks: the model as `remove_blocks` gives it, its
        groups and costs, traced anew, and the same limits in numbers; itself for none.

        Raises:
            ValueError: see `remove_blocks`.
            InfeasibleBudgetError: what is left cannot be narrowed so far.
        """
        if not blocks:
            return self
        model = remove_blocks(self.model, blocks)
        graph, all_groups = unfold(model), trace_problem_groups(
            model, dataclasses.replace(self.structure, frozen='', prune_residual_groups=True))
        frozen = [name for name in self.structure.frozen_names
                  if name in graph.layers or name in all_groups.groups]
        groups = trace_problem_groups(
            model, dataclasses.replace(self.structure, frozen=','.join(frozen)))
        cost_model = CostModel(model, groups)
        return dataclasses.replace(
            self, model=model, groups=groups, cost_model=cost_model,
            budget=self.budget.of(groups, cost_model),
            reconstruction=self.reconstruction and self.reconstruction.of(model, groups))


def trace_problem_groups(model: keras.Model, options: StructureOptions) -> ChannelGroups:
    """The groups of a model that options say."""
    groups = trace_groups(model, frozen=options.frozen_names,
                          unknown_layers=options.unknown_layers,
                          prune_frozen=options.prune_frozen)
    return groups if options.prune_residual_groups else groups.without_residual()
