"""A user's own model, from a .keras file: loaded without running code of the file, and checked.

It takes raw pixels 0..255, so that its own layers have to normalize them, and gives logits or the
probabilities of a softmax.
"""

import json
import pathlib
import re
import runpy
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.config import split_names
from tfprune.errors import first_line
from tfprune.models.outputs import last_activation
from tfprune.structure.composite import Opened
from tfprune.structure.copies import copied
from tfprune.structure.graph import functional_graph
from tfprune.structure.keras_internals import (clone_model, counted_names, layers_within, maker,
                                               uncompiled, without_random_weights)

SUFFIX = '.keras'
_HDF5 = ('.h5', '.hdf5')
_NAME = re.compile(r'[\w.\\/>-]*', re.ASCII)  # what TensorFlow takes as the name of a scope


def run_custom_layers(paths: str) -> None:
    """Runs comma-separated Python files, so that the classes that they register can be loaded.

    ValueError, in one line, names the file that is missing or fails.
    """
    for path in map(pathlib.Path, split_names(paths)):
        if not path.is_file():
            raise ValueError(f'custom_layers {path}: no such file')
        try:
            runpy.run_path(str(path), run_name=path.stem)
        except (Exception, SystemExit) as error:  # a user's code: anything
            text = ' '.join(str(error).split())
            raise ValueError(f'custom_layers {path}: {type(error).__name__}: {text}') from error


def load_model_file(
    path: str | pathlib.Path,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    dtype_policy: str = 'float32',
) -> keras.Model:
    """The classifier in a .keras file, weights included; each layer keeps its own dtype policy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .keras file, damaged, needs code that is not registered, or does not
            fit `image_shape` and `num_classes`; or `dtype_policy` is not that of its layers.
    """
    path = pathlib.Path(path)
    model = read_keras_file(path)
    model = as_classifier(
        model, source=f"model '{path}'", image_shape=image_shape, num_classes=num_classes)
    policies = {layer.dtype_policy.name for layer in layers_within(model, itself=False)}
    if dtype_policy != 'float32' and dtype_policy not in policies:
        raise ValueError(
            f"model '{path}': its layers have their own dtype policy, {', '.join(sorted(policies))}"
            f'; for {dtype_policy} build and save it under keras.config.set_dtype_policy')
    return model


def read_keras_file(path: pathlib.Path) -> keras.Model:
    """Loads a .keras file in safe mode: no code of the file runs, custom classes are registered.

    Raises ValueError, in one line, if it cannot be loaded.
    """
    _check_kind(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f'{path}: not a {SUFFIX} file (a zip archive), or a damaged one')
    try:
        with zipfile.ZipFile(path) as archive:
            _check_lambdas(json.loads(archive.read('config.json')))
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        check_weights(model)
        return model
    # Keras raises nearly any type for a damaged or unsafe archive.
    except (Exception, SystemExit) as error:
        raise ValueError(f'{path}: cannot be loaded: {_reason(error)}') from error


def check_loads(model: keras.Model) -> None:
    """ValueError, in one line, says what of a model's configuration `read_keras_file` would refuse.
    """
    try:
        with uncompiled(model):
            text = model.to_json()
        _check_lambdas(json.loads(text))
        with counted_names(), without_random_weights():
            keras.models.model_from_json(text)
    except Exception as error:  # of a user's class
        raise ValueError(f'a file of it could not be loaded: {_reason(error)}') from error


def check_weights(model: keras.Model) -> None:
    """ValueError names the first weight with a value that is NaN or infinite."""
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            count = int(value.size - np.isfinite(value).sum())
            raise ValueError(f"weight '{weight.path}': expected finite numbers, received {count} "
                             f'of {value.size} that are NaN or infinite')


