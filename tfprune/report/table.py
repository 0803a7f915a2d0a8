"""The model as given, before surgery and pruned, as a table and in sentences."""
import dataclasses
import math
import textwrap
from typing import Any, Iterable, Mapping, Sequence

import tabulate

from tfprune.plain_text import markdown_text
from tfprune.report import scores
from tfprune.report.number_text import MISSING, count, listed, milliseconds, percent, quotient
from tfprune.report.reading import (as_given, budgets, epoch_account, finite, further_metrics,
                                    is_pruned, surgery_first, task_of, test_score)
from tfprune.significance import ERRORS, fell

LINE = 96  # characters of a line of text
_ALIKE = 0.05  # of a ratio, by which another may differ without a word
_OF_ONE_RUN = ('The rewards of one run are no evidence about the method: tfprune compare sets '
               'its test scores against uniform widths and the other controls, over seeds.')
_ROW = tabulate.DataRow('', '   ', '')
_PLAIN = tabulate.TableFormat(None, None, None, None, _ROW, _ROW, 0, None)


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One quantity, as text: a cell of each of `columns`; the last a ratio, of metrics a
    difference, both against what the user had."""
    name: str
    cells: tuple[str, ...]


def format_table(report: Mapping[str, Any]) -> str:
    """The table printed at the end of a run, from the content of report.json."""
    rows = [('', *columns(report))]
    rows += [(row.name, *row.cells) for row in table_rows(report)]
    lines = [headline(report), '', *align(rows, rule=True), '']
    for note in [*budget_sentences(report), *sparsity_sentences(report), *latency_sentences(report),
                 *pairing_sentences(report), *agent_sentences(report), account_sentence(report),
                 *training_sentences(report),
                 *table_notes(report)]:
        lines += textwrap.wrap(note, LINE)
    return '\n'.join(lines)


def columns(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Headers of the columns of numbers; the last compares the one before it with the first."""
    before, after = ('before surgery', 'pruned') if is_pruned(report) else ('before', 'final')
    names: tuple[str, ...] = (before, after)
    if surgery_first(report):
        names = ('dense', after)
    if as_given(report):
        names = ('as given', after) if surgery_first(report) else ('as given', *names)
    return (*names, f'{names[-1]} / {names[0]}')


def reference_score(report: Mapping[str, Any]) -> float | None:
    """Test score of the model as given, with which the pruned one is compared; None from random
    weights, for a model that has half of its epochs before it is no reference."""
    given = as_given(report)
    return test_score(given) if given else None


def table_rows(report: Mapping[str, Any]) -> list[TableRow]:
    """Metrics, MACs, params, bytes, latency, and peak memory where a budget limits it. MACs that
    leave layers out are marked '+'."""
    dense, pruned = report['dense'], report['pruned']
    between = len(columns(report)) - 3  # cells beside the first, the last and their comparison
    names = [('macs', 'MACs'), ('params', 'params')]
    if 'trainable_params' in dense and 'trainable_params' in pruned:
        names.append(('trainable_params', 'of these trainable'))
    if any(row['target'] == 'peak_memory_bytes' for row in budgets(report)):
        names.append(('peak_memory_bytes', 'peak memory, bytes'))
    names.append(('tflite_bytes', 'TFLite bytes'))

    def row(label: str, first: str, last: str, change: str) -> TableRow:
        return TableRow(label, (*[first] * (between + 1), last, change))

    return [*_metric_rows(report),
            *(row(label, count(dense[name]) + mark(report, name),
                  count(pruned[name]) + mark(report, name),
                  percent(quotient(pruned[name], dense[name]))) for name, label in names),
            row('TFLite latency (1 thread, median), ms', milliseconds(dense['latency_ms']),
                milliseconds(pruned['latency_ms']), percent(report['latency_ratio'], 1))]


