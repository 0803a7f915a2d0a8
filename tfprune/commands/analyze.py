r"""Says what of a model can be pruned, before any training.

tfprune analyze --model=resnet20
tfprune analyze --model=my_model.keras --json=groups.json --picture=groups.png
tfprune analyze --task=my_task.py
"""
import dataclasses
import json
import pathlib
from collections.abc import Sequence

from absl import flags

from tfprune import command_line
from tfprune.config import flag_fields
from tfprune.files import write_text
from tfprune.models.names import MODELS
from tfprune.runs.beforehand import check_model
from tfprune.structure.options import StructureOptions

FLAGS = flags.FLAGS
flags.DEFINE_string('model', None, 'A .keras file, or one of: '
                    f'{", ".join(sorted(MODELS))}. A --task brings its own.')
flags.DEFINE_string('image_size', '', 'N, HxW or HxWxC: images of a named model (32 if not given), '
                    'or of a file that takes images of any size.')
flags.DEFINE_integer('num_classes', 10, 'Classes of a named model.', lower_bound=2,
                     upper_bound=100_000)
command_line.define_config_flags(['task', 'custom_layers', 'prune_residual_groups', 'frozen',
                                  'prune_frozen', 'unknown_layers', 'width_multiple',
                                  'min_keep_ratio'])
command_line.define_output('json', 'Also writes the analysis to this file.')
command_line.define_output('picture', 'Also draws the network, colored by group: .png, .svg, '
                           '.pdf.')


def main(_: Sequence[str]) -> None:
    """Loads or builds the model, prints the table, writes what is asked for."""
    if bool(FLAGS.model) == bool(FLAGS.task):
        raise ValueError('--model or --task: expected one of them, received '
                         + ('both.' if FLAGS.model else 'none.'))
    check_model(FLAGS.model or '', FLAGS.task)
    # Not above: --help, and what is said of a wrong flag, need none of it.
    with command_line.importing():
        from tfprune.costs.analysis import analyze, format_analysis, headline
        from tfprune.models.building import untrained_model
        from tfprune.models.model_files import run_custom_layers
        from tfprune.report.drawing import draw_groups
        from tfprune.search.problem import trace_problem_groups
    run_custom_layers(FLAGS.custom_layers)
    if FLAGS.task:
        from tfprune.runs.config import Config
        from tfprune.runs.task_file import model_of_task
        model = model_of_task(Config(task=FLAGS.task))
    else:
        model = untrained_model(FLAGS.model, image_size=FLAGS.image_size,
                                num_classes=FLAGS.num_classes)
    options = StructureOptions(**{
        field.name: FLAGS[field.name].value for field in flag_fields(StructureOptions)})
    sizes = {'width_multiple': FLAGS.width_multiple, 'min_keep_ratio': FLAGS.min_keep_ratio}
    with_residual = trace_problem_groups(
        model, dataclasses.replace(options, prune_residual_groups=True))
    groups = (with_residual if options.prune_residual_groups
              else with_residual.without_residual())
    analysis = analyze(model, groups, **sizes)
    print(format_analysis(analysis))
    if len(with_residual) > len(groups):
        print(f'With --prune_residual_groups: '
              f'{headline(analyze(model, with_residual, **sizes))}')
    if FLAGS.json:
        write_text(pathlib.Path(FLAGS.json), json.dumps(analysis.to_json(), indent=2) + '\n')
    if FLAGS.picture:
        draw_groups(groups, FLAGS.picture, title=f'{model.name}: channel groups',
                    note=headline(analysis))
