"""Learning rates as functions of the step."""
import dataclasses
import math
from typing import Callable

from tfprune.errors import unknown


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step.

    kind 'cosine' falls from `peak` to 0; 'step' divides by 10 at 1/2 and 3/4 of the steps. Both
    after `warmup_steps` of linear rise.
    """
    kind: str
    peak: float
    steps: int
    warmup_steps: int = 0

    def __call__(self, step: float) -> float:
        """Learning rate of step 0 <= step < steps; between two steps, too."""
        if step < self.warmup_steps:
            return self.peak * min(1.0, (step + 1) / self.warmup_steps)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.kind == 'cosine':
            return self.peak * 0.5 * (1 + math.cos(math.pi * done))
        if self.kind == 'step':
            return self.peak * (1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
        raise unknown('schedule', self.kind, ('cosine', 'step'))


@dataclasses.dataclass(frozen=True)
class Followed:
    """A schedule that a model is compiled with, from a step of it on.

    rate: steps from now -> the rate.
    """
    rate: Callable[[int], float]
    first: int = 0

    @property
    def peak(self) -> float:
        """Its first rate."""
        return self(0)

    def __call__(self, step: int) -> float:
        """Learning rate of a step."""
        return self.rate(self.first + step)


@dataclasses.dataclass(frozen=True)
class Rest:
    """What is left of a schedule from its step `first` on, in so many steps.

    Where these are fewer than were planned it is passed through the faster: it begins at the rate
    of `first` and comes to its end all the same.
    """
    whole: Schedule
    first: int
    steps: int

    @property
    def peak(self) -> float:
        """Its first rate."""
        return self(0)

    def __call__(self, step: int) -> float:
        """Learning rate of step 0 <= step < steps."""
        planned = self.whole.steps - self.first
        return self.whole(self.first + step * planned / self.steps)
