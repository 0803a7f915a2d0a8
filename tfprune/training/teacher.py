"""A teacher's share of the loss, and how it changes over the steps of a student."""
import dataclasses
from collections.abc import Callable, Mapping

import keras


def known_better(own: float, teachers: float) -> float:
    """The part of a student's distance from the targets that its teacher has not, in [0, 1]; 1
    before the first step, when both are 0. Where distances are negative, as those of targets that
    are no probabilities can be, all or nothing."""
    if own <= 0:
        return float(teachers < own or own == teachers == 0)
    return min(1.0, max(0.0, 1 - teachers / own))


# Schedule -> what it leaves of a teacher's share, by the share of all steps that are left, 1 to 0,
# and by the distance from the targets of late (Task.distance), the student's and the teacher's on
# the same examples, of a student that answers as in training.
SCHEDULES: Mapping[str, Callable[[float, float, float], float]] = {
    'constant': lambda left, own, teachers: 1.0,
    # Teacher annealing: Clark et al. 2019, arXiv 1907.04829.
    'linear': lambda left, own, teachers: left,
    # That part of the student's distance which the teacher has not. Nothing is to be learnt of one
    # that answers no better; under a constant share the student would stay where it is.
    'adaptive': lambda left, own, teachers: known_better(own, teachers),
}


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model whose answers a student learns: see tfprune.tasks.soft_targets.

    Attributes:
        model: with the same inputs and outputs, created under the strategy; its weights stay.
        share: a in [0, 1], of the loss, at most.
        temperature: T > 0, of the answers.
        schedule: a key of SCHEDULES.
    """
    model: keras.Model
    share: float
    temperature: float
    schedule: str = 'constant'

    def share_of(self, left: float, own: float, teachers: float) -> float:
        """Its share of the loss in a step, by what SCHEDULES take; distances are 0 before the
        first."""
        return self.share * SCHEDULES[self.schedule](left, own, teachers)
