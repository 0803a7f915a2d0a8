"""Every CNN family of keras.applications, pruned to half of its multiply-adds, promises checked.

Weights are noise, not trained: what is measured is whether structure, cost and files are right.
"""

import functools
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.costs.analysis import analyze
from tfprune.costs.budget import Budget, InfeasibleBudgetError
from tfprune.costs.model import CostModel
from tfprune.costs.proportional import uniform_widths
from tfprune.pruning.masks import Masks, select_channels
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import ChannelGroups, trace_groups
from tfprune.testing import check_promises, randomize

OPTIONS: tuple[str, ...] = ()
NAMES = ('VGG16', 'VGG19', 'ResNet50', 'ResNet101', 'ResNet50V2', 'MobileNet', 'MobileNetV2',
         'MobileNetV3Small', 'MobileNetV3Large', 'EfficientNetB0', 'EfficientNetV2B0',
         'DenseNet121', 'InceptionV3', 'InceptionResNetV2', 'Xception', 'NASNetMobile',
         'ConvNeXtTiny')
_CLIENT = pathlib.Path(__file__).with_name('client.py')


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
        yield _row(name, files)


def _row(name: str, files: bool) -> dict[str, Any]:
    model = randomize(_build(name))
    start = time.perf_counter()
    everything = trace_groups(model)
    groups, masks = _half(model, everything)
    pruned = prune_model(model, groups, masks)
    seconds = time.perf_counter() - start
    analysis, whole = analyze(model, groups), analyze(model, everything)
    found = check_promises(model, masks, groups=groups, inputs=_images(model))
    row = {
        'model': name, 'groups': len(groups), 'residual_groups': len(groups) == len(everything)
        and any(group.is_residual for group in groups.groups.values()),
        'prunable_share': analysis.prunable_macs / analysis.dense.macs,
        'prunable_share_with_residual': whole.prunable_macs / whole.dense.macs,
        'dense_macs': analysis.dense.macs, 'dense_params': analysis.dense.params,
        'macs': found.predicted[0], 'params': found.predicted[1],
        'exact': found.predicted == found.counted, 'difference': found.gated_difference,
        'uncounted': list(analysis.uncounted), 'seconds': seconds}
    if files:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / 'pruned.keras'
            pruned.save(path)
            row |= _use_elsewhere(path)
    return row


def _build(name: str) -> keras.Model:
    """The model as it comes, on images of its default size; where that is any, of 224 pixels."""
    build = functools.partial(getattr(keras.applications, name), weights=None,
                              classifier_activation=None)
    model = build()
    return build(input_shape=(224, 224, 3)) if None in model.input_shape[1:] else model


def _half(model: keras.Model, everything: ChannelGroups) -> tuple[ChannelGroups, Masks]:
    """Uniform widths at half of the MACs, of residual groups too if it takes them."""
    for groups in (everything.without_residual(), everything):
        try:
            budget = Budget(groups, CostModel(model, groups), {'macs': 0.5})
            break
        except InfeasibleBudgetError:
            if groups is everything:
                raise
    return groups, select_channels(model, groups, budget.as_dict(uniform_widths(budget)))


def _images(model: keras.Model) -> np.ndarray:
    shape = (1, *model.input_shape[1:])
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def _use_elsewhere(path: pathlib.Path) -> dict[str, Any]:
    """What a process without tfprune makes of the file."""
    done = subprocess.run([sys.executable, str(_CLIENT), str(path)], capture_output=True, text=True)
    if done.returncode:
        return {'client': done.stderr.strip().splitlines()[-1]}
    return {'client': 'ok', **json.loads(done.stdout.splitlines()[-1])}


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
