"""The end of a run: test accuracy, once; export; report.json and report.html."""
import dataclasses
import datetime
import pathlib
from typing import Any, Callable, Mapping, Sequence

import keras

from tfprune.config import Config
from tfprune.costs.model import Cost, count_cost
from tfprune.data import ImageData
from tfprune.errors import Fault
from tfprune.export.keras_file import open_model
from tfprune.export.tflite import convert
from tfprune.files import write_text
from tfprune.latency.table import prediction_row
from tfprune.machine import peak_process_bytes
from tfprune.methods import Decision, check_method
from tfprune.models.model_files import read_keras_file
from tfprune.progress import Progress
from tfprune.pruning.sparsity import count_zeros
from tfprune.report import model_card, write_html
from tfprune.report.reading import read_run
from tfprune.report.table import shortfall_sentences
from tfprune.runs.artifacts import count_correct
from tfprune.runs.deployment import Deployment, deploy
from tfprune.runs.first_epoch import lowered
from tfprune.runs.folder import RunFolder
from tfprune.runs.problem import FineTuning, Setup
from tfprune.search.blocks import without_blocks

CARD_FILE = 'export/model_card.md'

_AGENT_METRICS = ('policy_reward_mean', 'policy_reward_error', 'policy_reward_max',
                  'random_reward_mean', 'random_reward_error', 'random_reward_max')


def read_finished(folder: RunFolder) -> tuple[keras.Model, Mapping[str, Any]] | None:
    """(pruned model, report.json) of a finished run; None for others, and for one whose model is
    gone and is exported again from its last checkpoint.

    ValueError if there is no checkpoint either.
    """
    report = folder.read_json('report.json')
    if report is None:
        return None
    path = folder.path / 'export' / 'pruned.keras'
    if not path.exists():
        if any((folder.path / 'checkpoints').glob('e*')):
            return None  # exported again, from the last checkpoint
        raise ValueError(f'{folder.path}: a finished run without {path.relative_to(folder.path)}, '
                         'nor a checkpoint to make it of; choose another run_dir, or remove this '
                         'one.')
    if not all((folder.path / name).exists() for name in ('report.html', CARD_FILE)):
        _present(folder)
    return read_keras_file(path), report


def finish(setup: Setup, folder: RunFolder, pruned: keras.Model, decision: Decision,
           progress: Progress, should_stop: Callable[[], bool] = lambda: False,
           missing: Sequence[str] = ()) -> Mapping[str, Any]:
    """Measures, exports and reports the pruned float32 model; returns report.json's content.

    missing: what of the run's files was lost while it was interrupted.

    Raises:
        StopTraining: should_stop() became true before the end.
        Fault: the recount of the pruned model is not what was predicted.
        ParityError: two exported forms disagree.
    """
    config, data, budget = setup.config, setup.data, setup.budget
    left = without_blocks(setup, decision.removed)
    predicted = left.cost_model(decision.widths)
    if count_cost(pruned) != dataclasses.replace(predicted, latency_ms=None):
        raise Fault(f'the pruned model costs {count_cost(pruned)}, predicted {predicted}.')
    dense = _dense_model(folder)
    dense_tflite = None if dense is None else convert(dense)
    settings = Deployment.of(dataclasses.replace(config, weight_decay=setup.recipe.weight_decay))
    deployed = deploy(pruned, data, folder.path / 'export', settings, dense_tflite=dense_tflite,
                      should_stop=should_stop, progress=progress, overwrite=True)
    by_form = {row['form']: row for row in deployed.rows}
    tflite = by_form['tflite']
    metrics = folder.read_rows('metrics.jsonl')
    fine_tuned = _whole(FineTuning.after(setup, decision).epochs)
    report = {
        'method': config.method, 'model': config.model, 'dataset': config.dataset,
        'seed': config.seed, 'decides_first': check_method(config.method).decides_first,
        'budgets': [row | {'cost': getattr(predicted, row['target'])}
                    for row in budget.to_json()],
        'epochs': {'pretraining': config.pretraining_epochs, 'search': config.search_epochs,
                   'search_equivalents': decision.search_equivalents,
                   'fine_tune': fine_tuned, 'total': config.search_epochs + fine_tuned},
        'given': None if setup.given is None else dataclasses.asdict(setup.given),
        'training': setup.recipe.to_json() | {
            'reasons': [*setup.recipe.reasons, *lowered(folder.path).values()]},
        'dense': _side(setup.cost_model.dense, _accuracy(dense, data),
                       len(dense_tflite) if dense_tflite else None, deployed.dense_latency),
        'pruned': _side(predicted, by_form['keras']['accuracy'], tflite['bytes'],
                        tflite['latency']),
        'sparsity': count_zeros(pruned) if decision.zeros else None,
        'uncounted': setup.cost_model.uncounted,
        'latency_ratio': tflite['latency'][0]['ratio'],
        'artifacts': deployed.rows, 'dense_latency': deployed.dense_latency,
        'latency_prediction': prediction_row(
            left.cost_model, decision.widths, tflite['latency'], deployed.dense_latency),
        'groups': _groups(setup, left, decision), 'removed_blocks': list(decision.removed),
        'agent': _agent(config, metrics),
        'input': deployed.exported.pixels.to_json(),
        'parity': dataclasses.asdict(deployed.exported.parity),
        'missing': list(missing),
        'seconds': _seconds(metrics, folder.read_rows('rounds.jsonl'), missing),
        # Of every process that had a part in the run.
        'peak_process_bytes': max([peak_process_bytes(), *(row.get('peak_process_bytes', 0)
                                                           for row in metrics)]),
        'test_images': data.num_test,
        'class_names': list(data.class_names),
        'finished': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'files': {form: str(path.relative_to(folder.path.resolve()))
                  for form, path in deployed.exported.paths.items()},
    }
    folder.write_json('report.json', report)
    for sentence in shortfall_sentences(report):
        progress.warn(sentence)
    _present(folder)
    return report


