"""Whose answers the pruned model learns from: the model as given, or as it was before surgery.

    random weights                    the dense model just before surgery
    given ones, no epochs before      the model as given
    given ones, epochs before         whichever answers held-out examples better then: epochs before
                                      surgery may have made it better or worse than it came

The last is decided once, after surgery, and kept in the run's folder.
"""
from typing import Any

import keras
import tensorflow as tf

from tfprune.models.model_files import read_keras_file
from tfprune.run_files import read_json
from tfprune.runs.recipe import FILE
from tfprune.runs.state import State
from tfprune.training.distribution import from_chief
from tfprune.training.step import Evaluator, Teacher


def teacher_of(state: State) -> Teacher | None:
    """Of the epochs after surgery; None without distillation.

    Raises:
        ValueError: the file of the dense model is lost.
    """
    share, options = state.recipe.distillation, state.config.training
    if not share:
        return None
    model = state.given_model
    if model is None or state.surgery_epoch:
        dense = _before_surgery(state, share)
        if model is None or _learnt_before_surgery(state, dense):
            model = dense
    return Teacher(model, share, options.distillation_temperature)


def said_of_teacher(run_dir: Any) -> list[str]:
    """What was said where there were two to choose from."""
    found = (read_json(run_dir / FILE) or {}).get('teacher')
    return [found['said']] if found else []


def _before_surgery(state: State, share: float) -> keras.Model:
    """The dense model from its file, as a run that is resumed after surgery has it nowhere else."""
    from_chief(state.strategy, 'the file is written')
    path = state.folder.path / 'dense.keras'
    if not path.exists():
        raise ValueError(f'{path}: lost, and with it the teacher of --distillation={share:g}; '
                         'begin anew in another run_dir.')
    with state.strategy.scope():
        return read_keras_file(path)


def _learnt_before_surgery(state: State, dense: keras.Model) -> bool:
    """Whether the dense model is better than as given, on held-out examples."""
    known: dict[str, Any] | None = None
    if state.is_chief:
        known = (state.folder.read_json(FILE) or {}).get('teacher')
        if known is None:
            known = _compared(state, dense)
            state.folder.write_json(FILE, state.folder.read_json(FILE) | {'teacher': known})
            state.progress.say(f'{known["said"]}.')
    return bool(from_chief(state.strategy, known)['is_dense'])


def _compared(state: State, dense: keras.Model) -> dict[str, Any]:
    assert state.given is not None  # or there would be no given model
    evaluate = Evaluator(dense, tf.distribute.get_strategy(), task=state.task)
    given, then = state.given.held_out.mean, evaluate.scored(state.held_out_batches()).mean
    is_dense, shown = then > given, state.task.shown_score
    name = 'the model just before surgery' if is_dense else 'the model as given'
    return {'is_dense': is_dense,
            'said': f'its teacher is {name}: on held-out {state.task.examples} {shown(then)} just '
                    f'before surgery, {shown(given)} as given'}
