"""A training step of the CIFAR ResNets: tfprune's, with and without alignment, a hand-written step
of Keras 3, tf_keras and PyTorch, all in turns.

Contestants:
  joint         tfprune's step with the alignment penalty, half of each group's channels masked
  tfprune       tfprune's step without penalty
  plain         a hand-written step of the same Keras 3 model, batch normalization fused by
                tfprune.training.batch_norm: what `joint` is compared with
  keras         the same as Keras 3 has it
  tf_keras      the same network and step in tf_keras (Keras 2), whose batch normalization is fused
  torch         the same network in PyTorch, channels last, in a process of its own that sleeps
                while the others run

All have SGD with momentum 0.9, weight decay 1e-4 and one batch of noise, pixels as uint8.
"""
import contextlib
import importlib.util
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.benchmarks.apart import LineWorker
from tfprune.benchmarks.turns import cores, in_turns, machine, quartiles, ratios, spread
from tfprune.export.keras2 import to_keras2
from tfprune.models.building import DTYPE_POLICIES, build_model
from tfprune.search.alignment import AlignmentPenalty
from tfprune.structure.groups import trace_groups
from tfprune.training.batch_norm import use_fused_batch_norm
from tfprune.training.distribution import make_strategy
from tfprune.training.step import Optimization, Trainer

OPTIONS = ('models', 'dtypes', 'batch_size', 'step_rounds', 'torch_python', 'determinism',
           'threads')
CONTESTANTS = ('joint', 'tfprune', 'plain', 'keras', 'tf_keras', 'torch')
BASE = 'plain'
WARM_UP = 2
INSTALL_TORCH = ("the contestant torch needs PyTorch: pip install -e '.[benchmark]', or "
                 '--torch_python=PYTHON of an environment that has it')
_WORKER = pathlib.Path(__file__).with_name('torch_step.py')
_SETTINGS = Optimization()

Images = tuple[tf.Tensor, tf.Tensor]
Turn = Callable[[], float]  # one step; its seconds


def rows(only: Sequence[str] = (), *, models: Sequence[str] = ('resnet20', 'resnet56'),
         dtypes: Sequence[str] = ('float32', 'bfloat16'), batch_size: int = 128,
         step_rounds: int = 10, torch_python: str = '', determinism: bool = True,
         threads: int = 0) -> Iterator[dict[str, Any]]:
    """Yields a row a contestant, for each model and dtype.

    Args:
        only: some of CONTESTANTS.
        models: CIFAR ResNets of MODELS, 'resnet20', ….
        dtypes: of DTYPE_POLICIES.
        step_rounds: turns, of one step each.
        torch_python: a Python that has PyTorch; '' takes this one, and leaves the contestant out if
            it has none.
        determinism: whether TensorFlow runs as in tfprune's own runs.
        threads: within an operation, and cores; 0 is all.

    Raises ValueError for unknown names, OSError where the worker of PyTorch fails.
    """
    for kind, given, known in (('contestant', only, CONTESTANTS),
                               ('dtype', dtypes, DTYPE_POLICIES)):
        for name in given:
            if name not in known:
                raise ValueError(f"Unknown {kind} '{name}'. Available: {', '.join(known)}")
    for name in models:
        if not name.startswith('resnet') or not name[6:].isdigit() or int(name[6:]) % 6 != 2:
            raise ValueError(f"models: expected CIFAR ResNets such as resnet20, received '{name}'")
    python = torch_python or (sys.executable if importlib.util.find_spec('torch') else '')
    wanted = [name for name in only or CONTESTANTS if name != 'torch' or python]
    if 'torch' in (only or CONTESTANTS) and not python:
        print(INSTALL_TORCH, file=sys.stderr)
    if determinism:
        tf.config.experimental.enable_op_determinism()
    batch = noise(batch_size)
    with cores(threads) as number:
        for model in models:
            for dtype in dtypes:
                with contextlib.ExitStack() as stack:
                    turns: dict[str, Turn] = {}
                    versions = {}
                    for name in wanted:
                        if name == 'torch':
                            worker = stack.enter_context(TorchWorker(
                                python, model, dtype, batch_size, number))
                            turns[name], versions[name] = worker, worker.version
                        else:
                            turns[name] = STEPS[name](model, dtype, batch)
                            versions[name] = _version(name)
                    where = {'model': model, 'dtype': dtype, 'batch_size': batch_size,
                             'threads': number, 'determinism': determinism, **machine()}
                    for row in measure(turns, step_rounds):
                        yield {**where, 'version': versions[row['contestant']], **row}
                keras.backend.clear_session()


def measure(turns: Mapping[str, Turn], rounds: int) -> Iterator[dict[str, Any]]:
    """Rows of contestants that took `rounds` turns after WARM_UP untimed ones."""
    in_turns(turns, WARM_UP)
    times = in_turns(turns, rounds)
    base = BASE if BASE in times else next(iter(times))
    for name, seen in times.items():
        yield {'contestant': name, **quartiles('ms', 1e3 * seen), 'rounds': rounds,
               **ratios(seen, times[base]), 'ratio_to': base}


def noise(batch_size: int) -> Images:
    """A batch: uint8 pixels [B, 32, 32, 3] and int32 labels [B]."""
    rng = np.random.default_rng(0)
    return (tf.constant(rng.integers(0, 256, (batch_size, 32, 32, 3), np.uint8)),
            tf.constant(rng.integers(0, 10, batch_size, np.int32)))


