"""Where decoded images lie: in memory once, or in a file that is read as memory.

A file holds the images, uint8 [N, H, W, C], and then a number for each, int32 [N]. It is written
whole or not at all, and named after what it was made from: a change there makes another file.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

MEMORY_SHARE = 0.6  # of the machine's memory; the rest is for training
_ALIGNMENT = 64  # bytes; TensorFlow aborts on tensors that begin elsewhere
_CGROUP_LIMIT = pathlib.Path('/sys/fs/cgroup/memory.max')  # of a container

# Writes images and a number for each into the arrays; returns how many, from the start.
Fill = Callable[[np.ndarray, np.ndarray], int]


def stored(shape: tuple[int, int, int, int], fill: Fill,
           path: pathlib.Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [n, H, W, C], numbers int32 [n]), n <= N, as `fill` writes them.

    Args:
        shape: [N, H, W, C], the most that `fill` writes.
        path: the file to read them from, or to write if it is not there; None for memory.

    Raises:
        OSError: the file cannot be written.
    """
    if path is None:
        images, numbers = _aligned(shape), np.empty(shape[0], np.int32)
        count = fill(images, numbers)
        return images[:count], numbers[:count]
    if not path.exists():
        _write(path, shape, fill)
    image_size = math.prod(shape[1:])
    count, rest = divmod(path.stat().st_size, image_size + np.dtype(np.int32).itemsize)
    if rest or not count:
        raise OSError(f'{path} is damaged: remove it')
    numbers = np.fromfile(path, np.int32, offset=count * image_size)
    # Copy on write: writable, as sharing asks for, without ever changing the file.
    return np.memmap(path, np.uint8, 'c', shape=(count, *shape[1:])), numbers


def cache_path(cache_dir: str | None, source: Any) -> pathlib.Path | None:
    """The file in `cache_dir` for images made from `source` (JSON); None without a cache_dir."""
    if not cache_dir:
        return None
    digest = hashlib.sha256(json.dumps(source).encode(errors='surrogateescape')).hexdigest()
    return pathlib.Path(cache_dir) / f'images_{digest[:16]}'


def check_memory(name: str, count: int, image_shape: tuple[int, int, int],
                 cache_dir: str | None) -> None:
    """ValueError if `count` images are more than MEMORY_SHARE of the machine's memory allows."""
    needed, memory = count * math.prod(image_shape), _machine_memory()
    if not cache_dir and needed > MEMORY_SHARE * memory:
        height, width, channels = image_shape
        raise ValueError(
            f'{name}: {count:,} images of {height}x{width}x{channels} take {needed / 1e9:.1f} GB, '
            f'more than {MEMORY_SHARE:.0%} of the {memory / 1e9:.1f} GB of memory here: give a '
            f'smaller --image_size, or a --cache_dir to keep them in files')


def as_tensor(images: np.ndarray) -> tf.Tensor:
    """The array as a tensor, in the same memory if that is aligned, else a copy."""
    if images.ctypes.data % _ALIGNMENT or not images.flags.c_contiguous or not len(images):
        return tf.convert_to_tensor(images)
    return tf.experimental.dlpack.from_dlpack(images.__dlpack__())


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start:start + size].reshape(shape)


def _write(path: pathlib.Path, shape: tuple[int, int, int, int], fill: Fill) -> None:
    image_size = math.prod(shape[1:])
    numbers = np.empty(shape[0], np.int32)
    partial = path.with_name(f'.{path.name}.{os.getpid()}')  # others may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, 'w+b') as file:
            # A full disk is an error here; in mapped memory it would be a signal that kills.
            os.posix_fallocate(file.fileno(), 0, shape[0] * image_size + numbers.nbytes)
            count = fill(np.memmap(file, np.uint8, 'r+', shape=shape), numbers)
            file.truncate(count * image_size)
            file.seek(0, os.SEEK_END)
            file.write(numbers[:count].tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(f'cannot write {path}: {error.strerror or error}') from error
    finally:
        with contextlib.suppress(OSError):  # not there, or its folder is none
            partial.unlink()


def _machine_memory() -> int:
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    try:
        return min(memory, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ('max')
        return memory
