"""The SavedModel, versioned as TensorFlow Serving wants it: needs TensorFlow alone."""

from __future__ import annotations

import logging
import pathlib

import keras
import numpy as np
import tensorflow as tf

from tfprune.export import operator_cost
from tfprune.export.base import Artefact, Format, WriteContext, dims, image_shape_of, one_line

SIGNATURE = 'serving_default'
INPUT_NAME = 'images'


def serving_module(model: keras.Model) -> tf.Module:
    """A tf.Module with `serve`: float32 images [None, H, W, C], raw pixels -> {name: [None, K]}.

    The output has the name of the model's output layer, 'logits' for the models of tfprune.
    """
    module = tf.Module()
    # The bare tf.Variables: a Keras 3 model as the tracked object makes the TFLite converter keep
    # its variables as resources, and the resulting file answers NaN.
    module.weights = [variable.value for variable in model.variables]
    # A Sequential has no output_names.
    output_name, = getattr(model, 'output_names', None) or [model.layers[-1].name]

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {output_name: model(images, training=False)}

    signature = [tf.TensorSpec([None, *image_shape_of(model)], tf.float32, name=INPUT_NAME)]
    module.serve = tf.function(serve, input_signature=signature)
    return module


def write(model: keras.Model, path: pathlib.Path, context: WriteContext) -> None:
    """Saves a SavedModel with the signature serving_default."""
    del context
    module = serving_module(model)
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # 'Assets written to: …', once per save.
    try:
        tf.saved_model.save(module, str(path), signatures={SIGNATURE: module.serve})
    finally:
        logger.setLevel(level)


def find_version(path: pathlib.Path) -> pathlib.Path | None:
    """The SavedModel in a directory: itself, or its highest numbered version; None without one."""
    if (path / 'saved_model.pb').is_file():
        return path
    versions = [child for child in path.iterdir()
                if child.name.isdecimal() and (child / 'saved_model.pb').is_file()]
    return max(versions, key=lambda version: int(version.name)) if versions else None


def described(specs: dict[str, tf.TensorSpec]) -> str:
    """'images: float32 [None, 32, 32, 3]' for each."""
    return ', '.join(f'{name}: {spec.dtype.name} [{dims(tuple(spec.shape))}]'
                     for name, spec in specs.items())


def open_directory(path: pathlib.Path) -> Artefact:
    """Opens a SavedModel directory, or the highest version below it, by serving_default."""
    directory = find_version(path)
    if directory is None:
        raise ValueError(f'{path}: no SavedModel here: neither saved_model.pb nor a version '
                         'directory such as 1/')
    try:
        loaded = tf.saved_model.load(str(directory))
    except Exception as error:  # a damaged file raises errors of tf, of protobuf, KeyError, …
        raise ValueError(f'{directory}: cannot be loaded: {one_line(error)}') from error
    signatures = getattr(loaded, 'signatures', {})
    if SIGNATURE not in signatures:
        raise ValueError(f'{directory}: expected a signature {SIGNATURE!r}, found: '
                         f'{", ".join(sorted(signatures)) or "none"}')
    serve = signatures[SIGNATURE]
    inputs = serve.structured_input_signature[1]
    outputs = serve.structured_outputs
    input_name, spec = next(iter(inputs.items()))
    if (len(inputs) != 1 or spec.dtype != tf.float32 or spec.shape.rank != 4
            or None in spec.shape.as_list()[1:]):
        raise ValueError(f'{directory}: expected {SIGNATURE!r} to take float32 images '
                         f'[None, H, W, C], it takes {described(inputs)}')
    (output_name, output), *more = outputs.items()
    if more or output.shape.rank != 2:
        raise ValueError(f'{directory}: expected {SIGNATURE!r} to give one output '
                         f'[None, classes], it gives {described(outputs)}')

    # Below by way of `loaded`, which owns the variables: a signature holds them weakly.
    def run(images: np.ndarray) -> np.ndarray:
        answer = loaded.signatures[SIGNATURE](**{input_name: tf.constant(images)})
        return answer[output_name].numpy()

    return Artefact(path=path, form='saved_model', image_shape=tuple(spec.shape[1:]),
                    num_classes=int(output.shape[1]), run=run,
                    cost=lambda: operator_cost.graph_cost(loaded.signatures[SIGNATURE]))


FORMAT = Format(location='saved_model/1', write=write, open=open_directory, tolerance=1e-4)