def _metric_rows(report: Mapping[str, Any]) -> list[TableRow]:
    """The task's metric, and what else was measured on the test data."""
    task, given, sides = task_of(report), as_given(report), [report['dense'], report['pruned']]
    if given:
        sides = [given, *sides[len(columns(report)) == 3:]]
    values = [test_score(side) for side in sides]
    rows = [TableRow(scores.test_title(task), (
        *(scores.score(task, value) for value in values),
        scores.difference(task, values[-1], reference_score(report))))]
    further = [further_metrics(side, task) for side in sides]
    for name in dict.fromkeys(name for metrics in further for name in metrics):
        values = [metrics.get(name) for metrics in further]
        rows.append(TableRow(f'test {name}', (
            *map(scores.plain, values),
            scores.plain_difference(values[-1], values[0] if given else None))))
    return rows


def headline(report: Mapping[str, Any]) -> str:
    """What ran, in one line."""
    epochs = report['epochs']
    if surgery_first(report):
        when = 'all after surgery'
    elif is_pruned(report):
        when = f'{epochs["search"]} before surgery, {epochs["fine_tune"]:.4g} after'
    else:
        when = 'no surgery'
    return (f'{report["method"]}: {report["model"]} on {report["dataset"]}, '
            f'seed {report["seed"]}, {epochs["total"]:.4g} epochs ({when})')


def budget_sentences(report: Mapping[str, Any]) -> list[str]:
    """Of each budget: limit, cost, share used."""
    rows = budgets(report)
    if not is_pruned(report):
        costs = listed(f'{row["target"]} {_amount(report, row, "cost")}'
                       for row in rows)
        return [f'Budget: not applied; {_nothing(report)} is pruned, {costs}.']
    said = []
    for row in rows:
        is_ratio = row.get('is_ratio', row['asked'] <= 1)
        share = f'{row["asked"]:.4g} of ' if is_ratio else ''
        said.append(f'Budget: {row["target"]} at most {_amount(report, row, "limit")} '
                    f'({share}dense {_amount(report, row, "dense")}); '
                    f'cost {_amount(report, row, "cost")}, '
                    f'{percent(quotient(row["cost"], row["limit"]))} of the budget.')
    return said


def _nothing(report: Mapping[str, Any]) -> str:
    return 'no channel' if report.get('sparsity') else 'nothing'


def account_sentence(report: Mapping[str, Any]) -> str:
    """What the run has cost, in epochs; see epoch_account."""
    account = epoch_account(report)
    names = {'pretraining': 'pretraining', 'search': 'before surgery',
             'search_equivalents': 'search by its passes', 'fine_tune': 'fine-tuning',
             'distillation': 'its teacher'}
    if surgery_first(report) or not is_pruned(report):
        names |= {'search': 'training', 'fine_tune': 'training'}
    parts = ' + '.join(f'{account[name]:.4g} {text}' for name, text in names.items()
                       if account[name])
    return f'Epochs: {parts} = {account["total"]:.4g}.'


def _amount(report: Mapping[str, Any], row: Mapping[str, Any], name: str) -> str:
    """A cost of a budget's row in the unit of its target."""
    text = (milliseconds if row['target'] == 'latency_ms' else count)(row[name])
    return text + mark(report, row['target'])


def mark(report: Mapping[str, Any], name: str) -> str:
    """'+' behind MACs that leave layers out, '' behind all other costs."""
    return '+' * (name == 'macs' and bool(report.get('uncounted')))


def sparsity_sentences(report: Mapping[str, Any]) -> list[str]:
    """Of a model with single weights zeroed: how many; none for others."""
    row = report.get('sparsity')
    if not row:
        return []
    share = percent(quotient(row['zeros'], row['kernel_weights']))
    return [f'Sparsity: {count(row["zeros"])} of {count(row["kernel_weights"])} kernel weights are '
            f'zero ({share}), {count(row["nonzero_params"])} parameters are not; the model has its '
            'dense MACs and size.']


def pairing_sentences(report: Mapping[str, Any]) -> list[str]:
    """Why the ratio of latencies is not that of the two numbers beside it, where they differ."""
    ratio, shown = report['latency_ratio'], quotient(
        report['pruned']['latency_ms'], report['dense']['latency_ms'])
    if not ratio or not shown or abs(shown / ratio - 1) <= _ALIKE:
        return []
    return ['The latency ratio is the median over rounds, each of which measures both files; '
            f'the medians themselves are at {percent(shown, 1)}: the machine was busy in between.']


