"""Every CNN family of keras.applications, pruned to half of its multiply-adds, promises checked.

Weights are noise, not trained: what is measured is whether structure, cost and files are right.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.benchmarks.structure_rows import row_of

OPTIONS: tuple[str, ...] = ()
NAMES = ('VGG16', 'VGG19', 'ResNet50', 'ResNet101', 'ResNet50V2', 'MobileNet', 'MobileNetV2',
         'MobileNetV3Small', 'MobileNetV3Large', 'EfficientNetB0', 'EfficientNetV2B0',
         'DenseNet121', 'InceptionV3', 'InceptionResNetV2', 'Xception', 'NASNetMobile',
         'ConvNeXtTiny')


def rows(only: Sequence[str] = (), *, files: bool = True) -> Iterator[dict[str, Any]]:
    """Yields one row a model.

    Args:
        only: some of NAMES; none for all.
        files: whether to save the result and use it in a process without tfprune, too: load, train
            a step, convert to TFLite.

    Raises ValueError for an unknown name.
    """
    for name in only or NAMES:
        if name not in NAMES:
            raise ValueError(f"Unknown model '{name}'. Available: {', '.join(NAMES)}")
    for name in only or NAMES:
        keras.utils.clear_session()
        model = _build(name)
        yield row_of(name, model, files, inputs=_images(model))


def _build(name: str) -> keras.Model:
    """The model as it comes, on images of its default size; where that is any, of 224 pixels."""
    build = functools.partial(getattr(keras.applications, name), weights=None,
                              classifier_activation=None)
    model = build()
    return build(input_shape=(224, 224, 3)) if None in model.input_shape[1:] else model


def _images(model: keras.Model) -> np.ndarray:
    shape = (1, *model.input_shape[1:])
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = ['| model | groups | MACs in prunable layers | with residual groups | MACs, dense | '
             'MACs, pruned | exact | largest difference | trace and surgery | elsewhere |',
             '|---|---:|---:|---:|---:|---:|---|---:|---:|---|']
    for row in found:
        lines.append(
            f"| {row['model']} | {row['groups']}{' (residual too)' * row['residual_groups']} | "
            f"{row['prunable_share']:.1%} | {row['prunable_share_with_residual']:.1%} | "
            f"{row['dense_macs']:,} | {row['macs']:,} "
            f"({row['macs'] / row['dense_macs']:.1%}) | {'yes' if row['exact'] else 'NO'} | "
            f"{row['difference']:.0e} | {row['seconds']:.1f} s | {row.get('client', '')} |")
    return '\n'.join(lines)
