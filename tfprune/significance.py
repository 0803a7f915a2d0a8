"""Differences of accuracies and of mean scores, and how many standard errors they are."""
import dataclasses
import math

import numpy as np

ERRORS = 3.0  # standard errors above which a difference is none of chance


def fell(before: float, after: float, images: int) -> bool:
    """Whether accuracy on so many images fell by more than ERRORS standard errors,

        sqrt(p_0 (1 - p_0) / n + p_1 (1 - p_1) / n)
    """
    variance = (before * (1 - before) + after * (1 - after)) / images
    return before - after > ERRORS * math.sqrt(variance)


@dataclasses.dataclass(frozen=True)
class Scored:
    """The mean of the scores of so many examples, and its standard error."""
    mean: float
    error: float
    examples: int

    def lost(self, after: 'Scored') -> bool:
        """Whether the mean fell by more than ERRORS standard errors of the difference."""
        return self.mean - after.mean > ERRORS * math.hypot(self.error, after.error)


def paired(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """(mean gain, its standard error) of scores of the same examples, [n] each."""
    gains = after.astype(float) - before.astype(float)
    return float(gains.mean()), float(gains.std() / math.sqrt(len(gains)))