def _whole(epochs: float) -> float:
    """An int where it is one."""
    return int(epochs) if epochs == int(epochs) else epochs


def _groups(setup: Setup, left: Setup, decision: Decision) -> list[dict[str, Any]]:
    """A row a group that could be narrowed before blocks were removed, or after; what disappeared
    with a block has no width."""
    dense = {**setup.groups, **{name: width for name, width in left.groups.items()
                                if name not in setup.groups}}
    return [{'name': name, 'dense_width': width,
             'width': decision.widths.get(name, width) if name in left.groups.groups else 0}
            for name, width in dense.items()]


def _seconds(metrics: Sequence[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]],
             missing: Sequence[str]) -> dict[str, float | None]:
    """None where rows were lost: a sum of some of them is the time of nothing."""
    if any(phrase.startswith(('metrics.jsonl', 'rounds.jsonl')) for phrase in missing):
        return {'training': None, 'search': None, 'total': None}
    training = sum(row['train_seconds'] for row in metrics)
    search = sum(row['method_seconds'] for row in metrics) + sum(row['seconds'] for row in rounds)
    return {'training': training, 'search': search, 'total': training + search}


def _present(folder: RunFolder) -> None:
    """Writes report.html and the model card from what is in the folder."""
    write_text(folder.path / CARD_FILE, model_card(read_run(folder.path)))
    write_html(folder.path)


def _dense_model(folder: RunFolder) -> keras.Model | None:
    path: pathlib.Path = folder.path / 'dense.keras'
    return read_keras_file(path) if path.exists() else None


def _accuracy(model: keras.Model | None, data: ImageData) -> float | None:
    if model is None:
        return None
    return count_correct(open_model(model, pathlib.Path(model.name)), data) / data.num_test


def _side(cost: Cost, accuracy: float | None, tflite_bytes: int | None,
          latency: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One column of the table; None where there is no such model. Latency on one thread."""
    seen: Mapping[str, Any] = latency[0] if latency else {}
    return {'test_accuracy': accuracy, 'macs': cost.macs, 'params': cost.params,
            'trainable_params': cost.trainable_params,
            'peak_memory_bytes': cost.peak_memory_bytes, 'tflite_bytes': tflite_bytes,
            'latency_ms': seen.get('median_ms'), 'latency_p10_ms': seen.get('p10_ms'),
            'latency_p90_ms': seen.get('p90_ms')}


def _agent(config: Config, metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Policy against random actions on the same weights; None for methods without an agent."""
    for row in metrics:
        if 'policy_reward_mean' in row:
            return {'episodes': config.comparison_episodes,
                    **{name: row.get(name) for name in _AGENT_METRICS}}
    return None
