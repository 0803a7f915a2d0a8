"""What is known of a model that came with weights, and how it is trained on: plain values."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfprune.significance import Scored

FILE = 'training.json'  # in a run folder


@dataclasses.dataclass(frozen=True)
class Given:
    """What the model scored before anything was done to it.

    Attributes:
        test: metrics on the test examples.
        held_out: scores of held-out training examples, which it may have been trained on.
        trained_on: of as many training examples.
        is_trained: whether it knows more than chance.
        held_out_floor, trained_on_floor: the lower of each of the two and that under batch-norm
            statistics of the training examples as they are augmented here, which any training
            brings.
        found: metrics on the test examples with the batch-norm statistics that it came with, where
            these lag behind its weights and it is taken with re-estimated ones; None elsewhere.
    """
    test: Mapping[str, float]
    held_out: Scored
    trained_on: Scored
    is_trained: bool
    held_out_floor: Scored
    trained_on_floor: Scored
    found: Mapping[str, float] | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Given:
        """Of plain values, as `dataclasses.asdict` gives them."""
        return cls(**{name: Scored(**value) if 'error' in (
            value if isinstance(value, dict) else ()) else value
            for name, value in values.items()})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How weights are trained where flags do not say it.

    Attributes:
        optimizer: configuration of the Keras optimizer; None for SGD with momentum.
        learning_rate, fine_tune_learning_rate: peaks before and after surgery.
        weight_decay: L2 coefficient beside the model's own regularizers.
        distillation: a teacher's share of the loss, at most.
        reasons: why, in sentences.
        stated: those of these numbers that flags say.
        augmentation: what is done to training images, `ImageData.augmented`; '' for what the
            configuration says.
        follows: whether the learning rate is that of the schedule that the model is compiled with.
        continues: whether the epochs after surgery go on with the schedule of those before it, and
            with their optimizer's state; else a new optimizer begins a schedule of its own.
    """
    optimizer: Mapping[str, Any] | None
    learning_rate: float
    fine_tune_learning_rate: float
    weight_decay: float
    distillation: float = 0.0
    reasons: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    augmentation: str = ''
    follows: bool = False
    continues: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Inverse of to_json."""
        return cls(**{**values, 'reasons': tuple(values['reasons']),
                      'stated': tuple(values['stated'])})


FROM_RANDOM = Recipe(None, learning_rate=0.1, fine_tune_learning_rate=0.05, weight_decay=1e-4)
