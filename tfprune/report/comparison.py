"""Methods against each other: rows with a cell's name as a table, as sentences and as a page."""
import itertools
import operator
from typing import Any, Callable, Mapping, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from tfprune.errors import unknown
from tfprune.plain_text import markdown_text
from tfprune.report import scores
from tfprune.report.aggregate import (aggregate, budget_text, budgets_of, by_budget,
                                      by_model_and_budget, line_names, mean_and_sd, plus_minus,
                                      settings_of)
from tfprune.report.comparison_plots import plot_account, plot_curves, plot_method_widths
from tfprune.report.judgment import difference_columns, further_tables, pair_notes, verdicts
from tfprune.report.number_text import MISSING, count, duration, listed, percent
from tfprune.report.page import joined, page, plots, section, table
from tfprune.report.reading import finite, task_of
from tfprune.report.rows import Row
from tfprune.report.summary import FORMATS, filled, given_columns, score_sections, summary_notes
from tfprune.report.table import align, markdown, written

Line = Mapping[str, Any]
_MOST_DOTTED = 30  # lines whose runs are drawn one by one
_AGENTS = 'Agents against random actions'


def format_comparison(rows: Sequence[Row], style: str = 'text') -> str:
    """The tables of `rows` as text or markdown and remarks; ValueError for another style, no rows.
    """
    if style not in FORMATS:
        raise unknown('format', style, FORMATS)
    if not rows:
        raise ValueError('there are no runs to report.')
    lines = by_model_and_budget(aggregate(rows))
    title = f'{_title(rows)} ({_lead(rows, lines)})'
    text = [markdown_text(title) if style == 'markdown' else title, '']
    for _, cells in comparison_tables(lines):
        text += [*(markdown(cells) if style == 'markdown' else align(cells, rule=True)), '']
    return '\n'.join([*text, *(written(note, style) for note in comparison_notes(rows))])


def comparison_of_page(rows: Sequence[Row]) -> str:
    """The tables in markdown and what they show, without what a page says once of all tables."""
    lines = by_model_and_budget(aggregate(rows))
    tables = [line for _, cells in comparison_tables(lines) for line in [*markdown(cells), '']]
    notes = [*verdicts(lines), *_sparse_notes(lines), *_charge_notes(rows)]
    return '\n'.join([*tables, *(written(note, 'markdown') for note in notes)]).rstrip()


def comparison_html(rows: Sequence[Row]) -> str:
    """The same as one page without network, with curves, widths and costs."""
    lines = by_budget(aggregate(rows))
    parts = []
    agents = [section(title, table(cells), notes=[_AGENT_NOTE])
              for title, cells in comparison_tables(lines) if title == _AGENTS]
    if lines:
        parts.append(section('Methods', table(_grouped(lines)), paragraphs=verdicts(lines),
                             notes=[*_column_notes(lines), *_charge_notes(rows)]))
        parts += [section(title, table(cells)) for title, cells in further_tables(lines)]
    if 0 < len(lines) <= _MOST_DOTTED:  # the curves say it of more
        parts += score_sections(line_names(lines, budgets=False), lines, 'method', (
            'Each run a small dot; mean and sample standard deviation over seeds below it.'))
    parts += [plots(title, [(fig, caption)]) for title, fig, caption in (
        *_curves(lines),
        ('Widths', plot_method_widths(lines),
         'Share of the channels kept of each prunable group, in the order of the network; the '
         'numbers are mean widths. A group that is gone was removed with its block.'),
        ('Epochs', plot_account(lines),
         'Mean epochs of a run. A search counts by its forward and backward passes: those of '
         f'every training {_one_example(lines)} through the dense model are one epoch.'))]
    parts += [*agents, section('', Markup(), notes=summary_notes(rows))]
    return page(_title(rows), _lead(rows, lines), joined(parts), wide=True)


def _grouped(lines: Sequence[Line]) -> list[list[str]]:
    """The table with a title above the lines of each budget, where there are several; no column
    says it then."""
    header, *rows = _cells(lines)
    if 'budget' not in header:
        return [header, *rows]
    place, found = header.index('budget'), []
    for title, own in itertools.groupby(rows, lambda row: row[place]):
        found += [[f'Budget: {title}' if title != MISSING else 'Without budget'], *own]
    return [row if len(row) == 1 else [*row[:place], *row[place + 1:]] for row in [header, *found]]


def comparison_tables(lines: Sequence[Line]) -> list[tuple[str, list[list[str]]]]:
    """(title, header and rows) of all tables; none without lines."""
    agents = _agent_cells(lines)
    return [*([('Methods', _cells(lines))] if lines else []), *further_tables(lines),
            *([(_AGENTS, agents)] if len(agents) > 1 else [])]


