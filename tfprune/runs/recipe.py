"""What is known of a model that came with weights, and how it is trained on: plain values."""
import dataclasses
from typing import Any, Mapping


FILE = 'training.json'  # in a run folder


@dataclasses.dataclass(frozen=True)
class Given:
    """What the model scored before anything was done to it.

    Attributes:
        test_accuracy: on the test images, in [0, 1].
        held_out_accuracy: on `images` held-out training images, which it may have been trained on.
        trained_on_accuracy: on as many of the training images.
        is_trained: whether it knows more than the commonest class.
        held_out_floor, trained_on_floor: the lower of each of the two accuracies and that under
            batch-norm statistics of the training images as they are augmented here, which any
            training brings.
    """
    test_accuracy: float
    held_out_accuracy: float
    trained_on_accuracy: float
    images: int
    is_trained: bool
    held_out_floor: float
    trained_on_floor: float


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How weights are trained where flags do not say it.

    Attributes:
        optimizer: configuration of the Keras optimizer; None for SGD with momentum.
        learning_rate, fine_tune_learning_rate: peaks before and after surgery.
        weight_decay: L2 coefficient beside the model's own regularizers.
        reasons: why, in sentences.
        stated: those of these numbers that flags say.
        augmentation: what is done to training images, `ImageData.augmented`; '' for what the
            configuration says.
    """
    optimizer: Mapping[str, Any] | None
    learning_rate: float
    fine_tune_learning_rate: float
    weight_decay: float
    reasons: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    augmentation: str = ''

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> 'Recipe':
        """Inverse of to_json."""
        return cls(**{**values, 'reasons': tuple(values['reasons']),
                      'stated': tuple(values['stated'])})


FROM_RANDOM = Recipe(None, learning_rate=0.1, fine_tune_learning_rate=0.05, weight_decay=1e-4)
