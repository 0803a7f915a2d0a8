"""Calling layers: in inference, with other values of their weights than they have."""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from tfprune.structure.graph import Step


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


def called(step: Step, feed: Sequence[Any], weights: Sequence[tuple[Any, Any]] = ()) -> list[Any]:
    """The outputs of one call in inference; `feed` has the values of `step.tensors`, and each of
    `weights` (variable, value) has that value."""
    args, kwargs = step.arguments.fill_in(dict(zip(map(id, step.tensors), feed)))
    if 'training' in getattr(step.operation, '_call_context_args', ()):
        kwargs['training'] = False
    return keras.tree.flatten(call_with_weights(step.operation, weights, args, kwargs))