def build(model: str, dtype: str, strategy: tf.distribute.Strategy | None = None,
          image_shape: tuple[int, int, int] = (32, 32, 3)) -> keras.Model:
    """The model with random weights, under a strategy or under none."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        return build_model(model, image_shape=image_shape, num_classes=10, mean=(.5,) * 3,
                           std=(.25,) * 3, dtype_policy=DTYPE_POLICIES[dtype])


def joint_step(model: str, dtype: str, batch: Images) -> Turn:
    """tfprune's step of a joint epoch."""
    strategy = make_strategy(1)
    dense = build(model, dtype, strategy, tuple(batch[0].shape[1:]))
    groups = trace_groups(dense).without_residual()
    with strategy.scope():
        penalty = AlignmentPenalty(dense, groups, strength=1e-4)
    penalty.set_masks({name: np.arange(width) < width // 2 for name, width in groups.items()})
    return _tfprune_step(dense, strategy, batch, penalty)


def tfprune_step(model: str, dtype: str, batch: Images) -> Turn:
    """The same without penalty."""
    strategy = make_strategy(1)
    return _tfprune_step(build(model, dtype, strategy), strategy, batch)


def _tfprune_step(model: keras.Model, strategy: tf.distribute.Strategy, batch: Images,
                  penalty: Callable[[], tf.Tensor] | None = None) -> Turn:
    trainer = Trainer(model, strategy, _SETTINGS, penalty)
    trainer.optimizer.learning_rate.assign(0.1)
    # The step alone: a whole `train_epoch` also checks all weights at its end.
    return _timed(lambda *given: trainer._train_step(given), batch)


def plain_step(model: str, dtype: str, batch: Images) -> Turn:
    """The hand-written step with fused batch normalization."""
    dense = build(model, dtype)
    use_fused_batch_norm(dense)
    return _hand_written(dense, batch)


def keras_step(model: str, dtype: str, batch: Images) -> Turn:
    """The step that anybody would write for a Keras 3 model."""
    return _hand_written(build(model, dtype), batch)


def _hand_written(model: keras.Model, batch: Images) -> Turn:
    optimizer = keras.optimizers.SGD(0.1, momentum=_SETTINGS.momentum)
    optimizer.build(model.trainable_variables)
    kernels = [v for v in model.trainable_variables if v.path.endswith('kernel')]
    return _timed(make_step(model, optimizer, kernels), batch)


def keras2_step(model: str, dtype: str, batch: Images) -> Turn:
    """The same in tf_keras."""
    import tf_keras

    twin = to_keras2(build(model, dtype))
    optimizer = tf_keras.optimizers.SGD(0.1, momentum=_SETTINGS.momentum)
    optimizer.build(twin.trainable_variables)
    kernels = [v for v in twin.trainable_variables if 'kernel' in v.name]
    return _timed(make_step(twin, optimizer, kernels), batch)


def make_step(model: Any, optimizer: Any, kernels: Sequence[Any]
              ) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The hand-written step of a Keras 3 or a tf_keras model: (images, labels) -> loss."""
    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(tf.cast(images, tf.float32), training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            loss += _SETTINGS.weight_decay * tf.add_n(
                [tf.nn.l2_loss(tf.convert_to_tensor(kernel)) for kernel in kernels])
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    return step


def _timed(step: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], batch: Images) -> Turn:
    def turn() -> float:
        start = time.perf_counter()
        step(*batch).numpy()
        return time.perf_counter() - start

    return turn


STEPS: dict[str, Callable[[str, str, Images], Turn]] = {
    'joint': joint_step, 'tfprune': tfprune_step, 'plain': plain_step, 'keras': keras_step,
    'tf_keras': keras2_step,
}


class TorchWorker(LineWorker):
    """A process with PyTorch that runs a step a call; see torch_step.py."""

    def __init__(self, python: str, model: str, dtype: str, batch_size: int, threads: int):
        super().__init__([python, str(_WORKER), model.removeprefix('resnet'), dtype,
                          str(batch_size), str(threads)],
                         f'{python} {_WORKER.name} failed, see above; {INSTALL_TORCH}')
        try:
            self.version = f'torch {self.answer()}'
        except OSError:
            self.close()
            raise

    def __call__(self) -> float:
        return float(self.ask('1'))


def _version(contestant: str) -> str:
    if contestant == 'tf_keras':
        import tf_keras

        return f'tf_keras {tf_keras.__version__}, tensorflow {tf.__version__}'
    return f'keras {keras.__version__}, tensorflow {tf.__version__}'


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns medians and quartiles as a Markdown table."""
    lines = ['| model | numbers | step | ms (quartiles) | images/s | times the base (quartiles) |',
             '|---|---|---|---:|---:|---:|']
    for row in found:
        lines.append(
            f"| {row['model']} | {row['dtype']} | {row['contestant']} | {spread(row, 'ms', '.1f')} "
            f"| {1e3 * row['batch_size'] / row['ms']:.0f} | {spread(row, 'ratio', '.3f')} |")
    bases = ', '.join(sorted({row['ratio_to'] for row in found}))
    return '\n'.join([*lines, f'\nThe base is {bases}, ratios are of the same round.'])
