"""TFLite files: float32, float16 weights, int8 weights (dynamic range), int8 throughout."""

from __future__ import annotations

import functools
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data.pixels import BYTES, PixelRange
from tfprune.errors import first_line
from tfprune.export import operator_cost, saved_model
from tfprune.export.base import Artifact, Format, TFLiteOptions, WriteContext, dims
from tfprune.export.interpreter import Runner
from tfprune.export.metadata import add_metadata
from tfprune.models.outputs import outputs_probabilities

FLOAT32, FLOAT16, DYNAMIC, INT8 = 'tflite', 'tflite_float16', 'tflite_dynamic', 'tflite_int8'
_TYPES = (np.float32, np.uint8, np.int8)  # of input and output


def convert(model: keras.Model, form: str = FLOAT32, *, images: np.ndarray | None = None,
            options: TFLiteOptions = TFLiteOptions(), pixels: PixelRange = BYTES) -> bytes:
    """The TFLite flatbuffer of a model in one of the forms, signature as the SavedModel's.

    images, pixels: representative images [N, H, W, C] and their range, for INT8 alone.

    ValueError naming the operators that TFLite lacks.
    """
    module, function = inference(model, options)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if form != FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    elif form == INT8:
        if images is None:
            raise ValueError(f'form {INT8!r} needs representative images, received None')
        converter.representative_dataset = lambda: calibration_images(images, pixels)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.as_dtype(options.io)
        converter.inference_output_type = tf.as_dtype(options.io)
    return run_converter(converter, model.name)


def run_converter(converter: Any, name: str) -> bytes:
    """What a tf.lite.TFLiteConverter makes; ValueError naming the model and what TFLite lacks."""
    try:
        return converter.convert()
    except Exception as error:  # ConverterError is private; its text is pages of locations.
        missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", str(error))))
        reason = (f'TFLite has no operator for: {", ".join(missing)}' if missing
                  else first_line(error))
        raise ValueError(f'model {name!r} does not convert to TFLite: {reason}') from error


def inference(model: keras.Model, options: TFLiteOptions
              ) -> tuple[tf.Module, tf.types.experimental.ConcreteFunction]:
    """(owner of the variables, images -> outputs) with the batch and the softmax of the options."""
    module = saved_model.serving_module(model, options.batch)
    function = module.serve.get_concrete_function()
    if not options.softmax or outputs_probabilities(model):
        return module, function

    @tf.function(input_signature=function.structured_input_signature[0])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, = module.serve(images).values()
        return {'probabilities': tf.nn.softmax(logits)}
    return module, serve.get_concrete_function()


def calibration_images(images: np.ndarray, pixels: PixelRange) -> Iterator[list[np.ndarray]]:
    """Images one at a time, [1, H, W, C] float32, as the converter observes ranges.

    Two corners of the first are made black and white: the 256 integers of the input are then the
    bytes of a picture, whatever images these are. Where it is not known what those are, the corners
    are the lowest and the highest value of the data.
    """
    black, white = (pixels.low, pixels.high) if pixels.black is None else (
        pixels.black, pixels.white)
    for position, image in enumerate(images):
        image = np.array(image[np.newaxis], np.float32)
        if position == 0:
            image[:, 0, 0], image[:, -1, -1] = black, white
        yield [image]


def write(model: keras.Model, path: pathlib.Path, context: WriteContext, *,
          form: str = FLOAT32) -> None:
    """Writes the file of a form, with metadata; warns of what an INT8 file still does in float."""
    content = convert(model, form, images=context.representative, options=context.tflite,
                      pixels=context.pixels)
    in_float = operator_cost.float_operators(content) if form == INT8 else []
    if in_float:
        warnings.warn(f'model {model.name!r}: TFLite has no int8 kernel for '
                      f'{", ".join(in_float)}: they stay float32 in {path.name}', stacklevel=2)
    write_content(content, model, path, context)


def write_content(content: bytes, model: keras.Model, path: pathlib.Path, context: WriteContext
                  ) -> None:
    """Writes a flatbuffer that was made of `model`, with metadata."""
    path.write_bytes(add_metadata(
        content, name=model.name, class_names=context.class_names or (), pixels=context.pixels,
        probabilities=context.tflite.softmax or outputs_probabilities(model)))


def form_of(content: bytes) -> str:
    """The form that a TFLite file has, by the numbers that its products take.

    A quantized file without any quantized product, of a very small model, is FLOAT32 by this.
    """
    found = operator_cost.number_formats(content)
    data, weights = {data for data, _ in found}, {weights for _, weights in found}
    if data - {'FLOAT32', 'FLOAT16'}:
        return INT8
    if weights - {'FLOAT32', 'FLOAT16'}:
        return DYNAMIC
    return FLOAT16 if 'FLOAT16' in weights else FLOAT32


def open_file(path: pathlib.Path, form: str | None = None) -> Artifact:
    """Opens a .tflite file with one image input and one output [N, classes], float32 or 8 bit.

    Integers are de- and requantized outside, so that all forms take and give the same. The form is
    found from the content if it is not given.
    """
    content = path.read_bytes()
    run = Runner(content, str(path))
    inputs, outputs = run.inputs, run.outputs
    if (len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]['shape']) != 4
            or len(outputs[0]['shape']) != 2
            or any(detail['dtype'] not in _TYPES for detail in (inputs[0], outputs[0]))):
        described = ', '.join(f'{d["name"]}: {np.dtype(d["dtype"]).name} '
                              f'[{dims(tuple(d["shape"]))}]' for d in inputs + outputs)
        raise ValueError(f'{path}: expected images [N, H, W, C] and one output [N, classes], each '
                         f'float32, uint8 or int8; the file has {described}')
    height, width, channels = (int(size) for size in inputs[0]['shape'][1:])
    return Artifact(path=path, form=form or form_of(content), image_shape=(height, width, channels),
                    num_classes=int(outputs[0]['shape'][1]), run=run,
                    cost=lambda: operator_cost.tflite_cost(content))


_ADVICE = {INT8: 'fine-tune under rounding: --quantize=int8_qat',
           DYNAMIC: '--quantize=float16 keeps it'}


def format_of(form: str, location: str, *, tolerance: float | None) -> Format:
    """The Format of a form; that of FLOAT32 opens any .tflite file, as whatever it turns out to be.
    """
    return Format(location=location, write=functools.partial(write, form=form),
                  open=functools.partial(open_file, form=None if form == FLOAT32 else form),
                  tolerance=tolerance, needs_images=form == INT8, has_io=form == INT8,
                  family='tflite', advice=_ADVICE.get(form, Format.advice),
                  is_always_written=form == FLOAT32)


FORMAT = format_of(FLOAT32, 'model.tflite', tolerance=1e-4)
# Eleven significant bits a weight.
FLOAT16_FORMAT = format_of(FLOAT16, 'model_float16.tflite', tolerance=1e-2)
DYNAMIC_FORMAT = format_of(DYNAMIC, 'model_dynamic.tflite', tolerance=None)
INT8_FORMAT = format_of(INT8, 'model_int8.tflite', tolerance=None)
