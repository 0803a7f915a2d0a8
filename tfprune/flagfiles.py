"""Flagfiles, and those that come with tfprune: found by name, wherever it is installed.

`--flagfile=quickstart.flags` is the file of that name in the working folder or, where there is
none, the shipped one; so is `flags/quickstart.flags`, as it lies in the repository. What a shipped
flagfile names in flags/ lies beside it.
"""
import pathlib
import re
from collections.abc import Iterable, Iterator
from importlib import metadata

from tfprune.errors import near

_FOLDER = 'flags'
_VALUE = re.compile(r'(--?[\w.]+=)flags/(.*)', re.S)


def shipped() -> pathlib.Path | None:
    """The folder of the flagfiles that come with tfprune: that of the checkout, or of the wheel."""
    checkout = pathlib.Path(__file__).resolve().parents[1]
    if (checkout / 'setup.cfg').is_file() and (checkout / _FOLDER).is_dir():
        return checkout / _FOLDER
    try:
        files = metadata.files('tfprune') or []
    except metadata.PackageNotFoundError:
        return None
    return next((pathlib.Path(str(file.locate())).resolve().parent for file in files
                 if file.parts[-2:] == (_FOLDER, 'quickstart.flags')), None)


def find(name: str) -> pathlib.Path:
    """The file or pattern called so: as it is, or the shipped one where only that is there."""
    path, folder = pathlib.Path(name).expanduser(), shipped()
    if folder and not path.is_absolute() and not _is_there(path):
        found = folder / name.removeprefix(f'{_FOLDER}/')
        if _is_there(found):
            return found
    return path


def expanded(arguments: Iterable[str], parents: tuple[pathlib.Path, ...] = ()) -> list[str]:
    """The arguments, those of flagfiles in their places.

    ValueError for a flagfile that cannot be read, is no text, or includes itself.
    """
    found: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.strip().partition('=')
        if word == '--':
            return [*found, word, *words]
        if name not in ('--flagfile', '-flagfile'):
            found.append(word)
            continue
        path = find(value if equals else next(words, ''))
        if path.resolve() in parents:
            raise ValueError(f'flagfile {path}: includes itself.')
        found += expanded(_lines(path), (*parents, path.resolve()))
    return found


def _lines(path: pathlib.Path) -> Iterator[str]:
    """Those that are flags."""
    if not path.is_file():
        raise ValueError(f'flagfile {path}: no such file.{_near(path)}')
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f'flagfile {path}: not UTF-8 text ({error.reason} at byte '
                         f'{error.start}).') from None
    except OSError as error:
        raise ValueError(f'flagfile {path}: cannot be read: {error.strerror}.') from None
    folder = shipped()
    is_shipped = folder is not None and folder in path.resolve().parents
    for line in lines:
        if line.strip() and not line.startswith(('#', '//')):
            yield _beside(line.strip(), folder) if folder and is_shipped else line.strip()


def _beside(line: str, folder: pathlib.Path) -> str:
    """A flag whose value names what lies in the folder, not in the working one, with that path."""
    match = _VALUE.fullmatch(line)
    if not match or line.startswith(('--flagfile=', '-flagfile=')):
        return line
    if _is_there(pathlib.Path(_FOLDER) / match[2]) or not _is_there(folder / match[2]):
        return line
    return f'{match[1]}{folder / match[2]}'


def _is_there(path: pathlib.Path) -> bool:
    """Whether it is; a pattern's folder, and a file of it."""
    if '{}' in path.name:
        return any(path.parent.glob(path.name.replace('{}', '*')))
    return path.exists()


def _near(path: pathlib.Path) -> str:
    folder = shipped()
    names = [] if folder is None else [
        str(file.relative_to(folder)) for file in folder.rglob('*.flags')]
    return near(str(path).removeprefix(f'{_FOLDER}/'), names)
