"""A user's own images: a folder of class folders.

    DIR/train/<class>/*   with DIR/test, DIR/val or DIR/validation/<class>/* (the first that has
                          class folders is the test split), or
    DIR/<class>/*         (or DIR/train/<class>/* alone), of which a share is the test split:
                          test_fraction of each class, drawn by split_seed alone.

Images are files by suffix (decoding.SUFFIXES), directly in their class folder; links are followed.
Names that begin with '.' or '__' are left aside; so are other files, which the log counts by
suffix. Classes are the folders' names in Unicode's NFC, sorted. Without image_size all images must
have one size; color unless image_size ends in x1.
"""

import logging
import os
import pathlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tfprune.data.array_data import ArrayImageData
from tfprune.data.class_names import check_class_names, same_name
from tfprune.data.decoding import SUFFIXES, decode, decode_all
from tfprune.data.options import DataOptions
from tfprune.data.photographs import photographs
from tfprune.data.split import test_split
from tfprune.data.storage import cache_path, check_memory, stored
from tfprune.plain_text import LISTED, first_few, printable

TRAIN = 'train'
TEST = ('test', 'val', 'validation')
LAYOUT = 'expected DIR/<class>/*.jpg …, or DIR/train/<class>/*.jpg with DIR/val/<class>/*.jpg'
_DECODING = 2  # counts changes of what decoding gives, so that older files of images are not read
_UNSAID = ('desktop.ini', 'thumbs.db')  # what file managers leave behind
_LOGGER = logging.getLogger(__name__)

Files = list[tuple[str, int]]  # path, label


def load(options: DataOptions) -> ArrayImageData:
    """The images in options.data_dir.

    Raises:
        ValueError: no such layout; images that cannot be read, or not be brought to one size.
        OSError: the folder is not there or cannot be read.
    """
    try:
        return _load(options)
    except ValueError as error:  # Names of files may hold line breaks.
        raise ValueError(printable(error)) from error


def _load(options: DataOptions) -> ArrayImageData:
    if not options.data_dir:
        raise ValueError("dataset 'folder' needs --data_dir: the folder of class folders")
    root = pathlib.Path(options.data_dir).expanduser()
    class_names, train, test = scan(root, options.test_fraction, options.split_seed)
    height, width, channels = options.image_shape
    image_shape = (height, width, channels or 3) if height and width else _first_shape(train)
    images, places = _read(root, [path for path, _ in train + test], image_shape, options)
    labels = np.array([label for _, label in train + test], np.int32)[places]
    num_train = int(np.searchsorted(places, len(train)))
    splits = (images[:num_train], labels[:num_train]), (images[num_train:], labels[num_train:])
    for split, (_, present) in zip(('train', 'test'), splits):
        missing = sorted(set(range(len(class_names))) - set(present))
        if missing:
            raise ValueError(f"{root}, {split} split: class '{class_names[missing[0]]}' has no "
                             'image that can be read')
    return photographs('folder', *splits, class_names, options)


def scan(root: pathlib.Path, test_fraction: float,
         split_seed: int) -> tuple[tuple[str, ...], Files, Files]:
    """(class names, train files, test files); raises as `load` does."""
    if not root.exists():
        raise FileNotFoundError(f'data_dir {root}: no such folder')
    if not root.is_dir():
        raise NotADirectoryError(f'data_dir {root}: not a folder')
    train_root = root / TRAIN if _subfolders(root / TRAIN) else root
    aside: Counter[str] = Counter()  # by suffix
    train = _files_by_class(train_root, aside)
    tests = [root / name for name in TEST if (root / name).is_dir()]
    if train_root == root or not tests:
        _say_left_aside(root, aside)
        return _split(train_root, train, test_fraction, split_seed)
    tests.sort(key=lambda folder: not _subfolders(folder))  # ImageNet's test has no classes
    if len(tests) > 1:
        _LOGGER.warning('%s: the test images are those of %s; %s not used', root, tests[0].name,
                        ' and '.join(folder.name for folder in tests[1:]))
    test = _files_by_class(tests[0], aside)
    _say_left_aside(root, aside)
    if list(train) != list(test):
        lone = [f'only in {name}: {first_few(sorted(set(mine) - set(other)))}'
                for name, mine, other in ((TRAIN, train, test), (tests[0].name, test, train))
                if set(mine) - set(other)]
        raise ValueError(f'{root}: {TRAIN} and {tests[0].name} have different classes: '
                         f'{"; ".join(lone)}')
    return tuple(train), _labeled(train.values()), _labeled(test.values())


