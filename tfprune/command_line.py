"""What the scripts share: flags made from the configuration, and errors in one line.

Only scripts import this: it defines flags. How a script ends:

0    it did what it was asked to;
2    an error that is for the user to mend (`errors.is_users` says which are): one line on stderr
     that names the culprit, what was expected and what was received; --debug shows the traceback;
1    a fault of tfprune: the traceback, and a last line that asks to report it.
"""
import dataclasses
import functools
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from absl import app, flags, logging

from tfprune.config import CHOICES, Config
from tfprune.errors import is_users, near, one_line, users_place
from tfprune.fields import THREADS, Range, check_range, kind
from tfprune.progress import leave_terminal

# Scripts import this module before TensorFlow, which takes seconds: Ctrl-C then ends the process
# as it ends any other, without a traceback. `start` gives the signal back.
_IS_SCRIPT = pathlib.Path(str(getattr(sys.modules['__main__'], '__file__', ''))
                          ).parent.name == 'scripts'
if _IS_SCRIPT and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Flags that are defined below are the script's own, for --help.
flags.disclaim_key_flags()
_DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float,
           str: flags.DEFINE_string}
_SAID = 'said: '  # before what our validators say
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
            _DEFINE[kind(field)[0]](field.name, field.default, text, flag_values=flag_values)
            if field.metadata['within'] is not None:
                flags.register_validator(field.name, functools.partial(_check, field),
                                         flag_values=flag_values)


def define_threads(text: str) -> flags.FlagHolder:
    """Defines --threads."""
    return flags.DEFINE_integer('threads', 0, text, lower_bound=int(THREADS.low),
                                upper_bound=int(THREADS.high))


def define_numbers(name: str, default: Sequence[str], text: str, within: Range
                   ) -> flags.FlagHolder:
    """Defines a flag of comma-separated whole numbers, whose value is a list of their texts."""
    def check(values: Sequence[str]) -> bool:
        for value in values:
            if not re.fullmatch(r'-?\d{1,20}', value) or int(value) not in within:
                raise flags.ValidationError(
                    f'{_SAID}{name} must be whole numbers in {within}; received {value!r}.')
        return True

    holder = flags.DEFINE_list(name, list(default), text)
    flags.register_validator(name, check)
    return holder


def define_output(name: str, text: str) -> flags.FlagHolder:
    """Defines a flag of a file to write: what cannot be written is said before the work."""
    def check(value: str | None) -> bool:
        path = pathlib.Path(value or 'x')
        if value is not None and (not value or path.is_dir()):
            raise flags.ValidationError(f'{_SAID}{name} must be a file; received {value!r}.')
        if not path.parent.is_dir():
            raise flags.ValidationError(f'{_SAID}{name}: no folder {path.parent}.')
        return True

    holder = flags.DEFINE_string(name, None, text)
    flags.register_validator(name, check)
    return holder


def define_folder(name: str, text: str, *, required: bool = True) -> flags.FlagHolder:
    """Defines a flag of a folder to write to."""
    def check(value: str | None) -> bool:
        if value is not None and (not value.strip() or os.path.isfile(value)):
            raise flags.ValidationError(f'{_SAID}{name} must be a folder; received {value!r}.')
        return True

    holder = flags.DEFINE_string(name, None, text, required=required)
    flags.register_validator(name, check)
    return holder


def read_config(arguments: Sequence[str]) -> Config:
    """The configuration that arguments of scripts/train.py give; --flagfile is followed.

    ValueError for a flag that does not exist, or a value that it cannot have.
    """
    own = flags.FlagValues()
    define_config_flags(flag_values=own)
    rest = _parse(['train.py', *arguments], own)[1:]
    _refuse_stray(rest)
    return Config(**{field.name: own[field.name].value for field in dataclasses.fields(Config)})


