"""Images a second of the input pipeline, augmentation included, against the training step's.

Every row is measured in processes of its own, one for the pipeline, whose peak memory it reports,
and one for the joint training step of ResNet-20 on images of that size.
"""
import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.benchmarks.apart import call_apart
from tfprune.benchmarks.turns import cores, machine, quartiles
from tfprune.data.image_data import ImageData
from tfprune.data.loading import load_data
from tfprune.data.options import DataOptions
from tfprune.data.photographs import photographs
from tfprune.machine import peak_process_bytes

OPTIONS = ('cifar10_dir', 'image_folder', 'image_size', 'models', 'batch_size', 'pipeline_rounds',
           'threads')
SOURCES = ('cifar10', 'folder')
MADE_FILES = 2048
BATCHES_A_ROUND = 300


def rows(only: Sequence[str] = (), *, cifar10_dir: str = '', image_folder: str = '',
         image_size: str = '', models: Sequence[str] = ('resnet20',), batch_size: int = 128,
         pipeline_rounds: int = 7, threads: int = 0) -> Iterator[dict[str, Any]]:
    """Yields a row a source of images, for each model.

    Args:
        only: some of SOURCES.
        cifar10_dir: where tensorflow-datasets has CIFAR-10; '' makes noise of its shape.
        image_folder: class folders of image files; '' makes one of JPEG files, 128x128.
        image_size: of the images of the folder; '' is 128.
        models: whose training step the pipeline is compared with.
        pipeline_rounds: repetitions of BATCHES_A_ROUND batches.
        threads: within an operation, and cores; 0 is all.

    Raises ValueError for an unknown source or data that cannot be read.
    """
    for name in only:
        if name not in SOURCES:
            raise ValueError(f"Unknown source '{name}'. Available: {', '.join(SOURCES)}")
    with cores(threads) as number, contextlib.ExitStack() as stack:
        for source in only or SOURCES:
            made = not (cifar10_dir if source == 'cifar10' else image_folder)
            if source == 'folder' and made:
                image_folder = stack.enter_context(tempfile.TemporaryDirectory())
                make_folder(pathlib.Path(image_folder), MADE_FILES)
            pipeline = call_apart(
                pipeline_row, threads=threads, source=source, image_size=image_size or '128',
                path=cifar10_dir if source == 'cifar10' else image_folder, batch_size=batch_size,
                rounds=pipeline_rounds)
            for model in models:
                step = call_apart(step_rate, threads=threads, model=model,
                                  image_shape=pipeline['image_shape'], batch_size=batch_size)
                yield {'source': source, 'made': made, 'threads': number, **machine(), **pipeline,
                       'model': model, **step,
                       'ratio': pipeline['images_per_second'] / step['step_images_per_second']}


def pipeline_row(source: str, path: str, image_size: str, batch_size: int, rounds: int,
                 batches_a_round: int = BATCHES_A_ROUND) -> dict[str, Any]:
    """Reads the data, then batches: rates, and the most memory that the process held."""
    tf.zeros(())
    before, begun = peak_process_bytes(), time.perf_counter()
    data = load(source, path, image_size)
    seconds = time.perf_counter() - begun
    loaded = peak_process_bytes()
    rates = []
    for _ in range(rounds + 1):
        batches = iter(repeated(data, batch_size))
        next(batches)
        begun = time.perf_counter()
        for _ in range(batches_a_round):
            next(batches)
        rates.append(batches_a_round * batch_size / (time.perf_counter() - begun))
        del batches
    size = data.num_train + data.num_reward + data.num_test
    return {'image_shape': list(data.image_shape), 'images': size, 'batch_size': batch_size,
            'load_seconds': seconds, 'load_images_per_second': size / seconds,
            **quartiles('images_per_second', np.array(rates[1:])), 'rounds': rounds,
            'image_bytes': size * int(np.prod(data.image_shape)), 'bytes_before': before,
            'peak_bytes_loaded': loaded, 'peak_bytes': peak_process_bytes()}


def repeated(data: ImageData, batch_size: int) -> Iterator[Any]:
    """Batches of epoch after epoch."""
    epoch = 0
    while True:
        yield from data.train_batches(epoch, batch_size)
        epoch += 1


def load(source: str, path: str, image_size: str) -> ImageData:
    """The images of a source; without a path noise of CIFAR-10's shape."""
    if source == 'folder':
        return load_data('folder', data_dir=path, image_size=image_size)
    if path:
        return load_data('cifar10', data_dir=path)
    rng = np.random.default_rng(0)
    train, test = ((rng.integers(0, 256, (size, 32, 32, 3), np.uint8),
                    rng.integers(0, 10, size)) for size in (50_000, 10_000))
    return photographs('noise', train, test, tuple('abcdefghij'), DataOptions())


def make_folder(root: pathlib.Path, files: int) -> None:
    """JPEG files of 128x128 in two classes: smooth noise, which compresses as pictures do."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in 'ab':
        (root / name).mkdir()
    for number in range(files):
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
        small.resize((128, 128), Image.Resampling.BICUBIC).save(
            root / 'ab'[number % 2] / f'{number}.jpg', quality=90)


def step_rate(model: str, image_shape: Sequence[int], batch_size: int, steps: int = 12
              ) -> dict[str, Any]:
    """Images a second of tfprune's joint step; of large images a smaller batch, for its memory."""
    from tfprune.benchmarks.training_step import joint_step

    height, width, channels = image_shape
    size = max(1, min(batch_size, batch_size * 32 * 32 // (height * width)))
    rng = np.random.default_rng(0)
    turn = joint_step(model, 'float32', (
        tf.constant(rng.integers(0, 256, (size, height, width, channels), np.uint8)),
        tf.constant(rng.integers(0, 10, size, np.int32))))
    seconds = [turn() for _ in range(steps + 3)][3:]
    return {'step_batch_size': size, 'step_images_per_second': size / float(np.median(seconds))}


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns rates and memory as a Markdown table."""
    lines = ['| images | size | read, images/s | pipeline, images/s (quartiles) | training step, '
             'images/s | ratio | images, MiB | peak memory, MiB | of it before reading |',
             '|---|---|---:|---:|---:|---:|---:|---:|---:|']
    for row in found:
        mib = {name: f'{row[name] / 2 ** 20:.0f}' for name in (
            'image_bytes', 'peak_bytes', 'bytes_before')}
        lines.append(
            f"| {row['source']}{' (made)' if row['made'] else ''}, {row['images']:,} | "
            f"{'x'.join(map(str, row['image_shape']))} | {row['load_images_per_second']:,.0f} | "
            f"{row['images_per_second']:,.0f} ({row['images_per_second_q1']:,.0f}–"
            f"{row['images_per_second_q3']:,.0f}) | {row['model']} "
            f"{row['step_images_per_second']:,.0f} | {row['ratio']:.1f} | {mib['image_bytes']} | "
            f"{mib['peak_bytes']} | {mib['bytes_before']} |")
    return '\n'.join(lines)
