"""The row of a run: a plain dict, one line of a rows file, which is what tables and curves over
several runs are made of, so that they can be rendered where the run folders are not.
"""
import json
import os
import pathlib
from typing import Any, Iterable, Mapping

from tfprune.files import check_content, write_text
from tfprune.report.reading import (TASK_OF_CLASSIFIERS, all_values, as_given, budgets,
                                    epoch_account, is_pruned, task_of, test_score)
from tfprune.run_files import NOT_IDENTITY, RIGHT, TASK, read_json, read_rows

Row = Mapping[str, Any]
SHOWN = ('method', 'model', 'dataset')
_NOT_CONFIGURATION = ('seed', *NOT_IDENTITY)
_ROW = {'run': str, 'finished': bool, 'configuration': dict, 'seed': (int, None)}
_FINISHED = {
    **dict.fromkeys(('method', 'model', 'dataset'), str), 'pruned': bool, 'epochs': float,
    **dict.fromkeys(('macs', 'dense_macs', 'params'), float),
    'seconds': (float, None),
    'is_control?': bool, 'decides_first?': bool,
    'account?': dict, 'budgets?': [{'asked': float}], 'agent?': (dict, None),
    'sparsity?': ({'zeros': float, 'kernel_weights': float}, None),
    'widths?': {str: [float]}, 'cell?': str, 'test_images?': (int, None), 'right?': RIGHT}
_OF_CLASSIFIERS = {**_FINISHED, 'test_accuracy': (float, None),
                   'dense_test_accuracy': (float, None)}
_OF_OTHERS = {**_FINISHED, 'test_score': (float, None), 'dense_test_score': (float, None),
              'task': TASK}


def run_rows(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The row of a run folder, and of the runs of other budgets that lie in its ratios/.

    Raises as run_row.
    """
    path = pathlib.Path(run_dir)
    others = sorted(p for p in path.glob('ratios/*') if p.is_dir())
    return [run_row(path), *(row | {'run': f'{path.resolve().name}/ratios/{row["run"]}'}
                             for row in map(run_row, others))]


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
        **{name: config.get(name) for name in SHOWN},
        'commit': all_values(environment, 'commit'),
        'processor': all_values(environment, 'processor'),
        'cores': environment.get('cores'),
        'configuration': {k: _with_content(k, v, files)
                          for k, v in config.items() if k not in _NOT_CONFIGURATION}}
    if report is None:
        return row | {'epochs_done': len({r['epoch'] for r in read_rows(path / 'metrics.jsonl')})}
    dense, pruned = report['dense'], report['pruned']
    answers = read_json(path / 'answers.json') or {}
    return row | {
        'epochs_done': report['epochs']['total'], 'epochs': report['epochs']['total'],
        'is_control': report.get('is_control', False), 'decides_first': report['decides_first'],
        'pruned': is_pruned(report), 'budgets': budgets(report),
        **_scores(report),
        'macs': pruned['macs'], 'dense_macs': dense['macs'],
        'params': pruned['params'], 'dense_params': dense['params'],
        'trainable_params': pruned.get('trainable_params'),
        'uncounted': report.get('uncounted', []),
        'tflite_bytes': pruned['tflite_bytes'], 'latency_ratio': report['latency_ratio'],
        'test_images': report.get('test_images'), 'seconds': report['seconds']['total'],
        'search_seconds': report['seconds']['search'],
        'account': epoch_account(report), 'agent': report['agent'],
        'removed_blocks': report.get('removed_blocks', []), 'sparsity': report.get('sparsity'),
        'widths': {group['name']: [group['width'], group['dense_width']]
                   for group in report['groups']},
        **({'right': answers['right']} if 'right' in answers else {})}


def write_rows_file(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Writes rows, one JSON object a line, whole or not at all."""
    write_text(pathlib.Path(path), ''.join(json.dumps(row) + '\n' for row in rows))


def read_rows_file(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Inverse of write_rows_file; ValueError names the line that is no row."""
    rows = []
    for number, line in enumerate(pathlib.Path(path).read_bytes().splitlines(), 1):
        place = f'{path}, line {number}'
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{place}: not JSON ({error}).') from None
        check_content(place, row, _ROW)
        rows.append(check_content(place, row, _shape(row)))
    return rows


def _with_content(name: str, value: Any, files: Mapping[str, str]) -> Any:
    """A value, with what stands for the content of what it names."""
    digests = [digest[:8] for key, digest in files.items() if key.partition('.')[0] == name]
    return f'{value} ({", ".join(digests)})' if digests else value


def _scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """Test scores of the three models; with the task, where it is not classifying."""
    task, given = task_of(report), as_given(report)
    is_other = task != TASK_OF_CLASSIFIERS
    name = 'test_score' if is_other else 'test_accuracy'
    return {**({'task': task} if is_other else {}), name: test_score(report['pruned']),
            f'dense_{name}': test_score(report['dense']),
            f'given_{name}': test_score(given) if given else None}


def _shape(row: Row) -> Any:
    """What must be in a row."""
    if not row['finished']:
        return _ROW
    return _OF_OTHERS if 'task' in row else _OF_CLASSIFIERS


def _total_epochs(config: Mapping[str, Any]) -> int | None:
    names = ('warmup', 'random', 'joint', 'alignment', 'fine_tune')
    try:
        return sum(config[f'{name}_epochs'] for name in names)
    except KeyError:
        return None
