"""Image backbones of keras-hub and plain models of stock layers, pruned to half of their MACs.

Weights are noise, not trained: what is measured is whether structure, cost and files are right.
A model that fails is a row with its `error`.
"""
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfprune.benchmarks import hub_models, plain_models
from tfprune.benchmarks.structure_rows import dead_groups, one_line, row_of

OPTIONS: tuple[str, ...] = ()
NAMES = (*plain_models.MODELS, *hub_models.MODELS)


def rows(only: Sequence[str] = (), *, files: bool = True) -> Iterator[dict[str, Any]]:
    """Yields one row a model.

    Args:
        only: some of NAMES; none for all.
        files: whether to save the result and use it in a process without tfprune, too.

    Raises ValueError for an unknown name, and without keras-hub if one of its models is asked for.
    """
    for name in only:
        if name not in NAMES:
            raise ValueError(f"Unknown model '{name}'. Available: {', '.join(NAMES)}")
    if any(name in hub_models.MODELS for name in only or NAMES):
        hub_models.hub()
    for name in only or NAMES:
        keras.utils.clear_session()
        yield {'source': 'keras-hub' if name in hub_models.MODELS else 'plain', **_row(name, files)}


def _row(name: str, files: bool) -> dict[str, Any]:
    try:
        plain = plain_models.MODELS.get(name)
        model = plain.build() if plain else hub_models.build(name)
        inputs = plain.inputs() if plain and plain.inputs else None
        row = row_of(name, model, files and inputs is None, inputs=inputs)
        if 'error' not in row:
            row['dead'] = dead_groups(model, inputs)
        return row | ({'dense_macs_by_hand': plain.macs} if plain else {})
    except Exception as error:  # one that fails is a result, too
        return {'model': name, 'error': one_line(error)}


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = ['| model | groups | can go | MACs, dense | parameters, dense | also counted | '
             'MACs, pruned | exact | largest difference | trace and surgery | not prunable | '
             'elsewhere |', '|---|---:|---:|---:|---:|---|---|---|---:|---:|---:|---|']
    for row in found:
        if 'dense_macs' not in row:
            lines.append(f"| {row['model']} | failed: {_short(row['error'])} |" + ' |' * 10)
            continue
        more = '+' * bool(row['uncounted'])
        groups = f"{row['groups']}{' (residual too)' * row['residual_groups']}"
        before = (f"| {row['model']} | {groups} | {row['can_go']:.1%} | "
                  f"{row['dense_macs']:,}{more} | {row['dense_params']:,} |")
        cells = (f" failed: {_short(row['error'])} |" + ' |' * 5 if 'error' in row else
                 _pruned_cells(row))
        lines.append(f"{before}{cells} {row['unprunable'] or ''} | {_elsewhere(row)} |")
    return '\n'.join(lines)


def _pruned_cells(row: dict[str, Any]) -> str:
    """How the dense one was counted, too, if not the same; then all of the pruned one."""
    counts = {'running': row['dense_macs_run'], 'by hand': row.get('dense_macs_by_hand')}
    others = ', '.join(name if count == row['dense_macs'] else f'{name} {count:,}'
                       for name, count in counts.items() if count is not None)
    left = f"{row['macs']:,} ({row['macs'] / row['dense_macs']:.1%})"
    if 'smallest' in row:
        left += f"; half cannot be reached: smallest {row['smallest']:.1%}"
    difference = max(row['difference'], row.get('random_difference', 0))
    return (f" {others} | {left} | {'yes' if row['exact'] else 'NO'} | "
            f"{format(difference, '.0e') if row['groups'] else '—'} | {row['seconds']:.1f} s |")


def _elsewhere(row: dict[str, Any]) -> str:
    """What another process made of the file; `dense neither` where not of the dense one's, too."""
    found = _short(row.get('client', ''))
    if found != 'ok' and row.get('client_dense', 'ok') != 'ok':
        found = f'dense neither: {found}'
    if row.get('unrolled'):
        found += ', TFLite unrolled'
    if 'tflite' in row:
        found += f", no TFLite{' of the dense either' * ('tflite_dense' in row)}"
    return found


def _short(message: str) -> str:
    """What fits a cell; the row has all of it."""
    message = message.replace('|', '/')
    return message if len(message) <= 160 else f'{message[:160].rsplit(None, 1)[0]} …'