def check_names(model: keras.Model, source: str) -> None:
    """ValueError, in one line, for a name of a model or layer that TensorFlow neither traces nor
    saves; Keras runs such a model step by step alone. Inputs may have any name."""
    paths = {weight.path.partition('/')[0] for weight in model.weights}
    names = [layer.name for layer in layers_within(model)
             if not isinstance(layer, keras.layers.InputLayer)]
    for name in names:
        is_first = name == model.name or name in paths
        if not _NAME.fullmatch(name) or is_first and name[:1] in '_/\\>-':
            raise ValueError(f"{source}: TensorFlow has no graph of the name '{name}': expected "
                             'letters, digits and . _ - alone, a letter or digit first; rename '
                             f'{"the model" if name == model.name else "the layer"}')


def as_classifier(
    model: keras.Model, *, source: str, image_shape: tuple[int, int, int], num_classes: int,
) -> keras.Model:
    """The same layers as a model of one image tensor [B, H, W, C] to one tensor [B, num_classes].

    Args:
        source: how a message calls the model.
        image_shape: (H, W, C) of the data.
        num_classes: of the data.

    Raises ValueError, in one line, if the model is not such a classifier or cannot be traced.
    """
    graph = plain_graph(model, source)
    check_names(model, source)
    for kind, tensors in (('input', model.inputs), ('output', model.outputs)):
        if len(tensors) != 1:
            names = ', '.join(maker(tensor).name for tensor in tensors)
            raise ValueError(f'{source}: expected one {kind}, received {len(tensors)}: {names}')
    taken, given = model.inputs[0].shape, model.outputs[0].shape
    if len(taken) != 4 or taken[0] is not None or taken[3] is None:
        raise ValueError(f'{source}: expected an input of images [None, height, width, channels], '
                         f'received {list(taken)}')
    if any(size not in (None, here) for size, here in zip(taken[1:], image_shape)):
        raise ValueError(
            f'{source}: takes images {list(taken[1:])}, those of the data are {list(image_shape)}'
            f'{resized(taken[1:], image_shape)}')
    if len(given) != 2 or given[1] is None:
        raise ValueError(f'{source}: expected an output [None, classes], received {list(given)}')
    if given[1] != num_classes:
        hint = ' (one output a class, also for two)' if given[1] == 1 else ''
        raise ValueError(
            f'{source}: gives {given[1]} outputs, the data have {num_classes} classes{hint}')
    if last_activation(model) == 'sigmoid':
        raise ValueError(f'{source}: ends in a sigmoid; expected logits or a softmax over classes')
    if not model.trainable_variables:
        raise ValueError(f'{source}: has no trainable weights')
    _check_precision(model, source)
    if None in taken[1:]:
        return at_image_shape(model, image_shape, source)
    if all(isinstance(ends, keras.KerasTensor) for ends in (graph.input, graph.output)):
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # out of list or dict


def resized(taken: Sequence[int | None], shape: Sequence[int]) -> str:
    """What would make images suit, of sizes that a flag can ask for."""
    height, width, channels = taken
    if not height or height != width or channels != shape[-1]:
        return ''
    return f': --image_size={height} resizes those of a data set by name'


def _check_precision(model: keras.Model, source: str) -> None:
    """ValueError, in one line, for numbers that the model's optimizer does not train with."""
    scales_loss = model.compiled and isinstance(model.optimizer,
                                                keras.optimizers.LossScaleOptimizer)
    for layer in layers_within(model):
        if isinstance(layer, keras.Model):
            continue
        kinds = {keras.backend.standardize_dtype(weight.dtype) for weight in layer.weights}
        if layer.compute_dtype == 'float16' and not scales_loss:
            what = 'computes in float16, which needs loss scaling'
        elif wrong := kinds & {'float16', 'bfloat16', 'float64'}:
            what = f'keeps weights in {min(wrong)}'
        else:
            continue
        raise ValueError(
            f"{source}: layer '{layer.name}' {what}; expected float32 or mixed_bfloat16: give a "
            "copy, tfprune.prune_model(model, tfprune.trace_groups(model), {}, "
            "dtype_policy='float32')")


