"""Files that are whole or not there, and whose content is checked where it is read."""
import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

Shape = Any  # see check_content
NUMBER = (int, float)


def read_json(path: pathlib.Path, shape: Shape = dict) -> Any:
    """The content of a JSON file of that shape; None where there is no file.

    ValueError, in one line, names the file and what is wrong: not JSON, or JSON of something else.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged: not JSON ({error}).') from None
    return check_content(path, content, shape)


def read_rows(path: pathlib.Path, shape: Shape = dict) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, none where there is no file; lines that were cut short are left
    out. ValueError names the file and the line that is JSON of another shape.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        rows.append(check_content(f'{path}, line {number}', row, shape))
    return rows


def check_content(source: Any, content: Any, shape: Shape) -> Any:
    """Returns `content`; ValueError unless it has that shape.

    Args:
        source: what messages call it.
        shape: a type, or a tuple of types (None for null; float is any number, int no boolean), or
            (object, None);
            [shape], a list of such; {str: shape}, an object of such; {'name': shape, …}, an object
            with these keys at least, of which 'name?' may be missing.
    """
    wrong = _difference(content, shape, '')
    if wrong:
        raise ValueError(f'{source} is not what was written: {wrong}.')
    return content


def _difference(content: Any, shape: Shape, place: str) -> str:
    """Where the content has another shape, '' nowhere."""
    if isinstance(shape, list):
        if not isinstance(content, list):
            return _expected(place, 'a list', content)
        return next(filter(None, (_difference(item, shape[0], f'{place}[{index}]')
                                  for index, item in enumerate(content))), '')
    if isinstance(shape, Mapping):
        if not isinstance(content, dict):
            return _expected(place, 'an object', content)
        if str in shape:
            return next(filter(None, (_difference(item, shape[str], f'{place}.{name}')
                                      for name, item in content.items())), '')
        for name, inner in shape.items():
            key = name.removesuffix('?')
            if key not in content:
                if key == name:
                    return f'no {f"{place}.{key}".lstrip(".")!r}'
                continue
            found = _difference(content[key], inner, f'{place}.{key}')
            if found:
                return found
        return ''
    types = shape if isinstance(shape, tuple) else (shape,)
    if isinstance(types[0], Mapping):  # or null
        return '' if content is None else _difference(content, types[0], place)
    if any(_is_of(content, expected) for expected in types):
        return ''
    return _expected(place, ' or '.join(_NAMES[expected] for expected in types), content)


_NAMES = {dict: 'an object', list: 'a list', str: 'text', int: 'a whole number', float: 'a number',
          bool: 'true or false', None: 'null'}


def _is_of(content: Any, expected: type | None) -> bool:
    if expected is None or content is None:
        return content is expected
    if isinstance(content, bool):
        return expected is bool
    return isinstance(content, NUMBER if expected is float else expected)


def _expected(place: str, expected: str, content: Any) -> str:
    received = repr(content) if len(repr(content)) < 60 else f'{repr(content)[:57]}...'
    return f'{place.lstrip(".") or "it"} must be {expected}; received {received}'


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all; OSError names it."""
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8')


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write, which becomes `path` when all went well; OSError names `path`."""
    partial = path.with_name(f'.partial_{path.name}')
    with naming(path):
        try:
            yield partial
            with open(partial, 'rb') as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """A full disk does not say which file did not fit."""
    try:
        yield
    except OSError as error:
        raise OSError(f'cannot write {path}: {error.strerror or error}') from error