def latency_sentences(report: Mapping[str, Any]) -> list[str]:
    """What the latency table predicted, and its error; none for runs without a table."""
    row = report.get('latency_prediction')
    if not row:
        return []
    # Older reports are of float32 files and do not say so.
    form = '' if row.get('form', 'tflite') == 'tflite' else 'int8 files, '
    said = (f'Latency table ({form}{row["machine"]}, threads: {row["threads"]}): predicted '
            f'{milliseconds(row["pruned_ms"])} ms, {percent(row["ratio"], 1)} of dense '
            f'{milliseconds(row["dense_ms"])} ms')
    errors = [f'{name} {100 * row[key]:+.1f}%' for name, key in (
        ('pruned', 'pruned_error'), ('dense', 'dense_error'), ('ratio', 'ratio_error'))
        if finite(row[key])]
    return [f'{said}; error against the files measured here: {listed(errors)}.']


def table_notes(report: Mapping[str, Any]) -> list[str]:
    """What the columns are, and how much a difference of scores means."""
    total, search = f'{report["epochs"]["total"]:.4g}', report['epochs']['search']
    given, notes = report.get('given'), []
    if as_given(report):
        notes.append("'as given' is your model with its weights, before anything was done to it"
                     f'{_found(report)}; its costs are those of the same architecture.')
    elif given:
        notes.append(f'The given model scored {scores.score(task_of(report), test_score(given))}, '
                     'no better than chance: there is no difference against it.')
    if surgery_first(report):
        if not as_given(report):
            notes.append("'dense' is the architecture before surgery, which was not trained in "
                         'this run; a separately trained baseline is --method=dense.')
    elif is_pruned(report):
        notes.append(f"'before surgery' is this run's model after {search} of {total} epochs, not "
                     'fine-tuned; it is no separately trained baseline: that is --method=dense.')
    else:
        notes.append(f"'before' is the model after {search} epochs, 'final' the same model after "
                     f'all {total}; {_nothing(report)} was pruned.')
    return [*notes, *caveats(report)]


def _found(report: Mapping[str, Any]) -> str:
    """Of a given model whose batch-norm statistics were re-estimated: what it scores without."""
    found = report['given'].get('found')  # older reports have none
    if not found:
        return ''
    return (' but that its batch-norm statistics, which lagged behind them, were re-estimated on '
            f'training {task_of(report)["examples"]}: with those that it came with it scores '
            f'{scores.score(task_of(report), test_score(found))}')


def caveats(report: Mapping[str, Any]) -> list[str]:
    """What the numbers leave out, and how much a difference of scores means."""
    notes = []
    if report.get('missing'):
        notes.append('Lost while the run was interrupted, and not in this report: '
                     f'{"; ".join(report["missing"])}.')
    if report.get('own_losses') and 'loss' in {
            task_of(report)['metric'], *further_metrics(report['pruned'], task_of(report))}:
        notes.append("Test losses are without the model's own (regularizers, add_loss), which "
                     'evaluate adds to them.')
    notes += [*uncounted_sentences(report.get('uncounted', ())), *shortfall_sentences(report)]
    return [*notes, *_error_sentences(report)]


def _error_sentences(report: Mapping[str, Any]) -> list[str]:
    """By how much the score of one model is uncertain, for the number of test data."""
    task, value = task_of(report), test_score(report['pruned'])
    number = report.get('test_images')
    if not (finite(value) and number):
        return []
    said = f'{scores.title(task)} on {count(number)} test {task["examples"]}: '
    if not task['is_accuracy']:
        return [f'{said}how much of a difference is chance is not known.']
    error = 100 * math.sqrt(value * (1 - value) / number)
    return [f'{said}standard error of one {task["metric"]} {error:.2f} points.']


def shortfall_sentences(report: Mapping[str, Any]) -> list[str]:
    """That the model is clearly worse than the given one, and what to try; none else, and none of a
    model that was trained from random weights by design, nor of a metric without standard errors.
    """
    if surgery_first(report) or not task_of(report)['is_accuracy']:
        return []
    before, after = reference_score(report), test_score(report['pruned'])
    images = report.get('test_images')
    if not (finite(before) and finite(after) and images and fell(before, after, images)):
        return []
    which, budget = ('pruned', ' or a larger budget') if is_pruned(report) else ('final', '')
    return [f'The {which} model is {100 * (before - after):.2f} points below the given one, more '
            f'than {ERRORS:g} standard errors: more epochs (--fine_tune_epochs){budget} may bring '
            'it back, where learning rates and augmentation suit the data.']


