"""The end of a run: test metrics, once; export; report.json and report.html."""
import dataclasses
import datetime
import pathlib
from typing import Any, Mapping, Sequence

import keras

from tfprune.costs.model import Cost, count_cost
from tfprune.data.examples import Examples
from tfprune.data.image_data import ImageData
from tfprune.errors import Fault
from tfprune.export.exporter import base_forms
from tfprune.export.keras_file import open_model
from tfprune.export.tflite import convert
from tfprune.files import write_text
from tfprune.latency.prediction import prediction_row
from tfprune.machine import peak_process_bytes
from tfprune.methods.base import Decision
from tfprune.models.model_files import read_keras_file
from tfprune.pruning.sparsity import count_zeros
from tfprune.report import format_table, model_card, write_html
from tfprune.report.artifact_table import format_artifacts
from tfprune.report.reading import read_run, task_of
from tfprune.report.table import shortfall_sentences
from tfprune.runs.answers import write_answers
from tfprune.runs.artifacts import score_key, test_metrics
from tfprune.runs.deployment import Deployed, Deployment, deploy, latencies_of_form
from tfprune.runs.first_epoch import lowered
from tfprune.runs.folder import RunFolder
from tfprune.runs.layers import LAYERS_FILE, layers_of
from tfprune.runs.lost_parts import left_out
from tfprune.runs.recipe import Given
from tfprune.runs.recipe_choice import has_own_losses
from tfprune.runs.state import FineTuning, Interrupted, State
from tfprune.runs.teacher import said_of_teacher, teaches_before
from tfprune.search.problem import Problem
from tfprune.tasks.base import Task
from tfprune.training.account import FORWARDS
from tfprune.training.distribution import from_chief
from tfprune.training.step import StopTraining

CARD_FILE = 'export/model_card.md'

