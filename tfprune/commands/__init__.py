"""The `tfprune` command: a file a command, which is also a script of the same name.

    train, prune, analyze, evaluate, export, compare, report, benchmark

Each defines its flags when it is imported, which `run` does: once in a process, and before
TensorFlow, so that help and mistakes are answered at once. To add one: a file with a docstring,
flags and `main(arguments) -> exit code or None`, and a line in COMMANDS. These alone, and
`command_line`, know flags. Imports everything.
"""
import importlib
import signal
import sys

from tfprune import __version__
from tfprune.errors import unknown

COMMANDS = {
    'train': 'trains, prunes, fine-tunes and exports a network',
    'prune': 'prunes a model file to a budget, without data',
    'analyze': 'says what of a model can be pruned, before any training',
    'evaluate': 'measures accuracy and cost of exported files',
    'export': 'exports a model as it is, and measures its files',
    'compare': 'runs methods, seeds and budgets, and compares them',
    'report': 'puts runs together in a table',
    'benchmark': 'measures tfprune itself and its files',
}
_HELP = ('--help', '-help', '-h', '-?', 'help')
_TAKE_ARGUMENTS = ('prune', 'report')


def main() -> None:
    """`tfprune COMMAND …` and `python -m tfprune COMMAND …`; ends the process."""
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name in COMMANDS:
        del sys.argv[1]
        run(name, f'tfprune {name}')
    elif not name or name in _HELP:
        print(_help())
        sys.exit(0 if name else 2)
    elif name == '--version':
        print(f'tfprune {__version__}')
    else:
        print(f'tfprune: error: {unknown("command", name, COMMANDS)}', file=sys.stderr)
        sys.exit(2)


def run(name: str, called: str = '') -> None:
    """Runs a command with the arguments of this process, and ends it.

    called: what stands before errors; the script's name by default.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until it has begun, Ctrl-C ends it as it ends any other, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tfprune import command_line
    module = importlib.import_module(f'tfprune.commands.{name}')
    sys.argv[0] = called or sys.argv[0]
    command_line.start(called or f'{name}.py', module.main,
                       takes_arguments=name in _TAKE_ARGUMENTS)


def _help() -> str:
    lines = [f'  {name:10} {text}' for name, text in COMMANDS.items()]
    return '\n'.join([
        'Structural pruning for Keras: a model and a budget in, a smaller plain Keras model out.',
        '', 'tfprune COMMAND [flags]; tfprune COMMAND --help lists the flags of a command.', '',
        *lines, '',
        'tfprune prune model.keras --macs=0.5 --out=pruned.keras',
        'tfprune train --flagfile=quickstart.flags --run_dir=runs/quickstart'])
