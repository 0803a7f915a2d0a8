"""Whose fault an error is, and its reason in one line."""
import difflib
import pathlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar('T')
_RAISABLE = (ValueError, TypeError, RuntimeError, ImportError)
PACKAGE = pathlib.Path(__file__).resolve().parent
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in (
    'stdlib', 'platstdlib', 'purelib', 'platlib'))
_ANSI = re.compile(r'\x1b\[[0-9;]*m')
# What AutoGraph and Keras put around the message of a layer.
_FRAME = re.compile(r'^ *File "(.+)", line (\d+), in ', re.M)
_RAISED = re.compile(r'^ *[\w.]*(?:Error|Exception|Interrupt)\w*: ', re.M)
_CALLING = re.compile(r'Exception encountered when calling [^\n]*\n')


class Fault(RuntimeError):
    """tfprune found out that it is wrong itself: nothing that its user could mend."""


def is_users(error: BaseException, scripts: str = '') -> bool:
    """Whether an error is for the user to mend: what it says is all there is to know.

    It is one of

    - an OSError, or one of TensorFlow's operations (out of memory and the like);
    - a ValueError, TypeError, RuntimeError or ImportError that tfprune itself raised, by a `raise`
      statement: a check with a message. What Python or a library raises below tfprune, and a
      KeyError, IndexError, AttributeError or AssertionError from anywhere, is a fault of tfprune;
    - any error that came through code of the user's: custom layers, datasets.

    scripts: the folder of the running script, which counts as tfprune.
    """
    if isinstance(error, OSError) or _is_of_tensorflow(error) or users_place(error, scripts):
        return True
    if isinstance(error, Fault) or not isinstance(error, _RAISABLE):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and _is_own(frames[-1].filename, scripts) and (
        frames[-1].line or '').startswith('raise ')


def users_place(error: BaseException, scripts: str = '') -> str:
    """'FILE, line N' of the innermost code of the user's that an error came through; '' if none.

    What AutoGraph compiled is only in its text.
    """
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if _is_own(frame.filename, scripts)),
                 len(frames))
    places = [(frame.filename, frame.lineno) for frame in frames[first:]]  # what tfprune called
    if _is_of_autograph(str(error)):
        places += _FRAME.findall(str(error))
    for file, line in reversed(places):
        if not (_is_own(file, scripts) or _is_of_library(file)):
            return f'{file}, line {line}'
    return ''


def one_line(error: BaseException, scripts: str = '') -> str:
    """The reason of an error: the innermost message of a layer of the user's and its place, else
    the first line that says something; the type where there is none.
    """
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    place = users_place(error, scripts)
    text = _ANSI.sub('', text.replace(r'\x1b', '\x1b').replace(r'\n', '\n') if place else text)
    kind = type(error).__name__
    if _is_of_autograph(text):
        kind = _RAISED.findall(text)[-1].strip(' :').rpartition('.')[2] or kind
        text = _RAISED.split(text)[-1]
    inner = _CALLING.split(text)[-1]
    lines = [line.strip() for line in inner.splitlines() if line.strip()]
    # A line that ends in a colon announces the next one.
    said = next((line for line in lines if not line.endswith(':')), lines[0] if lines else '')
    said = said.strip('\'"') if place else said or kind
    if _is_of_tensorflow(error) and not place:
        advice = (' A smaller --batch_size or --score_batch_size needs less.'
                  if kind == 'ResourceExhaustedError' else '')
        return f'TensorFlow: {kind}: {said}{advice}'
    return f'{place}: {kind}: {said}' if place else said


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's message, cut to `limit` characters; its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[:limit - 1] + '…'


def near(name: str, names: Iterable[str]) -> str:
    """" Did you mean 'a' or 'b'?", of what `name` is like, or is a word of, to follow a message; ''
    if nothing."""
    names = sorted(names)
    found = difflib.get_close_matches(name, names, n=3, cutoff=0.7) or [
        each for each in names if name in re.split('[_.]', each)][:6]
    return f' Did you mean {" or ".join(map(repr, found))}?' if found else ''


def look_up(kind: str, name: str, registry: Mapping[str, T], also: str = '') -> T:
    """What a registry has under a name.

    Args:
        kind: what it is a name of, for the message.
        also: what may stand in place of a name, for the message.

    Raises:
        ValueError: nothing; near names and all of them are offered.
    """
    if name not in registry:
        raise unknown(kind, name, registry, also)
    return registry[name]


def unknown(kind: str, name: str, names: Iterable[str], also: str = '') -> ValueError:
    """The error of a name that is none of `names`."""
    names = sorted(names)
    return ValueError(f'Unknown {kind} {name!r}.{near(str(name), names)} '
                      f'Available: {", ".join(names)}{also}')


def _is_own(file: str, scripts: str) -> bool:
    parents = pathlib.Path(file).parents
    return PACKAGE in parents or bool(scripts) and pathlib.Path(scripts) in parents


def _is_of_library(file: str) -> bool:
    return (file.startswith(_LIBRARIES) or file.startswith('<')
            or '__autograph_generated_file' in file)


def _is_of_autograph(text: str) -> bool:
    return text.lstrip().startswith('in user code:')


def _is_of_tensorflow(error: BaseException) -> bool:
    """Whether it is a tf.errors.OpError; none of them exists where TensorFlow is not imported."""
    tf = sys.modules.get('tensorflow')
    return tf is not None and isinstance(error, tf.errors.OpError)
