"""What the scripts share: flags made from the configuration, and errors in one line.

Only scripts import this: it defines flags.
"""

import dataclasses
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from absl import app, flags, logging

from tfprune.config import CHOICES, Config

MENDABLE = (ValueError, TypeError, KeyError, OSError, RuntimeError)

# Flags that are defined below are the script's own, for --help.
flags.disclaim_key_flags()
_DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float,
           str: flags.DEFINE_string}
_DEBUG = flags.DEFINE_bool('debug', False, 'Show tracebacks of errors.')


def define_config_flags(names: Iterable[str] = (),
                        values: Mapping[str, Collection[str]] | None = None,
                        flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of fields of `Config`, with their defaults and help.

    Args:
      names: of fields; none for all.
      values: by field, the names that its help lists beside those of CHOICES.
      flag_values: where; the script's own.
    """
    listed = {**CHOICES, **(values or {})}
    for field in dataclasses.fields(Config):
        if not names or field.name in names:
            text = field.metadata['help']
            if field.name in listed:
                text += f' One of: {", ".join(listed[field.name])}.'
            _DEFINE[type(field.default)](field.name, field.default, text, flag_values=flag_values)


def read_config(arguments: Sequence[str]) -> Config:
    """The configuration that arguments of scripts/train.py give; --flagfile is followed.

    Raises:
        ValueError, TypeError: a flag that does not exist, a value that it cannot have.
    """
    own = flags.FlagValues()
    define_config_flags(flag_values=own)
    try:
        rest = own(['train.py', *arguments])[1:]
    except flags.Error as error:
        raise ValueError(one_line(error)) from None
    if rest:
        raise ValueError(f'stray arguments: {" ".join(rest)}; write flags as --name=value.')
    return Config(**{field.name: own[field.name].value for field in dataclasses.fields(Config)})


def start(script: str, body: Callable[[Sequence[str]], int | None], *,
          takes_arguments: bool = False) -> None:
    """Parses the flags and runs a script; ends the process.

    Args:
      script: its name, which stands before each error.
      body: what it does, with the arguments that are no flags; returns the exit code, None for 0.
        Its MENDABLE errors end the script in one line on stderr and code 2.
      takes_arguments: whether there may be such arguments.
    """
    def main(argv: list[str]) -> int:
        if not flags.FLAGS['verbosity'].present:
            logging.set_verbosity(logging.WARNING)
        try:
            if len(argv) > 1 and not takes_arguments:
                raise ValueError(f'stray arguments: {" ".join(argv[1:])}; write flags as '
                                 '--name=value.')
            return body(argv[1:]) or 0
        except MENDABLE as error:
            if _DEBUG.value:
                raise
            print(f'{script}: error: {one_line(error)}', file=sys.stderr)
            return 2

    app.run(main)


def stop_on_signals() -> list[int]:
    """The signals that ask for an end, SIGTERM and SIGINT, as they come: the first only asks, the
    second ends the process at once."""
    received: list[int] = []

    def on_signal(number: int, _: object) -> None:
        received.append(number)
        print('\nstopping ...', file=sys.stderr)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return received


def one_line(error: Exception) -> str:
    """Returns the first line of its message; its type if it has none."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return (text.splitlines() or [type(error).__name__])[0]
