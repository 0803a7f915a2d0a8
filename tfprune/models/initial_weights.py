"""Initial weights from a file, checked whole before the first is assigned.

`.npz`         arrays named '<layer>/<variable>' in Keras' layouts (convolutions [height, width, in,
               out], dense [in, out]); NPZ_NAMES translates the names of public CIFAR ResNet code.
`.weights.h5`  of `model.save_weights`.
`.keras`       of `model.save`, loaded in safe mode; weights are matched by layer name.

The file and the model must agree: no array missing, none left over, every shape equal.
"""

import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping

import h5py
import keras
import numpy as np

from tfprune.models.model_files import read_keras_file

# (pattern of a layer path in the file, our layer name). Blocks count from 0 there and from 1 here.
NPZ_NAMES: tuple[tuple[str, Callable[[re.Match], str]], ...] = (
    (r'conv1', lambda m: 'stem_conv'),
    (r'bn1', lambda m: 'stem_bn'),
    (r'layer(\d+)/(\d+)/((?:conv|bn)\d+)', lambda m: f'stage{m[1]}_block{int(m[2]) + 1}_{m[3]}'),
    (r'linear', lambda m: 'logits'),
)


def load_initial_weights(model: keras.Model, path: str | pathlib.Path) -> None:
    """Sets the weights of `model` to those in the file; on an error the model is as it was.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix, a damaged file, or arrays that differ from the model's; names
            path, array, expected and received shape.
    """
    path = pathlib.Path(path)
    readers = {'.npz': _load_npz, '.weights.h5': _load_h5, '.keras': _load_keras}
    matching = [suffix for suffix in readers if path.name.endswith(suffix)]
    if not matching:
        raise ValueError(
            f"initial weights '{path}': expected a file ending in {', '.join(readers)}")
    if not path.is_file():
        raise FileNotFoundError(f"initial weights '{path}': no such file")
    readers[matching[0]](model, path)


def _load_npz(model: keras.Model, path: pathlib.Path) -> None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {_model_name(name): archive[name] for name in archive.files}
    except Exception as error:
        raise _damaged(path, error) from error
    variables: dict[str, keras.Variable] = {}
    for layer in model.layers:
        for variable in layer.variables:
            name = f'{layer.name}/{variable.name}'
            if name in variables:
                raise ValueError(
                    f"initial weights '{path}': layer '{layer.name}' has layers of its own, whose "
                    f"'{variable.name}' a .npz cannot tell apart: use .weights.h5 or .keras")
            variables[name] = variable
    _check_shapes(path, _shapes(variables), _shapes(arrays))
    _check_finite(path, arrays)
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _load_h5(model: keras.Model, path: pathlib.Path) -> None:
    try:
        received = _h5_arrays(path)
    except Exception as error:
        raise _damaged(path, error) from error
    # Keras takes the first blocks of a deeper model without a word: compare with our own file.
    with tempfile.TemporaryDirectory() as folder:
        reference = pathlib.Path(folder) / 'model.weights.h5'
        model.save_weights(reference)
        expected = _h5_arrays(reference)
    _check_shapes(path, _shapes(expected), _shapes(received))
    _check_finite(path, received)
    try:
        model.load_weights(path)
    except Exception as error:
        raise _damaged(path, error) from error


def _load_keras(model: keras.Model, path: pathlib.Path) -> None:
    try:
        source = read_keras_file(path)
    except ValueError as error:
        raise _damaged(path, ValueError(str(error).removeprefix(f'{path}: '))) from None
    received, expected = _layer_weights(source), _layer_weights(model)
    _check_shapes(path, _shapes(expected), _shapes(received))
    _check_finite(path, received)
    for layer in model.layers:
        layer.set_weights(source.get_layer(layer.name).get_weights() if layer.weights else [])


def _model_name(name: str) -> str:
    """'layer2/0/conv1/kernel' -> 'stage2_block1_conv1/kernel'; our own names pass through."""
    layer, _, variable = name.rpartition('/')
    for pattern, rename in NPZ_NAMES:
        match = re.fullmatch(pattern, layer)
        if match:
            return f'{rename(match)}/{variable}'
    return name


def _h5_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the file by its path, but for an optimizer's."""
    arrays: dict[str, np.ndarray] = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith('optimizer'):
            arrays[name] = item[()]

    with h5py.File(path, 'r') as file:
        file.visititems(visit)
    return arrays


def _layer_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Weights by '<layer>/<variable path>' over the model's top-level layers."""
    return {
        f'{layer.name}/{index}:{variable.name}': keras.ops.convert_to_numpy(variable)
        for layer in model.layers for index, variable in enumerate(layer.weights)}


def _shapes(arrays: Mapping) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}


def _check_shapes(
    path: pathlib.Path, expected: Mapping[str, tuple], received: Mapping[str, tuple],
) -> None:
    for name, shape in expected.items():
        if name not in received:
            raise ValueError(
                f"initial weights '{path}': no array '{name}', expected shape {shape} "
                f'({len(received)} arrays in the file, {len(expected)} in the model)')
        if received[name] != shape:
            raise ValueError(
                f"initial weights '{path}': array '{name}': expected shape {shape}, "
                f'received {received[name]}')
    for name, shape in received.items():
        if name not in expected:
            raise ValueError(
                f"initial weights '{path}': array '{name}' of shape {shape} has no place in the "
                f'model ({len(received)} arrays in the file, {len(expected)} in the model)')


def _check_finite(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.number) or not np.all(np.isfinite(array)):
            raise ValueError(
                f"initial weights '{path}': array '{name}': expected finite numbers, "
                f'received {array.dtype} with other values')


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
    reason = ' '.join(str(error).split()) or type(error).__name__
    return ValueError(f"initial weights '{path}': the file cannot be read: {reason[:300]}")
