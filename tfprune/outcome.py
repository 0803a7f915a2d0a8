"""The end of a run: test accuracy, once; export; report.json and report.html."""
import dataclasses
import pathlib
from typing import Any, Mapping

import keras
import numpy as np

from tfprune.artefacts import measure
from tfprune.budget import Budget
from tfprune.config import Config
from tfprune.costs import CostModel, count_cost
from tfprune.data import ImageData
from tfprune.export import LatencyStats, compare_latency, export_model
from tfprune.export.keras_file import open_model
from tfprune.export.tflite import convert
from tfprune.groups import ChannelGroups
from tfprune.latency_table import prediction_row
from tfprune.methods import Decision, check_method
from tfprune.progress import Progress
from tfprune.report import write_html
from tfprune.runs import RunFolder, peak_process_bytes

_AGENT_METRICS = ('policy_reward_mean', 'policy_reward_error', 'policy_reward_max',
                  'random_reward_mean', 'random_reward_error', 'random_reward_max')


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run works on, made before its first epoch: the dense model and what may be pruned.

    has_weights: whether the dense model came with weights of its own.
    """
    config: Config
    data: ImageData
    model: keras.Model
    groups: ChannelGroups
    cost_model: CostModel
    budget: Budget
    has_weights: bool = False


def read_finished(folder: RunFolder) -> tuple[keras.Model, Mapping[str, Any]] | None:
    """(pruned model, report.json) of a finished run, None for others."""
    report = folder.read_json('report.json')
    if report is None:
        return None
    if not (folder.path / 'report.html').exists():
        write_html(folder.path)
    return keras.models.load_model(folder.path / 'export' / 'pruned.keras'), report


def finish(setup: Setup, folder: RunFolder, pruned: keras.Model, decision: Decision,
           progress: Progress) -> Mapping[str, Any]:
    """Measures, exports and reports the pruned float32 model; returns report.json's content.

    Raises:
        RuntimeError: the recount of the pruned model is not what was predicted.
        ParityError: two exported forms disagree.
    """
    config, data, budget, cost_model = setup.config, setup.data, setup.budget, setup.cost_model
    predicted = cost_model(decision.widths)
    if count_cost(pruned) != dataclasses.replace(predicted, latency_ms=None):
        raise RuntimeError(f'the pruned model costs {count_cost(pruned)}, predicted {predicted}.')
    progress.say('exporting ...')
    images = np.concatenate([batch.numpy() for batch, _ in data.calibration_batches(32, 1)])
    exported = export_model(pruned, folder.path / 'export', representative_data=images,
                            class_names=data.class_names, overwrite=True)
    tflite = exported.paths['tflite'].read_bytes()
    dense, dense_tflite = _dense_model(folder), None
    if dense is not None:
        dense_tflite = convert(dense)
    latency = compare_latency(dense_tflite or tflite, tflite)
    progress.say('testing ...')
    metrics = folder.read_rows('metrics.jsonl')
    report = {
        'method': config.method, 'model': config.model, 'dataset': config.dataset,
        'seed': config.seed, 'decides_first': check_method(config.method).decides_first,
        'budgets': [row | {'cost': getattr(predicted, row['target'])}
                    for row in budget.to_json()],
        'epochs': {'search': config.search_epochs, 'fine_tune': config.fine_tune_epochs,
                   'total': config.total_epochs},
        'dense': _side(dense, data, dataclasses.asdict(cost_model.dense), dense_tflite,
                       latency.dense if dense_tflite else None),
        'pruned': _side(pruned, data, dataclasses.asdict(predicted), tflite, latency.pruned),
        'latency_ratio': latency.ratio if dense_tflite else None,
        'latency_prediction': prediction_row(
            cost_model, decision.widths, pruned_ms=latency.pruned.median,
            dense_ms=latency.dense.median if dense_tflite else None),
        'groups': [{'name': name, 'dense_width': width, 'width': decision.widths.get(name, width)}
                   for name, width in setup.groups.items()],
        'agent': _agent(config, metrics),
        'parity': dataclasses.asdict(exported.parity),
        'seconds': {'training': sum(row['train_seconds'] for row in metrics),
                    'search': sum(row['method_seconds'] for row in metrics),
                    'total': sum(row['train_seconds'] + row['method_seconds'] for row in metrics)},
        # Of every process that had a part in the run.
        'peak_process_bytes': max([peak_process_bytes(), *(row.get('peak_process_bytes', 0)
                                                           for row in metrics)]),
        'test_images': data.num_test,
        'class_names': list(data.class_names),
        'files': {form: str(path.relative_to(folder.path.resolve()))
                  for form, path in exported.paths.items()},
    }
    folder.write_json('report.json', report)
    write_html(folder.path)
    return report


def _dense_model(folder: RunFolder) -> keras.Model | None:
    path: pathlib.Path = folder.path / 'dense.keras'
    return keras.models.load_model(path) if path.exists() else None


def _side(model: keras.Model | None, data: ImageData, cost: Mapping[str, Any],
          tflite: bytes | None, latency: LatencyStats | None) -> dict[str, Any]:
    """One column of the table; None where there is no such model."""
    accuracy = None
    if model is not None:
        accuracy = measure(open_model(model, pathlib.Path(model.name)), data).accuracy
    return {'test_accuracy': accuracy, 'macs': cost['macs'], 'params': cost['params'],
            'peak_memory_bytes': cost['peak_memory_bytes'],
            'tflite_bytes': len(tflite) if tflite else None,
            'latency_ms': latency.median if latency else None,
            'latency_p10_ms': latency.p10 if latency else None,
            'latency_p90_ms': latency.p90 if latency else None}


def _agent(config: Config, metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Policy against random actions on the same weights; None for methods without an agent."""
    for row in metrics:
        if 'policy_reward_mean' in row:
            return {'episodes': config.comparison_episodes,
                    **{name: row.get(name) for name in _AGENT_METRICS}}
    return None
