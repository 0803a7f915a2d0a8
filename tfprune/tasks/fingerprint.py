"""What a model is compiled with in words that are the same in every process: by them a resumed run
knows that its task is the one that it began with.

Losses are told apart by their class and attributes, private ones left out but for numbers and text,
functions by name, code, defaults and what they enclose, metrics by their Keras configuration. What
only counts how often a class was made, the names that Keras gives, is left out; of other objects
there is the class alone.
"""
import functools
import hashlib
import json
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.structure.keras_internals import function_of_metric, is_of_keras

_NUMBERED = ('name', '_name')


def fingerprint(*values: Any) -> str:
    """sha256 of whatever `Model.compile` and `fit` take."""
    text = json.dumps([_described(value) for value in values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _described(value: Any, within: tuple[int, ...] = ()) -> Any:
    """JSON of a value; `within` are the ids of those that hold it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if id(value) in within:
        return 'itself'
    within = (*within, id(value))

    def each(values: Any) -> list[Any]:
        return [_described(one, within) for one in values]

    if isinstance(value, Mapping):
        return {str(key): _described(one, within) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return each(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, each(value)))
    if isinstance(value, tf.Tensor) and hasattr(value, 'numpy'):
        value = value.numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        content = value.tolist() if value.dtype == object else hashlib.sha256(
            np.ascontiguousarray(value).tobytes()).hexdigest()
        return each([value.dtype.name, value.shape, content])
    if isinstance(value, functools.partial):
        return each([value.func, value.args, value.keywords])
    if isinstance(value, types.MethodType):
        return each([value.__func__, value.__self__])
    value = getattr(value, 'python_function', value)  # of a tf.function
    if isinstance(value, types.FunctionType):
        return _named(value) if is_of_keras(value) else each([
            _named(value), value.__code__, value.__defaults__, value.__kwdefaults__,
            *map(_content, value.__closure__ or ())])
    if isinstance(value, types.CodeType):
        return each([value.co_code.hex(), value.co_names, value.co_consts])
    if isinstance(value, keras.metrics.Metric):
        return [_named(type(value)), _described(_unnumbered(_config(value)), within)]
    if isinstance(value, keras.losses.Loss) or (
            callable(value) and hasattr(value, '__dict__') and not isinstance(
                value, (type, tf.Module, keras.layers.Layer))):
        if is_of_keras(type(value)):
            return [_named(type(value)), _described(_unnumbered(vars(value)), within)]
        own = [part for _, part in sorted(vars(type(value)).items())
               if isinstance(part, types.FunctionType)]
        return [_named(type(value)), _described(_lasting(vars(value)), within), *each(own)]
    return _named(value if isinstance(value, type) else type(value))


def _config(metric: keras.metrics.Metric) -> Mapping[str, Any]:
    function = function_of_metric(metric)
    if function is not None:
        return {'fn': function}
    try:
        return metric.get_config()
    except Exception:  # a user's code: anything; nothing else needs it
        return {}


def _named(value: Any) -> str:
    """The name of a function or class, without the module: that of a script is another when it is
    imported."""
    return getattr(value, '__qualname__', type(value).__qualname__)


def _unnumbered(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _NUMBERED}


def _lasting(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Without private ones but numbers and text: a cache is made when it is used."""
    return {name: value for name, value in _unnumbered(attributes).items()
            if not name.startswith('_') or isinstance(value, (bool, int, float, str))}


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
