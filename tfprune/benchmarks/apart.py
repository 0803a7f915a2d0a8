"""Calls a function in a process of its own, for its memory or its threads; and processes of other
programs that answer lines.

Run by `call_apart` as python -m tfprune.benchmarks.apart module function arguments threads
"""
import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any, cast

from typing_extensions import Self


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


class LineWorker:
    """A process that answers each line on its stdin by one on its stdout, and may begin by one.

    Args:
        command: with its arguments.
        failed: what the OSError says that an answer raises if there is none.
        stderr: as of subprocess.
    """

    def __init__(self, command: Sequence[str], failed: str, stderr: int | None = None):
        self._failed = failed
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=stderr, text=True)
        self._to, self._from = (cast(IO[str], pipe) for pipe in (
            self._process.stdin, self._process.stdout))

    def ask(self, line: str = '') -> str:
        """Returns the answer to a line."""
        self._to.write(f'{line}\n')
        self._to.flush()
        return self.answer()

    def answer(self) -> str:
        """Returns the next line."""
        line = self._from.readline().strip()
        if not line:
            raise OSError(self._failed)
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        self._process.wait()
        self._from.close()


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
