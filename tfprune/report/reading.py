"""Reads a run folder for its report, without taking its lock."""
import dataclasses
import math
import os
import pathlib
import zipfile
from typing import Any, Mapping, Sequence, TypeGuard

import numpy as np

from tfprune.errors import first_line
from tfprune.run_files import read_json, read_rows

Row = Mapping[str, Any]
ACCOUNT = ('pretraining', 'search', 'search_equivalents', 'fine_tune', 'distillation', 'total')
# Flags of a run's epochs, in their order.
PHASES = ('warmup_epochs', 'random_epochs', 'joint_epochs', 'alignment_epochs', 'fine_tune_epochs')
# What a report says of its task; this of those that say nothing.
TASK_OF_CLASSIFIERS: Row = {
    'metric': 'accuracy', 'larger_is_better': True, 'is_share': True, 'loss': 'cross_entropy',
    'examples': 'images', 'start': None, 'is_accuracy': True}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report is made of.

    Attributes:
        report, config, environment, data: the JSON files of these names.
        metrics: rows of metrics.jsonl, one an epoch, in order.
        episodes: rows of episodes.jsonl, in the order played.
        answers: of the models before and after surgery, answers.json; None where it is not there.
        layers: what each layer keeps and costs, layers.json; None where it is not there.
        pictures: uint8 [n, H, W, C], of its `changed`; None where they are not there.
    """
    path: pathlib.Path
    report: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Sequence[Row]
    episodes: Sequence[Row]
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    answers: Mapping[str, Any] | None = None
    pictures: np.ndarray | None = None
    layers: Mapping[str, Any] | None = None


def read_run(run_dir: str | os.PathLike[str]) -> Run:
    """The files of a finished run; FileNotFoundError where it has no report.json."""
    path = pathlib.Path(run_dir)
    report = read_json(path / 'report.json')
    if report is None:
        raise FileNotFoundError(f'{path}: no report.json: not the folder of a finished run.')
    # An epoch that was run again after a crash counts as it was last.
    metrics = {row['epoch']: row for row in read_rows(path / 'metrics.jsonl')}
    return Run(path, report, read_json(path / 'config.json') or {},
               read_json(path / 'environment.json') or {},
               [metrics[epoch] for epoch in sorted(metrics)], read_rows(path / 'episodes.jsonl'),
               read_json(path / 'data.json') or {}, read_json(path / 'answers.json'),
               _pictures(path / 'changed.npz'), read_json(path / 'layers.json'))


def _pictures(path: pathlib.Path) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as stored:
            return stored['pictures']
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} is damaged: {first_line(error)}') from None


def all_values(environment: Row, name: str) -> str | None:
    """What a run had under `name` at its start and resumptions, each once; None if nothing."""
    starts = [environment, *environment.get('resumed', ())]
    return ', '.join(dict.fromkeys(str(start[name]) for start in starts if start.get(name))) or None


def finite(value: Any) -> TypeGuard[float]:
    """Whether `value` is a number, neither NaN nor infinite."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and math.isfinite(value))


def planned_epochs(configuration: Row) -> float:
    """The epochs that flags ask for; a search that is charged takes its own from them."""
    return sum(configuration.get(name, 0) for name in PHASES)


def task_of(content: Row) -> Row:
    """What a report, a row or a line of `aggregate` is measured by.

    Returns:
        metric: its name, as in the columns of metrics.jsonl.
        larger_is_better: whether larger values of it are better.
        is_share: whether it is a share of 1, written in percent.
        loss: the column of metrics.jsonl that training minimizes.
        examples: what test data are: images, examples.
        start: where rewards are 1/2 + d / (2(1 + |d|)), the value that d is measured from, in
            shares of it; None where a reward is the metric.
        is_accuracy: whether it is a share of right answers of independent examples, of which
            binomial standard errors are true.
    """
    return content.get('task') or TASK_OF_CLASSIFIERS


def test_score(side: Row, prefix: str = '') -> Any:
    """The metric on the test data of a side of a report, or of a row, where `prefix` is dense_ or
    given_; None where it is not known."""
    name = next((name for name in ('test_score', 'test_accuracy') if prefix + name in side), '')
    return side.get(prefix + name)


def further_metrics(side: Row, task: Row) -> dict[str, Any]:
    """What else was measured on the test data, the loss included, by name."""
    metrics = side.get('test_metrics') or {}
    return {name: value for name, value in metrics.items() if name != task['metric']}


def budgets(report: Mapping[str, Any]) -> Sequence[Row]:
    """A row a limit: target, asked, limit, dense, cost."""
    return report['budgets']


def is_pruned(report: Mapping[str, Any]) -> bool:
    """Whether any group lost a channel."""
    return any(group['width'] < group['dense_width'] for group in report['groups'])


def as_given(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the user's model scored before anything was done to it; None where training began with
    random weights, or with a model that knew no more than chance."""
    given = report.get('given')
    return given if given and given['is_trained'] else None


def surgery_first(report: Mapping[str, Any]) -> bool:
    """Whether surgery came before the first epoch: the dense model was never trained."""
    return bool(report['decides_first'])


def epoch_account(report: Mapping[str, Any]) -> dict[str, float]:
    """What a run has cost, in epochs: pretraining, search (training epochs before surgery),
    search_equivalents (what the search cost beside them), fine_tune, distillation (the teacher's
    answers), and their total.

    Where surgery comes first all training is of the pruned model.
    """
    epochs = report['epochs']
    account = {name: epochs.get(name, 0) for name in ACCOUNT[:-1]}
    if surgery_first(report):
        account |= {'search': 0, 'fine_tune': account['search'] + account['fine_tune']}
    return account | {'total': sum(account.values())}
