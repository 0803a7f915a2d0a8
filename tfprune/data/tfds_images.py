"""Small colour images through tensorflow-datasets, read once into memory (CIFAR-10: 184 MB).

Augmentation is the usual one of CIFAR: pad by 4, crop at random, mirror. The padding is the mean
colour (to the nearest grey level), so that it is zero after normalisation.
"""

import socket
import urllib.parse
import urllib.request

import numpy as np
import tensorflow as tf

from tfprune.data.array_data import ArrayImageData, Augmentation

# Of ImageNet; the constants of the public CIFAR ResNet code and weights.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PAD = 4
_READ_BATCH = 1000


def load(
    name: str, *, data_dir: str | None, reward_images: int, seed: int, split_seed: int,
    augment: bool,
) -> ArrayImageData:
    """The tensorflow-datasets set `name`: features 'image' [H, W, 3], 'label'; splits train, test.

    Args:
      data_dir: where sets are, or are put; None for tensorflow-datasets' own default.

    Raises:
      FileNotFoundError: not prepared there and cannot be downloaded; says how to get it.
      ValueError: damaged files.
    """
    import tensorflow_datasets as tfds  # Slow to import.

    where = data_dir or '~/tensorflow_datasets'
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            _check_network(builder)
            builder.download_and_prepare()
    except Exception as error:  # Network, proxy, disk, permissions: all end in the same advice.
        raise FileNotFoundError(
            f"{name} is not in data_dir '{where}' and cannot be downloaded "
            f'({_one_line(error)}); on a machine with network run '
            f'"tfds build {name} --data_dir={where}" and copy the folder') from error
    try:
        train, test = _read(builder, 'train'), _read(builder, 'test')
    except (tf.errors.OpError, OSError) as error:
        raise ValueError(
            f"{name} in data_dir '{where}' is damaged ({_one_line(error)}); "
            f'remove {builder.data_dir} and prepare it again') from error
    fill = tuple(round(255 * mean) for mean in MEAN)
    return ArrayImageData.from_arrays(
        name=name, train=train, test=test,
        class_names=tuple(builder.info.features['label'].names), mean=MEAN, std=STD,
        reward_images=reward_images, seed=seed, split_seed=split_seed,
        augmentation=Augmentation(max_shift=PAD, flip=True, fill=fill) if augment else None)


def _check_network(builder) -> None:
    """Raises OSError if a host of the download has no address."""
    # tensorflow-datasets retries for minutes first, and leaves half a folder behind.
    if not urllib.request.getproxies():
        for url in builder.url_infos:
            socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, None)


def _read(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images [N, H, W, C] and labels [N] of a split, in the order of the files."""
    import tensorflow_datasets as tfds

    size = builder.info.splits[split].num_examples
    images = np.empty((size, *builder.info.features['image'].shape), np.uint8)
    labels = np.empty(size, np.int32)
    # One file after the other: the order must not depend on the number of cores.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    start = 0
    batches = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    for batch in batches.batch(_READ_BATCH).prefetch(2).as_numpy_iterator():
        stop = start + len(batch['label'])
        images[start:stop], labels[start:stop] = batch['image'], batch['label']
        start = stop
    if start != size:
        raise OSError(f'{split} split: expected {size} images, read {start}')
    return images, labels


def _one_line(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
