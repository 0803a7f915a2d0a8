"""A task in a Python file, for the command line: `--task=my_task.py`.

    def model():                # a compiled Keras model; may take `seed`
    def data():                 # train_data, reward_data, test_data; may take `seed`
    monitor = 'val_mean_io_u'   # these are optional, as for tfprune.train_and_prune:
    mode, class_weight, class_names, pixel_range, callbacks (a list, or a function that makes one)

The run's seed is set before each of the two is called.
"""
import inspect
import pathlib
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfprune.data.user_examples import UserExamples
from tfprune.errors import first_line
from tfprune.export.base import Artifact
from tfprune.models.model_files import at_shapes
from tfprune.runs.artifacts import TaskMeasurement, measure_task
from tfprune.runs.config import Config
from tfprune.runs.learning import compiled_task
from tfprune.runs.own_model import own_model
from tfprune.runs.problem import OwnModel
from tfprune.tasks.base import Task
from tfprune.tasks.classification import Classification

_OPTIONS = ('monitor', 'mode', 'class_weight', 'class_names', 'pixel_range', 'callbacks')
_SPLITS = ('train_data', 'reward_data', 'test_data')


def own_of_task(config: Config) -> OwnModel | None:
    """The model and data of the configuration's task file; None without one.

    Raises:
        ValueError: in one line, what is wrong with the file, or what it raises.
        TypeError, ValueError: see `own_model`.
    """
    path = pathlib.Path(config.models.task)
    if not config.models.task:
        return None
    if not path.is_file():
        raise ValueError(f'task {path}: no such file')
    content = _run(path, 'the file', lambda: runpy.run_path(str(path), run_name=path.stem))
    missing = [name for name in ('model', 'data') if not callable(content.get(name))]
    if missing:
        raise ValueError(f'task {path}: expected functions model() and data(), found no '
                         f'{" and no ".join(missing)}')
    model = _made(path, content, 'model', config.seed)
    options = {name: content[name] for name in _OPTIONS if content.get(name) is not None}
    if callable(options.get('callbacks')):
        options['callbacks'] = _made(path, content, 'callbacks', config.seed)
    splits = _splits(path, _made(path, content, 'data', config.seed))
    if not isinstance(model, keras.Model):
        raise TypeError(f'task {path}: model() gives {type(model).__name__}; expected a Keras 3 '
                        'model')
    try:
        return own_model(model, **splits, **options, seed=config.seed, name=path.stem)
    except (TypeError, ValueError) as error:
        raise type(error)(f'task {path}: {error}') from None


def model_of_task(config: Config) -> keras.Model:
    """The dense model of a task file, on examples of the size of its data."""
    own = own_of_task(config)
    assert own is not None, config
    if isinstance(own.data, UserExamples):
        return at_shapes(own.model, own.data.inputs, f'task {config.models.task}')
    return own.model


def measured(config: Config, opened: Sequence[Artifact]) -> tuple[list[TaskMeasurement], Task]:
    """The files of a run of a task file on its test examples, and the task."""
    own = own_of_task(config)
    assert own is not None, config
    task = what_is_learnt(own)
    return [measure_task(artifact, own.model, task, own.data, softmax=config.export.tflite_softmax)
            for artifact in opened], task


def what_is_learnt(own: OwnModel) -> Task:
    """The task of a user's model."""
    if own.monitor is None:
        return Classification.of(own.model)
    return compiled_task(own.model, own.data, own.monitor)[0]


def _made(path: pathlib.Path, content: Mapping[str, Any], name: str, seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    takes_seed = 'seed' in inspect.signature(content[name]).parameters
    return _run(path, f'{name}()', lambda: content[name](**({'seed': seed} if takes_seed else {})))


def _run(path: pathlib.Path, what: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:  # a user's code: anything
        raise ValueError(f'task {path}: {what} raises {type(error).__name__}: '
                         f'{first_line(error) if str(error) else "no message"}') from error


def _splits(path: pathlib.Path, data: Any) -> dict[str, Any]:
    if isinstance(data, Mapping) and set(data) == set(_SPLITS):
        return dict(data)
    if isinstance(data, (tuple, list)) and len(data) == len(_SPLITS):
        return dict(zip(_SPLITS, data))
    given = ', '.join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
    raise ValueError(f'task {path}: data() must give {", ".join(_SPLITS)}; received {given}')
