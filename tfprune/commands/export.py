r"""Exports a Keras model as it is: every file measured on the test images, its latency by threads.

tfprune export --model=runs/x/dense.keras --dataset=cifar10 --data_dir=… \
  --quantize=float16,dynamic,int8,int8_qat --out=exported

The flags of data, quantization and training are those of train.py; of any other task --task says
what its files are measured by, as there.
"""
import json
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from tfprune import command_line
from tfprune.config import flag_fields
from tfprune.data.options import DataOptions
from tfprune.export.options import ExportOptions
from tfprune.files import write_text
from tfprune.runs.beforehand import check_file, check_installed

FLAGS = flags.FLAGS
_FLAGS = ('task', 'custom_layers', 'seed', 'reward_images', 'batch_size', 'momentum',
          'weight_decay', 'label_smoothing',
          *(field.name for part in (DataOptions, ExportOptions) for field in flag_fields(part)))
flags.DEFINE_string('model', None, 'A .keras file.', required=True)
command_line.define_folder('out', 'Directory of the export; an earlier export is replaced.')
flags.DEFINE_string('dense', None, 'A .keras file whose float32 TFLite file latencies are compared '
                    'with; by default that of --model.')
command_line.define_output('json', 'Also writes the measurements to this file.')
command_line.define_threads('Threads within an operation, in training; 0: all.')
command_line.define_config_flags(_FLAGS)


def main(_: Sequence[str]) -> int:
    """Exports, measures, prints a table."""
    if not FLAGS.out:
        raise ValueError('--out: expected a directory, received none.')
    config = command_line.config_of_flags(_FLAGS)
    check_file('model', FLAGS.model)
    if FLAGS.dense:
        check_file('dense', FLAGS.dense)
    check_installed(config)
    # Not above: --help, and what is said of a wrong flag, need none of it.
    with command_line.importing():
        import tensorflow as tf
        from tfprune.export.tflite import convert
        from tfprune.models.model_files import read_keras_file, run_custom_layers
        from tfprune.progress import Progress
        from tfprune.report.artifact_table import format_artifacts
        from tfprune.runs.deployment import Deployment, check_deployable, deploy
        from tfprune.runs.known_augmentation import known_augmentation
        from tfprune.training.step import StopTraining, make_deterministic
    stop = command_line.stop_on_signals()
    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    make_deterministic()
    run_custom_layers(FLAGS.custom_layers)
    model = read_keras_file(pathlib.Path(FLAGS.model))
    model, task, data = _measured_by(config, model)
    dense = read_keras_file(pathlib.Path(FLAGS.dense)) if FLAGS.dense else model
    settings = Deployment.of(config.export, config.training, config.seed)
    check_deployable(model, task, data, settings)
    if config.data.augment is None and 'int8_qat' in settings.quantizations:
        data, why = known_augmentation(model, data, min(1_000, data.num_train))
        if why:
            print(f'{why}.')
    try:
        found = deploy(model, task, data, FLAGS.out, settings, dense_tflite=convert(dense),
                       is_pruned=dense is not model,
                       should_stop=lambda: bool(stop), progress=Progress(), overwrite=True)
    except StopTraining:
        print('stopped before the end; the same command begins anew.', file=sys.stderr)
        return 128 + stop[0]
    print(format_artifacts(found.rows, found.dense_latency, task.to_json()))
    if FLAGS.json:
        write_text(pathlib.Path(FLAGS.json), json.dumps(
            {'model': FLAGS.model, 'dataset': data.name, 'artifacts': found.rows,
             'dense_latency': found.dense_latency}, indent=1) + '\n')
    return 0


def _measured_by(config, model):
    """(model, task, data): the model at the size of its data."""
    from tfprune.data.loading import load
    from tfprune.data.user_examples import UserExamples
    from tfprune.models.model_files import as_classifier, at_shapes
    from tfprune.runs.task_file import own_of_task, what_is_learnt
    from tfprune.tasks.classification import Classification
    source, own = f"model '{FLAGS.model}'", own_of_task(config)
    ends = [len(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if own is None and ends != [4, 2]:
        raise ValueError(f'{source} is no classifier of pictures: give the --task that it learnt, '
                         'by which its files are measured; in Python tfprune.export_model needs '
                         'no data')
    data = own.data if own else load(config.of_data())
    if isinstance(data, UserExamples):
        return at_shapes(model, data.inputs, source), what_is_learnt(own), data
    model = as_classifier(model, source=source, image_shape=data.image_shape,
                          num_classes=data.num_classes)
    return model, Classification.of(model), data
