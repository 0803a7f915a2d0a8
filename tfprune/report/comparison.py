"""Methods against each other: rows with a cell's name as a table, as sentences and as a page."""
import itertools
import math
from typing import Any, Callable, Mapping, Sequence

from markupsafe import Markup
from scipy import stats

from tfprune.errors import unknown
from tfprune.plain_text import markdown_text
from tfprune.report import scores
from tfprune.report.aggregate import (FORMATS, aggregate, budget_text, mean_and_sd, plus_minus,
                                      score_sections, summary_notes)
from tfprune.report.comparison_plots import plot_account, plot_curves, plot_method_widths
from tfprune.report.number_text import MISSING, count, duration, listed, percent
from tfprune.report.page import figure, joined, page, section, table
from tfprune.report.reading import finite, task_of
from tfprune.report.rows import Row
from tfprune.report.table import align, markdown, written

Line = Mapping[str, Any]
_FEWEST = 3  # pairs that a difference is judged by
_MOST_DOTTED = 30  # lines whose runs are drawn one by one
_BETTER = "Better than {{}} (95% interval by Student's t {} 0)"
_NOT_SHOWN = "Not shown to be better than {{}} (95% interval by Student's t not {} 0)"
_TOO_FEW = f'Too few seeds to compare with {{}} (fewer than {_FEWEST} pairs)'
_PHASES = ('warmup_epochs', 'random_epochs', 'joint_epochs', 'alignment_epochs')
# By these a method may differ from its control, and by its own options, whose names have a dot.
_OWN = ('method', 'score_images', 'score_batch_size')


def format_comparison(rows: Sequence[Row], style: str = 'text') -> str:
    """The tables of `rows` as text or markdown and remarks; ValueError for another style, no rows.
    """
    if style not in FORMATS:
        raise unknown('format', style, FORMATS)
    if not rows:
        raise ValueError('there are no runs to report.')
    lines = aggregate(rows)
    title = f'{_title(rows)} ({_lead(rows, lines)})'
    text = [markdown_text(title) if style == 'markdown' else title, '']
    for cells in (_cells(lines), _agent_cells(lines)) if lines else ():
        if len(cells) > 1:
            text += [*(markdown(cells) if style == 'markdown' else align(cells, rule=True)), '']
    return '\n'.join([*text, *(written(note, style) for note in comparison_notes(rows))])


def comparison_html(rows: Sequence[Row]) -> str:
    """The same as one page without network, with curves, widths and costs."""
    lines = aggregate(rows)
    names, parts = _names(lines), []
    if lines:
        parts.append(section('Methods', table(_cells(lines)), paragraphs=verdicts(lines),
                             notes=[*_column_notes(lines), *_charge_notes(rows)]))
    if 0 < len(lines) <= _MOST_DOTTED:  # the curves say it of more
        parts += score_sections(names, lines, 'method', (
            'Each run a small dot; mean and sample standard deviation over seeds beside it.'))
    for title, svg, caption in (
            *_curves(lines),
            ('Widths', plot_method_widths(names, lines),
             'Share of the channels kept of each prunable group, in the order of the network; the '
             'numbers are mean widths. A group that is gone was removed with its block.'),
            ('Epochs', plot_account(names, lines),
             'Mean epochs of a run. A search counts by its forward and backward passes: those of '
             f'every training {_one_example(lines)} through the dense model are one epoch.')):
        if svg:
            parts.append(section(title, figure(svg, title, caption)))
    agents = _agent_cells(lines)
    if len(agents) > 1:
        parts.append(section('Agents against random actions', table(agents), notes=[
            _AGENT_NOTE]))
    parts.append(section('', Markup(), notes=summary_notes(rows)))
    return page(_title(rows), _lead(rows, lines), joined(parts), wide=True)


def _curves(lines: Sequence[Line]) -> list[tuple[str, str | None, str]]:
    """(title, plot, caption) of the curves, for each metric."""
    return [(f'{scores.title(task)} against MACs', plot_curves(
        [line for line in lines if scores.same_metric(task_of(line), task)], number),
        'Means over seeds; bars are sample standard deviations, none for one seed. Methods of one '
        'budget are drawn a little beside each other.')
        for number, task in enumerate(scores.metrics_of(lines))]


def comparison_notes(rows: Sequence[Row]) -> list[str]:
    """Sentences below the tables."""
    lines = aggregate(rows)
    agent = [_AGENT_NOTE] if len(_agent_cells(lines)) > 1 else []
    return [*verdicts(lines), *_column_notes(lines), *_charge_notes(rows), *agent,
            *summary_notes(rows)]


def verdicts(lines: Sequence[Line]) -> list[str]:
    """Which methods do not beat a control of the same budget, in words."""
    said = []
    budgets = _budgets(lines)
    for budget, name in itertools.product(budgets, controls(lines)):
        found: dict[tuple[int, str], list[str]] = {}
        for line in lines:
            mean, error, pairs = against(line, name, lines)
            if (finite(mean) and budget_text(line) == budget
                    and not (line['is_control'] or line['decides_first'])):
                verdict = _verdict(task_of(line), mean, error, pairs)
                found.setdefault(verdict, []).append(line['label'])
        where = f' at {budget}' if len(budgets) > 1 else ''
        said += [f'{text.format(name)}{where}: {listed(labels)}.'
                 for (_, text), labels in sorted(found.items())]
    return said