def start(script: str, body: Callable[[Sequence[str]], int | None], *,
          takes_arguments: bool = False) -> None:
    """Parses the flags and runs a script; ends the process as this module says.

    Args:
      script: its name, which stands before each error.
      body: what it does, with the arguments that are no flags; returns the exit code, None for 0.
      takes_arguments: whether there may be such arguments.
    """
    scripts = str(pathlib.Path(body.__code__.co_filename).parent)
    if _IS_SCRIPT and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def parse(argv: list[str]) -> list[str]:
        try:
            return _parse(argv, flags.FLAGS)
        except ValueError as error:
            print(f'{script}: error: {error}', file=sys.stderr)
            sys.exit(2)

    def main(argv: list[str]) -> int:
        if not flags.FLAGS['verbosity'].present:
            logging.set_verbosity(logging.WARNING)
        try:
            if not takes_arguments:
                _refuse_stray(argv[1:])
            return body(argv[1:]) or 0
        except KeyboardInterrupt:
            print(f'{script}: interrupted', file=sys.stderr)
            return 128 + signal.SIGINT
        except SystemExit as ended:  # of a user's layer, or of absl
            place = users_place(ended, scripts)
            if not place:
                raise
            print(f'{script}: error: {place}: it calls sys.exit({ended.code})', file=sys.stderr)
            return 2
        except Exception as error:
            line, mendable = one_line(error, scripts), is_users(error, scripts)
            if _DEBUG.value or not mendable:
                traceback.print_exception(error)
            if mendable:
                print(f'{script}: error: {line}', file=sys.stderr)
                return 2
            print(f'{script}: fault of tfprune, please report it with the lines above: '
                  f'{type(error).__name__}: {line}', file=sys.stderr)
            return 1

    app.run(main, flags_parser=parse)


def stop_on_signals(numbers: Iterable[int] = (signal.SIGTERM, signal.SIGINT),
                    said: str = 'stopping ...') -> list[int]:
    """The signals that ask for an end, as they come: the first only asks, the second ends the
    process at once.

    Args:
      numbers: of the signals.
      said: what the user reads when one comes.
    """
    received: list[int] = []

    def on_signal(number: int, _: object) -> None:
        received.append(number)
        if number == signal.SIGHUP:
            leave_terminal()
        print(f'\n{said}', file=sys.stderr)
        signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, on_signal)
    return received


def _parse(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """What is left of `argv` without its flags; ValueError, in one line, where they are wrong."""
    _check_flagfiles(argv[1:], ())
    try:
        return values(list(argv))
    except flags.UnrecognizedFlagError as error:
        raise ValueError(f'Unknown flag --{error.flagname}.'
                         f'{near(error.flagname, values)}') from None
    except flags.Error as error:
        line = one_line(error)
        missing = re.match(r'flag --(\w+)=None: .* must have a value other than None', line)
        if missing:
            raise ValueError(f'--{missing[1]} must be given.') from None
        # 'flag --x=1: x must be ...' of our validators says the name twice.
        raise ValueError(line.rpartition(_SAID)[2]) from None


def _check_flagfiles(arguments: Iterable[str], parents: tuple[pathlib.Path, ...]) -> None:
    """ValueError for a --flagfile that cannot be read, is no text, or includes itself."""
    words = iter(arguments)
    for word in words:
        name, equals, value = word.strip().partition('=')
        if name.lstrip('-') != 'flagfile' or not name.startswith('-'):
            continue
        path = pathlib.Path(value if equals else next(words, '')).expanduser()
        if path.resolve() in parents:
            raise ValueError(f'flagfile {path}: includes itself.')
        if not path.is_file():
            raise ValueError(f'flagfile {path}: no such file.')
        try:
            lines = path.read_text(encoding='utf-8').splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f'flagfile {path}: not UTF-8 text ({error.reason} at byte '
                             f'{error.start}).') from None
        except OSError as error:
            raise ValueError(f'flagfile {path}: cannot be read: {error.strerror}.') from None
        _check_flagfiles([line for line in lines if not line.startswith(('#', '//'))],
                         (*parents, path.resolve()))


def _check(field: dataclasses.Field, value: int | float | None) -> bool:
    """A validator of absl: True, or ValidationError."""
    try:
        check_range(field, value)
    except ValueError as error:
        raise flags.ValidationError(f'{_SAID}{error}') from None
    return True


def _refuse_stray(arguments: Sequence[str]) -> None:
    if arguments:
        raise ValueError(f'stray arguments: {" ".join(arguments)}; write flags as --name=value.')
