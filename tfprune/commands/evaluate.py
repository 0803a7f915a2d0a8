"""Re-measures test accuracy and cost of an exported model, from its files alone.

    tfprune evaluate --path=runs/x
    tfprune evaluate --path=model.tflite --dataset=cifar10 --data_dir=…
    tfprune evaluate --path=model.tflite --dataset=folder --data_dir=… --image_size=128
"""
import json
import pathlib
from collections.abc import Sequence

from absl import flags

from tfprune import command_line
from tfprune.files import write_text

FLAGS = flags.FLAGS
flags.DEFINE_string('path', None, 'Run folder (every form in its export/ is measured), .keras, '
                    '.tflite or SavedModel directory.', required=True)
flags.DEFINE_string('dataset', None, "Data set; by default the run folder's.")
flags.DEFINE_string('data_dir', None, "Where its files are; by default the run folder's.")
flags.DEFINE_string('image_size', None, "Images are resized to this; by default the run folder's.")
command_line.define_config_flags(['custom_layers'])
flags.DEFINE_integer('batch_size', 250, 'Images a batch.', lower_bound=1, upper_bound=1_000_000)
command_line.define_output('json', 'Also writes the measurements to this file.')


def main(_: Sequence[str]) -> None:
    """Measures every artifact at --path and prints a table."""
    if not pathlib.Path(FLAGS.path).exists():
        raise FileNotFoundError(f'{FLAGS.path}: no such file or directory')
    # Not above: --help, and what is said of a wrong flag, need none of it.
    with command_line.importing():
        from tfprune.export.exporter import FORMATS
        from tfprune.models.model_files import run_custom_layers
        from tfprune.run_files import read_json
        from tfprune.runs import artifacts
    run_custom_layers(FLAGS.custom_layers)
    found = artifacts.find_artifacts(FLAGS.path)
    opened = [FORMATS[form].open(path) for form, path in found.items()]
    known = read_json(pathlib.Path(FLAGS.path) / artifacts.CONFIG_FILE) or {}
    if known.get('task') and not FLAGS.dataset:
        from tfprune.runs import task_file
        from tfprune.runs.config import Config
        dataset = known['dataset']
        found_rows, task = task_file.measured(Config.from_json(known), opened)
        print(f'{FLAGS.path}, test {task.examples} of {known["task"]}')
        print(artifacts.format_task_table(found_rows, task))
        values = [row.to_json() for row in found_rows]
    else:
        dataset, rows = _measured(opened)
        print(f'{FLAGS.path}, test images of {dataset}')
        print(artifacts.format_table(rows))
        values = [row.to_json() for row in rows]
    if FLAGS.json:
        result = {'dataset': dataset, 'artifacts': values}
        write_text(pathlib.Path(FLAGS.json), json.dumps(result, indent=2) + '\n')


def _measured(opened):
    """(name of the data set, a measurement a file) of classifiers of pictures."""
    import tqdm
    from tfprune.data.loading import load_data
    from tfprune.runs import artifacts
    dataset, options = artifacts.data_source(
        FLAGS.path, FLAGS.dataset, data_dir=FLAGS.data_dir, image_size=FLAGS.image_size)
    # The test split does not depend on the reward split, which may not be empty.
    data = load_data(dataset, **{**options, 'reward_images': 1, 'augment': False})
    artifacts.check_classes(FLAGS.path, dataset, data)
    for artifact in opened:
        artifacts.check_fits(artifact, data)
    rows = []
    for artifact in opened:
        with tqdm.tqdm(total=data.num_test, desc=artifact.form, unit='img', leave=False,
                       disable=None) as bar:  # None: no bar unless on a terminal
            rows.append(artifacts.measure(
                artifact, data, batch_size=FLAGS.batch_size, on_batch=bar.update))
    return dataset, rows