def _verdict(task: scores.Task, mean: float, error: float, pairs: int) -> tuple[int, str]:
    """(place among the sentences, sentence with {} for the control) of a difference."""
    side = 'above' if task['larger_is_better'] else 'below'
    if pairs < _FEWEST:
        return 2, _TOO_FEW
    if scores.gain(task, mean) > _quantile(pairs) * error:
        return 0, _BETTER.format(side)
    return 1, _NOT_SHOWN.format(side)


def controls(lines: Sequence[Line]) -> list[str]:
    """The methods that the others have to beat, in the order of their lines."""
    return list(dict.fromkeys(line['method'] for line in lines if line['is_control']))


def against(line: Line, control: str, lines: Sequence[Line]) -> tuple[float, float, int]:
    """(mean, standard error, pairs) of the test score minus the control's, paired by seed.

    Of the control that differs by nothing but its method; NaN where there is none, or too few
    pairs. Of accuracies the standard error is no less than that of the test images alone: few
    differences may be equal by chance. For other metrics, whose like is not known, it is NaN where
    all differences are equal.
    """
    task = task_of(line)
    other = next((other for other in lines if other['method'] == control != line['method']
                  and line['budgets'] and scores.same_metric(task_of(other), task)
                  and _setting(other) == _setting(line)), None)
    if other is None:
        return math.nan, math.nan, 0
    ours, theirs = (dict(zip(x['seeds'], zip(x['scores'], x['test_images'])))
                    for x in (line, other))
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    values = [value for pair in pairs for value, _ in pair]
    if not all(map(finite, values)):
        return math.nan, math.nan, len(pairs)
    mean, sd = mean_and_sd(a - b for (a, _), (b, _) in pairs)
    if not task['is_accuracy']:
        is_known = finite(sd) and not scores.is_rounding(sd, *values)
        return mean, sd / math.sqrt(len(pairs)) if is_known else math.nan, len(pairs)
    variances = [_image_variance(*run) for pair in pairs for run in pair]
    if not all(map(finite, (sd, *variances))):
        return mean, math.nan, len(pairs)
    error = max(sd / math.sqrt(len(pairs)), math.sqrt(sum(variances)) / len(pairs))
    return mean, error, len(pairs)


def _setting(line: Line) -> dict[str, Any]:
    """What a method and its control have in common."""
    values = line['configuration']
    epochs = sum(values.get(name, 0) for name in _PHASES)
    return {'search_epochs': epochs, **{name: value for name, value in values.items()
                                        if name not in (*_OWN, *_PHASES) and '.' not in name}}


def _image_variance(accuracy: Any, images: Any) -> float:
    """p (1 - p) / N of an accuracy p on N test images."""
    return accuracy * (1 - accuracy) / images if images and finite(accuracy) else math.nan


def _quantile(pairs: int) -> float:
    """Standard errors on either side of the mean of that many, at least 2, in a 95% interval."""
    return float(stats.t.ppf(0.975, pairs - 1))


_AGENT_NOTE = ('Rewards of the policy and of random actions on the same weights, means over seeds; '
               '± is the sample standard deviation of the difference over seeds.')


def _column_notes(lines: Sequence[Line]) -> list[str]:
    names, task = controls(lines), scores.shared(lines)
    sparse = [f'{line["label"]}: {percent(line["zeros"], 1)} of the kernel weights are zero, which '
              'leaves MACs and parameters as they are.' for line in lines if finite(line['zeros'])]
    pairs = [f'against {listed(names)}: {scores.test_name(task)} minus that of the control with '
             f'the same seed, budget, epochs and weights{_units(task)}, mean ± standard error over '
             f'the pairs{_least_error(lines)}; a number of seeds beside it: only they have a pair. '
             f'A 95% interval is the mean ± {_quantile(3):.1f} standard errors for 3 pairs, '
             f"{_quantile(5):.1f} for 5, by Student's t."] if names else []
    return [*sparse, 'MACs and params: the most of any seed.', *pairs,
            'epochs: pretraining, training before surgery, search and fine-tuning; a search counts '
            f'by its passes, those forward and backward of every training {_one_example(lines)} '
            'through the dense model being one epoch.']


def _one_example(lines: Sequence[Line]) -> str:
    """'image', 'example'; the latter of tasks that differ in it."""
    found = {scores.one_example(task_of(line)) for line in lines or [{}]}
    return found.pop() if len(found) == 1 else 'example'


def _units(task: scores.Task | None) -> str:
    """In what the differences of a column are, and which of them are better."""
    if task is None:
        return ', in points of shares'
    return ', in points' * task['is_share'] + ', below 0 is better' * (not task['larger_is_better'])


def _least_error(lines: Sequence[Line]) -> str:
    """What the standard errors are no less than."""
    found = [task['is_accuracy'] for task in scores.metrics_of(lines)]
    if not any(found):
        return ''
    which = '' if all(found) else 'of accuracies '
    return (f', {which}no less than the test {_one_example(lines)}s alone give it, √(p(1 - p)/N) '
            'of both runs')


