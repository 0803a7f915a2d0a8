"""What a run tells the person who waits: on a terminal a bar an epoch, anywhere a line an event."""
import contextlib
import logging
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any

import tqdm

_INTERVAL = 600.0  # seconds between two lines within an epoch


def hush_retracing() -> contextlib.AbstractContextManager[None]:
    """Without TensorFlow's warning that a function was traced often: each run has models of its
    own, so that the second in a process traces anew. Its other warnings come through.
    """
    return _without('triggered tf.function retracing')


def hush_saving() -> contextlib.AbstractContextManager[None]:
    """Without the line 'Assets written to: ...' of each SavedModel, those that TFLite's converter
    writes for itself among them."""
    return _without('Assets written to')


@contextlib.contextmanager
def _without(text: str) -> Iterator[None]:
    def is_another(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    logger = logging.getLogger('tensorflow')
    logger.addFilter(is_another)
    try:
        yield
    finally:
        logger.removeFilter(is_another)


def leave_terminal() -> None:
    """After a hang-up: what is written to the terminal that is gone goes nowhere, not wrong."""
    for descriptor in (1, 2):
        try:
            is_file = not stat.S_ISCHR(os.fstat(descriptor).st_mode)
        except OSError:
            is_file = False
        if not is_file:
            to_nowhere(descriptor)


def to_nowhere(descriptor: int) -> None:
    """What is written to it from now on is lost, without an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Progress:
    """What is said while a run goes on; nothing if asked to be silent.

    On a terminal a progress bar of examples with rate, loss, a metric and the time left; in a file
    lines alone, of an epoch that takes long one every ten minutes.
    """

    def __init__(self, enabled: bool = True):
        self._enabled = enabled
        self._bar: tqdm.tqdm | None = None
        self._title, self._said, self._done, self._count = '', 0.0, 0, 0

    def start_epoch(self, title: str, count: int, done: int, examples: str) -> None:
        """Begins an epoch of so many examples, of which `done` are done; `examples` is what they
        are called."""
        self._title, self._done, self._count = title, done, count
        self._said = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=count, initial=done, desc=title, unit=f' {examples}',
                ncols=shutil.get_terminal_size((100, 24)).columns or 100,
                bar_format='{desc}: {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} '
                '[{rate_fmt}, {remaining} left{postfix}]')

    def step(self, count: int, means: dict[str, float], metric: str = 'accuracy') -> None:
        """Says that so many more examples are done, and the loss and a metric of `means`."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix({name: f'{means[name]:.3f}' for name in ('loss', metric)},
                                  refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._said > _INTERVAL:
            self._said = time.monotonic()
            self.say(f'{self._title}: {self._done / self._count:.0%}, loss {means["loss"]:.4g}, '
                     f'{metric} {means[metric]:.4g}')

    def end_epoch(self) -> None:
        """Closes the bar, its last state on the screen."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def warn(self, text: str) -> None:
        """Prints a line on the error output, silent or not."""
        tqdm.tqdm.write(f'warning: {text}', file=sys.stderr)

    def say(self, *words: Any) -> None:
        """Prints a line, not through a bar; whoever reads along in a file sees it at once."""
        if self._enabled:
            tqdm.tqdm.write(' '.join(str(word) for word in words))
            sys.stdout.flush()
