"""Quantization-aware fine-tuning with TensorFlow Model Optimization, and its full-integer file.

A pruned Keras 3 model is rebuilt in tf_keras with the rounding of int8 (`quantizable.py`), the
ranges of its activations are measured, and its weights train on.

TFMOT starts each range at -6 … 6 and moves it by a thousandth a step: more steps than a short
fine-tuning has, and an activation beyond 6 would be cut. Hence ranges are measured first.

`tf_keras` and TFMOT take seconds to import, so that functions do it.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune import extras
from tfprune.data.pixels import BYTES, PixelRange
from tfprune.errors import unknown
from tfprune.export import serving
from tfprune.export.base import Format, WriteContext
from tfprune.export.options import IO_TYPES
from tfprune.export.quantizable import prepare
from tfprune.export.tflite import open_file, run_converter, write_content
from tfprune.models.outputs import as_logits, outputs_probabilities
from tfprune.tasks.classification import cross_entropy
from tfprune.training.schedule import Schedule
from tfprune.training.seeding import derived_seed
from tfprune.training.step import NonFiniteLossError, StopTraining

_RANGE_DECAY = 0.999  # of TFMOT's moving averages
_RANGE = re.compile(r'quant_(.*)/(pre_activation|post_activation|output)_(min|max):0$')
CALIBRATION_PASSES = 2

Batches = Callable[[int], tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class QuantizationAware:
    """How quantization-aware fine-tuning trains: SGD, the learning rate falls as a cosine to 0.

    Attributes:
        epochs: at least 1.
        learning_rate: its peak; about a fiftieth of that of the fine-tuning before.
        momentum, weight_decay, label_smoothing: as of the fine-tuning before.
        calibration_batches: of the first epoch, which measure the ranges before training.
        seed: with the epoch it decides dropout.
    """
    epochs: int = 3
    learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    calibration_batches: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, smallest in (('epochs', 1), ('calibration_batches', 1), ('learning_rate', 0),
                               ('momentum', 0), ('weight_decay', 0), ('label_smoothing', 0)):
            if not getattr(self, name) >= smallest:
                raise ValueError(f'{name} must be at least {smallest}; received '
                                 f'{getattr(self, name)!r}.')


def quantize_aware(model: keras.Model, batches: Batches,
                   settings: QuantizationAware = QuantizationAware(), *,
                   pixels: PixelRange = BYTES,
                   should_stop: Callable[[], bool] = lambda: False,
                   on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, means: None
                   ) -> Any:
    """Returns a tf_keras model fine-tuned under the rounding of int8; `model` stays as it is.

    A function of the model, the batches and the settings alone: on a CPU with deterministic
    operations, bit for bit.

    Args:
        model: a float32 classifier of images, logits or softmax out.
        batches: epoch -> (images [B, H, W, C], int labels [B]); asked for epochs 0, 1, …
        pixels: the range of the images.
        should_stop: asked after each step; True raises StopTraining.
        on_epoch: told the epoch and its means, loss, cross_entropy and accuracy.

    Raises:
        ValueError: names the layer that has no counterpart in tf_keras or no int8 form.
        NonFiniteLossError: the loss or a weight became NaN or infinite; names epoch and step.
        StopTraining: see should_stop.
    """
    extras.need('qat', 'quantization-aware training')
    with _seeded_tf_keras() as set_seed:
        set_seed(settings.seed)
        annotated, quantized = prepare(model, pixels)
        calibrate(annotated, quantized, [
            images for images, _ in batches(0).take(settings.calibration_batches)])
        trainer = _Trainer(model, quantized, settings)
        for epoch in range(settings.epochs):
            set_seed(derived_seed(settings.seed, epoch))
            on_epoch(epoch, trainer.train_epoch(epoch, batches(epoch), should_stop))
    return quantized


@contextlib.contextmanager
def _seeded_tf_keras() -> Iterator[Callable[[int], None]]:
    """Gives tf_keras's set_random_seed; afterwards its layers, those of agents in this process too,
    heed the global seed again, and not the generator that it has set."""
    import tf_keras
    from tf_keras.src import backend

    try:
        yield tf_keras.utils.set_random_seed
    finally:
        backend._SEED_GENERATOR.generator = None  # no public name


def convert_int8_qat(quantized: Any, *, io: str = 'float32', output_name: str = '',
                     softmax: bool = False, batch: int = 1) -> bytes:
    """The full-integer TFLite file of what `quantize_aware` returned.

    io: type of the images and outputs: 'float32', 'uint8' or 'int8'.
    output_name: of the output; '' takes the name of the layer that gives it.
    softmax: whether a softmax follows the output, which then gives logits.
    batch: 1, or 0 for any.
    """
    if io not in IO_TYPES:
        raise unknown('io', io, IO_TYPES)
    module = tf.Module()
    module.model = quantized
    name = output_name or quantized.output_names[0].removeprefix('quant_')

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = quantized(images, training=False)
        return {name: tf.nn.softmax(outputs) if softmax else outputs}

    shape = [batch or None, *quantized.input_shape[1:]]
    module.serve = tf.function(serve, autograph=False, input_signature=[
        tf.TensorSpec(shape, tf.float32, name=serving.IMAGES)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.serve.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)
    return run_converter(converter, quantized.name)


def calibrate(annotated: Any, quantized: Any, images: list[tf.Tensor]) -> None:
    """Measures the ranges of activations on batches [B, H, W, C]; nothing else changes.

    First without any rounding, then through it, as TFMOT measures: k of its updates with decay d
    leave r + d^k (r0 - r) of a mean range r and the old one r0.
    """
    measured = _float_ranges(annotated, images)
    ranges = {}
    for variable in quantized.non_trainable_weights:
        found = _RANGE.match(variable.name)
        if found:
            ranges[variable.name] = variable
            layer, end = found[1], found[3]
            if layer in measured and found[2] != 'pre_activation':
                variable.assign(measured[layer][end == 'max'])
    forward = tf.function(lambda batch: quantized(tf.cast(batch, tf.float32), training=True),
                          autograph=False)
    left = _RANGE_DECAY ** len(images)
    for _ in range(CALIBRATION_PASSES):
        before = {name: float(variable) for name, variable in ranges.items()}
        for batch in images:
            forward(batch)
        for name, variable in ranges.items():
            variable.assign((float(variable) - left * before[name]) / (1 - left))


def _float_ranges(annotated: Any, images: list[tf.Tensor]) -> dict[str, tuple[float, float]]:
    """Mean over the batches of the smallest and largest output of each layer, 0 between them."""
    import tf_keras

    layers = [layer for layer in annotated.layers if hasattr(layer, 'layer')]
    outputs = tf_keras.Model(annotated.inputs, [layer.output for layer in layers])

    @tf.function(autograph=False)
    def ends(batch: tf.Tensor) -> tf.Tensor:
        values = outputs(tf.cast(batch, tf.float32), training=False)
        return tf.stack([[tf.minimum(tf.reduce_min(value), 0), tf.maximum(tf.reduce_max(value), 0)]
                         for value in tf.nest.flatten(values)])

    means = np.mean([ends(batch).numpy() for batch in images], axis=0)
    return {layer.layer.name: (float(low), float(high))
            for layer, (low, high) in zip(layers, means)}


class _Trainer:
    """Steps of SGD with momentum on a quantized model."""

    def __init__(self, model: keras.Model, quantized: Any, settings: QuantizationAware):
        import tf_keras

        self._model, self._quantized, self._settings = model, quantized, settings
        self._variables = [variable for layer in quantized.layers if layer.trainable
                           for variable in layer.trainable_weights]
        self._kernels = [v for v in self._variables if v.name.endswith('kernel:0')]
        self._optimizer = tf_keras.optimizers.SGD(0.0, momentum=settings.momentum)
        self._optimizer.build(self._variables)

    def train_epoch(self, epoch: int, batches: tf.data.Dataset, should_stop: Callable[[], bool]
                    ) -> dict[str, float]:
        """Trains on an epoch's batches; returns its means."""
        steps = int(batches.cardinality())
        if steps < 0:  # tf.data does not know
            steps = sum(1 for _ in batches)
        schedule = Schedule('cosine', self._settings.learning_rate, self._settings.epochs * steps)
        sums = np.zeros(4)
        for step, (images, labels) in enumerate(batches):
            self._optimizer.learning_rate.assign(schedule(epoch * steps + step))
            sums += self._step(images, labels).numpy()
            if not math.isfinite(sums[0]):
                raise NonFiniteLossError(f'quantization-aware epoch {epoch + 1}: the loss is '
                                         f'{sums[0]} at step {step + 1}.')
            if should_stop():
                raise StopTraining()
        if not sums[3]:
            raise ValueError('the training data hold no whole batch.')
        for variable in self._quantized.weights:
            if not np.isfinite(variable.numpy()).all():
                raise NonFiniteLossError(f'quantization-aware epoch {epoch + 1}: {variable.name} '
                                         'is not finite.')
        loss, entropy, accuracy = (float(total / sums[3]) for total in sums[:3])
        return {'loss': loss, 'cross_entropy': entropy, 'accuracy': accuracy}

    @tf.function(reduce_retracing=True, autograph=False)
    def _step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        settings = self._settings
        with tf.GradientTape() as tape:
            outputs = self._quantized(tf.cast(images, tf.float32), training=True)
            logits = as_logits(self._model, outputs)
            entropies = cross_entropy(labels, logits, settings.label_smoothing)
            decay = tf.add_n([tf.nn.l2_loss(kernel) for kernel in self._kernels])
            loss = tf.reduce_mean(entropies) + settings.weight_decay * decay
        self._optimizer.apply_gradients(zip(tape.gradient(loss, self._variables),
                                            self._variables))
        hits = tf.cast(tf.equal(tf.argmax(logits, 1, output_type=labels.dtype), labels), tf.float64)
        count = tf.cast(tf.size(labels), tf.float64)
        return tf.stack([tf.cast(loss, tf.float64) * count,
                         tf.reduce_sum(tf.cast(entropies, tf.float64)), tf.reduce_sum(hits), count])


def write(model: keras.Model, path: pathlib.Path, context: WriteContext) -> None:
    """Writes the full-integer file, with metadata; ValueError without a fine-tuned model."""
    if context.quantized is None:
        raise ValueError("format 'tflite_int8_qat' needs quantized: the model that quantize_aware "
                         'returns; received None')
    softmax = context.tflite.softmax and not outputs_probabilities(model)
    content = convert_int8_qat(context.quantized, io=context.tflite.io, softmax=softmax,
                               output_name='probabilities' if softmax else '',
                               batch=context.tflite.batch)
    write_content(content, model, path, context)


FORMAT = Format(location='model_int8_qat.tflite', write=write,
                open=functools.partial(open_file, form='tflite_int8_qat'), tolerance=None,
                family='tflite', has_io=True, needs_classifier=True,
                advice='try more --quantize_epochs, or --quantize=float16')