def _charge_notes(rows: Sequence[Row]) -> list[str]:
    """Runs whose search took all of their fine-tuning (--charge_search), or more than that."""
    said = []
    for row in rows:
        asked = row['configuration'].get('fine_tune_epochs')
        if row['finished'] and row['configuration'].get('charge_search') and asked:
            spent = row.get('account', {}).get('search_equivalents') or 0
            more = ', and its total is above that of the others' if spent > asked else ''
            if spent >= asked:
                said.append(f'{row["run"]}: the search cost {_epochs(spent)} epochs, fine-tuning '
                            f'had {asked}: none was left{more}.')
    return said


def _title(rows: Sequence[Row]) -> str:
    found = dict.fromkeys(f'{row["model"]} on {row["dataset"]}' for row in rows if row.get('model'))
    return f'Methods compared: {listed(found)}' if found else 'Methods compared'


def _lead(rows: Sequence[Row], lines: Sequence[Line]) -> str:
    budgets = _budgets(lines)
    return ', '.join(filter(None, (
        f'{len(rows)} run{"s" * (len(rows) != 1)}',
        f'budget{"s" * (len(budgets) > 1)}: {"; ".join(budgets)}' if budgets else '')))


def _budgets(lines: Sequence[Line]) -> list[str]:
    kept = sorted((line for line in lines if line['budgets']),
                  key=lambda line: max(line['macs_ratios']))
    return list(dict.fromkeys(map(budget_text, kept)))


def _names(lines: Sequence[Line]) -> list[str]:
    """A name a line: the method, with what tells it from its other lines."""
    labels = [line['label'] for line in lines]
    settings = {(line['model'], line['dataset']) for line in lines}
    names = []
    for line in lines:
        parts = [line['label'], line['model'] if len(settings) > 1 else '',
                 line['dataset'] if len(settings) > 1 else '',
                 budget_text(line).strip(MISSING) if labels.count(line['label']) > 1 else '',
                 line['flags']]
        names.append(', '.join(filter(None, parts)))
    return names


def _cells(lines: Sequence[Line]) -> list[list[str]]:
    """Header and rows of the table."""
    # What is the same in all lines stands above the table.
    told: dict[str, Callable[[Line], str]] = {}
    task = scores.shared(lines)
    named, unit = task is None, scores.unit(task)
    if len(_budgets(lines)) > 1:
        told['budget'] = budget_text
    if len({(line['model'], line['dataset']) for line in lines}) > 1:
        told |= {'model': lambda line: line['model'], 'dataset': lambda line: line['dataset']}
    if any(finite(line['given_score_mean']) for line in lines):
        told[f'as given{unit}'] = lambda line: plus_minus(line, 'given_score', named)
    names = controls(lines)
    rows = [['method', *told, 'MACs', 'of dense', 'params', 'n', scores.test_title(task, unit),
             *(f'against {name}' for name in names), f'before surgery{unit}', 'epochs',
             'of these search', 'time a run']]
    for line in lines:
        name = ', '.join(filter(None, (line['label'], line['flags'])))
        account = line['account']
        rows.append([
            name, *(text(line) for text in told.values()),
            count(max(line['macs'])) + '+' * bool(line['uncounted']),
            percent(max(line['macs_ratios'])),
            count(max(line['params'])), str(line['n']), plus_minus(line, 'score', named),
            *(_difference(line, control, lines) for control in names),
            plus_minus(line, 'dense_score', named) if min(line['macs_ratios']) < 1 else MISSING,
            _epochs(account['total']), _epochs(account['search_equivalents']),
            duration(line['seconds'])])
    return rows


def _agent_cells(lines: Sequence[Line]) -> list[list[str]]:
    """Header and rows of the policies' rewards against those of random actions."""
    rows = [['method', 'budget', 'n', 'policy', 'random actions', 'difference']]
    for line in lines:
        pairs = [(agent['policy_reward_mean'], agent['random_reward_mean'])
                 for agent in line['agents'] if finite(agent.get('policy_reward_mean'))
                 and finite(agent.get('random_reward_mean'))]
        if pairs:
            policy, random = zip(*pairs)
            mean, sd = mean_and_sd(p - r for p, r in pairs)
            rows.append([line['label'], budget_text(line), str(len(pairs)),
                         f'{mean_and_sd(policy)[0]:.4f}', f'{mean_and_sd(random)[0]:.4f}',
                         f'{mean:+.4f} ± {f"{sd:.4f}" if finite(sd) else MISSING}'])
    return rows


def _difference(line: Line, control: str, lines: Sequence[Line]) -> str:
    """The cell of `against`."""
    mean, error, pairs = against(line, control, lines)
    if not finite(mean):
        return MISSING
    few = f' ({pairs} seed{"s" * (pairs != 1)})' if pairs != line['n'] else ''
    return scores.mean_and_spread(task_of(line), mean, error, signed=True) + few


def _epochs(value: float) -> str:
    return f'{value:.1f}'.removesuffix('.0') if finite(value) else MISSING
