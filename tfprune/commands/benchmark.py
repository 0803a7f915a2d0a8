r"""Measures tfprune itself and its files; each row is printed and written as soon as it is there.

tfprune benchmark --suite=applications --out=applications.jsonl
tfprune benchmark --suite=applications --only=MobileNetV2,VGG16
tfprune benchmark --suite=cost_model --threads=1
tfprune benchmark --suite=artifacts --artifacts=dense.tflite,pruned.tflite
tfprune benchmark --suite=artifacts --artifacts=runs/quickstart
tfprune benchmark --suite=latency_table --model=resnet20 --table=resnet20.json
tfprune benchmark --suite=latency_table --model=resnet20 --quantize=int8 --table=resnet20_int8.json
tfprune benchmark --suite=training_step --models=resnet20 --dtypes=float32
tfprune benchmark --suite=scoring --models=resnet20
tfprune benchmark --suite=input_pipeline --cifar10_dir=DIR --image_folder=DIR
tfprune benchmark --suite=search --search_runs=runs/x_s0,runs/x_s1
tfprune benchmark --suite=learning --only=static,ppo,random --threads=1
tfprune benchmark --suite=rewards --initial_weights=WEIGHTS --cifar10_dir=DIR
"""
import json
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from tfprune import command_line
from tfprune.benchmarks import SUITES
from tfprune.config import SEED, THREADS, Range
from tfprune.models.names import MODELS

FLAGS = flags.FLAGS
_MOST = 1_000_000  # far above what makes sense
flags.DEFINE_enum('suite', None, sorted(SUITES), 'What to measure.', required=True)
flags.DEFINE_list('only', [], 'Some of its rows, by name; none for all.')
command_line.define_output('out', 'Appends the rows to this file, one JSON object a line.')
command_line.define_threads("Threads within an operation; 0 is TensorFlow's default.")
flags.DEFINE_list('artifacts', [], 'Suite artifacts: .tflite or .keras files, run or export '
                  'folders; ratios refer to the first.')
command_line.define_numbers('artifact_threads', ['1', '2', '4'], 'Suites artifacts and '
                            'latency_table (the first): threads of the TFLite interpreter.',
                            Range(1, THREADS.high))
flags.DEFINE_integer('rounds', 20, 'Suites artifacts and startup: turns.',
                     lower_bound=1, upper_bound=_MOST)
flags.DEFINE_integer('repetitions', 10, 'Suite artifacts: inferences a turn.',
                     lower_bound=1, upper_bound=_MOST)
flags.DEFINE_bool('profile', True, 'Suite artifacts: whether to time the operators, one by one.')
flags.DEFINE_bool('memory', True, 'Suite artifacts: whether to run each file in a process of its '
                  'own for its peak memory.')
flags.DEFINE_string('model', '', 'Suite latency_table: a .keras file, or one of: '
                    f'{", ".join(sorted(MODELS))}.')
flags.DEFINE_string('image_size', '', 'Suite latency_table: N, HxW or HxWxC, images of a named '
                    'model (32 if not given), or of a file that takes images of any size. Suites '
                    'input_pipeline and rewards: of the folder (128 if not given).')
command_line.define_config_flags(['custom_layers', 'initial_weights'])
flags.DEFINE_integer('num_classes', 10, 'Suite latency_table: classes of a named model.',
                     lower_bound=2, upper_bound=_MOST)
flags.DEFINE_string('table', '', 'Suite latency_table: the file to write, or to go on with.')
flags.DEFINE_integer('checks', 4, 'Suite latency_table: random widths at which to compare '
                     'prediction and measurement.', lower_bound=0, upper_bound=_MOST)
flags.DEFINE_string('probe_files', '', 'Suite latency_table: only writes the .tflite files to '
                    'profile on another device to this folder.')
flags.DEFINE_string('profiles', '', 'Suite latency_table: makes the table of the .csv files in '
                    'this folder, which benchmark_model made of such files.')
flags.DEFINE_string('device', '', 'Suite latency_table: name of the device of --profiles.')
flags.DEFINE_enum('quantize', '', ['', 'int8'], 'Suite latency_table: the operators of files of '
                  'this form; of float32 files if not given.')
# Suites of the speed of tfprune itself.
flags.DEFINE_list('models', ['resnet20', 'resnet56'], 'Suites training_step, scoring and '
                  'input_pipeline (whose training step it is compared with): CIFAR ResNets.')
flags.DEFINE_list('dtypes', ['float32', 'bfloat16'], 'Suite training_step: float32, bfloat16.')
flags.DEFINE_integer('batch_size', 128, 'Suites training_step, input_pipeline and rewards: '
                     'images a step.', lower_bound=1, upper_bound=_MOST)
