"""What a run tells the person who waits: a bar an epoch, a line an event."""
import contextlib
import logging
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import Any

import tqdm


@contextlib.contextmanager
def hush_retracing() -> Iterator[None]:
    """Without TensorFlow's warning that a function was traced often: each run has models of its
    own, so that the second in a process traces anew. Its other warnings come through.
    """
    def is_another(record: logging.LogRecord) -> bool:
        return 'triggered tf.function retracing' not in record.getMessage()

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
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class Progress:
    """A progress bar of examples with rate, loss, accuracy and time left; silent if asked to be."""

    def __init__(self, enabled: bool = True):
        self._enabled = enabled
        self._bar: tqdm.tqdm | None = None

    def start_epoch(self, title: str, count: int, done: int, examples: str) -> None:
        """Opens the bar of an epoch of so many examples, of which `done` are done; `examples` is
        what they are called."""
        # A log file wants a line now and then, a terminal ten a second.
        interval = 0.1 if sys.stderr.isatty() else 30.0
        self._bar = tqdm.tqdm(total=count, initial=done, desc=title, unit=f' {examples}',
                              ncols=shutil.get_terminal_size((100, 24)).columns or 100,
                              mininterval=interval, disable=not self._enabled,
                              bar_format='{desc}: {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} '
                              '[{rate_fmt}, {remaining} left{postfix}]')

    def step(self, count: int, means: dict[str, float], metric: str = 'accuracy') -> None:
        """Advances the bar, which shows the loss and a metric of `means`."""
        if self._bar is not None:
            self._bar.set_postfix({name: f'{means[name]:.3f}' for name in ('loss', metric)},
                                  refresh=False)
            self._bar.update(count)

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
        """Prints a line, not through a bar."""
        if self._enabled:
            tqdm.tqdm.write(' '.join(str(word) for word in words))
