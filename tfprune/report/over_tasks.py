"""Methods over several tasks: models, data and budgets at which a control ran, too."""
import math
from typing import Sequence

from tfprune.report.intervals import Estimate, interquartile_mean, probability_of_improvement
from tfprune.report import scores
from tfprune.report.number_text import MISSING
from tfprune.report.pairs import Line, by_seed, controls, matching
from tfprune.report.reading import finite, task_of

_FEWEST = 2  # tasks


def task_cells(lines: Sequence[Line]) -> list[list[str]]:
    """Header and a row a method with several tasks; [] without any."""
    names = controls(lines)
    if not names:
        return []
    reference, rows = names[0], []
    for (label, flags), own in _by_method(lines).items():
        found = [(line, matching(line, reference, lines)) for line in own]
        pairs = [(line, other) for line, other in found if other and _is_known(line, other)]
        tasks = len({repr((line['model'], line['dataset'], line['budgets'])) for line, _ in pairs})
        if tasks >= _FEWEST:
            better = probability_of_improvement(*zip(*(_gains(*pair) for pair in pairs)))
            rows.append([', '.join(filter(None, (label, flags))), str(tasks),
                         str(sum(len(by_seed(line)) for line, _ in pairs)),
                         _text(_interquartile_mean(pairs), 100), _text(better)])
    header = ['method', 'tasks', 'runs', f'IQM, % of {reference}', f'P(better than {reference})']
    return [header, *rows] if rows else []


def task_notes(lines: Sequence[Line]) -> list[str]:
    """What the columns of task_cells are."""
    if not task_cells(lines):
        return []
    reference = controls(lines)[0]
    return [f'Over tasks, which are models, data and budgets with runs of {reference}: IQM is the '
            'interquartile mean of all runs, the mean without the lowest and the highest quarter, '
            f"of test scores (of errors their inverse) in shares of {reference}'s mean on the "
            f'task; P is the probability that a run is better than one of {reference} on the same '
            'task, mean over tasks. In brackets: 95% by bootstrap over the seeds of each task '
            '(Agarwal et al. 2021), none where a task has one seed.']


def _by_method(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        found.setdefault((line['label'], line['flags']), []).append(line)
    return found


def _is_known(*pair: Line) -> bool:
    return all(finite(score) for line in pair for score in by_seed(line).values())


def _gains(line: Line, other: Line) -> tuple[list[float], list[float]]:
    """Scores of both, as values of which larger ones are better."""
    ours, theirs = ([scores.gain(task_of(line), score) for score in by_seed(each).values()]
                    for each in (line, other))
    return ours, theirs


def _interquartile_mean(pairs: Sequence[tuple[Line, Line]]) -> Estimate:
    """Of shares of the control's mean; NaN where scores are not all above 0."""
    sides: tuple[list[list[float]], ...] = ([], [])
    for pair in pairs:
        for side, line in zip(sides, pair):
            values = list(by_seed(line).values())
            if min(values) <= 0:
                return Estimate(math.nan, math.nan, math.nan)
            larger = task_of(line)['larger_is_better']
            side.append(values if larger else [1 / value for value in values])
    return interquartile_mean(*sides)


def _text(found: Estimate, scale: int = 1) -> str:
    """'0.61 [0.40, 0.80]'."""
    if not finite(found.value):
        return MISSING
    value, low, high = (f'{scale * each:.2f}' for each in (found.value, found.low, found.high))
    return f'{value} [{low}, {high}]' if finite(found.low) else value
