r"""Trains, prunes, fine-tunes and exports a network.

python scripts/train.py --flagfile=flags/quickstart.flags --run_dir=runs/quickstart

The same command resumes an interrupted run. Flags are the fields of tfprune.config.Config.

Several workers: the same command in each, with TF_CONFIG set and run_dir on a file system that all
of them see. When one is lost, the others start themselves again from the last checkpoint and wait
for it to be started with the same command.
"""
import dataclasses
import os
import pathlib
import signal
import sys
import time
from collections.abc import Sequence

from tfprune import command_line  # first: prepares TensorFlow's environment, and Ctrl-C
import tensorflow as tf
from absl import flags

from tfprune.config import Config
from tfprune.data import DATASETS
from tfprune.methods import METHODS
from tfprune.models import MODELS
from tfprune.pruning.importance import CRITERIA
from tfprune.report import format_table
from tfprune.report.artifact_table import format_artifacts
from tfprune.runs.epochs import Interrupted
from tfprune.runs.trainer import train_and_prune
from tfprune.training.distribution import WorkerLostError

command_line.define_config_flags(values={
    'method': METHODS, 'model': MODELS, 'dataset': DATASETS, 'criterion': CRITERIA})
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
    tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
    try:
        config = Config(**{f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Config)})
        result = train_and_prune(config, RUN_DIR.value, should_stop=lambda: bool(signals))
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 128 + (signals or [signal.SIGTERM])[0]  # another worker may have been asked
    except WorkerLostError as lost:
        if signals:
            raise
        return _restart(lost)
    if not result.report:
        print('done; worker 0 exports and reports.')
        return 0
    print(format_table(result.report))
    if config.quantizations:
        table = format_artifacts(result.report['artifacts'], result.report['dense_latency'])
        print(f'\n{table}\n')
    print(f'Files: {result.run_dir}/export, report: {result.run_dir}/report.html')
    return 0


def _restart(lost: WorkerLostError) -> int:
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


if __name__ == '__main__':
    command_line.start('train.py', main)
