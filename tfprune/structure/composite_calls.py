"""What layers in a composite layer do while its call is traced."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfprune.structure.keras_internals import with_own
from tfprune.structure.parameter import as_symbolic


class Within:
    """Makes calls of the layers in a composite one such as a graph can have.

    One with weights on values that are known, as of an embedding on the numbers of positions, is
    a call on these as symbolic tensors. One that gives None beside tensors, which no call of Keras'
    graphs does, stands for what its own `call` does.

    Args:
        layers: those in the composite layer, at any depth.

    Attributes:
        has_learnt: whether a call failed that will not when it is traced again.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        self._unfolded: list[Any] = []
        self.has_learnt = False

    @contextlib.contextmanager
    def traced(self) -> Iterator[None]:
        """Within, symbolic calls are such calls."""
        self.has_learnt = False
        made = [(each, name, make(each)) for each in self._layers
                for name, make in (('call', _on_symbolic), ('symbolic_call', self._looked_at))]
        with contextlib.ExitStack() as undo:
            for each in self._unfolded:
                undo.enter_context(_without_node(each))
            undo.enter_context(with_own(made))
            yield

    def _looked_at(self, layer: Any) -> Any:
        symbolic_call = layer.symbolic_call

        def looked_at(*args: Any, **kwargs: Any) -> Any:
            outputs = symbolic_call(*args, **kwargs)
            if any(value is None for value in keras.tree.flatten(outputs)):
                self._unfolded.append(layer)
                self.has_learnt = True
            return outputs

        return looked_at


def _on_symbolic(layer: Any) -> Any:
    call = layer.call

    def on_symbolic(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in keras.tree.flatten((args, kwargs))
                   if keras.ops.is_tensor(value)]
        if not layer.weights or not tensors or not all(
                hasattr(tensor, 'numpy') for tensor in tensors):
            return call(*args, **kwargs)
        args, kwargs = keras.tree.map_structure(as_symbolic, (args, kwargs))
        return layer(*args, **kwargs)

    return on_symbolic


@contextlib.contextmanager
def _without_node(layer: Any) -> Iterator[None]:
    """Within, a call of the layer is one of its `call`."""
    kind = type(layer)
    object.__setattr__(layer, '__class__', type(kind.__name__, (kind,), {
        '__call__': lambda self, *args, **kwargs: self.call(*args, **kwargs)}))
    try:
        yield
    finally:
        object.__setattr__(layer, '__class__', kind)
