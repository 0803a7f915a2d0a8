"""Image data by name.

To add a data set: a file with a `load` function that takes DataOptions and returns an `ImageData`
(`ArrayImageData.from_arrays` does the work), and a line in DATASETS.
"""

import functools
from collections.abc import Callable
from typing import Any

from tfprune.data import digits, folder, tfds_images
from tfprune.data.array_data import ArrayImageData
from tfprune.data.image_data import Augmentation, ImageData
from tfprune.data.options import DataOptions

__all__ = ['DATASETS', 'ArrayImageData', 'Augmentation', 'DataOptions', 'ImageData', 'load_data']

DATASETS: dict[str, Callable[[DataOptions], ImageData]] = {
    'digits': digits.load,
    'folder': folder.load,
    'cifar10': functools.partial(tfds_images.load, 'cifar10'),
    'cifar100': functools.partial(tfds_images.load, 'cifar100'),
}


def load_data(name: str, **options: Any) -> ImageData:
    """Loads the data set called `name`.

    Args:
      name: a key of DATASETS, or any image classification set of tensorflow-datasets.
      **options: the fields of DataOptions.

    Raises:
      ValueError: unknown name, impossible split or option, damaged or unreadable data.
      FileNotFoundError: the files are not there; says how to get them.
    """
    checked = DataOptions(**options)
    if name in DATASETS:
        return DATASETS[name](checked)
    try:
        return tfds_images.load(name, checked)
    except tfds_images.UnknownSetError as error:
        similar = f' (there is {", ".join(error.similar)})' if error.similar else ''
        raise ValueError(
            f"Unknown dataset '{name}'. Available: {', '.join(sorted(DATASETS))}, or any image "
            f'classification set of tensorflow-datasets{similar}') from error
