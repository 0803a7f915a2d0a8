"""TFLite files: float32, float16 weights, int8 weights (dynamic range), int8 throughout."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from tfprune.data.pixels import BYTES, PixelRange
from tfprune.errors import first_line
from tfprune.export import operator_cost, saved_model, serving
from tfprune.export.base import Artifact, Format, Signature, TFLiteOptions, WriteContext, dims
from tfprune.export.interpreter import Runner, stands_for_float
from tfprune.export.metadata import add_metadata
from tfprune.models.outputs import outputs_probabilities
from tfprune.progress import hush_saving
from tfprune.structure.keras_internals import layers_within

FLOAT32, FLOAT16, DYNAMIC, INT8 = 'tflite', 'tflite_float16', 'tflite_dynamic', 'tflite_int8'


def convert(model: keras.Model, form: str = FLOAT32, *, images: Any = None,
            options: TFLiteOptions = TFLiteOptions(), pixels: PixelRange = BYTES) -> bytes:
    """The TFLite flatbuffer of a model in one of the forms, signature as the SavedModel's.

    images, pixels: representative images [N, H, W, C] and their range, or whatever else the model
        takes, for INT8 alone.

    Layers that recur are written as a loop; where TFLite has none, of integers and of any batch,
    step by step. The fused LSTM of TFLite is not used: it goes on from the state of the call
    before, unless the client resets it.

    ValueError naming the operators that TFLite lacks.
    """
    signature = Signature.of(model)
    options = options.fitting(signature)
    with unrolled(model, form == INT8 or not options.batch):
        module, function = inference(model, options)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if form != FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form == FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    elif form == INT8:
        if images is None:
            raise ValueError(f'form {INT8!r} needs representative images, received None')
        check_loops(function, model.name)
        converter.representative_dataset = lambda: calibration_examples(signature, images, pixels)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.as_dtype(options.io)
        converter.inference_output_type = tf.as_dtype(options.io)
    return in_order(run_converter(converter, model.name), signature)


@contextlib.contextmanager
def unrolled(model: keras.Model, asked: bool) -> Iterator[None]:
    """While it lasts, the recurrent layers of a model are traced step by step, if asked."""
    layers = [layer for layer in layers_within(model)
              if asked and isinstance(layer, keras.layers.RNN) and not layer.unroll]
    for layer in layers:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in layers:
            layer.unroll = False


def check_loops(function: tf.types.experimental.ConcreteFunction, name: str) -> None:
    """ValueError if a graph has a loop: calibration would end the process."""
    graph = function.graph.as_graph_def()
    bodies = (graph.node, *(function.node_def for function in graph.library.function))
    loops = sorted({node.op for body in bodies for node in body} & {'While', 'StatelessWhile'})
    if loops:
        raise ValueError(f'model {name!r} does not convert to TFLite: it has no int8 form of: '
                         f'{", ".join(loops)}')


def in_order(content: bytes, signature: Signature) -> bytes:
    """A flatbuffer whose inputs and outputs have the order of the model: the converter has its own.
    """
    if len(signature.inputs) == len(signature.outputs) == 1:
        return content
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    definition, = model.signatureDefs
    graph = model.subgraphs[definition.subgraphIndex]
    tensors = [{entry.name.decode(): int(entry.tensorIndex) for entry in entries}
               for entries in (definition.inputs, definition.outputs)]
    graph.inputs = [tensors[0][name] for name in serving.input_names(signature)]
    graph.outputs = [tensors[1][name] for name in signature.outputs]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b'TFL3')
    return bytes(builder.Output())


def run_converter(converter: Any, name: str) -> bytes:
    """What a tf.lite.TFLiteConverter makes; ValueError naming the model and what TFLite lacks."""
    try:
        with hush_saving(), warnings.catch_warnings():
            # Of examples by name: its move to another package.
            warnings.filterwarnings('ignore', r'\s*Warning: tf.lite.Interpreter', UserWarning)
            return converter.convert()
    except Exception as error:  # ConverterError is private; its text is pages of locations.
        missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", str(error))))
        reason = (f'TFLite has no operator for: {", ".join(missing)}' if missing
                  else first_line(error))
        raise ValueError(f'model {name!r} does not convert to TFLite: {reason}') from error


def inference(model: keras.Model, options: TFLiteOptions
              ) -> tuple[tf.Module, tf.types.experimental.ConcreteFunction]:
    """(owner of the variables, inputs -> outputs) with the batch and the softmax of the options."""
    check_softmax(model, options)
    module = saved_model.serving_module(model, options.batch)
    function = module.serve.get_concrete_function()
    if not options.softmax or outputs_probabilities(model):
        return module, function

    @tf.function(autograph=False, input_signature=function.structured_input_signature[0])
    def serve(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, = module.serve(*tensors).values()
        return {'probabilities': tf.nn.softmax(logits)}
    return module, serve.get_concrete_function()


def check_softmax(model: keras.Model, options: TFLiteOptions) -> None:
    """ValueError if a softmax is asked of a model that gives no classes."""
    outputs = Signature.of(model).outputs
    if options.softmax and Signature.of(model).num_classes is None:
        described = ', '.join(f'[{dims((None, *shape))}]' for shape in outputs.values())
        raise ValueError(f'tflite_softmax: model {model.name!r} is no classifier: expected one '
                         f'output [None, classes], received {described}')


def calibration_examples(signature: Signature, examples: Any, pixels: PixelRange
                         ) -> Iterator[list[np.ndarray] | dict[str, np.ndarray]]:
    """Examples one at a time, [1, …], as the converter observes ranges; of several inputs by name.

    Two corners of the first image are made black and white: the 256 integers of the input are then
    the bytes of a picture, whatever images these are. Where it is not known what those are, the
    corners are the lowest and the highest value of the data.
    """
    black, white = (pixels.low, pixels.high) if pixels.black is None else (
        pixels.black, pixels.white)
    arrays = list(signature.arrays(examples, 'representative_data').values())
    dtypes = [dtype for _, dtype in signature.inputs.values()]
    for position in range(len(arrays[0])):
        values = [np.array(array[position:position + 1], dtype)
                  for array, dtype in zip(arrays, dtypes)]
        if position == 0 and signature.image_shape is not None:
            values[0][:, 0, 0], values[0][:, -1, -1] = black, white
        yield values if len(values) == 1 else dict(zip(signature.inputs, values))


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
    """Writes a flatbuffer that was made of `model`, with metadata if it classifies pictures."""
    if Signature.of(model).is_picture_classifier:
        content = add_metadata(
            content, name=model.name, class_names=context.class_names or (), pixels=context.pixels,
            probabilities=context.tflite.softmax or outputs_probabilities(model))
    path.write_bytes(content)


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
    """Opens a .tflite file of inputs [N, …] of a fixed size, float or integer.

    Integers that stand for real numbers are de- and requantized outside, so that all forms take and
    give the same. The form is found from the content if it is not given.
    """
    content = path.read_bytes()
    run = Runner(content, str(path))
    details = [*run.inputs.values(), *run.outputs.values()]
    if (not run.inputs or not run.outputs
            or any(not len(detail['shape']) or np.dtype(detail['dtype']).kind not in 'fiub'
                   for detail in details)
            or any(-1 in detail['shape_signature'][1:] for detail in run.inputs.values())):
        described = ', '.join(f'{detail["name"]}: {np.dtype(detail["dtype"]).name} '
                              f'[{dims(detail["shape_signature"])}]' for detail in details)
        raise ValueError(f'{path}: expected inputs [N, …] of a fixed size and outputs [N, …] of '
                         f'numbers; the file has {described or "neither"}')
    signature = Signature(
        {name: (sizes(detail), 'float32' if stands_for_float(detail)
                else np.dtype(detail['dtype']).name) for name, detail in run.inputs.items()},
        {name: sizes(detail) for name, detail in run.outputs.items()})
    return Artifact(path=path, form=form or form_of(content), signature=signature, run=run,
                    cost=lambda: operator_cost.tflite_cost(content))


def sizes(detail: dict[str, Any]) -> tuple[int, ...]:
    """Shape of a tensor without the batch, -1 for what is open."""
    return tuple(int(size) for size in detail['shape_signature'][1:])


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
