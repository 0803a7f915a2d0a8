r"""Measures tfprune itself; each row is printed and written as a JSON line as soon as it is there.

python scripts/benchmark.py --suite=applications --out=applications.jsonl
python scripts/benchmark.py --suite=applications --only=MobileNetV2,VGG16
python scripts/benchmark.py --suite=cost_model --threads=1
"""
import json
import pathlib
import sys

import tfprune  # noqa: F401  (first: prepares TensorFlow's environment)
import tensorflow as tf
from absl import app, flags, logging

from tfprune.benchmarks import SUITES

FLAGS = flags.FLAGS
FLAGS.set_default('verbosity', logging.WARNING)
flags.DEFINE_enum('suite', None, sorted(SUITES), 'What to measure.', required=True)
flags.DEFINE_list('only', [], 'Some of its rows, by name; none for all.')
flags.DEFINE_string('out', None, 'Appends the rows to this file, one JSON object a line.')
flags.DEFINE_integer('threads', 0, "Threads within an operation; 0 is TensorFlow's default.",
                     lower_bound=0)


def main(argv: list[str]) -> None:
    """Runs; an error that the user can mend is one line and exit code 2."""
    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    suite, found = SUITES[FLAGS.suite], []
    try:
        if len(argv) > 1:
            raise ValueError(f'unexpected argument {argv[1]!r}: write flags as --name=value')
        for row in suite.rows(FLAGS.only):
            found.append(row)
            print(json.dumps(row), file=sys.stderr)
            if FLAGS.out:
                with pathlib.Path(FLAGS.out).open('a') as file:
                    file.write(json.dumps(row) + '\n')
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    print(suite.format_table(found))


if __name__ == '__main__':
    app.run(main)
