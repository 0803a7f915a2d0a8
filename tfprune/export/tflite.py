"""The float32 TFLite file."""

from __future__ import annotations

import os
import pathlib
import re

import keras
import numpy as np
import tensorflow as tf

from tfprune.export import operator_cost, saved_model
from tfprune.export.base import Artefact, Format, WriteContext, dims, one_line
from tfprune.export.interpreter import open_interpreter


def convert(model: keras.Model) -> bytes:
    """The TFLite flatbuffer of a model, float32, signature as the SavedModel's.

    The batch dimension is dynamic: 1 unless the interpreter resizes it. ValueError naming the
    operators that TFLite lacks.
    """
    module = saved_model.serving_module(model)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.serve.get_concrete_function()], module)
    try:
        return converter.convert()
    except Exception as error:  # ConverterError is private; its text is pages of locations.
        missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", str(error))))
        reason = (f'TFLite has no operator for: {", ".join(missing)}' if missing
                  else one_line(error))
        raise ValueError(f'model {model.name!r} does not convert to TFLite: {reason}') from error


def write(model: keras.Model, path: pathlib.Path, context: WriteContext) -> None:
    """Writes the float32 file."""
    del context
    path.write_bytes(convert(model))


def open_file(path: pathlib.Path) -> Artefact:
    """Opens a .tflite file with one float32 image input and one float32 output."""
    content = path.read_bytes()
    interpreter = open_interpreter(content, threads=os.cpu_count(), name=str(path))
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    described = ', '.join(f'{d["name"]}: {np.dtype(d["dtype"]).name} [{dims(tuple(d["shape"]))}]'
                          for d in inputs + outputs)
    if (len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]['shape']) != 4
            or len(outputs[0]['shape']) != 2
            or {inputs[0]['dtype'], outputs[0]['dtype']} != {np.float32}):
        raise ValueError(f'{path}: expected float32 images [N, H, W, C] and one float32 output '
                         f'[N, classes], the file has {described}')
    height, width, channels = (int(size) for size in inputs[0]['shape'][1:])
    source, sink = inputs[0]['index'], outputs[0]['index']

    def run(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(source, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(sink)

    return Artefact(path=path, form='tflite', image_shape=(height, width, channels),
                    num_classes=int(outputs[0]['shape'][1]), run=run,
                    cost=lambda: operator_cost.tflite_cost(content))


FORMAT = Format(location='model.tflite', write=write, open=open_file, tolerance=1e-4)
