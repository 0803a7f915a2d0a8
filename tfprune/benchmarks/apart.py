"""Calls a function in a process of its own, for its memory or its threads.

Run by `call_apart` as python -m tfprune.benchmarks.apart module function arguments threads
"""
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def call_apart(function: Callable[..., Any], *, threads: int = 0, **arguments: Any) -> Any:
    """function(**arguments) in a new process, everything as JSON.

    Args:
        function: of a module, by its name.
        threads: within an operation of TensorFlow; 0 is its default.

    Raises ValueError with the last line of what the process says if it fails.
    """
    done = subprocess.run(
        [sys.executable, '-m', __name__, function.__module__, function.__name__,
         json.dumps(arguments), str(threads)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f'it ended with {done.returncode}']
        raise ValueError(f'{function.__name__}: {said[-1]}')
    return json.loads(done.stdout.splitlines()[-1])


def main(module: str, function: str, arguments: str, threads: str) -> None:
    """Prints what the function returns as the last line."""
    import tfprune  # noqa: F401  (first: prepares TensorFlow's environment)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.experimental.enable_op_determinism()
    found = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps(found))


if __name__ == '__main__':
    main(*sys.argv[1:])
