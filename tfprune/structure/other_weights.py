"""Calling a layer with other values of its weights than it has."""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras


def masked(variable: Any, masks: Iterable[tuple[int, Any]]) -> tuple[Any, Any]:
    """Returns a weight and its value times masks, (axis, float [size of that axis]) each."""
    value = keras.ops.convert_to_tensor(variable)
    for axis, mask in masks:
        shape = [-1 if place == axis else 1 for place in range(len(value.shape))]
        value = value * keras.ops.cast(keras.ops.reshape(mask, shape), value.dtype)
    return variable, value


def call_with_weights(layer: Any, weights: Sequence[tuple[Any, Any]], args: Sequence[Any],
                      kwargs: Mapping[str, Any]) -> Any:
    """Returns what a layer or operation gives where each of `weights` (variable, value) has this
    value. Gradients reach what the values are made of; what the layer assigns, such as the state
    of its dropout, and its losses are kept.
    """
    if not weights:
        return layer(*args, **kwargs)
    with keras.StatelessScope(state_mapping=weights, collect_losses=True) as scope:
        outputs = layer(*args, **kwargs)
    given = {id(variable) for variable, _ in weights}
    for variable in layer.variables:
        value = scope.get_current_value(variable)
        if value is not None and id(variable) not in given:
            variable.assign(value)
    for loss in scope.losses:
        layer.add_loss(loss)
    return outputs
