"""The run folder: what a run writes beside its checkpoints, each file whole or not there."""
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
from importlib import metadata
from typing import Any, Callable, Iterable, Iterator, Mapping

from tfprune.config import Config, differing_fields, split_names

_PACKAGES = ('tensorflow', 'keras', 'tf-agents', 'tf-keras', 'tensorflow-probability',
             'tensorflow-datasets', 'tensorflow-model-optimization', 'numpy')
# Fields that may name files.
_FILES = ('model', 'initial_weights', 'custom_layers', 'latency_table')
# Of data.json; augmentation may make it another at the next look, and older runs have none.
_OBSERVED = ('pixel_range',)
# What a run killed before it wrote config.json leaves behind.
_FIRST_FILES = {'.lock', 'config.flags', 'environment.json', '.partial_config.flags',
                '.partial_environment.json', '.partial_config.json'}


class RunFolder:
    """Files of one run under `path`.

    Opening one writes config.flags, config.json and environment.json, or checks that the config
    there is the same, and the content of the files that it names, and takes the folder's lock.

    Raises:
        ValueError: the folder belongs to another configuration, whose differing flags are listed;
            or a file that it names has changed since; or is not a run folder and not empty; or
            another process runs in it.
        OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike, config: Config,
                 digests: Mapping[str, str] | None = None):
        """`digests`: sha256 by field of what the configuration only names, beside its files."""
        self.path = pathlib.Path(path)
        config_file = self.path / 'config.json'
        files = {**_digests(config), **(digests or {})}
        self._environment = {**describe_environment(), **({'files': files} if files else {})}
        if config_file.exists():
            _check_same(config_file, config)
            changed = changed_files(files, self.read_json('environment.json'))
            if changed:
                raise ValueError(f'{self.path} began with another content of {", ".join(changed)}. '
                                 'Choose another run_dir, or remove this one.')
        elif self.path.is_dir() and {p.name for p in self.path.iterdir()} - _FIRST_FILES:
            raise ValueError(f'{self.path} is neither empty nor a run folder (no config.json).')
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / '.lock', 'w')
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f'another process runs in {self.path}.') from None
        except OSError as error:
            raise OSError(f'cannot write the run folder {self.path}: {error.strerror}.') from None
        self._is_new = not config_file.exists()
        if self._is_new:
            write_text(self.path / 'config.flags', config.to_flags())
            self.write_json('environment.json', self._environment)
            self.write_json('config.json', config.to_json())  # last: its presence marks a run

    def forget_if_new(self) -> None:
        """Removes what there is before training: a configuration that turned out impossible."""
        if self._is_new:
            for name in (*_FIRST_FILES, 'config.json', 'data.json', 'groups.json', 'cost.json'):
                (self.path / name).unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def note_resumption(self) -> None:
        """Adds to environment.json what a resumed run goes on with, if that is something new."""
        environment, now = self.read_json('environment.json') or {}, self._environment
        resumed = environment.setdefault('resumed', [])
        if {k: v for k, v in environment.items() if k != 'resumed'} != now and now not in resumed:
            resumed.append(now)
            self.write_json('environment.json', environment)

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.close()

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file, atomically."""
        write_text(self.path / name, json.dumps(value, indent=1) + '\n')

    def keep_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file, or checks that the one there says the same.

        ValueError names what differs: the run would go on with something else than it began with.
        """
        stored = self.read_json(name)
        if stored is None:
            self.write_json(name, value)
            return
        rows = [key if isinstance(new, list) else f'{key}: {stored.get(key)!r} -> {new!r}'
                for key, new in value.items() if stored.get(key) != new and key not in _OBSERVED]
        if rows:
            raise ValueError(f'{self.path} began with another {name}: {"; ".join(rows)}. Restore '
                             'what it began with, or choose another run_dir.')

    def read_json(self, name: str) -> Any:
        """What write_json wrote; None where there is no such file."""
        return read_json(self.path / name)

    def append_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows to a JSON-lines file; a line that was cut short stays on its own."""
        text = ''.join(json.dumps(row) + '\n' for row in rows)
        with _naming(self.path / name), open(self.path / name, 'a+b') as file:
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

    def forget_if_new(self) -> None:
        pass

    def note_resumption(self) -> None:
        pass

    def close(self) -> None:
        pass

    def write_json(self, name: str, value: Any) -> None:
        pass

    def keep_json(self, name: str, value: Mapping[str, Any]) -> None:
        pass

    def append_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        pass

    def keep_rows(self, name: str, is_kept: Callable[[Mapping[str, Any]], bool]) -> None:
        pass


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file; None where there is none, ValueError where it is damaged."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f'{path} is damaged: not JSON ({error}).') from None


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, none where there is no file; lines cut short are left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all; OSError names it."""
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8')


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write, which becomes `path` when all went well; OSError names `path`."""
    partial = path.with_name(f'.partial_{path.name}')
    with _naming(path):
        try:
            yield partial
            with open(partial, 'rb') as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """A full disk does not say which file did not fit."""
    try:
        yield
    except OSError as error:
        raise OSError(f'cannot write {path}: {error.strerror or error}') from error


def describe_environment() -> dict[str, Any]:
    """Command, versions, hardware and, in a checkout, the commit."""
    return {'command': ' '.join(sys.argv), 'python': platform.python_version(),
            'packages': {name: _version(name) for name in ('tfprune', *_PACKAGES)},
            'commit': _commit(), 'platform': platform.platform(), 'processor': processor(),
            'cores': os.cpu_count()}


def machine_name() -> str:
    """Processor and cores, by which measurements of one kind of machine are told from others."""
    return f'{processor() or platform.machine()}, {os.cpu_count()} cores'


def peak_process_bytes() -> int:
    """The most memory that this process has held so far (resident set)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def changed_files(files: Mapping[str, str], environment: Mapping[str, Any] | None) -> list[str]:
    """'--flag's of `files`, {field: sha256}, that are others in a stored environment.json."""
    stored = (environment or {}).get('files', {})
    return [f'--{name}' for name, digest in files.items() if stored.get(name, digest) != digest]


def _digests(config: Config) -> dict[str, str]:
    """sha256 of the files that the configuration names, by field."""
    digests = {}
    for name in _FILES:
        value = getattr(config, name)
        parts = [value] if pathlib.Path(value).is_file() else split_names(value)
        paths = [pathlib.Path(part) for part in parts]
        if paths and all(path.is_file() for path in paths):
            digest = hashlib.sha256()
            for path in paths:
                digest.update(path.read_bytes())
            digests[name] = digest.hexdigest()
    return digests


def _check_same(config_file: pathlib.Path, config: Config) -> None:
    try:
        theirs = json.loads(config_file.read_bytes())
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict):
        raise ValueError(f'{config_file} is damaged: not a JSON object.')
    rows = differing_fields(config, theirs)
    if rows:
        raise ValueError(f'{config_file.parent} is a run of another configuration; differing '
                         f'flags: {"; ".join(rows)}. Choose another run_dir, or remove this one.')


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    checkout = pathlib.Path(__file__).parent.parent
    # Installed, the package may lie inside a repository that is not its own.
    if not (checkout / '.git').exists():
        return None
    try:
        done = subprocess.run(['git', 'describe', '--always', '--dirty', '--abbrev=12'],
                              cwd=checkout, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None


def processor() -> str:
    """Name of the processor; '' where the system does not tell."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()
