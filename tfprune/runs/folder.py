"""The run folder: what a run writes beside its checkpoints, each file whole or not there."""
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, Callable, Collection, Iterable, Mapping

from tfprune.config import split_names
from tfprune.files import naming, write_text
from tfprune.machine import describe_environment
from tfprune.run_files import read_config, read_json, read_rows
from tfprune.runs.config import Config, differing_fields

# Fields that may name files.
_FILES = ('model', 'task', 'initial_weights', 'custom_layers', 'latency_table')
# What a run killed before it wrote config.json leaves behind.
_FIRST_FILES = {'.lock', 'config.flags', 'environment.json', '.partial_config.flags',
                '.partial_environment.json', '.partial_config.json'}
# All that a run writes into its folder, by what the folder of an unbegun run is cleared.
OWN_FILES = {*_FIRST_FILES, 'config.json', 'data.json', 'groups.json', 'cost.json',
             'task.json', 'training.json', 'tensorboard', 'checkpoints', 'metrics.jsonl',
             'episodes.jsonl', 'rounds.jsonl', 'optimizer.npz', 'dense.keras', 'decision.json',
             'zeros.npz', 'ratios.json', 'ratios', 'export', 'answers.json',
             'changed.npz', 'layers.json', 'report.json', 'report.html'}


class RunFolder:
    """Files of one run under `path`.

    Opening one writes config.flags, config.json and environment.json, or checks that the config
    there is the same, and the content of the files that it names, and takes the folder's lock. A
    run that has not begun (`has_begun`) leaves nothing that counts: its folder is taken as new,
    whatever its configuration was; files in it that no run writes stay.

    Raises:
        ValueError: the folder belongs to another configuration, whose differing flags are listed;
            or a file that it names has changed since; or is not a run folder and not empty; or
            another process runs in it.
        OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike, config: Config,
                 digests: Mapping[str, str] | None = None):
        """`digests`: sha256 by field, or field.part, of what the configuration only names, beside
        its files."""
        self.path = pathlib.Path(path)
        contents = {**_digests(config), **(digests or {})}
        self._environment = {**describe_environment(), **({'files': contents} if contents else {})}
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._is_new = not has_begun(self.path)
        if not self._is_new:
            self._check_same(config, contents)
        else:
            check_free(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / '.lock', 'w')
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f'another process runs in {self.path}.') from None
        except OSError as error:
            raise OSError(f'cannot write the run folder {self.path}: {error.strerror}.') from None
        if self._is_new and has_begun(self.path):  # by another process, until it had the lock
            self._is_new = False
            self._check_same(config, contents)
        self.lost = [] if self._is_new else [
            name for name in ('environment.json', 'data.json', 'training.json')
            if not (self.path / name).exists()]
        if self._is_new:
            self._clear()
            write_text(self.path / 'config.flags', config.to_flags())
            self.write_json('environment.json', self._environment)
            self.write_json('config.json', config.to_json())  # last: its presence marks a run

    def _check_same(self, config: Config, contents: Mapping[str, str]) -> None:
        theirs = read_config(self.path)
        rows = differing_fields(config, theirs)
        if rows:
            raise ValueError(f'{self.path} is a run of another configuration; differing flags: '
                             f'{"; ".join(rows)}. Choose another run_dir, or remove this one.')
        changed = changed_files(contents, self.read_json('environment.json'))
        if changed:
            raise ValueError(f'{self.path} began with another content of {", ".join(changed)}. '
                             'Choose another run_dir, or remove this one.')

    def forget_unbegun(self) -> None:
        """Removes what this process wrote before the first checkpoint of a new run, so that a
        mended command finds no other configuration."""
        if self._is_new and not _has_checkpoint(self.path):
            self._clear()
            (self.path / '.lock').unlink(missing_ok=True)
            for folder in self._made:
                if any(folder.iterdir()):
                    break
                folder.rmdir()

    def _clear(self) -> None:
        """Removes what runs write, but for the lock; config.json last: until then it is known as
        a run folder."""
        for name in (*sorted(OWN_FILES - _FIRST_FILES - {'config.json'}), 'config.json',
                     *sorted(_FIRST_FILES - {'.lock'})):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def note_lost(self, names: Iterable[str]) -> list[str]:
        """Adds to environment.json what was found to be lost; returns all that ever was."""
        environment = self.read_json('environment.json') or {}
        lost = list(dict.fromkeys([*environment.get('lost', ()), *self.lost, *names]))
        if lost != environment.get('lost', []):
            self.write_json('environment.json', environment | {'lost': lost})
        return lost

    def note_resumption(self) -> None:
        """Adds to environment.json what a resumed run goes on with, if that is something new."""
        environment, now = self.read_json('environment.json') or {}, self._environment
        resumed = environment.setdefault('resumed', [])
        known = {k: v for k, v in environment.items() if k not in ('resumed', 'lost')}
        if known != now and now not in resumed:
            resumed.append(now)
            self.write_json('environment.json', environment)

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.close()

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file, atomically."""
        write_text(self.path / name, json.dumps(value, indent=1) + '\n')

    def update_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Adds to a JSON file that is there, or replaces what it holds under these names."""
        self.write_json(name, self.read_json(name) | values)

    def keep_json(self, name: str, value: Mapping[str, Any], *,
                  observed: Collection[str] = ()) -> None:
        """Writes a JSON file, or checks that the one there says the same.

        observed: keys that may differ, by chance or as older files lack them; the file stays.

        ValueError names what differs: the run would go on with something else than it began with.
        """
        stored, value = self.read_json(name), json.loads(json.dumps(value))  # of a file: no tuples
        if stored is None:
            return self.write_json(name, value)
        rows = [key if isinstance(new, list) else f'{key}: {stored.get(key)!r} -> {new!r}'
                for key, new in value.items()
                if key not in observed and stored.get(key) != new]
        if rows:
            raise ValueError(f'{self.path} began with another {name}: {"; ".join(rows)}. Restore '
                             'what it began with, or choose another run_dir.')

    def read_json(self, name: str) -> Any:
        """What write_json wrote; None where there is no such file."""
        return read_json(self.path / name)

    def append_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows to a JSON-lines file; a line that was cut short stays on its own."""
        text = ''.join(json.dumps(row) + '\n' for row in rows)
        with naming(self.path / name), open(self.path / name, 'a+b') as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b'\n' else '\n' + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """Rows of a JSON-lines file; lines that were cut short are left out."""
        return read_rows(self.path / name)

    def keep_rows(self, name: str, is_kept: Callable[[Mapping[str, Any]], bool]) -> None:
        """Drops the other rows: they come again."""
        if (self.path / name).exists():
            kept = [row for row in self.read_rows(name) if is_kept(row)]
            write_text(self.path / name, ''.join(json.dumps(row) + '\n' for row in kept))


