"""tfprune beside Torch-Pruning on the same architectures, ImageNet size, random weights.

What is left of the multiply-adds if every width that either can cut is cut to a tenth, and to a
half: each by its own count, as a share of its own dense one. Seconds of the processor, one thread,
in turns: `trace`, and `prune`, the choice of channels by l1 and the cut of all widths to half.
PyTorch's modules are cut in place; Keras' layers are made anew, and `keras` is what
keras.models.clone_model takes for the dense model.
"""
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.benchmarks.apart import LineWorker
from tfprune.benchmarks.turns import cores, in_turns, machine, quartiles, spread
from tfprune.costs.analysis import analyze
from tfprune.costs.model import CostModel
from tfprune.models import vit
from tfprune.models.building import build_model
from tfprune.pruning.masks import allowed_widths, select_channels
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import ChannelGroups, trace_groups

OPTIONS = ('step_rounds', 'torch_python', 'threads')
_WORKER = pathlib.Path(__file__).with_name('torch_pruned.py')
_IMAGE: dict[str, Any] = {'image_shape': (224, 224, 3), 'num_classes': 1000, 'mean': (.5,) * 3,
                          'std': (.25,) * 3}


def _vit() -> keras.Model:
    return vit.build(patch=16, width=768, depth=12, heads=12, mlp_ratio=4, **_IMAGE)


# Name in torchvision -> the same here.
NETWORKS: dict[str, Callable[[], keras.Model]] = {
    'resnet50': lambda: build_model('resnet50', **_IMAGE),
    'mobilenet_v2': lambda: build_model('mobilenet_v2', **_IMAGE),
    'densenet121': lambda: keras.applications.DenseNet121(weights=None),
    'convnext_tiny': lambda: keras.applications.ConvNeXtTiny(weights=None),
    'vit_b_16': _vit,
}
NEEDS = ('needs PyTorch, torchvision and torch-pruning: --torch_python=PYTHON of an environment '
         'that has them')


def rows(only: Sequence[str] = (), *, step_rounds: int = 5, torch_python: str = '',
         threads: int = 1) -> Iterator[dict[str, Any]]:
    """Yields two rows a network, of tfprune and of Torch-Pruning.

    Args:
        only: some of NETWORKS.
        step_rounds: turns.
        torch_python: a Python that has PyTorch, torchvision and torch-pruning; '' takes this one.

    Raises ValueError for an unknown name or without the libraries, OSError where the worker fails.
    """
    for name in only:
        if name not in NETWORKS:
            raise ValueError(f"Unknown network '{name}'. Available: {', '.join(NETWORKS)}")
    if not torch_python and importlib.util.find_spec('torch_pruning') is None:
        raise ValueError(f'suite torch_structure {NEEDS}')
    with cores(threads or 1):
        for name in only or NETWORKS:
            yield from _rows_of(name, torch_python or sys.executable, step_rounds)
            keras.utils.clear_session()


def _rows_of(name: str, python: str, rounds: int) -> Iterator[dict[str, Any]]:
    model = NETWORKS[name]()
    with LineWorker([python, str(_WORKER), name], f'the worker of Torch-Pruning ended: it {NEEDS}',
                    stderr=subprocess.DEVNULL) as worker:
        other = json.loads(worker.answer())
        seen: dict[str, list[tuple[float, ...]]] = {'tfprune': [], 'Torch-Pruning': []}

        def ours() -> float:
            seen['tfprune'].append(_seconds(model))
            return sum(seen['tfprune'][-1][:2])

        def theirs() -> float:
            seen['Torch-Pruning'].append(tuple(json.loads(worker.ask())))
            return sum(seen['Torch-Pruning'][-1])

        in_turns({'tfprune': ours, 'Torch-Pruning': theirs}, rounds + 1)
    groups = trace_groups(model)
    cost = CostModel(model, groups)
    mine = {'version': f'Keras {keras.__version__}', 'dense_macs': cost.dense.macs,
            'left_of_tenth': 1 - analyze(model, groups).can_go['macs'],
            'left_of_half': cost(_half(groups)).macs / cost.dense.macs}
    for tool, found in (('tfprune', mine), ('Torch-Pruning', other)):
        times = np.array(seen[tool])[1:].T  # the first turn warms up
        yield {'network': name, 'tool': tool, **found, 'rounds': rounds,
               **quartiles('trace_s', times[0]), **quartiles('prune_s', times[1]),
               **(quartiles('keras_s', times[2]) if len(times) > 2 else {}), **machine()}


def _half(groups: ChannelGroups) -> dict[str, int]:
    return {name: max(width // 2, int(allowed_widths(width)[0])) for name, width in groups.items()}


def _seconds(model: keras.Model) -> tuple[float, ...]:
    """Of the trace, of choice and surgery, and of Keras' own copy of the model."""
    start = time.process_time()
    groups = trace_groups(model)
    traced = time.process_time()
    prune_model(model, groups, select_channels(model, groups, _half(groups), criterion='l1'))
    pruned = time.process_time()
    keras.models.clone_model(model)
    return traced - start, pruned - traced, time.process_time() - pruned


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = ['| network | | dense MACs | left at a tenth of each width | at half | trace, s | '
             "prune, s | Keras' copy, s |", '|---|---|---:|---:|---:|---:|---:|---:|']
    for row in found:
        left = [value if isinstance(value, str) else f'{value:.1%}'
                for value in (row['left_of_tenth'], row['left_of_half'])]
        copied = spread(row, 'keras_s', '.2f') if 'keras_s' in row else ''
        lines.append(f"| {row['network']} | {row['tool']} | {row['dense_macs']:,.0f} | {left[0]} | "
                     f"{left[1]} | {spread(row, 'trace_s', '.2f')} | "
                     f"{spread(row, 'prune_s', '.2f')} | {copied} |")
    return '\n'.join(lines)
