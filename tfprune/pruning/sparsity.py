"""Single weights that are zero: unlike channels they stay in the model, at the same cost."""
import pathlib
from typing import Any, Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

ZEROS_FILE = 'zeros.npz'
Zeros = Mapping[str, np.ndarray]  # path of a kernel -> bool, True = zero


def kernels_of(model: keras.Model) -> list[Any]:
    """The trainable kernels of a model."""
    return [v for v in model.trainable_variables if v.path.endswith('kernel')]


def zeroing(model: keras.Model, zeros: Zeros) -> Callable[..., None]:
    """What makes the weights of `model` zero that `zeros` names; to be called across replicas, also
    in a tf.function, whatever its arguments (see Trainer's constrain).

    Raises:
        ValueError: `zeros` is not of this model's kernels.
    """
    kernels = {kernel.path: kernel for kernel in kernels_of(model)}
    for path, zero in zeros.items():
        if path not in kernels or kernels[path].shape != zero.shape:
            raise ValueError(f'expected zeros of a kernel of {model.name!r}; received {path!r} of '
                             f'shape {zero.shape}.')
    # Tensors that are there before a trace are its inputs, not constants in it.
    pairs = [(kernels[path], tf.constant(~zero, kernels[path].dtype))
             for path, zero in zeros.items()]

    def set_to_zero(*_: Any) -> None:
        for kernel, kept in pairs:
            kernel.assign(kernel * kept)

    return set_to_zero


def save_zeros(path: pathlib.Path, zeros: Zeros) -> None:
    """Writes an .npz file of an array a kernel."""
    np.savez_compressed(path, **zeros)  # type: ignore[arg-type]  # no kernel is called so


def load_zeros(path: pathlib.Path) -> Zeros:
    """Inverse of save_zeros; {} where there is no such file."""
    if not path.exists():
        return {}
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def count_zeros(model: keras.Model) -> dict[str, int]:
    """{'kernel_weights', 'zeros' among them, 'nonzero_params' of all parameters}."""
    values = [keras.ops.convert_to_numpy(kernel) for kernel in kernels_of(model)]
    weights, nonzero = sum(v.size for v in values), sum(np.count_nonzero(v) for v in values)
    return {'kernel_weights': weights, 'zeros': int(weights - nonzero),
            'nonzero_params': int(model.count_params() - weights + nonzero)}
