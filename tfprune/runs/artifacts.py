"""Finding, opening and measuring the files of a model, whatever they are."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.data.image_data import ImageData
from tfprune.data.options import DataOptions
from tfprune.export import saved_model
from tfprune.export.base import Artifact, ArtifactCost, dims, size_of
from tfprune.export.exporter import FORMATS, is_tflite
from tfprune.models.model_files import resized
from tfprune.models.outputs import log_probabilities, outputs_probabilities
from tfprune.report.table import align
from tfprune.run_files import read_json
from tfprune.structure.graph import functional_graph
from tfprune.tasks.base import Task

EXPORT_DIR = 'export'  # in a run folder
CONFIG_FILE = 'config.json'  # in a run folder
DATA_FILE = 'data.json'  # in a run folder
SUFFIXES = {'.keras': 'keras', '.tflite': 'tflite'}  # of a file -> key of FORMATS
DIRECTORY_FORMAT = 'saved_model'
_TEST_BATCH = 250


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One artifact on the test images: correct of images, cost by recount, bytes on disk."""

    form: str
    path: pathlib.Path
    correct: int
    images: int
    cost: ArtifactCost
    bytes: int

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, 0..1."""
        return self.correct / self.images

    def to_json(self) -> dict[str, Any]:
        """Plain values: the fields, cost flattened, and the accuracy."""
        return {'form': self.form, 'path': str(self.path), 'accuracy': self.accuracy,
                'correct': self.correct, 'images': self.images, 'bytes': self.bytes,
                **dataclasses.asdict(self.cost)}


def find_artifacts(path: str | os.PathLike[str]) -> dict[str, pathlib.Path]:
    """The artifacts at `path`, {format: path}.

    Of a run folder or an export directory every form, else the one that a .keras file, a .tflite
    file or a SavedModel directory (or the parent of its versions) is. FileNotFoundError if there
    is nothing at `path`, ValueError if it is none of these.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file or directory')
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ValueError(f'{path}: unknown kind of file, expected .keras, .tflite, a '
                             'SavedModel directory or a run folder')
        return {SUFFIXES[path.suffix]: path}
    for directory in (path / EXPORT_DIR, path):
        found = {name: directory / format_.location for name, format_ in FORMATS.items()
                 if (directory / format_.location).exists()}
        if found:
            return found
    if saved_model.find_version(path) is not None:
        return {DIRECTORY_FORMAT: path}
    raise ValueError(f'{path}: no model here: expected a SavedModel, or a run folder with a '
                     f'finished {EXPORT_DIR}/')


def open_artifact(path: str | os.PathLike[str], form: str | None = None) -> Artifact:
    """Opens the artifact at `path`; `form` chooses one where a directory holds several.

    Code inside a file is not run: .keras files load in safe mode. ValueError or OSError on one
    line for a file that is missing, damaged or of an unknown kind.
    """
    found = find_artifacts(path)
    if form is None and len(found) > 1:
        raise ValueError(f'{path} holds several forms, choose one: {", ".join(sorted(found))}')
    name = form if form is not None else next(iter(found))
    if name not in found:
        raise ValueError(f'{path}: no form {name!r}. Available: {", ".join(sorted(found))}')
    return FORMATS[name].open(found[name])


