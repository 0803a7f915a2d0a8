"""What the commands share: flags made from the configuration, and errors in one line.

Only commands import this: it defines flags. How a command ends:

0    it did what it was asked to;
2    an error that is for the user to mend (`errors.is_users` says which are): one line on stderr
     that names the culprit, what was expected and what was received; --debug shows the traceback;
1    a fault of tfprune: the traceback, and a last line that asks to report it.
"""
import dataclasses
import contextlib
import functools
import gc
import inspect
import os
import pathlib
import re
import signal
import sys
import tempfile
import textwrap
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from tfprune import _legacy
from tfprune.config import THREADS, Part, Range, check_value, flag_fields, kind
from tfprune.data.loading import DATASETS
from tfprune.errors import is_users, near, one_line, users_place
from tfprune.flagfiles import expanded
from tfprune.methods.names import METHODS
from tfprune.models.names import MODELS
from tfprune.progress import leave_terminal, to_nowhere
from tfprune.runs.config import PARTS, Config, option_parts


# Flags that are defined below are the script's own, for --help.
flags.disclaim_key_flags()
_DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float,
           str: flags.DEFINE_string}
# Flag -> the names that its help lists.
_LISTED: dict[str, Iterable[str]] = {'method': METHODS, 'model': MODELS, 'dataset': DATASETS}
_GROUPS: dict[str, list[str]] = {}  # what a part of the configuration is -> its flags
_SAID = 'said: '  # before what our validators say
_DEBUG = flags.DEFINE_bool('debug', False, 'Show tracebacks of errors.')


