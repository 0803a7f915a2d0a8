"""A line of `aggregate` against a control of its setting, seed by seed."""
import math
from typing import Any, Mapping, Sequence

from tfprune.report.intervals import NORMAL, McNemar, Paired, mcnemar, paired
from tfprune.report import scores
from tfprune.report.reading import PHASES, finite, planned_epochs, task_of
from tfprune.report.right_answers import unpacked

Line = Mapping[str, Any]
_REFERENCE = 'uniform'  # the control that comes first, where it is among the runs
# By these a method may differ from its control, and by its own options, whose names have a dot.
_OWN = ('method', 'score_images', 'score_batch_size')


def controls(lines: Sequence[Line]) -> list[str]:
    """The methods that the others have to beat: uniform widths, then in the order of the lines."""
    found = dict.fromkeys(line['method'] for line in lines if line['is_control'])
    return sorted(found, key=lambda name: name != _REFERENCE)


def matching(line: Line, control: str, lines: Sequence[Line]) -> Line | None:
    """The line of a control that differs by nothing but its method; None where there is none."""
    task, setting = task_of(line), _setting(line)
    return next((other for other in lines if other['method'] == control != line['method']
                 and line['budgets'] and scores.same_metric(task_of(other), task)
                 and _setting(other) == setting), None)


def against(line: Line, control: str, lines: Sequence[Line]) -> Paired:
    """The test score minus the control's, paired by seed; NaN without a control, or where a score
    is not known."""
    other = matching(line, control, lines)
    if other is None:
        return Paired(math.nan, math.nan, 0)
    ours, theirs = by_seed(line), by_seed(other)
    seeds = [seed for seed in ours if seed in theirs]
    values = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    if not all(map(finite, (*values[0], *values[1]))):
        return Paired(math.nan, math.nan, len(seeds))
    return paired(*values)


def image_half_width(line: Line, control: str, lines: Sequence[Line]) -> float:
    """Half of the 95% interval that the test images alone give the mean difference of accuracies p
    over n pairs, taken as independent,

        1.96 · √(Σ p (1 - p) / N) / n

    0 for other metrics, of which it is not known; NaN where N is not."""
    other = matching(line, control, lines)
    if other is None or not task_of(line)['is_accuracy']:
        return 0.0
    seeds = [seed for seed in by_seed(line) if seed in by_seed(other)]
    variances = [_variance(by_seed(each)[seed], by_seed(each, 'test_images')[seed])
                 for each in (line, other) for seed in seeds]
    return NORMAL * math.sqrt(sum(variances)) / len(seeds) if seeds else math.nan


def answers_against(line: Line, control: str, lines: Sequence[Line]) -> dict[Any, McNemar]:
    """{seed: test of the right answers of both} where both runs say which test examples they
    answer right, and have the same ones."""
    other = matching(line, control, lines)
    theirs = by_seed(other, 'right') if other else {}
    numbers, found = by_seed(line, 'test_images'), {}
    for seed, ours in by_seed(line, 'right').items():
        pair = ours, theirs.get(seed)
        if all(pair) and len({right['labels'] for right in pair}) == 1:
            found[seed] = mcnemar(*(unpacked(right, numbers[seed]) for right in pair))
    return found


def by_seed(line: Line, name: str = 'scores') -> dict[Any, Any]:
    """A value a seed; of a seed that ran twice that of the last run."""
    return dict(zip(line['seeds'], line[name]))


def _variance(accuracy: Any, images: Any) -> float:
    return accuracy * (1 - accuracy) / images if images and finite(accuracy) else math.nan


def _setting(line: Line) -> dict[str, Any]:
    """What a method and its control have in common; how it divides its epochs is its own matter."""
    values = line['configuration']
    rest = {name: value for name, value in values.items()
            if name not in (*_OWN, *PHASES) and '.' not in name}
    return {'epochs': planned_epochs(values), **rest}
