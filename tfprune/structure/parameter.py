"""What the call of a composite layer uses itself, as operations of the graph: weights, and values
that are known when it is traced."""

from typing import Any

import keras
import numpy as np

from tfprune.structure.keras_internals import value_without_autocast


class Parameter(keras.Operation):
    """Gives the value of a variable; takes nothing.

    Args:
        variable: of floating-point numbers, of any shape.
        dtype: of the value: what the layer computes in.
        name: of the operation.
    """

    def __init__(self, variable: Any, dtype: str, name: str) -> None:
        super().__init__(name=name)
        self.variable, self.dtype = variable, dtype

    @property
    def weights(self) -> list[Any]:
        """The variable, as of a layer."""
        return [self.variable]

    variables = weights

    def call(self) -> Any:
        return keras.ops.cast(value_without_autocast(self.variable), self.dtype)

    def compute_output_spec(self) -> keras.KerasTensor:
        return keras.KerasTensor(self.variable.shape, self.dtype)


class Constant(keras.Operation):
    """Gives a tensor that is the same always; takes nothing.

    Args:
        value: a tensor of known values.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(name='constant')
        self.value = np.asarray(value)

    def call(self) -> Any:
        return keras.ops.convert_to_tensor(self.value)

    def compute_output_spec(self) -> keras.KerasTensor:
        return keras.KerasTensor(self.value.shape, self.value.dtype.name)


def as_symbolic(value: Any) -> Any:
    """A tensor of known values as one of the graph; anything else as it is."""
    is_known = keras.ops.is_tensor(value) and not isinstance(value, keras.KerasTensor)
    return Constant(value).symbolic_call() if is_known else value
