r"""Measures tfprune itself and its files; each row is printed and written as soon as it is there.

python scripts/benchmark.py --suite=applications --out=applications.jsonl
python scripts/benchmark.py --suite=applications --only=MobileNetV2,VGG16
python scripts/benchmark.py --suite=cost_model --threads=1
python scripts/benchmark.py --suite=artefacts --artefacts=dense.tflite,pruned.tflite
python scripts/benchmark.py --suite=artefacts --artefacts=runs/quickstart
python scripts/benchmark.py --suite=latency_table --model=resnet20 --table=resnet20.json
python scripts/benchmark.py --suite=learning --only=static,ppo,random --threads=1
"""
import json
import pathlib
import sys
from collections.abc import Sequence

import tfprune  # noqa: F401  (first: prepares TensorFlow's environment)
import tensorflow as tf
from absl import flags

from tfprune import command_line
from tfprune.benchmarks import SUITES
from tfprune.models import MODELS, run_custom_layers

FLAGS = flags.FLAGS
flags.DEFINE_enum('suite', None, sorted(SUITES), 'What to measure.', required=True)
flags.DEFINE_list('only', [], 'Some of its rows, by name; none for all.')
flags.DEFINE_string('out', None, 'Appends the rows to this file, one JSON object a line.')
flags.DEFINE_integer('threads', 0, "Threads within an operation; 0 is TensorFlow's default.",
                     lower_bound=0)
flags.DEFINE_list('artefacts', [], 'Suite artefacts: .tflite or .keras files, run or export '
                  'folders; ratios refer to the first.')
flags.DEFINE_list('artefact_threads', ['1', '2', '4'], 'Suites artefacts and latency_table (the '
                  'first): threads of the TFLite interpreter.')
flags.DEFINE_integer('rounds', 20, 'Suite artefacts: turns of each file.', lower_bound=1)
flags.DEFINE_integer('repetitions', 10, 'Suite artefacts: inferences a turn.', lower_bound=1)
flags.DEFINE_bool('profile', True, 'Suite artefacts: whether to time the operators, one by one.')
flags.DEFINE_bool('memory', True, 'Suite artefacts: whether to run each file in a process of its '
                  'own for its peak memory.')
flags.DEFINE_string('model', '', 'Suite latency_table: a .keras file, or one of: '
                    f'{", ".join(sorted(MODELS))}.')
flags.DEFINE_string('image_size', '', 'Suite latency_table: N, HxW or HxWxC, images of a named '
                    'model (32 if not given), or of a file that takes images of any size.')
command_line.define_config_flags(['custom_layers'])
flags.DEFINE_integer('num_classes', 10, 'Suite latency_table: classes of a named model.',
                     lower_bound=2)
flags.DEFINE_string('table', '', 'Suite latency_table: the file to write, or to go on with.')
flags.DEFINE_integer('checks', 4, 'Suite latency_table: random widths at which to compare '
                     'prediction and measurement.', lower_bound=0)
flags.DEFINE_string('probe_files', '', 'Suite latency_table: only writes the .tflite files to '
                    'profile on another device to this folder.')
flags.DEFINE_string('profiles', '', 'Suite latency_table: makes the table of the .csv files in '
                    'this folder, which benchmark_model made of such files.')
flags.DEFINE_string('device', '', 'Suite latency_table: name of the device of --profiles.')
flags.DEFINE_integer('search_epochs', 30, 'Suite learning: epochs of a search, the first of random '
                     'actions.', lower_bound=2)
flags.DEFINE_integer('search_episodes', 20, 'Suite learning: episodes an epoch.', lower_bound=5)
flags.DEFINE_integer('search_seeds', 5, 'Suite learning: seeds, from 0.', lower_bound=1)


def main(_: Sequence[str]) -> None:
    """Prints the rows as they come, then the table."""
    tf.get_logger().setLevel('WARNING')
    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    run_custom_layers(FLAGS.custom_layers)
    suite, found = SUITES[FLAGS.suite], []
    for row in suite.rows(FLAGS.only, **{name: FLAGS[name].value for name in suite.OPTIONS}):
        found.append(row)
        print(json.dumps(row), file=sys.stderr)
        if FLAGS.out:
            with pathlib.Path(FLAGS.out).open('a') as file:
                file.write(json.dumps(row) + '\n')
    print(suite.format_table(found))


if __name__ == '__main__':
    command_line.start('benchmark.py', main)
