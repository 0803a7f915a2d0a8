"""Whose answers the pruned model learns from: the model as given, or as it was before surgery.

    random weights                    the dense model just before surgery
    given ones, no epochs before      the model as given
    given ones, epochs before         whichever answers held-out examples better then: epochs before
                                      surgery may have made it better or worse than it came

The last is decided once, after surgery, and kept in the run's folder.
"""
import pathlib
from typing import Any

import keras
import tensorflow as tf

from tfprune.models.initial_weights import load_initial_weights
from tfprune.models.model_files import read_keras_file
from tfprune.pruning.surgery import plain_copy
from tfprune.run_files import read_json
from tfprune.runs.recipe import FILE
from tfprune.runs.state import State
from tfprune.training.distribution import from_chief
from tfprune.training.step import Evaluator, Teacher


def teacher_of(state: State, dense: keras.Model) -> Teacher | None:
    """Of the epochs after surgery; None without distillation.

    Args:
        dense: the model before surgery, of whatever weights: its layers compute as it trains, in
            bfloat16 where that is asked for.

    Raises:
        ValueError: the file of the dense model is lost.
    """
    share, options = state.recipe.distillation, state.config.training
    if not share:
        return None
    model = state.given_model
    if model is None or state.surgery_epoch and _learnt_before_surgery(state):
        path = _dense_file(state)
        with state.strategy.scope():
            model = plain_copy(dense)
            load_initial_weights(model, path)
    return Teacher(model, share, options.distillation_temperature)


def said_of_teacher(run_dir: pathlib.Path) -> list[str]:
    """What was said where there were two to choose from."""
    found = (read_json(run_dir / FILE) or {}).get('teacher')
    return [found['said']] if found else []


def _dense_file(state: State) -> pathlib.Path:
    """The dense model just before surgery, which a run that is resumed after it has nowhere else.
    """
    from_chief(state.strategy, 'the file is written')
    path = state.folder.path / 'dense.keras'
    if not path.exists():
        raise ValueError(f'{path}: lost, and with it the teacher of --distillation='
                         f'{state.recipe.distillation:g}; begin anew in another run_dir.')
    return path


def _learnt_before_surgery(state: State) -> bool:
    """Whether the model was better just before surgery than as given, on held-out examples."""
    known = from_chief(state.strategy, state.is_chief and (
        state.folder.read_json(FILE) or {}).get('teacher') or None)
    if known is None:
        path = _dense_file(state)
        if state.is_chief:
            known = _compared(state, read_keras_file(path))
            state.folder.write_json(FILE, state.folder.read_json(FILE) | {'teacher': known})
            state.progress.say(f'{known["said"]}.')
        known = from_chief(state.strategy, known)
    return bool(known['is_dense'])


def _compared(state: State, dense: keras.Model) -> dict[str, Any]:
    assert state.given is not None  # or there would be no given model
    evaluate = Evaluator(dense, tf.distribute.get_strategy(), task=state.task)
    given, then = state.given.held_out.mean, evaluate.scored(state.held_out_batches()).mean
    is_dense, shown = then > given, state.task.shown_score
    name = 'the model just before surgery' if is_dense else 'the model as given'
    return {'is_dense': is_dense,
            'said': f'its teacher is {name}: on held-out {state.task.examples} {shown(then)} just '
                    f'before surgery, {shown(given)} as given'}
