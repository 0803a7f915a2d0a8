"""Several runs together: mean and spread over seeds, one line a configuration."""
import json
import math
import statistics
from typing import Any, Iterable, Mapping, Sequence

from markupsafe import Markup

from tfprune.config import LIMITS, is_ratio
from tfprune.errors import unknown
from tfprune.report import scores
from tfprune.report.number_text import MISSING, count, duration, listed, percent, quotient
from tfprune.report.page import figure, joined, page, section, table
from tfprune.report.plots import plot_summary
from tfprune.report.reading import ACCOUNT, finite, task_of, test_score
from tfprune.report.rows import SHOWN, Row
from tfprune.report.table import align, markdown, uncounted_sentences, written

FORMATS = ('text', 'markdown')


def aggregate(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One dict a configuration, in the order of their first run; unfinished runs count for none.

    Keys: label (the cell of a comparison, else the method), method, is_control, decides_first,
    model, dataset, budgets
    ({target: limit}; {} where no budget was to be kept), epochs; macs, macs_ratios, params [n];
    uncounted, the names of what macs leaves out; task, see task_of;
    runs, seeds; n; scores, the task's metric on the test data, and test_images, how many these are
    [of each run]; right, which of them are answered right, None where a row does not say;
    score_mean, score_sd (sample standard deviation; NaN for n = 1);
    dense_score_mean, dense_score_sd; the same of the model as given, given_score_mean,
    given_score_sd (NaN from random weights); seconds and account, means of a run; widths,
    {group: [mean width, dense width]}; zeros, the mean share of kernel weights that are zero where
    single weights were pruned, else NaN; agents, of each run that has one, its rewards against
    random actions'; configuration, all flags but the seed; and `flags`, what tells this line from
    others that look the same.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row['finished']:
            key = json.dumps([row.get('cell'), row['configuration'], task_of(row)['metric']],
                             sort_keys=True)
            groups.setdefault(key, []).append(row)
    lines = [_line(members) for members in groups.values()]
    configurations = [members[0]['configuration'] for members in groups.values()]
    for line in lines:
        alike = [c for other, c in zip(lines, configurations) if _visible(other) == _visible(line)]
        own = configurations[lines.index(line)]
        differing = sorted(name for name in {name for c in alike for name in c}
                           if any(c.get(name) != own.get(name) for c in alike))
        line['flags'] = ' '.join(f'--{name}={own.get(name)}' for name in differing)
    return lines


def format_summary(rows: Sequence[Row], style: str = 'text') -> str:
    """The table of `rows` as text or markdown, unfinished runs and remarks below it.

    ValueError for another style or no rows.
    """
    if style not in FORMATS:
        raise unknown('format', style, FORMATS)
    if not rows:
        raise ValueError('there are no runs to report.')
    cells, notes = _cells(aggregate(rows)), summary_notes(rows)
    lines: list[str] = []
    if len(cells) > 1:
        lines += (markdown(cells, left=3) if style == 'markdown'
                  else align(cells, rule=True, left=3)) + ['']
    return '\n'.join(lines + [written(note, style) for note in notes])


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
        sections.append(section('Runs', table(_cells(lines), left=3)))
    if len(lines) > 1:
        labels = [', '.join(filter(None, (
            line['label'], line['model'], budget_text(line).strip(MISSING), line['flags'])))
            for line in lines]
        sections += score_sections(labels, lines, 'configuration', (
            'Each run a small dot; mean and sample standard deviation beside it.'))
    sections.append(section('', Markup(), notes=summary_notes(rows)))
    return page(f'{len(rows)} run{"s" * (len(rows) != 1)}', '', joined(sections))


def score_sections(names: Sequence[str], lines: Sequence[Mapping[str, Any]], by: str,
                   caption: str) -> list[Markup]:
    """A section a metric: the test scores of its lines, drawn."""
    found = []
    for number, task in enumerate(scores.metrics_of(lines)):
        labels, chosen = zip(*((name, line) for name, line in zip(names, lines)
                               if scores.same_metric(line['task'], task)))
        svg = plot_summary(labels, chosen, number)
        title = f'Test {task["metric"]}'
        found.append(section(title, figure(svg, f'{title} after the last epoch by {by}', caption)))
    return found


def mean_and_sd(values: Iterable[Any]) -> tuple[float, float]:
    """Mean and sample standard deviation; NaN where there are too few values or one is missing."""
    numbers = list(values)
    if not numbers or not all(finite(value) for value in numbers):
        return math.nan, math.nan
    return (statistics.fmean(numbers),
            statistics.stdev(numbers) if len(numbers) > 1 else math.nan)


def _line(members: Sequence[Row]) -> dict[str, Any]:
    # A seed that ran twice tells nothing of the spread over seeds.
    by_seed = {row['seed']: row for row in members}.values()
    score, score_sd = mean_and_sd(test_score(row) for row in by_seed)
    dense, dense_sd = mean_and_sd(test_score(row, 'dense_') for row in by_seed)
    given, given_sd = mean_and_sd(test_score(row, 'given_') for row in by_seed)
    first = members[0]
    return {'label': first.get('cell') or first['method'],
            'is_control': first.get('is_control', False),
            'decides_first': first.get('decides_first', False),
            **{name: first[name] for name in SHOWN}, 'epochs': first['epochs'],
            'budgets': {target: first['configuration'][target] for target in LIMITS
                        if _keeps_a_budget(first) and first['configuration'].get(target)},
            'macs': [row['macs'] for row in members],
            'macs_ratios': [quotient(row['macs'], row['dense_macs']) for row in members],
            'params': [row['params'] for row in members],
            'uncounted': sorted({name for row in members for name in row.get('uncounted', ())}),
            'runs': [row['run'] for row in members], 'seeds': [row['seed'] for row in members],
            'n': len(by_seed), 'task': task_of(first),
            'scores': [test_score(row) for row in members],
            'test_images': [row.get('test_images') for row in members],
            'right': [row.get('right') for row in members],
            'configuration': first['configuration'],
            'score_mean': score, 'score_sd': score_sd,
            'dense_score_mean': dense, 'dense_score_sd': dense_sd,
            'given_score_mean': given, 'given_score_sd': given_sd,
            'seconds': mean_and_sd(row['seconds'] for row in members)[0],
            'account': _mean_account(members),
            'widths': _mean_widths(members),
            'zeros': mean_and_sd(quotient(row['sparsity']['zeros'],
                                          row['sparsity']['kernel_weights'])
                                 for row in members if row.get('sparsity'))[0],
            'agents': [row['agent'] for row in members if row.get('agent')]}


def _keeps_a_budget(row: Row) -> bool:
    """Whether a limit was set and kept: of a method that finds its own ratio none was."""
    return row['pruned'] and any(b['asked'] != 1 for b in row.get('budgets', [{'asked': None}]))


def _mean_account(members: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """What a run has cost, by the parts of ACCOUNT; a part that is younger than a row cost it 0."""
    accounts = [row['account'] for row in members if row.get('account')]
    return {name: mean_and_sd(each.get(name, 0) for each in accounts)[0] for name in ACCOUNT}


def _mean_widths(members: Sequence[Row]) -> dict[str, list[float]]:
    """{group: [mean width, dense width]}, in the order of the model."""
    names = dict.fromkeys(name for row in members for name in row.get('widths', {}))
    found = {name: [row['widths'][name] for row in members if name in row.get('widths', {})]
             for name in names}
    return {name: [statistics.fmean(width for width, _ in pairs), pairs[0][1]]
            for name, pairs in found.items()}


def _visible(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(line[name] for name in ('label', *SHOWN)), line['budgets'], line['epochs'],
            line['task']['metric'])


def _cells(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows of the table; a column of flags only where some line needs it."""
    task = scores.shared(lines)
    named, unit = task is None, scores.unit(task)
    before = f'before surgery{unit}'
    header = ['method', 'model', 'dataset', 'budget', 'MACs', 'n', scores.test_title(task, unit),
              before, 'epochs', 'time a run']
    rows = [header]
    for line in lines:
        low, high = (percent(pick(line['macs_ratios'])) for pick in (min, max))
        macs = (low if low == high else f'{low}–{high}') + '+' * bool(line['uncounted'])
        rows.append([line['label'], line['model'], line['dataset'], budget_text(line), macs,
                     str(line['n']), plus_minus(line, 'score', named),
                     plus_minus(line, 'dense_score', named) if line['budgets'] else MISSING,
                     count(line['epochs']), duration(line['seconds'])])
    if any(finite(line['given_score_mean']) for line in lines):
        place = header.index(before)
        for row, cell in zip(rows, [f'as given{unit}', *(plus_minus(line, 'given_score', named)
                                                         for line in lines)]):
            row.insert(place, cell)
    if any(line['flags'] for line in lines):
        rows = [row + [flags] for row, flags in
                zip(rows, ['flags', *(line['flags'] or MISSING for line in lines)])]
    return rows


def budget_text(line: Mapping[str, Any]) -> str:
    """The budgets of a line of `aggregate`; MISSING without."""
    return listed(f'{name} {_limit(name, limit)}'
                  for name, limit in line['budgets'].items()) or MISSING


def _limit(name: str, limit: float) -> str:
    if is_ratio(name, limit):
        return f'{100 * limit:g}%'
    return f'{limit:g}' if name == 'latency_ms' else count(limit)


def plus_minus(line: Mapping[str, Any], name: str, named: bool = False) -> str:
    """Mean ± sample standard deviation of `name`, shares in percent; `named`: with metric and unit.
    """
    task = line['task']
    text = scores.mean_and_spread(task, line[f'{name}_mean'], line[f'{name}_sd'])
    return f'{task["metric"]} {text}{" %" * task["is_share"]}' if named else text
