"""The contract of a pruning method: what it is given, what it returns, what is checkpointed.

A run trains the epochs before surgery and calls `after_epoch` after each. With the weights as they
are then it runs the method's rounds of search, asks for the decision, performs surgery and
fine-tunes. A method's state is its tf.Variables (it is a tf.Module and is checkpointed as one,
after each epoch and each round); a method without state is a function of the weights.
"""
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.costs.budget import Budget
from tfprune.methods.options import NoOptions, Options
from tfprune.pruning.masks import Masks, widths_of
from tfprune.pruning.sparsity import Zeros
from tfprune.search.companion import Companion
from tfprune.search.problem import Problem
from tfprune.training.options import Epochs


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
class Trained:
    """What training says of an epoch: its held-out metric as a reward, of the whole model; the last
    learning rate. NaN for what is not known."""
    reward: float = math.nan
    learning_rate: float = math.nan


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What a method reports after an epoch or a round: scalars for metrics.jsonl or rounds.jsonl;
    rows for episodes.jsonl, each with `source`, who acted, and `reward`."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    episodes: tuple[Mapping[str, Any], ...] = ()


class Method(tf.Module):
    """A way to decide what is pruned: made of its options, started on a problem.

    Class attributes:
        prunes: False trains the dense model to the end.
        only_decides: neither penalizes nor acts after epochs, so that the epochs before surgery
            are those of any other such method.
        decides_first: the decision is taken, and surgery done, before the first epoch.
        is_control: what others have to beat at the same budget.
        conditional: one search gives a decision for each of `ratios`.
        needs_examples: it trains, on `Problem.train_batches` and `held_out`, of a classifier.
        phases: what `phase` may say -> how a report says it.
        sources: `source` of rows of episodes -> how a report says it; those of random actions
            begin with 'random'.
        Options: frozen dataclass of what it may be told.

    Args:
        options: an instance of Options; None for the defaults.

    Attributes:
        options: what it was told.
        problem: what it works on, once it has started.
    """
    prunes = True
    decides_first = False
    only_decides = False
    is_control = False
    conditional = False
    needs_examples = False
    phases: Mapping[str, str] = {'train': 'training'}
    sources: Mapping[str, str] = {'random': 'random actions', 'policy': 'policy'}
    Options: type[Options] = NoOptions

    def __init__(self, options: Any = None):
        super().__init__()
        self.options: Any = self.Options() if options is None else options

    def check(self, epochs: Epochs) -> None:
        """Before a run of so many epochs does anything: ValueError, in one line with what to do,
        where the method would search nothing, as another one does."""
        del epochs

    @property
    def needs_budget(self) -> bool:
        """Whether there must be a limit that the decision keeps."""
        return self.prunes

    @property
    def leaves_zeros(self) -> bool:
        """Whether single weights become zero, and must stay it in whatever trains them."""
        return False

    @property
    def has_rounds(self) -> bool:
        """Whether it searches on trained weights."""
        return type(self).rounds is not Method.rounds

    def start(self, problem: Problem) -> None:
        """Makes what the search needs: variables, agents. Called once, before anything below but
        `ratios`."""
        self.problem = problem

    def penalty(self) -> tf.Tensor | None:
        """A scalar that each training step adds to the loss; a function of variables."""
        return None

    def constrain(self) -> Callable[[tf.Tensor], None] | None:
        """What assigns weights after each training step, across replicas; called with the step's
        learning rate over the sum of those to surgery, a scalar in [0, 1]."""
        return None

    def companion(self) -> Companion | None:
        """What trains beside the whole network in some of the steps."""
        return None

    def phase(self, epoch: int) -> str:
        """What the method calls this epoch before surgery, for the report."""
        del epoch
        return 'train'

    def after_epoch(self, epoch: int, coming: int, trained: Trained = Trained()) -> EpochResult:
        """Called after each epoch that is trained before surgery, weights frozen.

        Args:
            epoch: counts from 0.
            coming: the epoch that comes next: the one after it, unless a callback has ended the
                phase and those between are left out; that of surgery after the last.
            trained: what training says of it.
        """
        del epoch, coming, trained
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
