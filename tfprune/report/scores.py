"""Values of a task's metric as text: shares in percent, their differences in points, all others as
numbers."""
from typing import Any, Mapping, Sequence

from tfprune.report.number_text import MISSING, percent, points
from tfprune.report.reading import TASK_OF_CLASSIFIERS, finite, task_of

Task = Mapping[str, Any]
_ROUNDING = 1e-9  # of a value: smaller differences are none


def title(task: Task) -> str:
    """The metric as a heading."""
    return 'Accuracy' if task['metric'] == 'accuracy' else task['metric']


def test_name(task: Task | None) -> str:
    """'test accuracy'; of several metrics, None, 'test score'."""
    return f'test {task["metric"] if task else "score"}'


def test_title(task: Task | None, unit: str = '') -> str:
    """test_name, its unit behind it, and that smaller is better where it is."""
    smaller = ' (smaller is better)' if task and not task['larger_is_better'] else ''
    return f'{test_name(task)}{unit}{smaller}'


def unit(task: Task | None) -> str:
    """What follows the name of a column whose cells have no unit."""
    return ', %' if task and task['is_share'] else ''


def scale(task: Task) -> int:
    """What values are multiplied by where their unit stands beside them."""
    return 100 if task['is_share'] else 1


def score(task: Task, value: Any) -> str:
    """'95.00%', '0.1235'."""
    return percent(value) if task['is_share'] else plain(value)


def difference(task: Task, value: Any, reference: Any) -> str:
    """value - reference: '-1.00 points', '+0.12'."""
    return points(value, reference) if task['is_share'] else plain_difference(value, reference)


def mean_and_spread(task: Task, mean: Any, spread: Any, *, signed: bool = False) -> str:
    """'94.00 ± 1.00' in percent or points, '0.1235 ± 0.01'; `signed`: '+2.00 ± 0.58'."""
    if not finite(mean):
        return MISSING
    style = '.2f' if task['is_share'] else '.4g'
    beside = f'{scale(task) * spread:{style}}' if finite(spread) else MISSING
    return f'{scale(task) * mean:{"+" * signed}{style}} ± {beside}'


def plain(value: Any) -> str:
    """Four significant digits."""
    return f'{value:.4g}' if finite(value) else MISSING


def plain_difference(value: Any, reference: Any) -> str:
    """'+0.12', value - reference."""
    if not finite(value) or not finite(reference):
        return MISSING
    gap = value - reference
    return f'{0.0 if is_rounding(gap, value, reference) else gap:+.4g}'


def is_rounding(gap: float, *values: float) -> bool:
    """Whether a difference of such values is one of rounding."""
    return abs(gap) <= _ROUNDING * max(map(abs, values))


def gain(task: Task, gap: float) -> float:
    """A difference of values as one that is above 0 for what is better."""
    return gap if task['larger_is_better'] else -gap


def loss_name(task: Task) -> str:
    """'cross-entropy'; other columns in words."""
    return ('cross-entropy' if task['loss'] == 'cross_entropy'
            else task['loss'].replace('_', ' '))


def one_example(task: Task) -> str:
    """'image', 'example'."""
    return task['examples'].removesuffix('s')


def reward_is_metric(task: Task) -> bool:
    """Whether the reward of a sub-network is its metric itself."""
    return task['start'] is None


def same_metric(task: Task, other: Task) -> bool:
    """Whether values of both may stand in one column."""
    return all(task[name] == other[name] for name in ('metric', 'larger_is_better', 'is_share'))


def metrics_of(lines: Sequence[Mapping[str, Any]]) -> list[Task]:
    """The tasks of lines, one a metric, in their order; those of classifiers where there are no
    lines."""
    found: list[Task] = []
    for task in map(task_of, lines):
        if not any(same_metric(task, other) for other in found):
            found.append(task)
    return found or [TASK_OF_CLASSIFIERS]


def shared(lines: Sequence[Mapping[str, Any]]) -> Task | None:
    """The task whose metric all lines have; None of several metrics."""
    found = metrics_of(lines)
    return found[0] if len(found) == 1 else None
