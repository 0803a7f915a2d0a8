"""The contract of a pruning method: what it is given, what it returns, what is checkpointed.

The trainer runs `search_epochs` epochs; after each it calls `after_epoch`. With the weights as they
are then it runs the method's rounds of search, asks for the decision, performs surgery and
fine-tunes. A method's state is its tf.Variables (it is a tf.Module and is checkpointed as one,
after each epoch and each round); a method without state is a function of the weights.
"""
import dataclasses
from typing import Any, Callable, Iterable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune.config import Config
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.methods.options import NoOptions, parse_options
from tfprune.pruning.importance import Batch, score_groups
from tfprune.pruning.masks import Masks, best_channels, widths_of
from tfprune.pruning.sparsity import Zeros
from tfprune.structure.groups import ChannelGroups
from tfprune.training.account import EpochAccount


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a method is given.

    Attributes:
        model: the dense model, whose weights train.
        groups, cost_model, budget: what may be pruned, what it costs, what is allowed.
        score: masks -> accuracy in [0, 1] on held-out training images; never test data. Charges
            the account.
        batches: (images, labels) that are trained on, for criteria that need data.
        scope: context manager factory under which variables are to be created.
        account: to be charged with whatever else a search computes.
        score_batches: the held-out (images, labels) behind `score`, for what is no mask.
        poll: called within long work that does not score; raises where the run is to stop.
        train_batches: round -> the augmented batches of an epoch, in an order of the round's own.
    """
    config: Config
    model: keras.Model
    groups: ChannelGroups
    cost_model: CostModel
    budget: Budget
    score: Callable[[Mapping[str, np.ndarray]], float]
    batches: Iterable[Batch]
    scope: Callable[[], Any]
    account: EpochAccount = dataclasses.field(default_factory=lambda: EpochAccount(1, 1))
    score_batches: Iterable[Batch] = ()
    train_batches: Callable[[int], Iterable[Batch]] = lambda _: ()
    poll: Callable[[], None] = lambda: None

    def channel_scores(self) -> dict[str, np.ndarray]:
        """The importance of each channel, {group name: [C_g]}, by the configured criterion on the
        current weights. Charges the account with the images that the criterion looks at, forward
        and backward."""
        seen = 0

        def counted() -> Iterator[Batch]:
            nonlocal seen
            for images, labels in self.batches:
                seen += len(images)
                yield images, labels

        scores = score_groups(self.model, self.groups, criterion=self.config.criterion,
                              seed=self.config.seed, data=counted())
        self.account.train(seen, self.cost_model.dense.macs)
        return scores

    def select(self, widths: Mapping[str, int]) -> Masks:
        """Masks of these widths by the configured criterion on the current weights."""
        return best_channels(self.groups, widths, self.channel_scores())


@dataclasses.dataclass(frozen=True)
class Decision:
    """What stays of the model.

    Attributes:
        masks: {group name: bool [C_g]}, empty for the dense model.
        removed: blocks that disappear; the masks are then of the groups of what is left.
        search_equivalents: what the search has cost, in epochs; see EpochAccount.
        zeros: single weights that become zero and stay it, {path of a kernel: bool of its shape,
            True = zero}; beside to_json in a file of its own, see tfprune.pruning.sparsity.
    """
    masks: Masks
    removed: tuple[str, ...] = ()
    search_equivalents: float = 0.0
    zeros: Zeros = dataclasses.field(default_factory=dict)

    @property
    def widths(self) -> dict[str, int]:
        return widths_of(self.masks)

    def to_json(self) -> dict[str, Any]:
        """Widths and kept indices by group, removed blocks, cost of the search."""
        return {'groups': {name: {'width': int(mask.sum()), 'dense_width': len(mask),
                                  'kept': np.flatnonzero(mask).tolist()}
                           for name, mask in self.masks.items()},
                'removed': list(self.removed), 'search_equivalents': self.search_equivalents}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> 'Decision':
        """Inverse of to_json."""
        masks = {}
        for name, row in values['groups'].items():
            masks[name] = np.zeros(row['dense_width'], bool)
            masks[name][row['kept']] = True
        return cls(masks, tuple(values['removed']), values['search_equivalents'])


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What a method reports after an epoch or a round: scalars for metrics.jsonl or rounds.jsonl;
    rows for episodes.jsonl, each with `source`, who acted, and `reward`."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    episodes: tuple[Mapping[str, Any], ...] = ()


class Method(tf.Module):
    """A way to decide what is pruned.

    Class attributes:
        prunes: False trains the dense model to the end.
        only_decides: neither penalizes nor acts after epochs, so that the epochs before surgery
            are those of any other such method.
        decides_first: the decision is taken, and surgery done, before the first epoch.
        conditional: one search gives a decision for each of `ratios`.
        Options: frozen dataclass of what --method_options may set.

    Attributes:
        options: an instance of Options.
    """
    prunes = True
    decides_first = False
    only_decides = False
    conditional = False
    Options: type = NoOptions

    def __init__(self, problem: Problem):
        super().__init__()
        self.problem = problem
        self.options = self.parse(problem.config)

    @classmethod
    def parse(cls, config: Config) -> Any:
        """The Options that a configuration gives; ValueError in one line."""
        return parse_options(cls.Options, config.method_options, config.method)

    @classmethod
    def check(cls, config: Config) -> None:
        """Before a run of `config` does anything: ValueError, in one line with what to do, for
        options that are wrong, and where the method would search nothing, as another one does."""
        cls.parse(config)

    @classmethod
    def needs_budget(cls, options: Any) -> bool:
        """Whether there must be a limit that the decision keeps."""
        del options
        return cls.prunes

    @classmethod
    def distils(cls, options: Any) -> bool:
        """Whether fine-tuning also follows the dense model's logits; the method charges that."""
        del options
        return False

    def penalty(self) -> tf.Tensor | None:
        """A scalar that each training step adds to the loss; a function of variables."""
        return None

    def phase(self, epoch: int) -> str:
        """What the method calls this epoch before surgery, for the report."""
        del epoch
        return 'train'

    def after_epoch(self, epoch: int) -> EpochResult:
        """Called after each epoch before surgery, weights frozen.

        Args:
            epoch: counts from 0.
        """
        del epoch
        return EpochResult()

    def rounds(self) -> int:
        """Rounds of search on the weights after the last epoch before surgery."""
        return 0

    def search(self, round_: int) -> EpochResult:
        """One round, counted from 0: some seconds to a minute; all is saved after it."""
        raise NotImplementedError

    def decide(self) -> Decision:
        """The decision, inside the budget; called once, after epochs and rounds."""
        raise NotImplementedError

    def ratios(self) -> tuple[float, ...]:
        """Of a conditional method: the budget ratios that its search serves."""
        return ()

    def decide_for(self, budget: Budget) -> Decision:
        """Of a conditional method: the decision for one of these budgets."""
        raise NotImplementedError
