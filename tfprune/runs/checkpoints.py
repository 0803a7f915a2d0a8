"""Checkpoints that are whole or not there, and are known to be damaged before they are read."""
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Callable

import tensorflow as tf

from tfprune.training.distribution import from_chief, is_chief

_MANIFEST = 'manifest.json'
_KEEP = 2


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stands: `epoch` epochs and `step` steps of the next one are done.

    After the last step of an epoch its method has yet to act. `seconds` went into the steps.
    `round` rounds of search are done on the weights after the last epoch before surgery.
    """
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    round: int = 0

    @property
    def name(self) -> str:
        """Its folder; sorts as positions do."""
        rounds = f'_r{self.round:05d}' if self.round else ''
        return f'e{self.epoch:05d}_s{self.step:08d}{rounds}'


class CheckpointError(ValueError):
    """No checkpoint of the run can be read."""


class Checkpoints:
    """The checkpoints of a run, in `folder`; the newest two are kept.

    Args:
        report: told in one line of each damaged checkpoint.
    """

    def __init__(self, folder: pathlib.Path, report: Callable[[str], None] = print):
        self._folder, self._report = folder, report
        self._damaged: set[str] = set()

    def save(self, position: Position, state: tf.train.Checkpoint) -> None:
        """Writes all variables of `state`; atomic against kill -9 and a full disk.

        Raises:
            OSError: it cannot be written, in one line; what was there before is untouched.
        """
        partial, final = self._folder / f'partial_{position.name}', self._folder / position.name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_partial()
            self._write(partial, position, state)
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = str(getattr(error, 'strerror', None) or error).splitlines()[0]
            reason = re.sub(r'^.*;\s*|\s*\[Op:.*$', '', reason)  # TensorFlow's inner names
            raise OSError(f'cannot write checkpoint {final}: {reason}') from error
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        _sync(self._folder)
        # What was passed over as damaged must not push out a whole one.
        stale = self._damaged - {position.name}
        whole = [name for name in self._names() if name not in stale]
        for name in (*stale, *whole[:-_KEEP]):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self._damaged.clear()

    def _write(self, partial: pathlib.Path, position: Position, state: tf.train.Checkpoint
               ) -> None:
        partial.mkdir()
        state.write(str(partial / 'state'))
        files = {path.name: _digest(path) for path in sorted(partial.iterdir())}
        manifest = {'position': dataclasses.asdict(position), 'sha256': files}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*partial.iterdir(), partial):
            _sync(path)

    def clear(self) -> None:
        """Removes all checkpoints: the run begins again."""
        for name in self._names():
            os.replace(self._folder / name, self._folder / f'partial_{name}')
        self._remove_partial()

    def newest(self) -> tuple[Position, str] | None:
        """Position and path prefix of the newest whole checkpoint; None where none was written.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.
        """
        names = self._names()
        for name in reversed(names):
            try:
                return self._check(self._folder / name)
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                self._damaged.add(name)
                self._report(f'checkpoint {self._folder / name} is damaged ({error}); '
                             'using the one before.')
        if names:
            raise CheckpointError(f'all checkpoints in {self._folder} are damaged; remove the '
                                  'folder to start anew.')
        return None

    def _check(self, folder: pathlib.Path) -> tuple[Position, str]:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for file, digest in manifest['sha256'].items():
            if _digest(folder / file) != digest:
                raise ValueError(f'{file} is not what was written')
        position = Position(**manifest['position'])
        if position.name != folder.name:
            raise ValueError(f'its manifest is of {position.name}')
        return position, str(folder / 'state')

    def _names(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir()
                      if re.fullmatch(r'e\d{5,}_s\d{8,}(_r\d{5,})?', path.name))

    def _remove_partial(self) -> None:
        for path in self._folder.glob('partial_*'):
            shutil.rmtree(path)


class SharedCheckpoints(Checkpoints):
    """Those of a run of one or several workers: the chief writes them, and says where all are."""

    def __init__(self, folder: pathlib.Path, report: Callable[[str], None],
                 strategy: tf.distribute.Strategy):
        super().__init__(folder, report)
        self._strategy = strategy

    def save(self, position: Position, state: tf.train.Checkpoint) -> None:
        if is_chief(self._strategy):
            super().save(position, state)

    def clear(self) -> None:
        if is_chief(self._strategy):
            super().clear()

    def newest(self) -> tuple[Position, str] | None:
        found = super().newest() if is_chief(self._strategy) else None
        place = found and str(pathlib.Path(found[1]).relative_to(self._folder))
        values = from_chief(self._strategy, found and [dataclasses.asdict(found[0]), place])
        return values and (Position(**values[0]), str(self._folder / values[1]))


def restore(state: tf.train.Checkpoint, prefix: str) -> None:
    """Reads a checkpoint into variables that exist, all of them.

    Raises:
        CheckpointError: it belongs to another model or method.
    """
    try:
        state.read(prefix).assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f'{prefix} does not fit this model and method, or is of another '
                              f'version: {reason}') from error


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
