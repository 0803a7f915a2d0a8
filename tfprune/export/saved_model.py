"""The SavedModel, versioned as TensorFlow Serving wants it: needs TensorFlow alone."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.errors import first_line
from tfprune.export import operator_cost, serving, warmup
from tfprune.export.base import Artifact, Format, Signature, WriteContext, dims
from tfprune.export.keras_file import named_answers
from tfprune.progress import hush_saving

SIGNATURE = serving.DEFAULT


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What serve_bytes answers on N images.

    probabilities: float32 [N, K].   classes: names of the k = min(5, K) likeliest, likeliest first,
    str [N, k].   scores: their probabilities, float32 [N, k].
    """

    probabilities: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def serving_module(model: keras.Model, batch: int = 0) -> tf.Module:
    """A tf.Module with `serve`: the inputs in order -> {output: [N, …]}; batch: N, or 0 for any.

    Of a picture classifier the input is called 'images'; all else has the names of Signature. The
    functions `input_names` and `output_names` keep their order, which signatures do not.
    """
    signature = Signature.of(model)
    module = tf.Module()
    # The bare tf.Variables: a Keras 3 model as the tracked object makes the TFLite converter keep
    # its variables as resources, and the resulting file answers NaN.
    module.weights = [variable.value for variable in model.variables]

    def serve(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        return named_answers(model, signature, tensors)

    names = serving.input_names(signature)
    module.serve = tf.function(serve, autograph=False, input_signature=[
        tf.TensorSpec([batch or None, *shape], dtype, name=name)
        for name, (shape, dtype) in zip(names, signature.inputs.values())])
    module.input_names = tf.function(lambda: tf.constant(names), input_signature=[])
    module.output_names = tf.function(lambda: tf.constant(list(signature.outputs)),
                                      input_signature=[])
    return module


def write(model: keras.Model, path: pathlib.Path, context: WriteContext) -> None:
    """Saves a SavedModel with the signatures, and the warm-up requests, of tfprune.export.serving.
    """
    module = serving_module(model)
    signatures = serving.signatures(model, module.serve, context.class_names, context.pixels)
    with hush_saving():
        tf.saved_model.save(module, str(path), signatures=signatures)
    warmup.write_warmup(path, serving.warmup_requests(model, context.pixels))


def find_version(path: pathlib.Path) -> pathlib.Path | None:
    """The SavedModel in a directory: itself, or its highest numbered version; None without one."""
    if (path / 'saved_model.pb').is_file():
        return path
    versions = [child for child in path.iterdir()
                if child.name.isdecimal() and (child / 'saved_model.pb').is_file()]
    return max(versions, key=lambda version: int(version.name)) if versions else None


def described(specs: dict[str, tf.TensorSpec]) -> str:
    """'images: float32 [None, 32, 32, 3]' for each."""
    return ', '.join(f'{name}: {spec.dtype.name} '
                     f'[{"?" if spec.shape.rank is None else dims(spec.shape.as_list())}]'
                     for name, spec in specs.items())


def load_signature(path: pathlib.Path, signature: str) -> tuple[pathlib.Path, Any]:
    """The SavedModel at `path`, or its highest version: (its directory, the loaded object).

    ValueError unless it loads and has the signature. Use the signature by way of the object, which
    owns the variables: a signature holds them weakly.
    """
    directory = find_version(path)
    if directory is None:
        raise ValueError(f'{path}: no SavedModel here: neither saved_model.pb nor a version '
                         'directory such as 1/')
    try:
        loaded = tf.saved_model.load(str(directory))
    except Exception as error:  # a damaged file raises errors of tf, of protobuf, KeyError, …
        raise ValueError(f'{directory}: cannot be loaded: {first_line(error)}') from error
    signatures = getattr(loaded, 'signatures', {})
    if signature not in signatures:
        raise ValueError(f'{directory}: expected a signature {signature!r}, found: '
                         f'{", ".join(sorted(signatures)) or "none"}')
    return directory, loaded


def open_directory(path: pathlib.Path) -> Artifact:
    """Opens a SavedModel directory, or the highest version below it, by serving_default."""
    directory, loaded = load_signature(path, SIGNATURE)
    signature = signature_of(directory, loaded)

    def run(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = loaded.signatures[SIGNATURE](
            **{name: tf.constant(array) for name, array in arrays.items()})
        return {name: answer[name].numpy() for name in signature.outputs}

    return Artifact(path=path, form='saved_model', signature=signature, run=run,
                    cost=lambda: operator_cost.graph_cost(loaded.signatures[SIGNATURE]))


def signature_of(directory: pathlib.Path, loaded: Any) -> Signature:
    """What serving_default takes and gives; ValueError unless its inputs are of fixed sizes.

    In the order of the model, where that is known; in a signature it is that of the alphabet.
    """
    serve = loaded.signatures[SIGNATURE]
    inputs, outputs = serve.structured_input_signature[1], serve.structured_outputs
    if not inputs or any(spec.shape.rank is None or not spec.shape.rank
                         or None in spec.shape.as_list()[1:] for spec in inputs.values()):
        raise ValueError(f'{directory}: expected {SIGNATURE!r} to take inputs [None, …] of a fixed '
                         f'size, it takes {described(inputs) or "none"}')
    if not outputs or any(not spec.shape.rank for spec in outputs.values()):
        raise ValueError(f'{directory}: expected {SIGNATURE!r} to give outputs [None, …], it gives '
                         f'{described(outputs) or "none"}')
    ordered = {name: inputs[name] for name in known_order(loaded, 'input_names', inputs)}
    return Signature(
        {name: (tuple(spec.shape[1:]), spec.dtype.name) for name, spec in ordered.items()},
        {name: tuple(-1 if size is None else size for size in outputs[name].shape.as_list()[1:])
         for name in known_order(loaded, 'output_names', outputs)})


def known_order(loaded: Any, function: str, names: Iterable[str]) -> list[str]:
    """Names of a signature in the order that a function of `serving_module` gives."""
    tell = getattr(loaded, function, None)
    known = [name.decode() for name in tell().numpy()] if callable(tell) else []
    return known if set(known) == set(names) else list(names)


def open_bytes(path: str | os.PathLike[str]) -> Callable[[Sequence[bytes]], Predictions]:
    """Opens a SavedModel, or the highest version below it, by serve_bytes: a function of N encoded
    images.

    ValueError if it has no such signature; from the function, naming the first images that cannot
    be decoded by their position.
    """
    directory, loaded = load_signature(pathlib.Path(path), serving.BYTES)

    def run(encoded: Sequence[bytes]) -> Predictions:
        images = tf.constant(list(encoded), tf.string, shape=[len(encoded)])
        try:
            answer = loaded.signatures[serving.BYTES](**{serving.IMAGE_BYTES: images})
        except tf.errors.InvalidArgumentError as error:
            found = re.search(r'assertion failed: \[(.*?)\]$', error.message, re.MULTILINE)
            raise ValueError(f'{directory}: {found[1] if found else first_line(error)}') from error
        return Predictions(answer['probabilities'].numpy(),
                           np.char.decode(answer['classes'].numpy().astype(np.bytes_), 'utf-8'),
                           answer['scores'].numpy())

    return run


FORMAT = Format(location='saved_model/1', write=write, open=open_directory, tolerance=1e-4,
                family='saved_model', is_always_written=True)
