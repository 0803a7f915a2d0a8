"""Runs of one configuration together: mean and spread over seeds."""
import json
import math
import statistics
from typing import Any, Iterable, Mapping, Sequence

from tfprune.config import LIMITS, is_ratio
from tfprune.report import scores
from tfprune.report.number_text import MISSING, count, listed, quotient
from tfprune.report.reading import ACCOUNT, finite, planned_epochs, task_of, test_score
from tfprune.report.rows import SHOWN, Row


def aggregate(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One dict a configuration, in the order of their first run; unfinished runs count for none.

    Keys: label (the cell of a comparison, else the method), method, is_control, decides_first,
    model, dataset, budgets
    ({target: limit}; {} where no budget was to be kept), epochs; macs, macs_ratios, params [n];
    uncounted, the names of what macs leaves out; task, see task_of;
    of each run: runs, seeds, scores (the task's metric on the test data), given_scores (that of
    the model as given), test_images (how many these are), right (which of them are answered right,
    None where a row does not say); n, seeds without those that ran twice;
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
            'given_scores': [test_score(row, 'given_') for row in members],
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
    return (*(line[name] for name in ('label', *SHOWN)), line['budgets'],
            planned_epochs(line['configuration']), line['task']['metric'])


def line_names(lines: Sequence[Mapping[str, Any]], *, budgets: bool = True) -> list[str]:
    """A name a line: the method, with what tells it from its other lines; `budgets`: these, too."""
    labels = [line['label'] for line in lines]
    names = []
    for line in lines:
        parts = [line['label'], *(line[setting] for setting in settings_of(lines)),
                 budget_text(line).strip(MISSING) if budgets and labels.count(line['label']) > 1
                 else '', line['flags']]
        names.append(', '.join(filter(None, parts)))
    return names


def settings_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of 'model' and 'dataset' tell lines apart; of a task file both have one name."""
    if all(line['model'] == line['dataset'] for line in lines):
        names = ['model']
    else:
        names = ['model', 'dataset']
    return [name for name in names if len({line[name] for line in lines}) > 1]


def budgets_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The budgets that lines keep, the smallest first."""
    kept = sorted((line for line in lines if line['budgets']),
                  key=lambda line: max(line['macs_ratios']))
    return list(dict.fromkeys(map(budget_text, kept)))


def by_budget(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines grouped by budget: first those that keep none, then the smallest."""
    order = [MISSING, *budgets_of(lines)]
    return sorted(lines, key=lambda line: order.index(budget_text(line)))


def by_model_and_budget(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same within each model, of which a table may have several."""
    models = list(dict.fromkeys(line['model'] for line in lines))
    return sorted(by_budget(lines), key=lambda line: models.index(line['model']))


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
