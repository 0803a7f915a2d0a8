"""--jit_compile: the step and the evaluation that XLA compiles are those that it does not."""
import os
import pathlib
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.data.loading import load_data
from tfprune.search.alignment import AlignmentPenalty
from tfprune.structure.groups import trace_groups
from tfprune.training.distribution import check_compilable, make_strategy
from tfprune.training.evaluation import Evaluator
from tfprune.training.step import Optimization, Trainer, make_deterministic

BATCH = 64


def residual(digits):
    """A block with a shortcut and a layer that halves, batch-normalized, of 16 and 24 channels."""
    def normalized(x, width, **options):
        x = layers.Conv2D(width, 3, padding='same', use_bias=False, **options)(x)
        return layers.BatchNormalization()(x)

    image = keras.Input(digits.image_shape)
    x = stem = layers.ReLU()(normalized(layers.Rescaling(1 / 8, -1.0)(image), 16))
    x = layers.ReLU()(normalized(layers.ReLU()(normalized(x, 24)), 16) + stem)
    x = layers.ReLU()(normalized(x, 24, strides=2))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def train(digits, jit_compile):
    """An epoch of a small network with the alignment penalty, under new masks from its middle on.
    """
    make_deterministic(not jit_compile)  # as a run
    keras.utils.set_random_seed(0)
    strategy = make_strategy(1)
    with strategy.scope():
        model = residual(digits)
        groups = trace_groups(model).without_residual()
        penalty = AlignmentPenalty(model, groups, strength=1e-3)
    trainer = Trainer(model, strategy, Optimization(
        global_batch_size=BATCH, label_smoothing=.1, jit_compile=jit_compile), penalty)
    losses, penalties = [], []

    def on_step(step, means):
        losses.append(means['loss'] * step)
        penalties.append(means['penalty'] * step)
        if step == 5:
            penalty.set_masks({name: np.arange(width) < width // 2
                               for name, width in groups.items()})

    trainer.train_epoch(digits.train_batches(0, BATCH), lambda step: .01 / (1 + step),
                        on_step=on_step)
    evaluate = Evaluator(model, strategy, jit_compile=jit_compile)
    accuracy = evaluate(digits.reward_batches(40))  # 40, 40, 20
    weights = [keras.ops.convert_to_numpy(v) for v in model.variables]
    return np.diff(losses), np.diff(penalties), accuracy, weights, trainer


@pytest.mark.slow
def test_compiled_is_uncompiled_up_to_float_error():
    """In a process of its own: operations that others have made deterministic do not compile."""
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=300,
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': '',
             'PYTHONPATH': str(pathlib.Path(__file__).resolve().parents[2])})
    assert done.returncode == 0, done.stderr[-3000:]


def compare():
    digits = load_data('digits', reward_images=100)
    plain, compiled = (train(digits, jit_compile) for jit_compile in (False, True))
    assert compiled[0] == pytest.approx(plain[0], rel=1e-3) and len(plain[0]) > 10
    assert compiled[1] == pytest.approx(plain[1], rel=1e-3, abs=1e-7)
    assert compiled[1][0] == 0 and compiled[1][-1] > 0
    assert compiled[2] == pytest.approx(plain[2], abs=0.011)  # one image of a hundred
    for ours, theirs in zip(compiled[3], plain[3], strict=True):
        assert np.allclose(ours, theirs, rtol=1e-2, atol=1e-3)
    trainer = compiled[4]
    assert trainer._train_step.experimental_get_tracing_count() == 1
    assert trainer._gradients.experimental_get_tracing_count() == 1
    batch = next(iter(digits.train_batches(0, BATCH)))
    assert 'HloModule' in trainer._gradients.experimental_get_compiler_ir(batch)(stage='hlo')


def test_several_replicas_on_cpu_are_refused():
    if tf.config.list_physical_devices('GPU'):
        pytest.skip('there is an accelerator')

    class Two:
        num_replicas_in_sync = 2
        extended = type('', (), {'worker_devices': ('/device:CPU:0', '/device:CPU:1')})

    with pytest.raises(ValueError, match='jit_compile must be false for several replicas on CPU'):
        check_compilable(Two())
    check_compilable(make_strategy(1))


if __name__ == '__main__':
    compare()
