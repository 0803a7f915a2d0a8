"""The contract of a pruning method: what it is given, what it returns, what is checkpointed.

The trainer runs `search_epochs` epochs; after each it calls `after_epoch`. Then it asks for the
decision, performs surgery and fine-tunes. A method's state is its tf.Variables (it is a tf.Module
and is checkpointed as one); a method without state is a function of the weights.
"""
import dataclasses
from typing import Any, Callable, Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune.budget import Budget
from tfprune.config import Config
from tfprune.costs import CostModel
from tfprune.criteria import Batch, score_groups
from tfprune.groups import ChannelGroups
from tfprune.masks import Masks, best_channels, widths_of


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a method is given.

    Attributes:
        model: the dense model, whose weights train.
        groups, cost_model, budget: what may be pruned, what it costs, what is allowed.
        score: masks -> accuracy in [0, 1] on held-out training images; never test data.
        batches: (images, labels) that are trained on, for criteria that need data.
        scope: context manager factory under which variables are to be created.
    """
    config: Config
    model: keras.Model
    groups: ChannelGroups
    cost_model: CostModel
    budget: Budget
    score: Callable[[Mapping[str, np.ndarray]], float]
    batches: Iterable[Batch]
    scope: Callable[[], Any]

    def channel_scores(self) -> dict[str, np.ndarray]:
        """{group name: [C_g]} by the configured criterion on today's weights."""
        return score_groups(self.model, self.groups, criterion=self.config.criterion,
                            seed=self.config.seed, data=self.batches)

    def select(self, widths: Mapping[str, int]) -> Masks:
        """Masks of these widths by the configured criterion on today's weights."""
        return best_channels(self.groups, widths, self.channel_scores())


@dataclasses.dataclass(frozen=True)
class Decision:
    """Which channels stay: masks {group name: bool [C_g]}, empty for the dense model."""
    masks: Masks

    @property
    def widths(self) -> dict[str, int]:
        return widths_of(self.masks)

    def to_json(self) -> dict[str, Any]:
        """Widths and kept indices by group."""
        return {name: {'width': int(mask.sum()), 'kept': np.flatnonzero(mask).tolist()}
                for name, mask in self.masks.items()}

    @classmethod
    def from_json(cls, rows: Mapping[str, Any], groups: ChannelGroups) -> 'Decision':
        """Inverse of to_json."""
        masks = {}
        for name, row in rows.items():
            masks[name] = np.zeros(groups[name], bool)
            masks[name][row['kept']] = True
        return cls(masks)


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What a method reports after an epoch: scalars for metrics.jsonl, rows for episodes.jsonl."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    episodes: tuple[Mapping[str, Any], ...] = ()


class Method(tf.Module):
    """A way to decide what is pruned.

    Class attributes:
        prunes: False trains the dense model to the end.
        only_decides: neither penalises nor acts after epochs, so that the epochs before surgery
            are those of any other such method.
        decides_first: the decision is taken, and surgery done, before the first epoch.
    """
    prunes = True
    decides_first = False
    only_decides = False

    def __init__(self, problem: Problem):
        super().__init__()
        self.problem = problem

    def penalty(self) -> tf.Tensor | None:
        """A scalar that each training step adds to the loss; a function of variables."""
        return None

    def phase(self, epoch: int) -> str:
        """What the method calls this epoch before surgery, for the report."""
        del epoch
        return 'train'

    def after_epoch(self, epoch: int, full_accuracy: float) -> EpochResult:
        """Called after each epoch before surgery, weights frozen.

        Args:
            epoch: counts from 0.
            full_accuracy: the full model's accuracy on the images that score sub-networks.
        """
        del epoch, full_accuracy
        return EpochResult()

    def decide(self) -> Decision:
        """The decision, inside the budget; called once, after the last epoch before surgery."""
        raise NotImplementedError
