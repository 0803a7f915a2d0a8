"""Several runs together: mean and spread over seeds, one line a configuration.

A row is a plain dict, one run, one line of a rows file: what the table needs of the run folder, so
that the table can be rendered where the folder is not.
"""
import json
import math
import os
import pathlib
import statistics
from typing import Any, Iterable, Mapping, Sequence

from tfprune.config import LIMITS, NOT_IDENTITY, is_ratio
from tfprune.report.page import figure, page, section, table
from tfprune.report.plots import plot_summary
from tfprune.report.reading import all_values, budgets, current, finite, is_pruned
from tfprune.report.table import (MISSING, align, count, duration, listed, markdown, percent,
                                  quotient)
from tfprune.runs import read_json, read_rows, write_text

Row = Mapping[str, Any]
FORMATS = ('text', 'markdown')
_NOT_CONFIGURATION = ('seed', *NOT_IDENTITY)
_SHOWN = ('method', 'model', 'dataset')
_HEADER = ('method', 'model', 'dataset', 'budget', 'MACs', 'n', 'test accuracy, %',
           'before surgery, %', 'epochs', 'time a run')
_REQUIRED = ('run', 'finished', 'configuration', 'seed')


def run_row(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The row of a run folder, finished or not.

    Raises:
        ValueError: a file of it is damaged.
        NotADirectoryError: there is no such folder.
    """
    path = pathlib.Path(run_dir)
    if not path.is_dir():
        raise NotADirectoryError(f'{path}: no such run folder.')
    config = read_json(path / 'config.json') or {}
    environment = read_json(path / 'environment.json') or {}
    report = read_json(path / 'report.json')
    files = environment.get('files', {})  # Runs of one path and another content are no seeds.
    row: dict[str, Any] = {
        'run': path.resolve().name, 'finished': report is not None,
        'epochs': _total_epochs(config), 'seed': config.get('seed'),
        **{name: config.get(name) for name in _SHOWN},
        'commit': all_values(environment, 'commit'),
        'processor': all_values(environment, 'processor'),
        'cores': environment.get('cores'),
        'configuration': {k: f'{v} ({files[k][:8]})' if k in files else v
                          for k, v in config.items() if k not in _NOT_CONFIGURATION}}
    if report is None:
        return row | {'epochs_done': len({r['epoch'] for r in read_rows(path / 'metrics.jsonl')})}
    dense, pruned = report['dense'], report['pruned']
    return row | {
        'epochs_done': report['epochs']['total'], 'epochs': report['epochs']['total'],
        'pruned': is_pruned(report), 'budgets': budgets(report),
        'test_accuracy': pruned['test_accuracy'], 'dense_test_accuracy': dense['test_accuracy'],
        'macs': pruned['macs'], 'dense_macs': dense['macs'],
        'params': pruned['params'], 'dense_params': dense['params'],
        'tflite_bytes': pruned['tflite_bytes'], 'latency_ratio': report['latency_ratio'],
        'test_images': report['test_images'], 'seconds': report['seconds']['total']}


def aggregate(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One dict a configuration, in the order of their first run; unfinished runs count for none.

    Keys: method, model, dataset, budgets ({target: limit}; {} where nothing is pruned), epochs;
    macs_ratios [n]; runs, seeds; n; accuracy_mean, accuracy_sd (sample standard deviation; NaN for
    n = 1); dense_accuracy_mean, dense_accuracy_sd; seconds, the mean of a run; and `flags`, what
    tells this line from others that look the same.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row['finished']:
            row = {**row, 'configuration': current(row['configuration'])}
            groups.setdefault(json.dumps(row['configuration'], sort_keys=True), []).append(row)
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
        raise ValueError(f'Unknown format {style!r}. Available: {listed(sorted(FORMATS))}')
    if not rows:
        raise ValueError('there are no runs to report.')
    cells, notes = _cells(aggregate(rows)), summary_notes(rows)
    lines: list[str] = []
    if len(cells) > 1:
        lines += (markdown(cells, left=3) if style == 'markdown'
                  else align(cells, rule=True, left=3)) + ['']
    prefix = '- ' if style == 'markdown' else ''
    return '\n'.join(lines + [prefix + note for note in notes])


def summary_notes(rows: Sequence[Row]) -> list[str]:
    """Sentences below the table: what ± is, unfinished runs, repeated seeds, commits, hardware."""
    notes = ['± is the sample standard deviation over seeds; test accuracy after the last epoch; '
             "'before surgery' is the same run's model then, not a separately trained one."]
    for row in rows:
        if not row['finished']:
            what = (f'{row["method"]}, {row["model"]} on {row["dataset"]}, seed {row["seed"]}'
                    if row.get('method') else 'no config.json')
            notes.append(f'unfinished: {row["run"]} ({what}): {row.get("epochs_done", 0)} of '
                         f'{row["epochs"] if row.get("epochs") else "?"} epochs.')
    for line in aggregate(rows):
        for seed in sorted({s for s in line['seeds'] if line['seeds'].count(s) > 1}, key=str):
            runs = [run for run, s in zip(line['runs'], line['seeds']) if s == seed]
            notes.append(f'seed {seed} is counted {len(runs)} times: {listed(runs)}.')
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
            line['method'], line['model'], _budget(line).strip(MISSING), line['flags'])))
            for line in lines]
        sections.append(section('Test accuracy', figure(
            plot_summary(labels, lines), 'Test accuracy after the last epoch by configuration',
            'Each run a small dot; mean and sample standard deviation beside it.')))
    sections.append(section('', '', notes=summary_notes(rows)))
    return page(f'{len(rows)} run{"s" * (len(rows) != 1)}', '', ''.join(sections))


def write_rows_file(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Writes rows, one JSON object a line, whole or not at all."""
    write_text(pathlib.Path(path), ''.join(json.dumps(row) + '\n' for row in rows))


def read_rows_file(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Inverse of write_rows_file; ValueError names the line that is no row."""
    rows = []
    for number, line in enumerate(pathlib.Path(path).read_text().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            raise ValueError(f'{path}, line {number}: not JSON.') from None
        missing = [name for name in _REQUIRED if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f'{path}, line {number}: not the row of a run: no {listed(missing)}.')
        rows.append(row)
    return rows


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
    accuracy, accuracy_sd = mean_and_sd(row['test_accuracy'] for row in by_seed)
    dense, dense_sd = mean_and_sd(row['dense_test_accuracy'] for row in by_seed)
    first = members[0]
    return {**{name: first[name] for name in _SHOWN}, 'epochs': first['epochs'],
            'budgets': {target: first['configuration'][target] for target in LIMITS
                        if first['pruned'] and first['configuration'].get(target)},
            'macs_ratios': [quotient(row['macs'], row['dense_macs']) for row in members],
            'runs': [row['run'] for row in members], 'seeds': [row['seed'] for row in members],
            'n': len(by_seed),
            'accuracies': [row['test_accuracy'] for row in members],
            'accuracy_mean': accuracy, 'accuracy_sd': accuracy_sd,
            'dense_accuracy_mean': dense, 'dense_accuracy_sd': dense_sd,
            'seconds': mean_and_sd(row['seconds'] for row in members)[0]}


def _visible(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(line[name] for name in _SHOWN), line['budgets'], line['epochs'])


def _cells(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows of the table; a column of flags only where some line needs it."""
    rows = [list(_HEADER)]
    for line in lines:
        low, high = (percent(pick(line['macs_ratios'])) for pick in (min, max))
        macs = low if low == high else f'{low}–{high}'
        rows.append([line['method'], line['model'], line['dataset'], _budget(line), macs,
                     str(line['n']), _plus_minus(line, 'accuracy'),
                     _plus_minus(line, 'dense_accuracy') if line['budgets'] else MISSING,
                     count(line['epochs']), duration(line['seconds'])])
    if any(line['flags'] for line in lines):
        rows = [row + [flags] for row, flags in
                zip(rows, ['flags', *(line['flags'] or MISSING for line in lines)])]
    return rows


def _budget(line: Mapping[str, Any]) -> str:
    return listed(f'{name} {_limit(name, limit)}'
                  for name, limit in line['budgets'].items()) or MISSING


def _limit(name: str, limit: float) -> str:
    if is_ratio(name, limit):
        return f'{100 * limit:g}%'
    return f'{limit:g}' if name == 'latency_ms' else count(limit)


def _plus_minus(line: Mapping[str, Any], name: str) -> str:
    mean, sd = line[f'{name}_mean'], line[f'{name}_sd']
    if not finite(mean):
        return MISSING
    return f'{100 * mean:.2f} ± {f"{100 * sd:.2f}" if finite(sd) else MISSING}'


def _total_epochs(config: Mapping[str, Any]) -> int | None:
    names = ('warmup', 'random', 'joint', 'alignment', 'fine_tune')
    try:
        return sum(config[f'{name}_epochs'] for name in names)
    except KeyError:
        return None
