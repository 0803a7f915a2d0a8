"""Image data by name.

To add a data set: a file with a `load` function taking the keywords of `load_data` and returning
an `ImageData` (`ArrayImageData.from_arrays` does the work for what fits in memory), and a line in
DATASETS.
"""

import functools
from collections.abc import Callable

from tfprune.data import digits, tfds_images
from tfprune.data.array_data import ArrayImageData, Augmentation
from tfprune.data.image_data import ImageData

__all__ = ['DATASETS', 'ArrayImageData', 'Augmentation', 'ImageData', 'load_data']

DATASETS: dict[str, Callable[..., ImageData]] = {
    'digits': digits.load,
    'cifar10': functools.partial(tfds_images.load, 'cifar10'),
    'cifar100': functools.partial(tfds_images.load, 'cifar100'),
}


def load_data(
    name: str,
    *,
    data_dir: str | None = None,
    reward_images: int,
    seed: int = 0,
    split_seed: int = 0,
    augment: bool = True,
) -> ImageData:
    """Loads the data set called `name`.

    Args:
      name: a key of DATASETS.
      data_dir: where the files are; None for the data set's default.
      reward_images: training images to hold out for rewards.
      seed: of order and augmentation.
      split_seed: of the draw of the reward split, apart from `seed` so that runs differ in
        training alone.
      augment: whether training images are augmented.

    Raises:
      ValueError: unknown name, impossible split, damaged data.
      FileNotFoundError: the files are not there; says how to get them.
    """
    if name not in DATASETS:
        raise ValueError(f"Unknown dataset '{name}'. Available: {', '.join(sorted(DATASETS))}")
    if reward_images <= 0:
        raise ValueError(
            f'reward_images: expected at least 1, received {reward_images}: '
            f'an empty reward split cannot score sub-networks')
    return DATASETS[name](
        data_dir=data_dir, reward_images=reward_images, seed=seed, split_seed=split_seed,
        augment=augment)
