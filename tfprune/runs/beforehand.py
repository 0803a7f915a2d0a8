"""What a configuration asks for and is not there, told without TensorFlow."""
import pathlib

from tfprune import extras
from tfprune.config import split_names
from tfprune.data import loading
from tfprune.errors import unknown
from tfprune.methods.names import METHODS
from tfprune.models.names import MODELS, is_model_file
from tfprune.runs.config import Config


def check_installed(config: Config, *, names_data: bool = True) -> None:
    """MissingExtraError for a library that a step of the run would lack.

    names_data: whether the configuration says which data there are; else the user brings them.
    """
    if config.method in METHODS:
        METHODS.check(config.method)
    if 'int8_qat' in config.export.quantizations:
        extras.need('qat', 'quantize=int8_qat')
    if names_data and not config.models.task:
        loading.check_installed(config.data.dataset)


def check_files(config: Config) -> None:
    """FileNotFoundError names a file that the configuration names and that is not there."""
    models = config.models
    check_model(models.model, models.task)
    for name, path in (('initial_weights', models.initial_weights),
                       ('latency_table', config.costs.latency_table), ('task', models.task),
                       *(('custom_layers', path) for path in split_names(models.custom_layers))):
        if path:
            check_file(name, path)
    folder = config.data.data_dir
    if config.data.dataset == 'folder' and folder and not pathlib.Path(folder).exists():
        raise FileNotFoundError(f'data_dir {folder}: no such folder.')


def check_model(model: str, task: str = '') -> None:
    """FileNotFoundError for a model file that is not there, ValueError for a name of no model,
    unless a task brings its own."""
    if task:
        check_file('task', task)
    elif is_model_file(model):
        check_file('model', model)
    elif model not in MODELS:
        raise unknown('model', model, MODELS, ', or the path of a .keras file')


def check_file(name: str, path: str) -> None:
    """FileNotFoundError where there is no such file, or IsADirectoryError where it is none."""
    if pathlib.Path(path).is_dir():
        raise IsADirectoryError(f'{name} {path}: a directory, not a file.')
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f'{name} {path}: no such file.')
