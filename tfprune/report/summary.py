"""Several runs together as a table, one line a configuration."""
from typing import Any, Callable, Mapping, Sequence

from markupsafe import Markup

from tfprune.errors import unknown
from tfprune.report import scores
from tfprune.report.aggregate import aggregate, budget_text, plus_minus
from tfprune.report.comparison_plots import plot_scores_by_budget
from tfprune.report.judgment import difference_columns, further_tables, pair_notes, verdicts
from tfprune.report.number_text import MISSING, count, duration, listed, percent
from tfprune.report.page import joined, page, plots, section, table
from tfprune.report.reading import finite
from tfprune.report.rows import Row
from tfprune.report.table import align, markdown, uncounted_sentences, written

Line = Mapping[str, Any]
Columns = dict[str, Callable[[Line], str]]  # by their headers
FORMATS = ('text', 'markdown')


def format_summary(rows: Sequence[Row], style: str = 'text') -> str:
    """The table of `rows` as text or markdown, unfinished runs and remarks below it.

    ValueError for another style or no rows.
    """
    if style not in FORMATS:
        raise unknown('format', style, FORMATS)
    if not rows:
        raise ValueError('there are no runs to report.')
    lines, text = aggregate(rows), []
    tables = [(_cells(lines), 3), *((cells, 1) for _, cells in further_tables(lines))]
    for cells, left in tables if lines else ():
        text += [*(markdown(cells, left) if style == 'markdown'
                   else align(cells, rule=True, left=left)), '']
    notes = [*verdicts(lines), *pair_notes(lines), *summary_notes(rows)]
    return '\n'.join([*text, *(written(note, style) for note in notes)])


def summary_notes(rows: Sequence[Row]) -> list[str]:
    """Sentences below the table: what ± is, unfinished runs, repeated seeds, commits, hardware."""
    lines = aggregate(rows)
    task = scores.shared(lines)
    notes = ['± is the sample standard deviation over seeds; '
             f'{scores.test_name(task)} after the last epoch; '
             "'before surgery' is the same run's model then, not a separately trained one."]
    if task is None:
        notes += [f'{found["metric"]}: smaller is better.' for found in scores.metrics_of(lines)
                  if not found['larger_is_better']]
    for row in rows:
        if not row['finished']:
            what = (f'{row["method"]}, {row["model"]} on {row["dataset"]}, seed {row["seed"]}'
                    if row.get('method') else 'no config.json')
            notes.append(f'unfinished: {row["run"]} ({what}): {row.get("epochs_done", 0)} of '
                         f'{row["epochs"] if row.get("epochs") else "?"} epochs.'
                         + (f' It failed: {row["error"]}' if row.get('error') else ''))
    for line in lines:
        for seed in sorted({s for s in line['seeds'] if line['seeds'].count(s) > 1}, key=str):
            runs = [run for run, s in zip(line['runs'], line['seeds']) if s == seed]
            notes.append(f'seed {seed} is counted {len(runs)} times: {listed(runs)}.')
    notes += uncounted_sentences(dict.fromkeys(
        name for row in rows for name in row.get('uncounted', ())))
    finished = [row for row in rows if row['finished']]
    for name, title in (('commit', 'commit'), ('processor', 'hardware')):
        seen: dict[str, int] = {}
        for row in finished:
            value = row.get(name) or 'unknown'
            if name == 'processor':
                value = f'{value}, {row.get("cores") or "?"} cores'
            seen[value] = seen.get(value, 0) + 1
        if len(seen) == 1:
            notes.append(f'{title}: {next(iter(seen))}.')
        elif seen:
            notes.append(f'{title}: ' + '; '.join(f'{k} ({n} runs)' for k, n in seen.items()) + '.')
    return notes


def summary_html(rows: Sequence[Row]) -> str:
    """The same as one HTML page without network, with a plot where there are two lines or more."""
    lines = aggregate(rows)
    sections = []
    if lines:
        sections.append(section('Runs', table(_cells(lines), left=3), paragraphs=verdicts(lines),
                                notes=pair_notes(lines)))
        sections += [section(title, table(cells)) for title, cells in further_tables(lines)]
    if len(lines) > 1:
        labels = [', '.join(filter(None, (
            line['label'], line['model'], line['flags'])))
            for line in lines]
        sections += score_sections(labels, lines, 'configuration', (
            'Each run a small dot; mean and sample standard deviation beside it.'))
    sections.append(section('', Markup(), notes=summary_notes(rows)))
    return page(f'{len(rows)} run{"s" * (len(rows) != 1)}', '', joined(sections))


def score_sections(names: Sequence[str], lines: Sequence[Line], by: str,
                   caption: str) -> list[Markup]:
    """A section a metric: the test scores of its lines, drawn."""
    found = []
    for task in scores.metrics_of(lines):
        labels, chosen = zip(*((name, line) for name, line in zip(names, lines)
                               if scores.same_metric(line['task'], task)))
        found.append(plots(f'Test {task["metric"]}', [
            (plot_scores_by_budget(labels, chosen), f'After the last epoch, by {by}. {caption}')]))
    return found


def given_columns(lines: Sequence[Line], named: bool, unit: str) -> Columns:
    """The column of the model as given, where some run began with one; see `plus_minus`."""
    if not any(finite(line['given_score_mean']) for line in lines):
        return {}
    return {f'as given{unit}': lambda line: plus_minus(line, 'given_score', named)}


def filled(columns: Columns, lines: Sequence[Line]) -> list[list[str]]:
    """Header and rows of a table."""
    return [[*columns], *([text(line) for text in columns.values()] for line in lines)]


def _cells(lines: Sequence[Line]) -> list[list[str]]:
    """Header and rows of the table; a column of flags only where some line needs it."""
    task = scores.shared(lines)
    named, unit = task is None, scores.unit(task)
    columns: Columns = {
        'method': lambda line: line['label'], 'model': lambda line: line['model'],
        'dataset': lambda line: line['dataset'], 'budget': budget_text, 'MACs': _macs,
        'n': lambda line: str(line['n']), **given_columns(lines, named, unit),
        scores.test_title(task, unit): lambda line: plus_minus(line, 'score', named),
        **difference_columns(lines),
        f'before surgery{unit}': lambda line: (plus_minus(line, 'dense_score', named)
                                               if line['budgets'] else MISSING),
        'epochs': lambda line: count(line['epochs']),
        'time a run': lambda line: duration(line['seconds'])}
    if any(line['flags'] for line in lines):
        columns['flags'] = lambda line: line['flags'] or MISSING
    return filled(columns, lines)


def _macs(line: Line) -> str:
    """The share of the dense MACs, of several seeds from the least to the most."""
    low, high = (percent(pick(line['macs_ratios'])) for pick in (min, max))
    return (low if low == high else f'{low}–{high}') + '+' * bool(line['uncounted'])
