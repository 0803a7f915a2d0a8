"""Reads a run folder for its report, without taking its lock."""
import dataclasses
import json
import math
import os
import pathlib
from typing import Any, Mapping, Sequence, TypeGuard

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report is made of.

    Attributes:
        report, config, environment: the JSON files of these names.
        metrics: rows of metrics.jsonl, one an epoch, in order.
        episodes: rows of episodes.jsonl, in the order played.
    """
    path: pathlib.Path
    report: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Sequence[Row]
    episodes: Sequence[Row]


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
               [metrics[epoch] for epoch in sorted(metrics)], read_rows(path / 'episodes.jsonl'))


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file; None where there is none, ValueError where it is damaged."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is damaged: not JSON ({error}).') from None


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, none where there is no file; a line cut short ends it."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def finite(value: Any) -> TypeGuard[float]:
    """Whether `value` is a number, neither NaN nor infinite."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and math.isfinite(value))


def is_pruned(report: Mapping[str, Any]) -> bool:
    """Whether any group lost a channel."""
    return any(group['width'] < group['dense_width'] for group in report['groups'])


def surgery_first(report: Mapping[str, Any]) -> bool:
    """Whether surgery came before the first epoch: the dense model was never trained."""
    return is_pruned(report) and (report['method'] == 'scratch'
                                  or report['dense']['test_accuracy'] is None)