def uncounted_sentences(names: Iterable[str]) -> list[str]:
    """What '+' behind MACs stands for: the layers that they leave out; none of none."""
    text = listed(names)
    return [f'+ MACs of {text} are not counted.'] if text else []


def training_sentences(report: Mapping[str, Any]) -> list[str]:
    """Why weights were trained at the rates that they were."""
    reasons = (report.get('training') or {}).get('reasons', ())
    return [f'{reason[:1].upper()}{reason[1:]}.' for reason in reasons]


def agent_sentences(report: Mapping[str, Any]) -> list[str]:
    """The policy against random actions, in words; none for methods without an agent."""
    agent = report.get('agent')
    if not agent:
        return []
    episodes = agent['episodes']
    said = [f'Agent against random actions, the same weights, {episodes} episodes each: mean '
            f'reward {_mean(agent, "policy")} (policy) and {_mean(agent, "random")} (random), best '
            f'{_number(agent.get("policy_reward_max"))} and '
            f'{_number(agent.get("random_reward_max"))}; ± is the standard error of the mean.']
    difference, errors = reward_difference(agent)
    if not finite(difference):
        return said + ['The agent cannot be judged: a mean reward is missing.']
    text = f'The difference is {difference:+.4f}'
    if not finite(errors):
        return said + [f'{text}; without a standard error it cannot be judged.']
    if errors >= 2:
        verdict = 'the agent beats random actions.'
    elif errors <= -2:
        verdict = 'the agent does not beat random actions; it is worse.'
    else:
        verdict = ('the agent does not beat random actions: a difference below 2 standard errors '
                   'may be chance.')
    return said + [f'{text}, {errors:+.1f} standard errors: {verdict}', _OF_ONE_RUN]


def reward_difference(agent: Mapping[str, Any]) -> tuple[float, float]:
    """(policy - random, the same in standard errors of the difference); NaN where unknown.

    standard error of the difference = sqrt(policy_error^2 + random_error^2)
    """
    policy, random = agent.get('policy_reward_mean'), agent.get('random_reward_mean')
    if not finite(policy) or not finite(random):
        return math.nan, math.nan
    errors = agent.get('policy_reward_error'), agent.get('random_reward_error')
    error = math.hypot(*(e if finite(e) else math.nan for e in errors))
    return policy - random, quotient(policy - random, error)


def align(rows: Sequence[Sequence[str]], *, rule: bool = False, left: int = 1) -> list[str]:
    """Lines of columns, three spaces apart: the first `left` flush left, the others flush right; a
    rule below the first row, its header, if asked for."""
    # As a header it would be padded.
    text = tabulate.tabulate(rows, tablefmt=_PLAIN, disable_numparse=True,
                             colalign=_sides(rows, left))
    lines = text.splitlines()
    rules = ['─' * max(map(len, lines))] if rule else []
    return [line.rstrip() for line in (lines[0], *rules, *lines[1:])]


def markdown(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a markdown table; the first row is its header."""
    cells = [[markdown_text(cell) for cell in row] for row in rows]
    return tabulate.tabulate(cells[1:], cells[0], 'pipe', disable_numparse=True,
                             colalign=_sides(rows, left)).splitlines()


def _sides(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    return ['left' if i < left else 'right' for i in range(len(rows[0]))]


def written(note: str, style: str) -> str:
    """A sentence below a table, as an item of a list in markdown."""
    return f'- {markdown_text(note)}' if style == 'markdown' else note


def _mean(agent: Mapping[str, Any], source: str) -> str:
    mean, error = (_number(agent.get(f'{source}_reward_{name}')) for name in ('mean', 'error'))
    return f'{mean} ± {error}'


def _number(value: Any) -> str:
    return f'{value:.4f}' if finite(value) else MISSING
