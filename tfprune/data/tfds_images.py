"""Image classification sets of tensorflow-datasets, read once into memory (CIFAR-10: 184 MB).

Test split: the set's own 'test', else 'validation' or 'val'; a split without labels (-1) is none.
Without any, it is test_fraction of each class of 'train', drawn by split_seed alone. Augmentation:
see photographs.py; characters are not mirrored.
"""

import contextlib
import dataclasses
import difflib
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tfprune.data.array_data import ArrayImageData
from tfprune.data.options import DataOptions
from tfprune.data.photographs import Split, photographs
from tfprune.data.split import test_sizes, test_split
from tfprune.data.storage import cache_path, check_memory, stored
from tfprune.data.tuning import untuned
from tfprune.errors import first_line

TEST = ('test', 'validation', 'val')
# A mirrored character is another thing.
CHARACTERS = ('binary_alpha_digits', 'cmaterdb', 'emnist', 'kmnist', 'mnist', 'mnist_corrupted',
              'omniglot', 'svhn_cropped')
_READ_BATCH = 200


def load(name: str, options: DataOptions) -> ArrayImageData:
    """The tensorflow-datasets set `name`, 'set' or 'set/config', of images with one label each.

    Args:
        options: data_dir is where sets are, or are put; None for tensorflow-datasets' own default.

    Raises:
        FileNotFoundError: not prepared there and cannot be downloaded; says how to get it.
        UnknownSetError: tensorflow-datasets does not know it.
        ValueError: not for classification, images of several sizes and no image_size, damaged
            files.
    """
    where = options.data_dir or '~/tensorflow_datasets'
    builder = _builder(name, options.data_dir)
    keys = _check_features(name, builder.info)
    image_shape = _image_shape(name, builder.info.features[keys[0]].shape, options)
    try:
        if not builder.is_prepared():
            _check_network(builder)
            builder.download_and_prepare()
    except Exception as error:  # Network, proxy, disk, permissions: all end in the same advice.
        raise FileNotFoundError(
            f"{name} is not in data_dir '{where}' and cannot be downloaded "
            f'({type(error).__name__}: {first_line(error)}); on a machine with network run '
            f'"tfds build {name} --data_dir={where}" and copy the folder') from error
    with _reading(builder):
        splits = _splits(name, builder, keys[1])
    check_memory(name, sum(builder.info.splits[split].num_examples for split in splits),
                 image_shape, options.cache_dir)
    if len(splits) == 2:
        train, test = (_read(builder, keys, image_shape, options, split) for split in splits)
    else:
        train, test = _read_and_split(builder, keys, image_shape, options)
    if builder.name in CHARACTERS:
        options = dataclasses.replace(options, mirror=False)
    return photographs(name, train, test, tuple(builder.info.features[keys[1]].names), options)


class UnknownSetError(ValueError):
    """tensorflow-datasets knows no such set; `similar` are names of its own."""

    def __init__(self, name: str, similar: list[str]):
        super().__init__(f"tensorflow-datasets knows no set '{name}'")
        self.similar = similar


def _builder(name: str, data_dir: str | None):
    import tensorflow_datasets as tfds  # Slow to import.

    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        similar = difflib.get_close_matches(name, tfds.list_builders(), n=3)
        raise UnknownSetError(name, similar) from error
    except (ValueError, ImportError) as error:  # No such configuration, or no name at all.
        raise ValueError(f"dataset '{name}': {first_line(error)}") from error


def _check_features(name: str, info) -> tuple[str, str]:
    """Names of the image and of its label; ValueError if the set is not one of classification."""
    import tensorflow_datasets as tfds

    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    features = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    pairs: list[tuple[str, ...]] = [info.supervised_keys or (), ('image', 'label')]
    for keys in pairs:
        if len(keys) == 2 and all(isinstance(features.get(key), kind)
                                  for key, kind in zip(keys, kinds)):
            break
    else:
        raise ValueError(
            f"dataset '{name}' is not one of image classification: expected an 'image' and its "
            f"'label', received {', '.join(sorted(features)) or type(info.features).__name__}")
    image, label = (features[key] for key in keys)
    if image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3) or not label.num_classes:
        raise ValueError(
            f"dataset '{name}': expected uint8 images of 1 or 3 channels and named classes, "
            f'received {np.dtype(image.np_dtype).name} {image.shape}, {label.num_classes} classes')
    return keys[0], keys[1]


