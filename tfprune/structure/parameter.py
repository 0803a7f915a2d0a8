"""A weight that the call of a composite layer uses itself, as an operation of the graph."""

from typing import Any

import keras

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
