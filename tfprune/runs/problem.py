"""What a run works on, made before its first epoch."""
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tfprune.config import Config
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.data import ImageData
from tfprune.errors import Fault
from tfprune.methods import Decision
from tfprune.models import CompiledOptimizer
from tfprune.pruning.importance import score_groups
from tfprune.pruning.surgery import prune_model
from tfprune.runs.recipe import FROM_RANDOM, Given, Recipe
from tfprune.search.blocks import without_blocks
from tfprune.structure.groups import ChannelGroups
from tfprune.training.account import steps_left


@dataclasses.dataclass(frozen=True)
class Setup:
    """The dense model, what may be pruned of it, and how it is trained.

    Attributes:
        has_weights: whether the dense model came with weights of its own.
        compiled: the optimizer that it came with.
        given: what the model scored as it was given; None without weights of its own.
        recipe: how it is trained; its numbers, not the configuration's, which may be None.
    """
    config: Config
    data: ImageData
    model: keras.Model
    groups: ChannelGroups
    cost_model: CostModel
    budget: Budget
    has_weights: bool = False
    compiled: CompiledOptimizer | None = None
    given: Given | None = None
    recipe: Recipe = FROM_RANDOM


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What is trained after the decision.

    Attributes:
        data: the training images, those among them that were held out and that nothing scores.
        steps: in all.
        per_epoch: steps of an epoch.
    """
    data: ImageData
    steps: int
    per_epoch: int

    @property
    def epochs(self) -> float:
        """Epochs of its data."""
        return self.steps / self.per_epoch

    @classmethod
    def after(cls, setup: Setup, decision: Decision) -> 'FineTuning':
        """As the configuration says, less the search where that is charged."""
        config = setup.config
        data = setup.data.with_released(config.score_images)
        before, after = (each.num_train // config.batch_size for each in (setup.data, data))
        # An epoch of the account is one before the decision.
        charged = decision.search_equivalents * before / after if config.charge_search else 0.0
        return cls(data, steps_left(config.fine_tune_epochs, after, charged), after)


def apply_decision(setup: Setup, decision: Decision) -> keras.Model:
    """The model of `setup` without the blocks and channels that the decision removes."""
    left = without_blocks(setup, decision.removed)
    return prune_model(left.model, left.groups, decision.masks)


def check_within_budget(setup: Setup, decision: Decision) -> None:
    """Fault where a method decided on more than the budget allows: a fault of its own."""
    left = without_blocks(setup, decision.removed)
    widths = [decision.widths.get(name, width) for name, width in left.groups.items()]
    if not left.budget.fits(widths):
        cost = left.cost_model(dict(zip(left.groups, widths)))
        raise Fault(f'method {setup.config.method!r} decided on {cost}, which the budget '
                    f'{left.budget.to_json()} does not allow')


def held_out_batches(setup: Setup) -> tf.data.Dataset:
    """The held-out training images that score sub-networks and epochs."""
    config = setup.config
    return setup.data.reward_batches(config.score_batch_size).take(
        config.score_images // config.score_batch_size)


def criterion_batches(config: Config, data: ImageData) -> tf.data.Dataset:
    """Batches of training images for criteria that need data."""
    return data.calibration_batches(config.batch_size, config.criterion_batches)


def criterion_scores(setup: Setup) -> dict[str, np.ndarray]:
    """{group name: [C_g]}: the importance of each channel by the configured criterion."""
    config = setup.config
    return score_groups(setup.model, setup.groups, criterion=config.criterion, seed=config.seed,
                        data=criterion_batches(config, setup.data))
