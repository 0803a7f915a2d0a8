"""The first epoch of weights that were given: it must not ruin them.

Weights at their minimum bear a far smaller learning rate than random ones. After the first epoch
the mean score of held-out examples (Task.scores; accuracy of a classifier) is compared with that
of the model as given:

    fell by more than 3 standard errors (tfprune.significance)

on held-out examples *and* on as many examples that are trained on. The first alone says nothing
where the given weights had been trained on the held-out ones too: what they had memorized is lost.
Nor is it a rate's doing where batch-norm statistics become those of the examples here: Given's
floors.
"""
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfprune.run_files import read_json
from tfprune.runs.folder import RunFolder
from tfprune.runs.recipe import FILE, Recipe
from tfprune.significance import Scored
from tfprune.training.step import Trainer

LOWER = 0.1  # a rate that ruins the weights is multiplied by it
_MOST_LOWERED = 3  # times


def lowered(run_dir: pathlib.Path) -> dict[float, str]:
    """Each factor of the recipe's rate to which a run has lowered it -> what was said."""
    rows = (read_json(run_dir / FILE) or {}).get('lowered', {})
    return {float(factor): said for factor, said in rows.items()}


def note_lowered(folder: RunFolder, rows: Mapping[float, str]) -> None:
    """Keeps in the run's folder that the rate was lowered: rows of `lowered`, beside those there
    are."""
    if rows:
        known = {**lowered(folder.path), **rows}
        folder.update_json(FILE, {
            'lowered': {repr(factor): said for factor, said in known.items()}})


def fine_tune_factor(run_dir: pathlib.Path, recipe: Recipe) -> float:
    """What rates after surgery are multiplied by: lowered too, where the recipe's is the very one
    that was too high."""
    is_same = (recipe.fine_tune_learning_rate == recipe.learning_rate
               and 'fine_tune_learning_rate' not in recipe.stated)
    return min(lowered(run_dir), default=1.0) if is_same else 1.0


@dataclasses.dataclass(frozen=True)
class FirstEpoch:
    """What the first epoch is judged by.

    Attributes:
        held_out: scores of the given weights on held-out examples, `Given.held_out_floor`.
        trained_on: those on `sample`, `Given.trained_on_floor`.
        sample: examples that are trained on, not augmented.
        weights: the given values of the model's variables.
        may_lower: whether the rate was left to us; else a ruined model stops the run.
        shown: a mean score in words.
        of_pictures: whether the examples are pictures with classes.
    """
    held_out: Scored
    trained_on: Scored
    sample: tf.data.Dataset
    weights: Sequence[np.ndarray]
    may_lower: bool
    shown: Callable[[float], str]
    of_pictures: bool

    def is_ruined(self, held_out: Scored, score: Callable[[tf.data.Dataset], Scored]) -> bool:
        """Whether the epoch lowered both; `held_out` is that after it."""
        return self.held_out.lost(held_out) and self.trained_on.lost(score(self.sample))

    def begin_again(self, trainer: Trainer, held_out: Scored, rate: float) -> str:
        """Takes the given weights back and lowers the rate; says so.

        Raises:
            ValueError: the rate was asked for, or has been lowered often enough; says what to do.
        """
        said = ('the first epoch made the model worse on held-out examples, from '
                f'{self.shown(self.held_out.mean)} to {self.shown(held_out.mean)}')
        factor = float(trainer.rate_factor) * LOWER
        if not self.may_lower:
            raise ValueError(
                f'{said} at --learning_rate={rate:g}: give a lower one, or none, so that it is '
                'chosen for the given weights; --nocheck_first_epoch goes on regardless.')
        if factor < LOWER ** (_MOST_LOWERED + 0.5):
            parts = ('range of pixels, order of classes' if self.of_pictures
                     else 'scale of inputs, meaning and scale of targets')
            raise ValueError(
                f'{said}, also at a learning rate of {rate:g}: is the data what the model was '
                f'trained on ({parts})? --nocheck_first_epoch goes on regardless.')
        trainer.restart(self.weights, factor)
        return f'{said} at a learning rate of {rate:g}; it begins again at {rate * LOWER:g}'