_AGENT_METRICS = ('policy_reward_mean', 'policy_reward_error', 'policy_reward_max',
                  'random_reward_mean', 'random_reward_error', 'random_reward_max')


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run gives.

    Attributes:
        run_dir: its folder.
        model: the pruned and fine-tuned float32 Keras model.
        report: the content of report.json; empty in workers that are not the chief.
    """
    run_dir: pathlib.Path
    model: keras.Model
    report: Mapping[str, Any]


def end_of(result: RunResult, *, kept: bool = True) -> str:
    """What a run says at its end.

    Args:
        kept: whether its folder stays.
    """
    if not result.report:
        return 'done; worker 0 exports and reports.'
    rows, parts = result.report['artifacts'], [format_table(result.report)]
    if len(rows) > len(base_forms()):
        table = format_artifacts(rows, result.report['dense_latency'], task_of(result.report))
        parts.append(f'\n{table}\n')
    if kept:
        parts.append(f'Files: {result.run_dir}/export, report: {result.run_dir}/report.html')
    return '\n'.join(parts)


def read_finished(state: State) -> RunResult | None:
    """The result of a finished run, for all workers; None for others."""
    found = _read_finished(state.folder) if state.is_chief else None
    if not from_chief(state.strategy, found is not None):
        return None
    model, report = found or _read_finished(state.folder)  # type: ignore[misc]
    state.progress.say(f'{state.folder.path} is finished.')
    return RunResult(state.folder.path, model, report)


def _read_finished(folder: RunFolder) -> tuple[keras.Model, Mapping[str, Any]] | None:
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


def finish(state: State, problem: Problem) -> RunResult:
    """Measures, exports and reports the pruned float32 model; the chief's, others only have it.

    Raises:
        Interrupted: the run was asked to stop before the end.
        Fault: the recount of the pruned model is not what was predicted.
        ParityError: two exported forms disagree.
    """
    if not state.is_chief:
        return RunResult(state.folder.path, state.pruned, {})
    try:
        report = _measured_and_exported(state, problem)
    except StopTraining:
        raise Interrupted('stopped before the end of the export; the same command begins it '
                          f'anew in {state.folder.path}.') from None
    state.folder.write_json('report.json', report)
    for sentence in shortfall_sentences(report):
        state.progress.warn(sentence)
    _present(state.folder)
    return RunResult(state.folder.path, state.pruned, report)


def _measured_and_exported(state: State, problem: Problem) -> Mapping[str, Any]:
    """The content of report.json."""
    folder, data, decision, pruned = state.folder, state.data, state.decision, state.pruned
    left = state.left
    predicted = left.cost_model(decision.widths)
    if count_cost(pruned) != dataclasses.replace(predicted, latency_ms=None):
        raise Fault(f'the pruned model costs {count_cost(pruned)}, predicted {predicted}.')
    dense = _dense_model(folder)
    dense_tflite = None if dense is None else convert(dense)
    settings = Deployment.of(state.config.export, dataclasses.replace(
        state.config.training, weight_decay=state.recipe.weight_decay), state.config.seed)
    deployed = deploy(pruned, state.task, data, folder.path / 'export', settings,
                      dense_tflite=dense_tflite, should_stop=state.asked_to_stop,
                      progress=state.progress, overwrite=True)
    folder.write_json(LAYERS_FILE, {**layers_of(problem, left, decision),
                                    'operators': deployed.operators})
    by_form = {row['form']: row for row in deployed.rows}
    tflite, metrics = by_form['tflite'], folder.read_rows('metrics.jsonl')
    return {
        **_what_was_run(state), **_training(state),
        'budgets': [row | {'cost': getattr(predicted, row['target'])}
                    for row in problem.budget.to_json()],
        'dense': _side(state.task, problem.cost_model.dense, _dense_metrics(state, dense),
                       len(dense_tflite) if dense_tflite else None, deployed.dense_latency),
        'pruned': _side(state.task, predicted, by_form['keras']['metrics'], tflite['bytes'],
                        tflite['latency']),
        'own_losses': has_own_losses(problem.model),
        'sparsity': count_zeros(pruned) if decision.zeros else None,
        'uncounted': problem.cost_model.uncounted,
        'latency_ratio': tflite['latency'][0]['ratio'],
        'artifacts': deployed.rows, 'dense_latency': deployed.dense_latency,
        'latency_prediction': _prediction(left, decision, deployed, dense, data, settings),
        'groups': _groups(problem, left, decision), 'removed_blocks': list(decision.removed),
        'agent': _agent(metrics),
        'input': _input(state, deployed),
        'parity': dataclasses.asdict(deployed.exported.parity),
        'missing': list(state.missing),
        'seconds': _seconds(metrics, folder.read_rows('rounds.jsonl'), state.missing),
        # Of every process that had a part in the run.
        'peak_process_bytes': max([peak_process_bytes(), *(row.get('peak_process_bytes', 0)
                                                           for row in metrics)]),
        'finished': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'files': {form: str(path.relative_to(folder.path.resolve()))
                  for form, path in deployed.exported.paths.items()},
    }


def _prediction(left: Problem, decision: Decision, deployed: Deployed, dense: keras.Model | None,
                data: Examples, settings: Deployment) -> dict[str, Any] | None:
    """What the latency table says beside what its files took; None without a table."""
    table = left.cost_model.latency_table
    if table is None:
        return None
    pruned_latency, dense_latency = latencies_of_form(
        table.about['form'], table.about.get('threads', 1), deployed, dense, data, settings)
    return prediction_row(left.cost_model, decision.widths, pruned_latency, dense_latency)


def _what_was_run(state: State) -> dict[str, Any]:
    config, data = state.config, state.data
    return {'method': config.method, 'model': config.models.model,
            'dataset': config.data.dataset, 'task': state.task.to_json(),
            'seed': config.seed, 'decides_first': state.method.decides_first,
            'is_control': state.method.is_control, 'phases': dict(state.method.phases),
            'sources': dict(state.method.sources),
            'test_images': data.num_test, 'class_names': list(data.class_names)}


def _training(state: State) -> dict[str, Any]:
    """Epochs, what the model scored as given, and how it was trained."""
    planned, recipe = state.config.epochs, state.recipe
    skipped = left_out(state.folder.read_rows('metrics.jsonl'))
    early = sum(epoch < planned.search for epoch in skipped)
    before = planned.search - early
    after = _whole(FineTuning.after(state).epochs - (len(skipped) - early))
    return {
        'epochs': {'pretraining': planned.pretraining_epochs, 'search': before,
                   'search_equivalents': state.decision.search_equivalents,
                   'fine_tune': after,
                   'distillation': (after + before * teaches_before(state)) / FORWARDS
                   if recipe.distillation else 0,
                   'total': before + after},
        'given': None if state.given is None else _given(state.task, state.given),
        'training': recipe.to_json() | {
            'reasons': [*recipe.reasons, *lowered(state.folder.path).values(),
                        *said_of_teacher(state.folder.path)]}}


def _given(task: Task, given: Given) -> dict[str, Any]:
    """The model as given; mean scores of examples as of the task."""
    key = score_key(task)
    return {**_tested(task, given.test), f'held_out_{key}': given.held_out.mean,
            f'trained_on_{key}': given.trained_on.mean, 'images': given.held_out.examples,
            'is_trained': given.is_trained, 'held_out_floor': given.held_out_floor.mean,
            'trained_on_floor': given.trained_on_floor.mean,
            'found': given.found and _tested(task, given.found)}


def _tested(task: Task, metrics: Mapping[str, float] | None) -> dict[str, Any]:
    """What a model scores on the test examples; None where there is no such model."""
    score = None if metrics is None else metrics[task.measure.name]
    if task.is_classification:
        return {'test_accuracy': score}
    return {'test_score': score, 'test_metrics': metrics or {}}


def _dense_metrics(state: State, dense: keras.Model | None) -> Mapping[str, float] | None:
    """Test metrics of the model before surgery; of a classifier of pictures what it answers is
    kept, too."""
    if isinstance(state.data, ImageData):
        accuracy = write_answers(state.folder, dense, state.pruned, state.data)
        return None if accuracy is None else {state.task.measure.name: accuracy}
    if dense is None:
        return None
    return test_metrics(open_model(dense, state.folder.path), dense, state.task, state.data)


def _whole(epochs: float) -> float:
    """An int where it is one."""
    return int(epochs) if epochs == int(epochs) else epochs


def _groups(problem: Problem, left: Problem, decision: Decision) -> list[dict[str, Any]]:
    """A row a group that could be narrowed before blocks were removed, or after; what disappeared
    with a block has no width."""
    dense = {**problem.groups, **{name: width for name, width in left.groups.items()
                                  if name not in problem.groups}}
    return [{'name': name, 'dense_width': width,
             'width': decision.widths.get(name, width) if name in left.groups.groups else 0}
            for name, width in dense.items()]


def _input(state: State, deployed: Deployed) -> Mapping[str, Any]:
    """What the files take; {} where they take no pictures."""
    return deployed.exported.pixels.to_json() if state.data.pixels else {}


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


def _side(task: Task, cost: Cost, metrics: Mapping[str, float] | None, tflite_bytes: int | None,
          latency: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One column of the table; None where there is no such model. Latency on one thread."""
    seen: Mapping[str, Any] = latency[0] if latency else {}
    return {**_tested(task, metrics), 'macs': cost.macs, 'params': cost.params,
            'trainable_params': cost.trainable_params,
            'peak_memory_bytes': cost.peak_memory_bytes, 'tflite_bytes': tflite_bytes,
            'latency_ms': seen.get('median_ms'), 'latency_p10_ms': seen.get('p10_ms'),
            'latency_p90_ms': seen.get('p90_ms')}


def _agent(metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Policy against random actions on the same weights; None for methods without an agent."""
    for row in metrics:
        if 'policy_reward_mean' in row:
            return {'episodes': int(row['comparison_episodes']),
                    **{name: row.get(name) for name in _AGENT_METRICS}}
    return None
