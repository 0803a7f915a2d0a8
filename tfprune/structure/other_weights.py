"""Calling a layer with other values of its weights than it has."""
from collections.abc import Mapping, Sequence
from typing import Any

import keras


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
