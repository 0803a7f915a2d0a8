"""What layers keep beside the weights that train: moving statistics, counters, random streams."""
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.structure.keras_internals import layers_within


class KeptState:
    """The variables of layers that do not train, as they were; a pass may move them.

    Args:
        layers: layers and operations; those in them are included.
        weights: also the weights that train, as spectral normalization divides a kernel in a pass.
    """

    def __init__(self, layers: Iterable[Any], *, weights: bool = False) -> None:
        self._kept = {id(variable): (variable, keras.ops.convert_to_numpy(variable))
                      for layer in layers for variable in _variables(layer)
                      if weights or not variable.trainable}

    def value(self, variable: Any) -> np.ndarray:
        """What a variable held."""
        return self._kept[id(variable)][1]

    def moved(self) -> list[Any]:
        """The variables that hold something else by now."""
        return [variable for variable, value in self._kept.values()
                if keras.ops.convert_to_numpy(variable).tobytes() != value.tobytes()]

    def restore(self, but: Iterable[Any] = ()) -> None:
        """Gives all variables what they held, `but` these."""
        spared = set(map(id, but))
        for variable in self.moved():
            if id(variable) not in spared:
                variable.assign(self.value(variable))


def _variables(layer: Any) -> list[Any]:
    """Those of a layer or operation; Keras does not list the states of stateful recurrence."""
    if not isinstance(layer, keras.layers.Layer):
        return list(getattr(layer, 'variables', ()))
    return [*layer.variables, *(
        state for each in layers_within(layer) if isinstance(each, keras.layers.RNN)
        for state in keras.tree.flatten(each.states or ()))]
