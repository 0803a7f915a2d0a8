"""The metric by which a run is judged, and the reward of a sub-network that it gives."""
from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric of held-out and of test examples.

    Rewards are the larger the better, and near 0 … 1, for which agents are tuned. A share of which
    more is better is the reward itself. Any other metric v gives, from its value v_0 of the model
    that a run begins with,

        r = 1/2 + d / (2 (1 + |d|)),    d = (v - v_0) / |v_0|, of the other sign if less is better

    Attributes:
        name: as Keras logs it, without 'val_'.
        larger_is_better: whether it is to be maximized.
        is_share: whether it is shown in percent.
        is_accuracy: whether it is a share of right answers to examples, each right or wrong.
        start: v_0; None where the metric is the reward itself.
    """
    name: str
    larger_is_better: bool = True
    is_share: bool = False
    is_accuracy: bool = False
    start: float | None = None

    def starting_at(self, value: float) -> Measure:
        """The measure of a run that begins with this value; ValueError where it is none."""
        if not math.isfinite(value):
            raise ValueError(f'{self.name} of the model on held-out examples is {value}; expected '
                             'a finite number')
        if self.larger_is_better and self.is_share and 0 <= value <= 1:
            return self
        return dataclasses.replace(self, start=value)

    def reward(self, value: float) -> float:
        """The reward of a value; 0 of one that is no number."""
        if not math.isfinite(value):
            return 0.0
        if self.start is None:
            return value
        gain = (value - self.start) / (abs(self.start) or 1.0)
        gain = gain if self.larger_is_better else -gain
        return 0.5 + gain / (2 * (1 + abs(gain)))

    def value(self, reward: float) -> float:
        """The value that has a reward."""
        if self.start is None:
            return reward
        share = 2 * reward - 1
        if abs(share) >= 1:
            return math.inf if (share > 0) == self.larger_is_better else -math.inf
        gain = share / (1 - abs(share))
        gain = gain if self.larger_is_better else -gain
        return self.start + gain * (abs(self.start) or 1.0)

    def shown(self, value: float) -> str:
        """'91.20%' of a share, else '0.4213'."""
        return f'{value:.2%}' if self.is_share else f'{value:.4g}'

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a report has them."""
        return {'metric': self.name, 'larger_is_better': self.larger_is_better,
                'is_share': self.is_share, 'is_accuracy': self.is_accuracy, 'start': self.start}


ACCURACY = Measure('accuracy', is_share=True, is_accuracy=True)
