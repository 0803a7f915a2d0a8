r"""Measures tfprune itself; each row is printed and written as a JSON line as soon as it is there.

python scripts/benchmark.py --suite=applications --out=applications.jsonl
python scripts/benchmark.py --suite=applications --only=MobileNetV2,VGG16
python scripts/benchmark.py --suite=cost_model --threads=1
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

FLAGS = flags.FLAGS
flags.DEFINE_enum('suite', None, sorted(SUITES), 'What to measure.', required=True)
flags.DEFINE_list('only', [], 'Some of its rows, by name; none for all.')
flags.DEFINE_string('out', None, 'Appends the rows to this file, one JSON object a line.')
flags.DEFINE_integer('threads', 0, "Threads within an operation; 0 is TensorFlow's default.",
                     lower_bound=0)


def main(_: Sequence[str]) -> None:
    """Prints the rows as they come, then the table."""
    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    suite, found = SUITES[FLAGS.suite], []
    for row in suite.rows(FLAGS.only):
        found.append(row)
        print(json.dumps(row), file=sys.stderr)
        if FLAGS.out:
            with pathlib.Path(FLAGS.out).open('a') as file:
                file.write(json.dumps(row) + '\n')
    print(suite.format_table(found))


if __name__ == '__main__':
    command_line.start('benchmark.py', main)