def _image_shape(name: str, shape: tuple[int | None, int | None, int],
                 options: DataOptions) -> tuple[int, int, int]:
    """[H, W, C] that images are brought to."""
    asked = options.image_shape
    height, width = asked[0] or shape[0], asked[1] or shape[1]
    if not height or not width:
        raise ValueError(f"dataset '{name}' has images of several sizes: it needs --image_size")
    return height, width, asked[2] or shape[2]


def _splits(name: str, builder, label: str) -> list[str]:
    """The training split and, where there is one with labels, the test split."""
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    if 'train' not in sizes:
        raise ValueError(f"dataset '{name}' has no split 'train', only {', '.join(sizes)}")
    for split in TEST:
        if sizes.get(split):
            first = next(builder.as_dataset(split=f'{split}[:1]').as_numpy_iterator())
            if first[label] >= 0:
                return ['train', split]
    return ['train']


def _check_network(builder) -> None:
    """Raises OSError if a host of the download has no address."""
    # tensorflow-datasets retries for minutes first, and leaves half a folder behind.
    if not urllib.request.getproxies():
        for url in builder.url_infos:
            socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, None)


@contextlib.contextmanager
def _reading(builder) -> Iterator[None]:
    """Turns errors of reading a set's files into one that says what to do."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise ValueError(f'{builder.name} is damaged ({first_line(error)}); remove '
                         f'{builder.data_dir} and prepare it again') from error


def _read(builder, keys: tuple[str, str], image_shape: tuple[int, int, int], options: DataOptions,
          split: str, places: Callable[[], np.ndarray] | None = None, *made_by: float) -> Split:
    """All images [N, H, W, C] and labels [N] of a split.

    Args:
        places: gives the place of each example in the order of the files, [N]; None keeps the
            order.
        made_by: the numbers that the places depend on.
    """
    size = builder.info.splits[split].num_examples

    def fill(images: np.ndarray, labels: np.ndarray) -> int:
        with _reading(builder):
            place = np.arange(size) if places is None else places()
            batches = _in_order(builder, split).map(
                lambda example: (_fit(example[keys[0]], image_shape), example[keys[1]]),
                num_parallel_calls=tf.data.AUTOTUNE).batch(_READ_BATCH).prefetch(2)
            start = 0
            for image, label in batches.as_numpy_iterator():
                rows = place[start:start + len(label)]
                images[rows], labels[rows] = image, label
                start += len(label)
            if start != size:
                raise OSError(f'{split} split: expected {size} images, read {start}')
        return size

    source = [builder.info.full_name, builder.info.splits.total_num_examples, split, image_shape,
              *made_by]
    return stored((size, *image_shape), fill, cache_path(options.cache_dir, source))


def _read_and_split(builder, keys: tuple[str, str], image_shape: tuple[int, int, int],
                    options: DataOptions) -> tuple[Split, Split]:
    """Training and test split of a set that has only 'train': a share of each class is for test."""
    import tensorflow_datasets as tfds

    classes = builder.info.features[keys[1]].num_classes
    fraction, split_seed = options.test_fraction, options.split_seed

    def places() -> np.ndarray:
        """Those of training images first; of them and of test images, by class."""
        examples = _in_order(builder, 'train', decoders={keys[0]: tfds.decode.SkipDecoding()})
        labels = np.array(list(examples.map(lambda example: example[keys[1]]).as_numpy_iterator()))
        if labels.min() < 0:
            raise ValueError(f'{builder.name}, train split: expected labels in 0 … {classes - 1}, '
                             f'received {labels.min()}')
        order = np.concatenate(test_split(labels, classes, fraction, split_seed))
        return np.argsort(order)

    images, labels = _read(builder, keys, image_shape, options, 'train', places, fraction,
                           split_seed)
    tested = test_sizes(np.bincount(labels, minlength=classes), fraction).sum()
    first = len(labels) - int(tested)
    return (images[:first], labels[:first]), (images[first:], labels[first:])


def _in_order(builder, split: str, **options) -> tf.data.Dataset:
    """The examples of a split, one file after the other: not by the number of cores."""
    import tensorflow_datasets as tfds

    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return untuned(
        builder.as_dataset(split=split, shuffle_files=False, read_config=config, **options))


def _fit(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """The image in another shape, [H, W, C]: resized by antialiased bilinear interpolation."""
    if image.shape[-1] != shape[-1]:
        image = (tf.image.rgb_to_grayscale(image) if shape[-1] == 1
                 else tf.image.grayscale_to_rgb(image))
    if tuple(image.shape[:2]) != shape[:2]:
        image = tf.image.resize(image, shape[:2], antialias=True)
        image = tf.cast(tf.round(image), tf.uint8)
    return image