def _subfolders(folder: pathlib.Path) -> list[str]:
    """Names of the folders in it, sorted; none if it is none."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries
                      if entry.is_dir() and not _is_hidden(entry.name))


def _files_by_class(root: pathlib.Path, aside: Counter[str]) -> dict[str, list[str]]:
    """{class in NFC: its image files, sorted}, sorted, at least two classes, none of them empty.

    Counts files that are no images by suffix in `aside`, and images beside the class folders."""
    classes = _subfolders(root)
    if not classes:
        raise ValueError(f'{root} has no class folders: {LAYOUT}')
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink() and not os.path.exists(entry) and not _is_hidden(entry.name):
                raise ValueError(f'class folder {entry.path} is a link to nothing')
            if _is_picture(entry.name) and not entry.is_dir():
                aside[f'{_suffix(entry.name)} beside the class folders'] += 1
    found = {}
    for name in classes:
        folder = root / name
        if not name.isascii() and name.encode(errors='replace').decode() != name:
            raise ValueError(f'class folder {str(folder)!r}: its name is not valid UTF-8')
        inner = _subfolders(folder)
        if inner:
            raise ValueError(f"class folder {folder} holds a folder, '{inner[0]}': {LAYOUT}")
        names = sorted(os.listdir(folder))
        images = [each for each in names if _is_picture(each)]
        if not images:
            raise ValueError(
                f'class folder {folder} has no images: expected files {", ".join(SUFFIXES)}, '
                f'received {first_few(names) if names else "none"}')
        aside.update(_suffix(each) for each in names if not _is_picture(each)
                     and not _is_hidden(each) and each.lower() not in _UNSAID)
        found[name] = [os.path.join(folder, each) for each in images]
    if len(classes) == 1:
        raise ValueError(f"{root} has one class folder, '{classes[0]}', expected at least two: "
                         f'{LAYOUT}')
    check_class_names(f'class folders of {root}', classes)
    return {same_name(name): found[name] for name in sorted(classes, key=same_name)}


def _is_hidden(name: str) -> bool:
    return name.startswith(('.', '__'))


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith('.')


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or 'without suffix'


def _say_left_aside(root: pathlib.Path, aside: Counter[str]) -> None:
    if aside:
        _LOGGER.warning('%s: left aside %d files: %s; images are %s, in class folders', root,
                        aside.total(), printable(', '.join(
                            f'{count} {suffix}' for suffix, count in aside.most_common())),
                        ', '.join(SUFFIXES))


def _split(root: pathlib.Path, classes: dict[str, list[str]], test_fraction: float,
           split_seed: int) -> tuple[tuple[str, ...], Files, Files]:
    """A share of each class, at least one image, but not all, is for test; see `test_split`."""
    for name, members in classes.items():
        if len(members) == 1:
            raise ValueError(f"class folder {root / name} has one image, expected at least two: "
                             'one to train on and one to test on')
    files = _labeled(classes.values())
    train, test = test_split(np.array([label for _, label in files]), len(classes), test_fraction,
                             split_seed)
    return tuple(classes), [files[index] for index in train], [files[index] for index in test]


def _labeled(classes) -> Files:
    return [(path, label) for label, files in enumerate(classes) for path in files]


def _first_shape(files: Files) -> tuple[int, int, int]:
    """[H, W, 3] of the first image that can be read."""
    for path, _ in files:
        try:
            height, width, _ = decode(path, None, None, 3).shape
            return height, width, 3
        except Exception:  # As in decode_all, which reports it.
            continue
    return 1, 1, 3


def _read(root: pathlib.Path, paths: Sequence[str], image_shape: tuple[int, int, int],
          options: DataOptions) -> tuple[np.ndarray, np.ndarray]:
    """(images, their places in `paths`) of the files that can be read.

    ValueError if some cannot be read and options do not skip them, or if none can."""
    def fill(images: np.ndarray, places: np.ndarray) -> int:
        unreadable = decode_all(paths, images, resize=bool(options.image_size))
        if unreadable and (not options.skip_unreadable or len(unreadable) == len(paths)):
            raise ValueError(_refusal(root, paths, unreadable))
        kept = [place for place in range(len(paths)) if place not in unreadable]
        for row, place in enumerate(kept):  # In place: a copy may not fit in memory.
            if row != place:
                images[row] = images[place]
            places[row] = place
        return len(kept)

    check_memory(str(root), len(paths), image_shape, options.cache_dir)
    source = None
    if options.cache_dir:
        source = [_DECODING, image_shape, options.image_size, options.skip_unreadable,
                  [(os.path.relpath(path, root), *_stamp(path)) for path in paths]]
    images, places = stored((len(paths), *image_shape), fill,
                            cache_path(options.cache_dir, source))
    for place in sorted(set(range(len(paths))) - set(places)):
        _LOGGER.warning('skipped, cannot be read: %s', printable(paths[place]))
    return images, places


def _refusal(root: pathlib.Path, paths: Sequence[str], unreadable: dict[int, str]) -> str:
    """The error, which names the first few unreadable files; all of many are in the log."""
    lines = [f'{os.path.relpath(paths[place], root)} ({why})' for place, why in unreadable.items()]
    if len(lines) > LISTED:
        for line in lines:
            _LOGGER.warning('cannot be read: %s', printable(line))
    return (f'{root}: {len(lines)} of {len(paths)} images cannot be read: {first_few(lines)}; mend '
            'or remove them, or leave them out with --skip_unreadable')


def _stamp(path: str) -> tuple[int, int]:
    """Size and time of a file, which change with its content; zeros where it is a dangling link."""
    try:
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    except OSError:
        return 0, 0
