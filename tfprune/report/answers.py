"""Accuracy by class, the confusion of classes, and pictures that changed class."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tfprune.report.canvas import BLUE, ORANGE, canvas
from tfprune.report.reading import Run

_MOST_CELLS = 25  # classes of a confusion matrix that is drawn
_IN_A_ROW = 4  # pictures


def class_rows(run: Run) -> list[tuple[str, ...]]:
    """Header and a row a class, of the largest loss first; [] where answers were not kept."""
    if run.answers is None:
        return []
    rows, names = run.answers['classes'], _names(run)
    seen = [(name, row) for name, row in zip(names, rows) if row['images']]
    if seen and seen[0][1]['before'] is None:
        return [('class', 'test images', 'pruned'), *(
            (name, str(row['images']), _share(row, 'after')) for name, row in seen)]
    seen.sort(key=lambda pair: (pair[1]['after'] - pair[1]['before']) / pair[1]['images'])
    return [('class', 'test images', 'before surgery', 'pruned', 'difference, points'), *(
        (name, str(row['images']), _share(row, 'before'), _share(row, 'after'),
         f'{100 * (row["after"] - row["before"]) / row["images"]:+.1f}') for name, row in seen)]


def confusions(run: Run, most: int = 5) -> list[str]:
    """The commonest mistakes of the pruned model: 'LABEL as ANSWER: count'."""
    if run.answers is None or run.answers['confusion'] is None:
        return []
    counts, names = np.array(run.answers['confusion']), _names(run)
    np.fill_diagonal(counts, 0)
    places = np.argsort(-counts, axis=None, kind='stable')[:most]
    return [f'{names[place // len(names)]} as {names[place % len(names)]}: {counts.flat[place]}'
            for place in places if counts.flat[place]]


def plot_confusion(run: Run) -> Figure | None:
    """The pruned model's answers by class, in shares of a class."""
    if run.answers is None or run.answers['confusion'] is None:
        return None
    counts, names = np.array(run.answers['confusion']), _names(run)
    if len(names) > _MOST_CELLS:
        return None
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with canvas(1.6 + 0.32 * len(names)) as fig:
        axes = fig.add_subplot()
        axes.imshow(shares, cmap='Blues', vmin=0, vmax=1, aspect='auto')
        axes.grid(visible=False)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                axes.text(column, row, str(count), ha='center', va='center', fontsize=9,
                          color='white' if shares[row, column] > 0.5 else '#3b444b')
        places = range(len(names))
        axes.set_xticks(places, names, rotation=45, ha='right')
        axes.set_yticks(places, names)
        axes.set(xlabel='answer of the pruned model', ylabel='class')
        return fig


def plot_changed(run: Run) -> Figure | None:
    """Pictures that one of the two models alone answers right, with what each says."""
    if run.answers is None or run.pictures is None or not len(run.pictures):
        return None
    changed, names = run.answers['changed'], _names(run)
    rows = -(-len(changed) // _IN_A_ROW)
    with canvas(1.65 * rows) as fig:
        for place, (row, picture) in enumerate(zip(changed, run.pictures)):
            axes = fig.add_subplot(rows, _IN_A_ROW, place + 1)
            # Of other than three channels: their mean, in gray.
            axes.imshow(picture if picture.shape[-1] == 3 else picture.mean(-1),
                        cmap='gray', vmin=0, vmax=255, interpolation='nearest')
            axes.set_axis_off()
            is_lost = row['before'] == row['label']
            axes.set_title(_cut(names[row['before']]) + ' →\n' + _cut(names[row['after']]),
                           fontsize=9, color=ORANGE if is_lost else BLUE)
        return fig


def changes_sentence(run: Run) -> str:
    """How many answers became wrong, and right; '' where that is not known."""
    rows: Sequence[Any] = run.answers['classes'] if run.answers else ()
    if not rows or rows[0]['before'] is None:
        return ''
    before, after = (sum(row[side] for row in rows) for side in ('before', 'after'))
    return (f'Of {sum(row["images"] for row in rows):,} test images {before:,} were answered right '
            f'before surgery, {after:,} after it.')


def _names(run: Run) -> Sequence[str]:
    """A name a class; its number where the run has no names."""
    classes = run.answers['classes'] if run.answers else ()
    return run.report.get('class_names') or [str(number) for number in range(len(classes))]


def _share(row: dict[str, Any], side: str) -> str:
    return f'{row[side] / row["images"]:.1%}'


def _cut(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + '…'
