"""The optimizer's state across surgery: its slots are cut as the weights are.

That of the last step before surgery is a file of the run's folder, so that a run that is killed
between surgery and the checkpoint after it finds it again, and one that takes the epochs before
surgery from another run has it, too.
"""
import pathlib
import shutil

import numpy as np

from tfprune.files import replacing
from tfprune.runs.state import State
from tfprune.runs.surgery import cut_values
from tfprune.search.problem import Problem
from tfprune.training.distribution import from_chief
from tfprune.training.optimizer_state import StateValues
from tfprune.training.step import Trainer

FILE = 'optimizer.npz'


def keep_state(state: State, trainer: Trainer) -> None:
    """Writes the state of the optimizer of the epochs before surgery, where those after it go on
    with it."""
    if not state.recipe.continues:
        return
    values, others = trainer.state.values, trainer.state.others
    if others:
        state.progress.warn(f'{others[0].path} has the shape of no weight: after surgery the '
                            "optimizer's state begins anew, at the learning rate where it was.")
    elif state.is_chief:
        with replacing(state.folder.path / FILE) as path:
            np.savez(path, **values.to_arrays())  # type: ignore[arg-type]  # no slot is called so


def take_state(state: State) -> None:
    """Copies the file of the run whose epochs before surgery are taken."""
    source = pathlib.Path(state.config.run.before_surgery_from) / FILE
    if state.recipe.continues and state.is_chief and source.exists():
        with replacing(state.folder.path / FILE) as path:
            shutil.copyfile(source, path)


def take_over(state: State, problem: Problem, trainer: Trainer) -> None:
    """Gives the optimizer of the pruned model the state that was kept.

    Raises:
        ValueError: the file is gone.
    """
    if trainer.state.others:
        return
    from_chief(state.strategy, 'the file is written')
    path = state.folder.path / FILE
    if not path.exists():
        raise ValueError(f'{path}: lost, and with it the state of the optimizer, which goes on '
                         'after surgery; begin anew in another run_dir.')
    with np.load(path) as arrays:
        values = StateValues.from_arrays(arrays)
    trainer.state.take(values.of_slots(lambda slots: cut_values(state, problem, slots)))
