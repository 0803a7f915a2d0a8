"""Finds where a run stands, and forgets what comes again."""
from collections.abc import Mapping
from typing import Any

from tfprune.runs.checkpoints import Position
from tfprune.runs.decision_files import read_decision
from tfprune.runs.lost_parts import lost_parts
from tfprune.runs.state import State
from tfprune.search.problem import Problem


def restore_run(state: State, problem: Problem) -> None:
    """Adds to the state: the newest checkpoint, the decision of a run that has decided, and what
    its folder has lost. Rows of what comes again go."""
    state.position, state.prefix = state.checkpoints.newest() or (Position(), None)
    if state.has_decided:
        state.decision = read_decision(state, problem)
    _forget_what_comes_again(state)
    if not state.prefix:
        return
    position, path = state.position, state.folder.path
    state.folder.note_resumption()
    rounds = f', round {position.round} of its search' if position.round else ''
    state.progress.say(f'resuming {path} after epoch {position.epoch}, step {position.step}'
                       f'{rounds}')
    if state.is_chief:
        state.missing = state.folder.note_lost(lost_parts(state))
        if state.missing:
            state.progress.warn(f'{path}: lost since it was written: '
                                f'{"; ".join(state.missing)}. The run goes on without.')


def _forget_what_comes_again(state: State) -> None:
    def is_done(row: Mapping[str, Any]) -> bool:
        if 'round' in row:
            return state.has_decided or row['round'] < state.position.round
        return row['epoch'] < state.position.epoch

    for name in ('metrics.jsonl', 'episodes.jsonl', 'rounds.jsonl'):
        state.folder.keep_rows(name, is_done)