def _curves(lines: Sequence[Line]) -> list[tuple[str, Figure | None, str]]:
    """(title, plot, caption) of the curves, for each metric."""
    return [(f'{scores.title(task)} against MACs', plot_curves(
        [line for line in lines if scores.same_metric(task_of(line), task)]),
        'Means over seeds; bars are sample standard deviations, none for one seed. Methods of one '
        'budget are drawn a little beside each other.') for task in scores.metrics_of(lines)]


def comparison_notes(rows: Sequence[Row]) -> list[str]:
    """Sentences below the tables."""
    lines = aggregate(rows)
    agent = [_AGENT_NOTE] if len(_agent_cells(lines)) > 1 else []
    return [*verdicts(lines), *_column_notes(lines), *_charge_notes(rows), *agent,
            *summary_notes(rows)]


_AGENT_NOTE = ('Rewards of the policy and of random actions on the same weights, means over seeds; '
               '± is the sample standard deviation of the difference over seeds. They tell whether '
               'a policy has learnt; a method is judged by its test scores, against the controls.')


def _column_notes(lines: Sequence[Line]) -> list[str]:
    return [*_sparse_notes(lines), 'MACs and params: the most of any seed.', *pair_notes(lines),
            'epochs: pretraining, training before surgery, search and fine-tuning; a search counts '
            f'by its passes, those forward and backward of every training {_one_example(lines)} '
            'through the dense model being one epoch.']


def _sparse_notes(lines: Sequence[Line]) -> list[str]:
    """Of lines whose single weights were zeroed."""
    return [f'{line["label"]}: {percent(line["zeros"], 1)} of the kernel weights are zero, which '
            'leaves MACs and parameters as they are.' for line in lines if finite(line['zeros'])]


def _one_example(lines: Sequence[Line]) -> str:
    """'image', 'example'; the latter of tasks that differ in it."""
    found = {scores.one_example(task_of(line)) for line in lines or [{}]}
    return found.pop() if len(found) == 1 else 'example'


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
    budgets = budgets_of(lines)
    return ', '.join(filter(None, (
        f'{len(rows)} run{"s" * (len(rows) != 1)}',
        f'budget{"s" * (len(budgets) > 1)}: {"; ".join(budgets)}' if budgets else '')))


def _cells(lines: Sequence[Line]) -> list[list[str]]:
    """Header and rows of the table."""
    task = scores.shared(lines)
    named, unit = task is None, scores.unit(task)
    columns: dict[str, Callable[[Line], str]] = {
        'method': lambda line: ', '.join(filter(None, (line['label'], line['flags'])))}
    # What is the same in all lines stands above the table.
    if len(budgets_of(lines)) > 1:
        columns['budget'] = budget_text
    columns |= {name: operator.itemgetter(name) for name in settings_of(lines)}
    columns |= {
        'MACs': lambda line: count(max(line['macs'])) + '+' * bool(line['uncounted']),
        'of dense': lambda line: percent(max(line['macs_ratios'])),
        'params': lambda line: count(max(line['params'])), 'n': lambda line: str(line['n']),
        **given_columns(lines, named, unit),
        scores.test_title(task, unit): lambda line: plus_minus(line, 'score', named),
        **difference_columns(lines),
        f'before surgery{unit}': lambda line: (plus_minus(line, 'dense_score', named)
                                               if min(line['macs_ratios']) < 1 else MISSING),
        'epochs': lambda line: _epochs(line['account']['total']),
        'of these search': lambda line: _epochs(line['account']['search_equivalents']),
        'time a run': lambda line: duration(line['seconds'])}
    return filled(columns, lines)


def _agent_cells(lines: Sequence[Line]) -> list[list[str]]:
    """Header and rows of the policies' rewards against those of random actions."""
    rows = [['method', 'budget', 'n', 'policy', 'random actions', 'difference']]
    for line, name in zip(lines, line_names(lines, budgets=False)):
        pairs = [(agent['policy_reward_mean'], agent['random_reward_mean'])
                 for agent in line['agents'] if finite(agent.get('policy_reward_mean'))
                 and finite(agent.get('random_reward_mean'))]
        if pairs:
            policy, random = zip(*pairs)
            mean, sd = mean_and_sd(p - r for p, r in pairs)
            rows.append([name, budget_text(line), str(len(pairs)),
                         f'{mean_and_sd(policy)[0]:.4f}', f'{mean_and_sd(random)[0]:.4f}',
                         f'{mean:+.4f} ± {f"{sd:.4f}" if finite(sd) else MISSING}'])
    return rows


def _epochs(value: float) -> str:
    return f'{value:.1f}'.removesuffix('.0') if finite(value) else MISSING
