"""Data sets by name; none is imported before it is used."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tfprune import extras
from tfprune.data.options import DataOptions
from tfprune.errors import near
from tfprune.registry import Registry

if TYPE_CHECKING:
    from tfprune.data.image_data import ImageData


def _of_tfds(name: str, options: DataOptions) -> 'ImageData':
    return importlib.import_module('tfprune.data.tfds_images').load(name, options)


def _cifar10(options: DataOptions) -> 'ImageData':
    return _of_tfds('cifar10', options)


def _cifar100(options: DataOptions) -> 'ImageData':
    return _of_tfds('cifar100', options)


DATASETS: Registry[Callable[[DataOptions], 'ImageData']] = Registry({
    'digits': 'tfprune.data.digits:load',
    'folder': 'tfprune.data.folder:load',
    'cifar10': _cifar10,
    'cifar100': _cifar100,
}, needs=dict.fromkeys(('cifar10', 'cifar100'), 'datasets'), kind='dataset')


def load_data(name: str, **options: Any) -> 'ImageData':
    """Loads the data set called `name`.

    Args:
        name: a key of DATASETS, or any image classification set of tensorflow-datasets.
        **options: the fields of DataOptions.

    Raises:
        ValueError: unknown name, impossible split or option, damaged or unreadable data.
        FileNotFoundError: the files are not there; says how to get them.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(given.get('image_size'), int):
        given['image_size'] = str(given['image_size'])
    return load(DataOptions(dataset=name, **given))


def check_installed(name: str) -> None:
    """MissingExtraError where a data set is one that tensorflow-datasets may have, and there is
    none."""
    if name in DATASETS:
        DATASETS.check(name)
    else:
        extras.need('datasets', f'dataset {name!r}',
                    f'{near(name, DATASETS).strip()} Without it there are '
                    f'{", ".join(filter(DATASETS.is_usable, DATASETS))}.')


def load(options: DataOptions) -> 'ImageData':
    """The data set that options ask for; raises as `load_data` does."""
    if options.dataset in DATASETS:
        return DATASETS[options.dataset](options)
    check_installed(options.dataset)
    from tfprune.data.tfds_images import UnknownSetError
    try:
        return _of_tfds(options.dataset, options)
    except UnknownSetError as error:
        similar = f' (there is {", ".join(error.similar)})' if error.similar else ''
        raise ValueError(
            f"Unknown dataset '{options.dataset}'. Available: {', '.join(sorted(DATASETS))}, or "
            f'any image classification set of tensorflow-datasets{similar}') from error
