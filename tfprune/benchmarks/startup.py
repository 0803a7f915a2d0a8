"""How soon tfprune answers, against TensorFlow and Keras alone: whole processes, in turns.

Each row is what a user waits for, and what TensorFlow and Keras take for their part: importing
them, and for a file loading it (analyze), and saving it again (prune).
"""
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
from tabulate import tabulate

from tfprune.benchmarks.turns import in_turns, machine, quartiles, ratios, spread

OPTIONS = ('rounds',)
_IMPORT = 'import tensorflow, keras'
_LOAD = f'{_IMPORT}, sys; model = keras.models.load_model(sys.argv[1], compile=False)'
_SAVE = f'{_LOAD}; model.save(sys.argv[2])'
_CORE = ('import tfprune, tensorflow, keras; '
         '[getattr(tfprune, name) for name in tfprune.__all__ if name != "PruningEnv"]')
_FILES = {'mobilenetv2.keras': 'MobileNetV2', 'resnet50.keras': 'ResNet50'}


def rows(only: Sequence[str] = (), *, rounds: int) -> Iterator[dict[str, Any]]:
    """A row a task: seconds of tfprune and of TensorFlow alone, and the ratio of each turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for file, architecture in _FILES.items():
            getattr(keras.applications, architecture)(weights=None).save(folder / file)
        for task, (ours, bare) in _tasks(folder).items():
            if not only or task in only:
                yield {'task': task, **_measured(ours, bare, rounds), **machine()}


def _tasks(folder: pathlib.Path) -> dict[str, tuple[list[str], list[str]]]:
    """{task: (command of tfprune, command of TensorFlow alone)}."""
    mobilenet, resnet = (str(folder / file) for file in _FILES)
    out = str(folder / 'pruned.keras')
    return {
        'import': (_python(_CORE), _python(_IMPORT)),
        'tfprune --help': (_tfprune('--help'), _python(_IMPORT)),
        'tfprune train --help': (_tfprune('train', '--help'), _python(_IMPORT)),
        'tfprune analyze, MobileNetV2': (_tfprune('analyze', f'--model={mobilenet}'),
                                         _python(_LOAD, mobilenet)),
        'tfprune prune, ResNet-50': (_tfprune('prune', resnet, '--macs=0.5', f'--out={out}'),
                                     _python(_SAVE, resnet, out)),
    }


def _measured(ours: Sequence[str], bare: Sequence[str], rounds: int) -> dict[str, float]:
    times = in_turns({'ours': _seconds(ours), 'bare': _seconds(bare)}, rounds)
    return {**quartiles('seconds', times['ours']), **quartiles('bare_seconds', times['bare']),
            **ratios(times['ours'], times['bare'])}


def _python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, '-c', code, *arguments]


def _tfprune(*arguments: str) -> list[str]:
    return [sys.executable, '-m', 'tfprune', *arguments]


def _seconds(command: Sequence[str]) -> Callable[[], float]:
    """A call of it takes so many seconds; CalledProcessError with what it said if it fails."""
    def call() -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start
    return call


def format_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Medians, quartiles in brackets."""
    return tabulate([(row['task'], spread(row, 'seconds'), spread(row, 'bare_seconds'),
                      spread(row, 'ratio')) for row in rows],
                    headers=('task', 'seconds', 'TensorFlow and Keras alone, s', 'ratio'),
                    tablefmt='pipe', disable_numparse=True)
