"""Where the time of a method goes."""
import collections
import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds by name. Of nested blocks each second counts once, for the innermost; a block that is
    `whole` keeps the seconds of those in it."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._open: list[str] = []
        self._whole = 0
        self._last = 0.0

    @contextlib.contextmanager
    def __call__(self, name: str, *, whole: bool = False) -> Iterator[None]:
        """Counts the seconds of a block."""
        if self._whole:
            yield
            return
        self._count()
        self._open.append(name)
        self._whole += whole
        try:
            yield
        finally:
            self._whole -= whole
            self._count()
            self._open.pop()

    def take(self) -> dict[str, float]:
        """{'name_seconds': seconds} of the blocks that have ended; starts anew."""
        taken = {f'{name}_seconds': seconds for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._last
        self._last = now
