"""Whose answers the model learns from: those of the model as given, or as it was before surgery.

    before surgery, given weights     the model as given: what it knows is not to be lost there
    after it, random weights          the dense model just before surgery
    given ones, no epochs before      the model as given
    given ones, epochs before         whichever answers training examples better then: epochs before
                                      surgery may have made it better or worse than it came

What counts is how it answers training examples as they are shown, augmented: these are what it is
asked. A model that has not been trained on augmented examples answers them worse than others, and
held-out ones, which it may have been trained on, do not tell.

Its batch-norm statistics are re-estimated where its answers are then clearly better: moving
averages lag behind weights that have just moved, by points where an epoch has few steps. Both is
decided once, as these epochs begin, and kept in the run's folder.
"""
import pathlib
from typing import Any

import keras
import tensorflow as tf

from tfprune.models.initial_weights import load_initial_weights
from tfprune.models.model_files import read_keras_file
from tfprune.pruning.surgery import float32_copy, plain_copy
from tfprune.run_files import read_json
from tfprune.runs.folder import RunFolder
from tfprune.runs.recipe import FILE
from tfprune.runs.state import State
from tfprune.runs.statistics import settle, shown_examples
from tfprune.training.batch_norm import batch_norm_layers
from tfprune.training.distribution import from_chief
from tfprune.training.evaluation import Evaluator
from tfprune.training.seeding import NO_EPOCH, derived_seed, set_seed
from tfprune.training.teacher import Teacher

# What was chosen stands in the run's FILE under these names.
BEFORE, AFTER = 'teacher_before', 'teacher'
_SCORED = 2_000  # examples that tell who answers better, as far as an epoch has them


def teaches_before(state: State) -> bool:
    """Whether the given model teaches before surgery."""
    return state.given_model is not None and state.config.training.distillation_before_surgery


def teacher_before(state: State) -> Teacher | None:
    """Of the epochs before surgery: the model as given; None of random weights, or where it is not
    to teach."""
    if not teaches_before(state):
        return None
    return _teacher(state, state.given_model, _chosen(state, BEFORE, dense=False), 0)


def teacher_of(state: State, dense: keras.Model) -> Teacher | None:
    """Of the epochs after surgery; None without distillation, or such epochs.

    Args:
        dense: the model before surgery, of whatever weights: its layers compute as it trains, in
            bfloat16 where that is asked for.

    Raises:
        ValueError: the file of the dense model is lost.
    """
    if not (state.recipe.distillation and state.config.epochs.fine_tune_epochs):
        return None
    model = state.given_model
    chosen = _chosen(state, AFTER, dense=model is None or bool(state.surgery_epoch))
    if model is None or chosen['is_dense']:
        path = _dense_file(state)
        with state.strategy.scope():
            model = plain_copy(dense)
            load_initial_weights(model, path)
    return _teacher(state, model, chosen, 1)


def said_of_teacher(run_dir: pathlib.Path) -> list[str]:
    """What was said where there was something to choose."""
    found = read_json(run_dir / FILE) or {}
    said = (found.get(name, {}).get('said') for name in (BEFORE, AFTER))
    return [each for each in said if each]


def note_teacher_before(folder: RunFolder, source: pathlib.Path) -> None:
    """Keeps who taught before surgery in the run from which these epochs are taken."""
    found = (read_json(source / FILE) or {}).get(BEFORE)
    if found:
        folder.update_json(FILE, {BEFORE: found})


def _teacher(state: State, model: keras.Model, chosen: dict[str, Any], place: int) -> Teacher:
    options = state.config.training
    if chosen['is_settled']:
        # What its copy's random layers draw as it is settled is the same in a run that goes on.
        set_seed(derived_seed(state.config.seed, NO_EPOCH, place), model)
        with state.strategy.scope():
            model = plain_copy(model)
        settle(model, state.task, _examples(state), state.strategy)
    return Teacher(model, state.recipe.distillation, options.distillation_temperature,
                   options.distillation_schedule)


def _dense_file(state: State) -> pathlib.Path:
    """The dense model just before surgery, which a run that is resumed after it has nowhere else.
    """
    from_chief(state.strategy, 'the file is written')
    path = state.folder.path / 'dense.keras'
    if not path.exists():
        raise ValueError(f'{path}: lost, and with it the teacher of --distillation='
                         f'{state.recipe.distillation:g}; begin anew in another run_dir.')
    return path


def _chosen(state: State, name: str, dense: bool) -> dict[str, Any]:
    """{is_dense, is_settled, said}: whether the teacher is the model just before surgery, which may
    be where `dense`, with re-estimated statistics; why, if there was a choice."""
    known = from_chief(state.strategy, state.is_chief and (
        state.folder.read_json(FILE) or {}).get(name) or None)
    if known is None:
        path = _dense_file(state) if dense else None
        if state.is_chief:
            known = _compared(state, path)
            if name == BEFORE and known['said']:
                known['said'] = f'before surgery {known["said"]}'
            state.folder.update_json(FILE, {name: known})
            if known['said']:
                state.progress.say(f'{known["said"]}.')
        known = from_chief(state.strategy, known)
    return known


def _compared(state: State, path: pathlib.Path | None) -> dict[str, Any]:
    shown, found = state.task.shown_score, []
    if state.given_model is not None:
        found.append(_Candidate(state, 'as given', float32_copy(state.given_model)))
    if path:
        found.append(_Candidate(state, 'just before surgery', read_keras_file(path)))
    best = max(found, key=lambda each: each.best)
    said = ''
    if len(found) > 1 or best.is_settled:
        scores = ', '.join(f'{shown(each.own.mean)} {each.name}' for each in reversed(found))
        if best.is_settled:
            scores = f'{shown(best.best)} so, {scores}'
        said = (f'its teacher is the model {best.name}'
                + ' with re-estimated batch-norm statistics' * best.is_settled
                + f': on training {state.task.examples} as they are shown {scores}')
    return {'is_dense': best is not found[0] or state.given_model is None,
            'is_settled': best.is_settled, 'said': said}


class _Candidate:
    """A float32 model that may teach, and its scores on training examples as they are shown.

    Attributes:
        name: which of the run's models it is.
        own: its score as it is.
        is_settled: whether it is better by re-estimated batch-norm statistics, by more than
            chance, which it then has.
        best: its mean score.
    """

    def __init__(self, state: State, name: str, model: keras.Model):
        strategy = tf.distribute.get_strategy()
        evaluate = Evaluator(model, strategy, task=state.task)
        self.name, self.own = name, evaluate.scored(_scored_by(state))
        self.best, self.is_settled = self.own.mean, False
        if batch_norm_layers(model):
            settle(model, state.task, _examples(state), strategy)
            then = evaluate.scored(_scored_by(state))
            if then.lost(self.own):
                self.best, self.is_settled = then.mean, True


def _examples(state: State) -> tf.data.Dataset:
    return shown_examples(state.data, state.config.training.batch_size)


def _scored_by(state: State) -> tf.data.Dataset:
    """Those of another epoch, which statistics are not of."""
    size = state.config.training.batch_size
    return state.data.train_batches(1, size).take(-(-_SCORED // size))