@dataclasses.dataclass(frozen=True)
class TaskMeasurement:
    """One artifact on the test examples of a task: metrics, cost by recount, bytes on disk."""

    form: str
    path: pathlib.Path
    metrics: Mapping[str, float]
    examples: int
    cost: ArtifactCost
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values: the fields, cost flattened."""
        return {'form': self.form, 'path': str(self.path), 'metrics': dict(self.metrics),
                'examples': self.examples, 'bytes': self.bytes, **dataclasses.asdict(self.cost)}


def measure_task(artifact: Artifact, model: keras.Model, task: Task, data: Examples, *,
                 softmax: bool = False) -> TaskMeasurement:
    """The task's metrics on all test examples, and the cost, of an opened artifact of a model that
    gives what `model` gives; see `test_metrics`."""
    metrics = test_metrics(artifact, model, task, data, softmax=softmax)
    return TaskMeasurement(artifact.form, artifact.path, metrics, data.num_test, artifact.cost(),
                           size_of(artifact.path))


def measure(artifact: Artifact, data: ImageData, *, batch_size: int = 250,
            on_batch: Callable[[int], Any] | None = None) -> Measurement:
    """Accuracy on all test images of `data`, and the cost, of an opened artifact.

    on_batch is told the number of images of each batch done. ValueError if the artifact's image
    shape or number of classes is not the data set's.
    """
    correct = count_correct(artifact, data, batch_size=batch_size, on_batch=on_batch)
    return Measurement(form=artifact.form, path=artifact.path, correct=correct,
                       images=data.num_test, cost=artifact.cost(), bytes=size_of(artifact.path))


def count_correct(artifact: Artifact, data: ImageData, *, batch_size: int = 250,
                  on_batch: Callable[[int], Any] | None = None) -> int:
    """How many of all test images an artifact classifies right; see `measure`."""
    answers, labels = predicted_classes(artifact, data, batch_size=batch_size, on_batch=on_batch)
    return int(np.sum(answers == labels))


def predicted_classes(artifact: Artifact, data: ImageData, *, batch_size: int = 250,
                      on_batch: Callable[[int], Any] | None = None
                      ) -> tuple[np.ndarray, np.ndarray]:
    """(answers, labels), int [N] each, of all test images; see `measure`."""
    check_fits(artifact, data)
    answers, known = [], []
    for pixels, labels in data.test_batches(batch_size).as_numpy_iterator():
        answers.append(np.argmax(artifact(pixels), axis=-1))
        known.append(labels)
        if on_batch is not None:
            on_batch(len(labels))
    return np.concatenate(answers), np.concatenate(known)


def test_metrics(artifact: Artifact, model: keras.Model, task: Task, data: Examples, *,
                 softmax: bool = False) -> dict[str, float]:
    """The task's metrics of an opened artifact of `model` on all test examples.

    softmax: whether its TFLite files end in a softmax, see TFLiteOptions: of a model that gives
        logits, the task is told the logs of their probabilities.
    """
    struct = functional_graph(model).output
    added = softmax and is_tflite(artifact.form) and not outputs_probabilities(model)
    total = np.zeros(task.tally_size)
    for x, *targets in data.test_batches(_TEST_BATCH):
        answers = artifact([value.numpy() for value in data.in_order(x)])
        flat = list(answers.values()) if isinstance(answers, dict) else [answers]
        outputs = keras.tree.pack_sequence_as(struct, [
            log_probabilities(value) if added else tf.constant(value) for value in flat])
        total += task.tally(outputs, *targets).numpy()
    return task.metrics(total)


def score_key(task: Task) -> str:
    """How rows of files call the metric of a task: 'accuracy' of classifiers of pictures."""
    return 'accuracy' if task.is_classification else 'score'


def check_fits(artifact: Artifact, data: ImageData) -> None:
    """ValueError if the artifact is no classifier of images, or its image shape or number of
    classes is not the data set's."""
    if artifact.image_shape is None or artifact.num_classes is None:
        inputs = ', '.join(f'[{dims((None, *shape))}]'
                           for shape, _ in artifact.signature.inputs.values())
        outputs = ', '.join(f'[{dims((None, *shape))}]'
                            for shape in artifact.signature.outputs.values())
        raise ValueError(f'{artifact.path}: expected one image input [None, H, W, C] and one '
                         f'output [None, classes], it takes {inputs} and gives {outputs}')
    if artifact.image_shape != tuple(data.image_shape):
        raise ValueError(f'{artifact.path}: takes images [{dims(artifact.image_shape)}], those of '
                         f'{data.name} are [{dims(data.image_shape)}]'
                         f'{resized(artifact.image_shape, data.image_shape)}')
    if artifact.num_classes != data.num_classes:
        raise ValueError(f'{artifact.path}: knows {artifact.num_classes} classes, {data.name} has '
                         f'{data.num_classes}')


def data_source(path: str | os.PathLike[str], dataset: str | None = None,
                **given: Any) -> tuple[str, dict[str, Any]]:
    """(dataset, options of load_data) to measure `path` on: what is given, else its run folder's.

    Of another data set than the run's, only what is given. ValueError if there is no data set, or
    the run folder is damaged.
    """
    config_file = pathlib.Path(path) / CONFIG_FILE
    config = read_json(config_file) or {}
    given = {name: value for name, value in given.items() if value}
    if not dataset and not config.get('dataset'):
        raise ValueError(f'dataset: needed, since {path} is no run folder with a {CONFIG_FILE}')
    if dataset and dataset != config.get('dataset'):
        return dataset, given
    names = (field.name for field in dataclasses.fields(DataOptions))
    asked = {name: config[name] for name in names
             if name != 'dataset' and config.get(name) is not None}
    return config['dataset'], {**asked, **given}


def check_classes(path: str | os.PathLike[str], dataset: str, data: ImageData) -> None:
    """ValueError if the run folder at `path` learnt other class names from the same data set."""
    known = read_json(pathlib.Path(path) / DATA_FILE) or {}
    theirs, ours = known.get('class_names'), list(data.class_names)
    if known.get('name') == dataset and theirs and theirs != ours:
        here, there = next((pair for pair in zip(ours, theirs) if pair[0] != pair[1]), ('', ''))
        raise ValueError(f"{path}: knows {len(theirs)} classes, the data {len(ours)}, the first "
                         f'that differ are {there!r} and {here!r}')


def format_table(rows: Sequence[Measurement]) -> str:
    """The measurements as text; MACs that leave operators out are marked '+', named below."""
    return _table(rows, ('accuracy', 'images'), [
        (f'{row.accuracy:.2%}', f'{row.images:,}') for row in rows])


def format_task_table(rows: Sequence[TaskMeasurement], task: Task) -> str:
    """The same of a task: the metric that it is judged by first, and then the others."""
    names = sorted(rows[0].metrics, key=lambda name: name != task.measure.name)
    return _table(rows, (*names, 'examples'), [
        (*(f'{row.metrics[name]:.4g}' for name in names), f'{row.examples:,}') for row in rows])


def _table(rows: Sequence[Measurement | TaskMeasurement], names: Sequence[str],
           cells: Sequence[Sequence[str]]) -> str:
    table = [('form', *names, 'MACs', 'params', 'bytes')]
    for row, own in zip(rows, cells):
        macs = f'{row.cost.macs:,}' + '+' * bool(row.cost.uncounted)
        table.append((row.form, *own, macs, f'{row.cost.params:,}', f'{row.bytes:,}'))
    lines = align(table)
    lines += [f'+ {row.form}: not counted: {", ".join(row.cost.uncounted)}'
              for row in rows if row.cost.uncounted]
    most = max(row.cost.params for row in rows)
    if any(is_tflite(row.form) and row.cost.params < most for row in rows):
        lines.append('tflite: batch normalization is folded into the convolutions: fewer params')
    return '\n'.join(lines)
