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
    named = {'model': [models.model] if is_model_file(models.model) else [],
             'initial_weights': [models.initial_weights],
             'latency_table': [config.costs.latency_table],
             'task': [models.task], 'custom_layers': split_names(models.custom_layers)}
    for field, paths in named.items():
        for path in filter(None, paths):
            if not pathlib.Path(path).is_file():
                raise FileNotFoundError(f'{field} {path}: no such file.')
    if models.model not in MODELS and not (named['model'] or models.task):
        raise unknown('model', models.model, MODELS, ', or the path of a .keras file')
