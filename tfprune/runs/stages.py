"""The stages of a run: epochs and their learning rates, before surgery and after it."""
import dataclasses
import functools

import numpy as np

from tfprune.data.examples import Examples
from tfprune.runs.state import FineTuning, State
from tfprune.training.schedule import Followed, Rest, Schedule

Rate = Schedule | Followed | Rest


@dataclasses.dataclass(frozen=True)
class Stage:
    """Epochs under a learning-rate schedule: begin <= epoch < end.

    Attributes:
        data: what is trained on.
        steps: of the whole stage; its last epoch may be cut short.
        per_epoch: steps of each other epoch.
    """
    begin: int
    end: int
    data: Examples
    steps: int
    per_epoch: int
    schedule: Rate

    @classmethod
    def of(cls, begin: int, steps: int, per_epoch: int, data: Examples, schedule: Rate) -> 'Stage':
        """The stage of so many steps from epoch `begin` on."""
        return cls(begin, begin + -(-steps // per_epoch), data, steps, per_epoch, schedule)

    def steps_in(self, epoch: int) -> int:
        """Steps of an epoch."""
        return min(self.per_epoch, self.steps - self._place(epoch, 0))

    def learning_rate(self, epoch: int, step: int) -> float:
        """The schedule's rate at a step of an epoch."""
        return self.schedule(self._place(epoch, step))

    def rate_share(self, epoch: int, step: int) -> float:
        """That rate over the sum of those from it to the end of the stage: 1 at the last step.
        Where all of these are zero, the step's part of those that are left."""
        place = self._place(epoch, step)
        left = self._rates_left[place]
        return float(self.schedule(place) / left) if left > 0 else 1 / (self.steps - place)

    def left(self, epoch: int, step: int) -> float:
        """The share of the stage's steps that a step of an epoch begins: 1 at the first."""
        return 1 - self._place(epoch, step) / self.steps

    def _place(self, epoch: int, step: int) -> int:
        """Of a step of an epoch, in the stage."""
        return (epoch - self.begin) * self.per_epoch + step

    @functools.cached_property
    def _rates_left(self) -> np.ndarray:
        """The sum of the rates from each step on, float64 [steps]."""
        rates = np.array([self.schedule(step) for step in range(self.steps)])
        return np.cumsum(rates[::-1])[::-1]


def stage_before_surgery(state: State, data: Examples) -> Stage:
    """The epochs before surgery, on these examples."""
    per_epoch = data.num_train // state.config.training.batch_size
    return Stage.of(0, state.config.epochs.search * per_epoch, per_epoch, data,
                    _followed(state, 'learning_rate', 0) or _schedule(state, per_epoch))


def stage_after_surgery(state: State, plan: FineTuning) -> Stage:
    """The epochs of fine-tuning: under what is left of the schedule, or one of their own."""
    recipe, begin = state.recipe, state.config.epochs.search
    before = plan.per_epoch if state.method.decides_first else state.steps_per_epoch
    schedule: Rate | None = _followed(state, 'fine_tune_learning_rate',
                                      begin * state.steps_per_epoch)
    if schedule is None and recipe.continues:
        schedule = Rest(_schedule(state, before), begin * before, plan.steps)
    return Stage.of(begin, plan.steps, plan.per_epoch, plan.data, schedule or Schedule(
        state.config.training.schedule, recipe.fine_tune_learning_rate, plan.steps))


def _schedule(state: State, per_epoch: int) -> Schedule:
    """The recipe's from the first epoch on: to surgery, or to the end where it continues."""
    options, epochs = state.config.training, state.config.epochs
    after = FineTuning.planned(state).steps if state.recipe.continues else 0
    return Schedule(options.schedule, state.recipe.learning_rate,
                    epochs.search * per_epoch + after, round(options.lr_warmup_epochs * per_epoch))


def _followed(state: State, rate: str, first: int) -> Followed | None:
    """The schedule that the model is compiled with, from a step of the run on, where it stands in
    place of that rate of the recipe."""
    recipe, compiled = state.recipe, state.compiled
    if not (recipe.follows and rate not in recipe.stated and compiled):
        return None
    return Followed(compiled.scheduled_rate, first)
