"""What runs show of methods against the controls: in words, in cells, in further tables."""
import functools
import itertools
from typing import Callable, Sequence

import numpy as np

from tfprune.report.intervals import NORMAL, Paired, paired, t_quantile
from tfprune.report import scores
from tfprune.report.aggregate import budget_text, budgets_of, line_names
from tfprune.report.number_text import MISSING, listed
from tfprune.report.over_tasks import task_cells, task_notes
from tfprune.report.pairs import (Line, against, answers_against, by_seed, controls,
                                  image_half_width, matching)
from tfprune.report.reading import finite, task_of

_FEWEST = 3  # pairs that a difference is judged by
_VERDICTS = ('Shown to beat {control}, by 95% intervals over {seeds}',
             'Not shown to beat {control}, by 95% intervals over {seeds}',
             'Shown to be worse than {control}, by 95% intervals over {seeds}',
             'Too few seeds to judge against {control} ({seeds})')


def verdicts(lines: Sequence[Line]) -> list[str]:
    """Which methods beat a control of the same budget and which do not, with their differences."""
    said, budgets = [], budgets_of(lines)
    names = line_names(lines, budgets=False)
    for budget, control in itertools.product(budgets, controls(lines)):
        found: dict[tuple[int, int], list[str]] = {}
        for line, name in zip(lines, names):
            pair, task = against(line, control, lines), task_of(line)
            if (finite(pair.mean) and budget_text(line) == budget
                    and not (line['is_control'] or line['decides_first'])):
                place = _verdict(task, pair, image_half_width(line, control, lines))
                found.setdefault((place, pair.pairs), []).append(
                    f'{name} {_text(task, pair)}{" points" * task["is_share"]}')
        which = f'{control} at {budget}' if len(budgets) > 1 else control
        for (place, pairs), items in sorted(found.items()):
            verdict = _VERDICTS[place].format(control=which, seeds=_seeds(pairs))
            said.append(f'{verdict}: {"; ".join(items)}.')
    return [*said, *_unjudged(lines)]


def difference_columns(lines: Sequence[Line]) -> dict[str, Callable[[Line], str]]:
    """{header: its cell of a line} of the differences that belong into the first table: against
    the model as given, and against the first control; those that say something."""
    columns: dict[str, Callable[[Line], str]] = {
        'against as given': _given_cell,
        **{f'against {name}': functools.partial(difference_cell, control=name, lines=lines)
           for name in controls(lines)[:1]}}
    return {header: text for header, text in columns.items()
            if any(text(line) != MISSING for line in lines)}


def difference_cell(line: Line, control: str, lines: Sequence[Line]) -> str:
    """The cell of `against`: '+2.00 ± 2.48'; of one pair, or of fewer than all seeds, how many."""
    pair = against(line, control, lines)
    is_few = pair.pairs != line['n'] or pair.pairs == 1
    return _text(task_of(line), pair) + (
        f' ({_seeds(pair.pairs)})' if is_few and finite(pair.mean) else '')


def _given_cell(line: Line) -> str:
    ours, theirs = by_seed(line).values(), by_seed(line, 'given_scores').values()
    if not all(map(finite, (*ours, *theirs))):
        return MISSING
    return _text(task_of(line), paired([*ours], [*theirs]))


def _text(task: scores.Task, pair: Paired) -> str:
    """'+2.00 ± 2.48'; of one pair without an interval."""
    text = scores.mean_and_spread(task, pair.mean, pair.half_width, signed=True)
    return text.partition(' ±')[0] if pair.pairs == 1 else text


def further_tables(lines: Sequence[Line]) -> list[tuple[str, list[list[str]]]]:
    """(title, header and rows) of the tables that the lines give beside their own."""
    tables = [('Against the other controls', _control_cells(lines)),
              ('Test images that one alone answers right', _answer_cells(lines)),
              ('Over tasks', task_cells(lines))]
    return [(title, cells) for title, cells in tables if cells]


def pair_notes(lines: Sequence[Line]) -> list[str]:
    """What the columns against controls and the further tables are."""
    names = controls(lines)
    if not any(matching(line, name, lines) for line in lines for name in names):
        return []
    task = scores.shared(lines)
    notes = [f'against {listed(names)}: {scores.test_name(task)} minus that of the control with '
             f'the same seed, budget, epochs and weights{_units(task)}, mean ± half of the 95% '
             "interval over seeds by Student's t, whose quantile is "
             f'{t_quantile(3):.1f} standard errors of 3 pairs, {t_quantile(5):.1f} of 5. It speaks '
             'of seeds, on these test data; of twenty such intervals one misses by chance.'
             f'{_of_images(lines)}']
    if _answer_cells(lines):
        notes.append(f'Test images that one alone answers right: the method, {names[0]}, and the '
                     "two-sided p of McNemar's exact test; seeds share their test images and are "
                     'not pooled.')
    return [*notes, *task_notes(lines)]


def _verdict(task: scores.Task, pair: Paired, least: float) -> int:
    """The place in _VERDICTS; `least`: a difference below it is one of the test images."""
    gain = scores.gain(task, pair.mean)
    if pair.pairs < _FEWEST:
        return 3
    half_width = np.maximum(pair.half_width, least)  # NaN where one of them is
    if gain > half_width:
        return 0
    return 2 if gain < -half_width else 1


def _unjudged(lines: Sequence[Line]) -> list[str]:
    """That agents have no control to be judged against."""
    alone = [name for line, name in zip(lines, line_names(lines)) if line['agents']
             and not any(matching(line, control, lines) for control in controls(lines))]
    return [f'Not judged, without a control of the same budget, epochs and weights: '
            f'{"; ".join(alone)}.'] if alone else []


def _seeds(number: int) -> str:
    return f'{number} seed{"s" * (number != 1)}'


def _control_cells(lines: Sequence[Line]) -> list[list[str]]:
    """Differences against all controls but the first, which has its column in the first table."""
    names, rows = controls(lines)[1:], []
    for line, title in zip(lines, line_names(lines)):
        cells = [difference_cell(line, name, lines) for name in names]
        if any(cell != MISSING for cell in cells):
            rows.append([title, *cells])
    return [['method', *(f'against {name}' for name in names)], *rows] if rows else []


def _answer_cells(lines: Sequence[Line]) -> list[list[str]]:
    """Right answers against the first control, a column a seed."""
    names = controls(lines)[:1]
    found = [(title, answers_against(line, name, lines)) for name in names
             for line, title in zip(lines, line_names(lines))]
    seeds = list(dict.fromkeys(seed for _, tests in found for seed in tests))
    if not seeds:
        return []
    rows = [[title, *(f'{tests[seed].ours} : {tests[seed].theirs}, p {tests[seed].p:.2g}'
                      if seed in tests else MISSING for seed in seeds)]
            for title, tests in found if tests]
    return [[f'right alone : {names[0]} alone', *(f'seed {seed}' for seed in seeds)], *rows]


def _of_images(lines: Sequence[Line]) -> str:
    """What else a difference of accuracies must exceed."""
    if not any(task['is_accuracy'] for task in scores.metrics_of(lines)):
        return ''
    return (' Shown is a difference of accuracies p that exceeds, too, what N test images alone '
            f'give n pairs, {NORMAL:.2f} · √(Σ p(1 - p)/N)/n.')


def _units(task: scores.Task | None) -> str:
    """In what the differences of a column are, and which of them are better."""
    if task is None:
        return ', in points of shares'
    return ', in points' * task['is_share'] + ', below 0 is better' * (not task['larger_is_better'])