def plain_graph(model: keras.Model, source: str) -> Any:
    """The graph of a functional or Sequential model; ValueError, in one line, without one."""
    try:
        graph = functional_graph(model)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{source}: {error}') from None
    if isinstance(graph, Opened):
        raise ValueError(f"{source}: model '{model.name}' ({type(model).__name__}) is a subclassed "
                         'model: give keras.Model(x, model(x)) of a keras.Input x')
    return graph


def at_image_shape(model: keras.Model, image_shape: tuple[int, int, int], source: str
                   ) -> keras.Model:
    """A model of images of any size on those of one, as costs and exports need it.

    ValueError names `source` and the layer that it does not suit.
    """
    image = keras.Input(image_shape, name=model.inputs[0].name)
    try:
        # The functional graph: a Sequential model is built anew for each size, and what it is left
        # with where that fails has no inputs any more.
        graph = functional_graph(model)
        output, = keras.tree.flatten(graph(keras.tree.map_structure(lambda _: image, graph.input)))
        return keras.Model(image, output, name=model.name)
    except Exception as error:  # of whatever layer the size does not suit
        raise ValueError(f'{source}: does not take images {list(image_shape)}: '
                         f'{first_line(error, 300)}') from error


def at_shapes(model: keras.Model, shapes: Mapping[str, Sequence[int | None]], source: str
              ) -> keras.Model:
    """A model that can be trained on examples of these shapes, with the weights of `model`: itself
    unless it takes inputs of any size, of which costs and exports need one.

    Args:
        shapes: of the examples' inputs by name, without the batch.

    Raises:
        ValueError: names `source`: it cannot be traced, or a name in it, has no weights that train,
            computes in numbers that are not trained, or does not suit the shapes.
    """
    graph = plain_graph(model, source)
    check_names(model, source)
    if not model.trainable_variables:
        raise ValueError(f'{source}: has no trainable weights')
    _check_precision(model, source)
    if not any(None in tensor.shape[1:] for tensor in graph.inputs):
        return model
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(tuple(shapes[tensor.name]), tensor.shape[0], tensor.dtype,
                                   name=tensor.name), graph.input)
    try:
        fixed = clone_model(model, input_tensors=inputs, clone_function=copied)
        fixed.set_weights(model.get_weights())
    except Exception as error:  # of whatever layer the size does not suit
        raise ValueError(f'{source}: does not take examples of {dict(shapes)}: '
                         f'{first_line(error, 300)}') from error
    return fixed


def _check_kind(path: pathlib.Path) -> None:
    if path.is_dir():
        kind = 'a SavedModel' if (path / 'saved_model.pb').exists() else 'a directory'
    elif path.suffix in _HDF5:
        kind = 'an HDF5 file'
    elif path.suffix != SUFFIX:
        kind = f"a file of suffix '{path.suffix}'"
    elif path.exists():
        return
    else:
        raise FileNotFoundError(f"model '{path}': no such file")
    raise ValueError(
        f"model '{path}': expected a {SUFFIX} file, received {kind}; "
        f"model.save('name{SUFFIX}') of Keras 3 writes one")


def _check_lambdas(config: Any) -> None:
    name = next(_lambdas(config), None)
    if name is not None:
        raise ValueError(
            f"layer '{name}' is a Lambda, whose code is in the file and is not run: replace it "
            'by a layer of Keras or a registered class')


def _lambdas(config: Any) -> Iterator[str]:
    """Names of the layers in a model's config that bring their code along."""
    if isinstance(config, dict):
        inner = config.get('config')
        if (config.get('class_name') == 'Lambda' and isinstance(inner, dict)
                and '__lambda__' in json.dumps(inner)):
            yield inner.get('name', 'lambda')
        for value in config.values():
            yield from _lambdas(value)
    elif isinstance(config, list):
        for value in config:
            yield from _lambdas(value)


def _reason(error: BaseException) -> str:
    """The innermost message, without the config of the object that Keras puts behind it."""
    text = str(error).rpartition('Exception encountered: ')[2].partition(' Full object config')[0]
    return ' '.join(text.split())[:300] or type(error).__name__
