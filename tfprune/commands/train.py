r"""Trains, prunes, fine-tunes and exports a network.

tfprune train --flagfile=flags/quickstart.flags --run_dir=runs/quickstart

The same command resumes an interrupted run. Flags are the fields of tfprune.Config.

Several workers: the same command in each, with TF_CONFIG set and run_dir on a file system that all
of them see. When one is lost, the others start themselves again from the last checkpoint and wait
for it to be started with the same command.
"""
import os
import pathlib
import signal
import sys
import time
from collections.abc import Sequence

from tfprune import command_line
from tfprune.runs.beforehand import check_files, check_installed

command_line.define_config_flags()
RUN_DIR = command_line.define_folder('run_dir', 'Folder of the run.')
THREADS = command_line.define_threads('Threads within an operation; 0 leaves it to TensorFlow. '
                                      'Runs are bit for bit equal for equal threads.')

_RESTARTS = 'TFPRUNE_RESTARTS'  # variable of the environment: 'newest checkpoint:restarts from it'
_MOST_RESTARTS = 5  # from one checkpoint
_PAUSE = 3.0  # seconds before one


def main(_: Sequence[str]) -> int:
    signals = command_line.stop_on_signals(
        [number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
         if signal.getsignal(number) != signal.SIG_IGN],  # nohup ignores hang-ups
        'stopping as soon as all is saved ...')
    config = command_line.config_of_flags()
    if not pathlib.Path(RUN_DIR.value, 'report.json').exists():  # a finished run is only read
        check_files(config)
        check_installed(config)
    print(f'{config.method}: {config.models.model} on {config.data.dataset}, seed {config.seed}, '
          f'in {RUN_DIR.value}', flush=True)
    # Not above: --help, and what is said of a wrong flag, need no TensorFlow.
    with command_line.importing():
        import tensorflow as tf
        from tfprune.runs.outcome import end_of
        from tfprune.runs.run import train_and_prune
        from tfprune.runs.state import Interrupted
        from tfprune.training.distribution import WorkerLostError
    tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
    try:
        result = train_and_prune(config, RUN_DIR.value, should_stop=lambda: bool(signals))
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 128 + (signals or [signal.SIGTERM])[0]  # another worker may have been asked
    except WorkerLostError as lost:
        if signals:
            raise
        return _restart(lost)
    print(end_of(result))
    return 0


def _restart(lost: Exception) -> int:
    """Starts this command anew in this process: the only way out of a broken cluster."""
    saved = sorted(path.name for path in pathlib.Path(RUN_DIR.value, 'checkpoints').glob('e*'))
    newest = saved[-1] if saved else ''
    last, _, times = os.environ.get(_RESTARTS, ':0').rpartition(':')
    count = int(times) + 1 if last == newest else 1
    if count > _MOST_RESTARTS:
        raise lost
    print(f'{lost}\nrestart {count} from the last checkpoint ...', file=sys.stderr, flush=True)
    time.sleep(_PAUSE)
    os.environ[_RESTARTS] = f'{newest}:{count}'
    os.execv(sys.executable, sys.orig_argv)