class WatchedFolder(RunFolder):
    """The run folder as workers see it that are not the chief: they read what it writes."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)

    def forget_unbegun(self) -> None:
        pass

    def note_lost(self, names: Iterable[str]) -> list[str]:
        return []

    def note_resumption(self) -> None:
        pass

    def close(self) -> None:
        pass

    def write_json(self, name: str, value: Any) -> None:
        pass

    def keep_json(self, name: str, value: Mapping[str, Any], *,
                  observed: Collection[str] = ()) -> None:
        pass

    def append_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        pass

    def keep_rows(self, name: str, is_kept: Callable[[Mapping[str, Any]], bool]) -> None:
        pass


def check_free(path: pathlib.Path) -> None:
    """ValueError unless a folder is new, empty, or of a run that has not begun."""
    if (path / 'config.json').exists():
        read_config(path)
        missing = 'config.flags' if not (path / 'config.flags').exists() else ''
    else:
        others = path.is_dir() and {p.name for p in path.iterdir()} - _FIRST_FILES
        missing = 'config.json' if others else ''
    if missing:
        raise ValueError(f'{path} is neither empty nor a run folder (no {missing}).')


def has_begun(path: pathlib.Path) -> bool:
    """Whether a folder holds more of a run than its start: a checkpoint, or what comes after."""
    return (path / 'config.json').exists() and (_has_checkpoint(path) or any(
        (path / name).exists() for name in ('report.json', 'export')))


def _has_checkpoint(path: pathlib.Path) -> bool:
    return any((path / 'checkpoints').glob('e*'))


def changed_files(files: Mapping[str, str], environment: Mapping[str, Any] | None) -> list[str]:
    """What of `files`, {field or field.loss: sha256}, is other in a stored environment.json: a
    '--flag', or what a model is compiled with."""
    stored = (environment or {}).get('files', {})
    return [*dict.fromkeys('loss, metrics or class_weight' if name.endswith('.loss')
                           else f'--{name}' for name, digest in files.items()
                           if stored.get(name, digest) != digest)]


def _digests(config: Config) -> dict[str, str]:
    """sha256 of the files that the configuration names, by field."""
    digests = {}
    flags = config.to_json()
    for name in _FILES:
        value = flags[name]
        parts = [value] if pathlib.Path(value).is_file() else split_names(value)
        paths = [pathlib.Path(part) for part in parts]
        if paths and all(path.is_file() for path in paths):
            digest = hashlib.sha256()
            for path in paths:
                digest.update(path.read_bytes())
            digests[name] = digest.hexdigest()
    return digests