def define_config_flags(names: Iterable[str] = (),
                        flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of a `Config`, with their defaults, help and groups.

    Args:
        names: of flags; none for all, those of every method's options included.
        flag_values: where; the script's own.
    """
    for part in PARTS.values():
        _define_part(part, '', names, flag_values)
    for method, options in option_parts():
        _define_part(options, f'{method}.', names, flag_values)


def _define_part(part: type, prefix: str, names: Iterable[str], values: flags.FlagValues) -> None:
    """`prefix`: of the names; a part from outside may be any dataclass."""
    for field in flag_fields(part):
        name, text = f'{prefix}{field.name}', field.metadata.get('help', '')
        if names and name not in names:
            continue
        listed: Iterable[str] = _LISTED.get(name, field.metadata.get('choices', ()))
        text += f' One of: {", ".join(listed)}.' if listed else ''
        _DEFINE[kind(field)[0]](name, field.default, text, flag_values=values)
        flags.register_validator(name, functools.partial(_check, field, prefix),
                                 flag_values=values)
        if values is flags.FLAGS:
            title = inspect.getdoc(part) if issubclass(part, Part) else ''
            _GROUPS.setdefault((title or prefix).split('.')[0], []).append(name)


def config_of_flags(names: Iterable[str] = (), values: flags.FlagValues = flags.FLAGS) -> Config:
    """The configuration that parsed flags give: those of `names`, by default all.

    Options of other methods than the chosen one are left aside; they are said on stderr where they
    were given.
    """
    given = {name: values[name].value for name in names} if names else {
        name: values[name].value for part in PARTS.values()
        for name in (field.name for field in flag_fields(part))}
    method, others = given.get('method', ''), []
    for prefix, options in option_parts() if not names else ():
        found = {name: values[name] for field in flag_fields(options)
                 for name in [f'{prefix}.{field.name}']}
        if prefix == method:
            given |= {name: flag.value for name, flag in found.items()}
        elif values is flags.FLAGS:
            others += [f'--{name}' for name, flag in found.items() if flag.present]
    if others:
        print(f'--method={method} does not use {", ".join(others)}.', file=sys.stderr)
    return Config(**given)


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
    """The configuration that arguments of tfprune train give; --flagfile is followed.

    ValueError for a flag that does not exist, or a value that it cannot have.
    """
    own = flags.FlagValues()
    define_config_flags(flag_values=own)
    rest = _parse(['train.py', *arguments], own)[1:]
    _refuse_stray(rest)
    return config_of_flags(values=own)


def start(script: str, body: Callable[[Sequence[str]], int | None], *,
          takes_arguments: bool = False) -> None:
    """Parses the flags and runs a command; ends the process as this module says.

    Args:
        script: its name, or that of its script, which stands before each error.
        body: what it does, with the arguments that are no flags; returns the exit code, None for 0.
        takes_arguments: whether there may be such arguments.
    """
    scripts = str(pathlib.Path(body.__code__.co_filename).parent)
    gc.set_threshold(10_000)  # graphs are small objects: after each 700, a tenth of the time
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see tfprune.commands.run
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not _legacy.LOG_LEVEL_IS_USERS:
        # Its errors on the way are no news: those that matter are raised.
        os.environ[_legacy.LOG_LEVEL] = '3'

    def parse(argv: list[str]) -> list[str]:
        if {'--help', '-help', '-h', '-?'} & set(argv[1:]):
            try:
                _print_help(script, sys.modules[body.__module__])
                sys.stdout.flush()
            except BrokenPipeError:  # into `head`; what is flushed at exit goes nowhere
                to_nowhere(sys.stdout.fileno())
            sys.exit(0)
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


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around slow imports: Ctrl-C ends the process at once, without a traceback of theirs; and
    TensorFlow's lines about itself, which it writes before it asks for the level of its log, are
    left out, unless the user has set a level that has them."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with contextlib.nullcontext() if os.environ.get(_legacy.LOG_LEVEL) in (
                '0', '1') else _without_tensorflows_log():
            yield
    finally:
        signal.signal(signal.SIGINT, before)


_TENSORFLOWS = re.compile(r'WARNING: All log messages before absl::InitializeLog|'
                          r'[IW]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\]|To enable the following instruct')


@contextlib.contextmanager
def _without_tensorflows_log() -> Iterator[None]:
    """The error output in a file and, at the end, what of it is not TensorFlow's."""
    try:
        sys.stderr.flush()
        shown = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)
            file.seek(0)
            lines = file.read().decode(errors='replace').splitlines(keepends=True)
            sys.stderr.write(''.join(line for line in lines if not _TENSORFLOWS.match(line)))


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
    words = [*argv[:1], *expanded(argv[1:])]
    try:
        return values(words)
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


def _check(field: dataclasses.Field, prefix: str, value: Any) -> bool:
    """A validator of absl: True, or ValidationError."""
    try:
        check_value(field, value, prefix)
    except ValueError as error:
        raise flags.ValidationError(f'{_SAID}{error}') from None
    return True


def _print_help(script: str, module: types.ModuleType) -> None:
    """The command's docstring, its own flags, and those of a configuration by group."""
    own = [flag.name for flag in flags.FLAGS.get_flags_for_module(module.__name__)
           if flag.name not in {name for names in _GROUPS.values() for name in names}]
    print((module.__doc__ or '').strip())
    for title, names in {f'Of {script} alone': own, **_GROUPS}.items():
        print(f'\n{title}')
        for name in names:
            flag = flags.FLAGS[name]
            default = '' if flag.default in (None, '') else f' [{flag.default_as_str[1:-1]}]'
            switch = '[no]' if flag.boolean else ''
            print(textwrap.fill(f'--{switch}{name}{default}: {flag.help}', 100,
                                initial_indent='  ', subsequent_indent='      ',
                                break_on_hyphens=False))
    print('\n--flagfile=FILE reads flags from a file, of the working folder or of those that come '
          'with tfprune; --helpfull lists those of absl, too.')


def _refuse_stray(arguments: Sequence[str]) -> None:
    if arguments:
        raise ValueError(f'stray arguments: {" ".join(arguments)}; write flags as --name=value.')
