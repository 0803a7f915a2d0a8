"""What an unfinished run had written that is no longer in its folder, when it is resumed."""
from collections.abc import Iterable, Mapping
from typing import Any

from tfprune.runs.reuse import RATIOS_FILE
from tfprune.runs.state import State


def lost_parts(state: State) -> list[str]:
    """What is missing of the files of a run that stands at `state.position`, a phrase a file.

    metrics.jsonl has a row an epoch that is done, rounds.jsonl a row a round; rows that say how
    episodes went have episodes in episodes.jsonl; after surgery there are dense.keras, where the
    dense model had weights, and the decisions of a method with several ratios.
    """
    folder, position, method = state.folder, state.position, state.method
    is_own = not state.config.run.before_surgery_from
    metrics, rounds = (folder.read_rows(name) for name in ('metrics.jsonl', 'rounds.jsonl'))
    lost = [_rows('metrics.jsonl', 'epoch', position.epoch,
                  [*left_out(metrics), *(row['epoch'] for row in metrics)])]
    done = position.round
    if state.has_decided and is_own and method.has_rounds:
        done = max([1, *(row['round'] + 1 for row in rounds)])  # how many it had is not known
    lost.append(_rows('rounds.jsonl', 'round', done, (row['round'] for row in rounds)))
    if is_own:
        played = {('round', row['round']) if 'round' in row else ('epoch', row['epoch'])
                  for row in folder.read_rows('episodes.jsonl')}
        told = {(kind, row[kind]) for kind, rows in (('epoch', metrics), ('round', rounds))
                for row in rows if 'reward_max' in row}
        for kind in ('epoch', 'round'):
            expected = {number for of, number in told if of == kind}
            lost.append(_rows('episodes.jsonl', kind, max(expected, default=-1) + 1, [
                number for number in range(max(expected, default=-1) + 1)
                if number not in expected or (kind, number) in played]))
    if state.has_decided:
        trained = state.config.epochs.search or state.has_weights
        names = ['dense.keras'] if trained and not method.decides_first else []
        names += [RATIOS_FILE] if method.conditional and is_own else []
        lost += [name for name in names if not (folder.path / name).exists()]
    return [phrase for phrase in lost if phrase]


def left_out(metrics: Iterable[Mapping[str, Any]]) -> list[int]:
    """Epochs that have no row in metrics.jsonl, as a callback has ended their phase before."""
    return [epoch for row in metrics
            for epoch in range(row['epoch'] + 1, row.get('stopped_until', 0))]


def _rows(name: str, kind: str, count: int, found: Iterable[int]) -> str:
    """'NAME: epochs 1, 2 of 4', counted from 1; '' where none is missing."""
    gone = sorted(set(range(count)) - set(found))
    if not gone:
        return ''
    spans: list[list[int]] = []
    for number in gone:
        if spans and spans[-1][-1] == number - 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    text = ', '.join('–'.join(str(end + 1) for end in span) for span in spans)
    return f'{name}: {kind}{"s" * (len(gone) > 1)} {text} of {count}'
