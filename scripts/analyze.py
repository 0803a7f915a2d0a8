r"""Says what of a model can be pruned, before any training.

python scripts/analyze.py --model=resnet20
python scripts/analyze.py --model=my_model.keras --json=groups.json --picture=groups.png
"""
import json
import pathlib
import sys

import tfprune  # noqa: F401  (first: prepares TensorFlow's environment)
from absl import app, flags, logging

from tfprune.analysis import analyze, format_analysis
from tfprune.groups import trace_groups
from tfprune.models import MODELS, build_model
from tfprune.models.model_files import is_path, read_keras_file
from tfprune.report.drawing import draw_groups
from tfprune.runs import write_text

FLAGS = flags.FLAGS
FLAGS.set_default('verbosity', logging.WARNING)
flags.DEFINE_string('model', None, 'A .keras file, or one of: '
                    f'{", ".join(sorted(MODELS))}.', required=True)
flags.DEFINE_list('image_shape', ['32', '32', '3'], 'Height, width, channels; of a named model.')
flags.DEFINE_integer('num_classes', 10, 'Classes of a named model.', lower_bound=2)
flags.DEFINE_bool('prune_residual_groups', False, 'Count groups that couple several layers as '
                  'prunable.')
flags.DEFINE_list('frozen', [], 'Layers or groups that are not to be pruned.')
flags.DEFINE_enum('unknown_layers', 'freeze', ['freeze', 'raise'],
                  'What to do with a layer that has no rule.')
flags.DEFINE_integer('width_multiple', 1, 'Widths are multiples of this, or dense.', lower_bound=1)
flags.DEFINE_float('min_keep_ratio', 0.1, 'No group is pruned below this share of its width.')
flags.DEFINE_string('json', None, 'Also writes the analysis to this file.')
flags.DEFINE_string('picture', None, 'Also draws the network, coloured by group: .png, .svg, .pdf.')


def run() -> None:
    """Loads or builds the model, prints the table, writes what is asked for."""
    if is_path(FLAGS.model):
        model = read_keras_file(pathlib.Path(FLAGS.model))
    else:
        height, width, channels = (int(size) for size in FLAGS.image_shape)
        model = build_model(FLAGS.model, image_shape=(height, width, channels),
                            num_classes=FLAGS.num_classes, mean=(0.5,) * channels,
                            std=(0.5,) * channels)
    groups = trace_groups(model, frozen=FLAGS.frozen, unknown_layers=FLAGS.unknown_layers)
    if not FLAGS.prune_residual_groups:
        groups = groups.without_residual()
    analysis = analyze(model, groups, width_multiple=FLAGS.width_multiple,
                       min_keep_ratio=FLAGS.min_keep_ratio)
    print(format_analysis(analysis))
    if FLAGS.json:
        write_text(pathlib.Path(FLAGS.json), json.dumps(analysis.to_json(), indent=2) + '\n')
    if FLAGS.picture:
        draw_groups(groups, FLAGS.picture, title=f'{model.name}: channel groups')


def main(argv: list[str]) -> None:
    """Runs; an error that the user can mend is one line and exit code 2."""
    try:
        if len(argv) > 1:
            raise ValueError(f'unexpected argument {argv[1]!r}: write flags as --name=value')
        run()
    except (ValueError, TypeError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    app.run(main)