flags.DEFINE_integer('step_rounds', 10, 'Suites training_step and torch_structure: turns.',
                     lower_bound=1, upper_bound=_MOST)
flags.DEFINE_string('torch_python', '', 'Suites training_step and torch_structure: a Python that '
                    'has PyTorch, if this one has not.')
flags.DEFINE_bool('determinism', True, 'Suite training_step: operations as in a run, '
                  'deterministic.')
flags.DEFINE_integer('score_images', 2000, 'Suite scoring: images that a sub-network is scored '
                     'on.', lower_bound=1, upper_bound=_MOST)
flags.DEFINE_integer('score_batch_size', 500, 'Suite scoring: of these, images a step.',
                     lower_bound=1, upper_bound=_MOST)
flags.DEFINE_integer('subnetworks', 3, 'Suite scoring: random sub-networks of each kind.',
                     lower_bound=1, upper_bound=_MOST)
flags.DEFINE_integer('score_rounds', 4, 'Suite scoring: turns of each sub-network.',
                     lower_bound=1, upper_bound=_MOST)
flags.DEFINE_bool('sliced', True, 'Suite scoring: weights are sliced to the kept channels; off: '
                  'masks over the full network.')
flags.DEFINE_integer('memory_subnetworks', 1000, 'Suite scoring: different sub-networks of which '
                     'the growth of memory is measured; 0: none.', lower_bound=0, upper_bound=_MOST)
flags.DEFINE_integer('memory_images', 32, 'Suite scoring: images that each of them is scored on.',
                     lower_bound=1, upper_bound=_MOST)
flags.DEFINE_string('cifar10_dir', '', "Suites input_pipeline, search, rewards and at_once: "
                    "tensorflow-datasets' folder; input_pipeline makes noise of the same shape "
                    'without it.')
flags.DEFINE_string('image_folder', '', 'Suites input_pipeline and rewards: class folders of '
                    'images; input_pipeline makes JPEG files without it.')
flags.DEFINE_integer('pipeline_rounds', 7, 'Suite input_pipeline: repetitions.',
                     lower_bound=1, upper_bound=_MOST)
flags.DEFINE_list('search_runs', [], 'Suite search: run folders to read; without them a run of '
                  'four epochs is made.')
flags.DEFINE_string('search_model', 'resnet20', 'Suite search: model of that run; suites rewards '
                    'and at_once: of --initial_weights.')
flags.DEFINE_string('search_dataset', 'cifar10', 'Suite search: images of that run; suites '
                    'rewards and at_once.')
flags.DEFINE_integer('reward_decisions', 24, 'Suite rewards: decisions.', lower_bound=1,
                     upper_bound=_MOST)
flags.DEFINE_integer('reward_first', 0, 'Suite rewards: number of the first, to go on.',
                     lower_bound=0, upper_bound=_MOST)
flags.DEFINE_integer('reward_images', 5000, 'Suite rewards: held-out training images, a fifth of '
                     'which scores.', lower_bound=10, upper_bound=_MOST)
flags.DEFINE_integer('reward_epochs', 3, 'Suite rewards: epochs of fine-tuning.', lower_bound=1,
                     upper_bound=_MOST)
flags.DEFINE_float('reward_macs', 0.5, 'Suite rewards: share of the MACs that decisions leave.',
                   lower_bound=0.01, upper_bound=1.0)
flags.DEFINE_string('reward_criterion', 'taylor', 'Suite rewards: the criterion that chooses the '
                    'channels.')
flags.DEFINE_enum('reward_dtype', 'float32', ['float32', 'bfloat16'], 'Suite rewards: what the '
                  'networks compute in.')
flags.DEFINE_integer('search_epochs', 30, 'Suites learning and drifting_bandit: epochs of a '
                     'search. Suite dense_reward: rounds.', lower_bound=2, upper_bound=_MOST)
flags.DEFINE_integer('search_episodes', 20, 'Suites search, learning and drifting_bandit: '
                     'episodes an epoch; dense_reward: a round.', lower_bound=5, upper_bound=_MOST)
flags.DEFINE_integer('search_seeds', 5, 'Suites learning, drifting_bandit and dense_reward: '
                     'how many seeds.', lower_bound=1, upper_bound=_MOST)
flags.DEFINE_integer('search_first_seed', 0, 'The first of the search_seeds.', lower_bound=0,
                     upper_bound=int(SEED.high))
flags.DEFINE_integer('search_period', 20, 'Suite learning: epochs of a period of the reward that '
                     'oscillates.', lower_bound=2, upper_bound=_MOST)


def main(_: Sequence[str]) -> None:
    """Prints the rows as they come, then the table."""
    # Not above: --help, and what is said of a wrong flag, need none of it.
    with command_line.importing():
        import tensorflow as tf
        from tfprune.models.model_files import run_custom_layers
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
