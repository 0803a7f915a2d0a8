"""The files of a run folder: what each holds, checked where it is read."""
import pathlib
from typing import Any

from tfprune import files

# Flags of where data lie, and where equal epochs were trained: no part of what was run.
NOT_IDENTITY = ('data_dir', 'cache_dir', 'before_surgery_from')
TASK = {'metric': str, 'larger_is_better': bool, 'is_share': bool, 'loss': str, 'examples': str,
        'start': (float, None), 'is_accuracy': bool}
# Which test examples are answered right, see tfprune.report.right_answers.
RIGHT = {'before': (str, None), 'after': str, 'labels': str}
_SIDE = {'test_accuracy?': (float, None), 'test_score?': (float, None),
         'test_metrics?': {str: (float, None)}, 'macs': float, 'params': float,
         'peak_memory_bytes': float, 'tflite_bytes': (float, None), 'latency_ms': (float, None),
         'latency_p10_ms': (float, None), 'latency_p90_ms': (float, None)}
_DECISION = {'groups': {str: {'width': int, 'dense_width': int, 'kept': [int]}}, 'removed': [str],
             'search_equivalents': float}
_CONFIG = {'method': str, 'model': str, 'dataset': str, 'seed': int}
# By name of a file: the shape of what is in it, see files.check_content.
CONTENT: dict[str, files.Shape] = {
    'config.json': {f'{name}?': shape for name, shape in _CONFIG.items()},
    'environment.json': {'files?': {str: str}, 'resumed?': [dict], 'lost?': [str], 'command?': str,
                         'packages?': {str: (str, None)}, 'cores?': (int, None)},
    'data.json': {'name?': str, 'image_shape?': [int], 'inputs?': {str: [(int, None)]},
                  'outputs?': {str: [(int, None)]}, 'num_train?': int, 'num_reward?': int,
                  'num_test?': int, 'class_names?': [str]},
    'training.json': {'given': (dict, None), 'training': {
        'learning_rate': float, 'fine_tune_learning_rate': float, 'weight_decay': float,
        'reasons': [str], 'stated': [str], 'augmentation?': str, 'follows?': bool,
        'continues?': bool},
        'lowered?': {str: str},
        **dict.fromkeys(('teacher?', 'teacher_before?'), {'is_dense': bool, 'said': str})},
    'answers.json': {'classes': [{'images': int, 'before': (int, None), 'after': int}],
                     'confusion': (list, None),
                     'changed': [{'index': int, 'label': int, 'before': int, 'after': int}],
                     'right?': RIGHT},
    'layers.json': {
        'network': [{'layer': str, 'kind': str, 'inputs': [int], 'shape': [(int, None)],
                     'channels': int, 'kept': int, 'is_prunable': bool}],
        'layers': [{'layer': str, 'kind': str, 'before': int, 'after': int}],
        'operators': [{'name': str, 'kind': str, 'before_ms': (float, None),
                       'after_ms': (float, None)}]},
    'decision.json': _DECISION, 'ratios.json': {str: _DECISION},
    'metrics.jsonl': {'epoch': int}, 'episodes.jsonl': {'epoch': int},
    'rounds.jsonl': {'epoch': int, 'round': int, 'seconds': float},
    'report.json': {
        'method': str, 'model': str, 'dataset': str, 'seed': int, 'decides_first': bool,
        'epochs': {'search': float, 'fine_tune': float, 'total': float},
        'task?': TASK, 'dense': _SIDE, 'pruned': _SIDE, 'latency_ratio': (float, None),
        'groups': [{'name': str, 'dense_width': int, 'width': int}], 'agent': (dict, None),
        'seconds': {'training': (float, None), 'search': (float, None), 'total': (float, None)},
        'test_images?': (int, None), 'files?': {str: str}, 'class_names?': [str],
        'artifacts?': [dict], 'phases?': {str: str}, 'sources?': {str: str}, 'is_control?': bool,
        'missing?': [str], 'given?': (dict, None), 'training?': dict,
        'budgets': [{'target': str, 'asked': float, 'limit': float, 'dense': float,
                     'cost': float}]},
}


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file of a run; None where there is none. See files.read_json."""
    content = files.read_json(path, CONTENT.get(path.name, dict))
    if path.name == 'report.json' and content is not None:
        for side in ('dense', 'pruned'):  # of classifiers the one, of other tasks the other
            if not {'test_accuracy', 'test_score'} & content[side].keys():
                raise ValueError(f"{path} is not what was written: no '{side}.test_accuracy' nor "
                                 f"'{side}.test_score'.")
    return content


def read_config(run_dir: pathlib.Path) -> Any:
    """The config.json of a run; None where there is none."""
    path = run_dir / 'config.json'
    content = read_json(path)
    return content if content is None else files.check_content(path, content, _CONFIG)


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file of a run; see files.read_rows."""
    return files.read_rows(path, CONTENT.get(path.name, dict))
