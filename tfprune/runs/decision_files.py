"""The decision on disk: decision.json, and zeros.npz beside it."""
import dataclasses
from collections.abc import Mapping
from typing import Any

from tfprune.files import replacing
from tfprune.methods.base import Decision
from tfprune.pruning.sparsity import ZEROS_FILE, load_zeros, save_zeros
from tfprune.runs.checkpoints import CheckpointError
from tfprune.runs.folder import RunFolder
from tfprune.runs.state import State
from tfprune.search.problem import Problem


def read_decision(state: State, problem: Problem) -> Decision:
    """The decision that a run has taken; CheckpointError where it is gone or of another model."""
    rows = state.folder.read_json('decision.json')
    if rows is None:
        raise CheckpointError(f'{state.folder.path} has checkpoints from after surgery and no '
                              'decision.json; remove its checkpoints folder to start anew.')
    path, groups = state.folder.path / 'decision.json', problem.groups
    for name, row in rows['groups'].items():
        # Removed blocks leave groups of their own.
        if name in groups or not rows['removed']:
            dense = groups.get(name)
            if dense is None:
                raise CheckpointError(f'{path}: this model has no group {name!r}.')
            if row['dense_width'] != dense:
                raise CheckpointError(f'{path}: group {name!r} must be of {dense} channels; '
                                      f'received {row["dense_width"]}.')
        if not all(0 <= index < row['dense_width'] for index in row['kept']):
            raise CheckpointError(f'{path}: group {name!r} must keep channels of 0 to '
                                  f'{row["dense_width"] - 1}; received {row["kept"]}.')
    missing = [name for name in groups if name not in rows['groups']]
    if rows['groups'] and missing and not rows['removed']:
        raise CheckpointError(f'{path}: no group {missing[0]!r}.')
    return with_zeros(state.folder, rows)


def with_zeros(folder: RunFolder, decision: Mapping[str, Any]) -> Decision:
    """A decision as decision.json has it, with the zeros that lie beside it."""
    zeros = load_zeros(folder.path / ZEROS_FILE)
    if sorted(zeros) != decision.get('zeros', sorted(zeros)):
        raise CheckpointError(f'{folder.path / ZEROS_FILE} is gone or another than decision.json '
                              'says; remove the checkpoints folder to start anew.')
    return dataclasses.replace(Decision.from_json(decision), zeros=zeros)


def with_saved_zeros(folder: RunFolder, decision: Decision) -> dict[str, Any]:
    """A decision for decision.json, its zeros in their file."""
    if decision.zeros:
        with replacing(folder.path / ZEROS_FILE) as path:
            save_zeros(path, decision.zeros)
    return decision.to_json() | {'zeros': sorted(decision.zeros)}
