"""Depth: residual blocks whose branch can disappear, and the model without them.

A block is a sum y = s + f(s, …) whose shortcut is the identity: s has the shape of y, every other
term depends on s, and nobody else needs these terms. Without the block y = s; the layers that then
contribute to no output disappear. Blocks with a projected, padded or subsampled shortcut are none:
their sum has no term that the others depend on.
"""
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from tfprune.pruning.rebuilding import (Rebuilding, copy_layer, copy_weights, embedding_like,
                                        give_embeddings)
from tfprune.structure.graph import Graph, Step, unfold
from tfprune.structure.keras_internals import maker, numpy as knp
from tfprune.structure.parameter import Constant, Parameter

_SUMS = (keras.layers.Add, knp.Add)


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual block.

    Attributes:
        name: the path of its sum, as of any layer: 'nested_model/layer'.
        layers: the paths of all that disappears with it alone, its sum included, in order.
    """
    name: str
    layers: tuple[str, ...]


def removable_blocks(model: keras.Model) -> dict[str, Block]:
    """Returns the removable blocks of a functional or Sequential model by name, in order.

    A block may lie within another. Of a sum or nested model that is called several times, all calls
    are one block.

    Raises:
        TypeError, ValueError: see `graph.unfold`.
    """
    graph = unfold(model)
    found = {}
    for name, shortcut in _identity_sums(graph).items():
        removal = _Removal(graph, {name: shortcut})
        others = {value for step in graph.steps if step.path == name
                  for place, value in enumerate(step.inputs) if place != shortcut}
        if removal.broken() is None and not others & removal.needed:
            found[name] = Block(name, removal.layers)
    return found


def remove_blocks(model: keras.Model, names: Iterable[str]) -> keras.Model:
    """Returns a plain Keras model without these blocks; `model` stays as it is.

    Its outputs are those of `model` with the blocks' branches zeroed. All other layers, in nested
    models too, keep names, configs and weights.

    Raises:
        ValueError: for a name that no removable block has.
        JointRemovalError: a nested model would keep only some of its outputs.
    """
    names = [names] if isinstance(names, str) else list(names)
    blocks = removable_blocks(model)
    for name in names:
        if name not in blocks:
            raise ValueError(f"Unknown removable block '{name}'. "
                             f"Available: {', '.join(blocks) or 'none'}")
    graph = unfold(model)
    sums = _identity_sums(graph)
    removal = _Removal(graph, {name: sums[name] for name in names})
    if removal.broken() is not None:
        raise JointRemovalError(f"blocks {', '.join(names)} cannot be removed together: nested "
                                f"model '{removal.broken()}' would lose an output")
    return _Rebuilding(model, graph, removal).copied(model, graph)


class JointRemovalError(ValueError):
    """Blocks that can be removed one by one cannot be together."""


def _identity_sums(graph: Graph) -> dict[str, int]:
    """Returns the sums with a term of their own shape on which all others depend: path -> place of
    that term among the inputs, the same in all calls."""
    sources: list[set[int]] = [{value} for value in range(len(graph.shapes))]
    places: dict[str, set[int | None]] = {}
    for step in graph.steps:
        above = set().union(*(sources[value] for value in step.inputs))
        for output in step.outputs:
            sources[output] |= above
        if isinstance(step.operation, _SUMS):
            places.setdefault(step.path, set()).add(_identity_place(graph, step, sources))
    return {path: place for path, found in places.items()
            for place in found if len(found) == 1 and place is not None}


def _identity_place(graph: Graph, step: Step, sources: list[set[int]]) -> int | None:
    for place, value in enumerate(step.inputs):
        others = [*step.inputs[:place], *step.inputs[place + 1:]]
        if others and graph.shapes[value] == graph.shapes[step.outputs[0]] and all(
                other != value and value in sources[other] for other in others):
            return place
    return None


class _Removal:
    """What is left of a graph when sums become one of their terms.

    Attributes:
        nested: the graphs of nested models and composite layers, by their ids.
        shortcuts: id of a removed sum -> the place of that term.
        needed: the values that contribute to an output.
        layers: the paths of all that contributes to none, in order.
    """

    def __init__(self, graph: Graph, places: Mapping[str, int]) -> None:
        self.nested = graph.nested
        self.shortcuts = {id(graph.layers[path]): place for path, place in places.items()}
        self.needed = set(graph.outputs)
        self._bridges: set[int] = set()  # ids of removed sums whose shortcut is needed
        used = {id(maker(tensor)) for nested in graph.nested.values()
                for tensor in nested.inputs}
        for step in reversed(graph.steps):
            if self.needed.isdisjoint(step.outputs):
                continue
            if id(step.operation) in self.shortcuts:
                self.needed.add(step.inputs[self.shortcuts[id(step.operation)]])
                self._bridges.add(id(step.operation))
            else:
                used.add(id(step.operation))
                self.needed.update(step.inputs)
        gone = {step.path: id(step.operation) for step in graph.steps
                if (step.inputs or isinstance(step.operation, Constant | Parameter))
                and id(step.operation) not in used}
        self._gone, self.layers = set(gone.values()), tuple(gone)

    def is_gone(self, layer: Any) -> bool:
        """Whether nothing of a layer, operation or nested model is left."""
        if id(layer) in self.nested:
            return self._is_empty(self.nested[id(layer)])
        return id(layer) in self._gone

    def _is_empty(self, graph: Any) -> bool:
        """Whether nothing of a nested graph is left, and nothing passes through it."""
        return all(self.is_gone(inner) and id(inner) not in self._bridges
                   for inner in graph.operations
                   if not isinstance(inner, keras.layers.InputLayer))

    def broken(self) -> str | None:
        """Returns the name of a nested model that loses one of its outputs, or None."""
        for graph in self.nested.values():
            makers = [maker(tensor) for tensor in graph.outputs]
            if not self._is_empty(graph) and any(
                    self.is_gone(made) and id(made) not in self.shortcuts for made in makers):
                return str(graph.name)
        return None


class _Rebuilding(Rebuilding):
    """Copies models, root and nested, without what is gone."""

    def __init__(self, model: keras.Model, graph: Graph, removal: _Removal) -> None:
        super().__init__(model, graph)
        self._removal = removal

    def is_changed(self, operation: Any) -> bool:
        return id(operation) in self._removal.shortcuts or self.is_gone(operation)

    def is_gone(self, operation: Any) -> bool:
        return self._removal.is_gone(operation)

    def clone_of(self, layer: Any) -> Any:
        """Returns the copy of a layer or operation, always the same one; what is gone, itself."""
        return layer if self.is_gone(layer) else super().clone_of(layer)

    def copy(self, operation: Any) -> Any:
        if isinstance(operation, Parameter):
            return embedding_like(operation, None)
        return copy_layer(operation)

    def copy_weights_of(self, layer: Any) -> None:
        if self.is_gone(layer) or not getattr(layer, 'weights', ()):
            return
        clone = self.clone_of(layer)
        if isinstance(layer, Parameter):
            give_embeddings(clone, keras.ops.convert_to_numpy(layer.variable))
        else:
            copy_weights(layer, clone)

    def call(self, clone: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a copy; of a sum that is removed returns the shortcut, of all else that is gone a
        tensor that comes from nowhere, for nobody needs it."""
        if id(clone) in self._removal.shortcuts:
            return [value for value in keras.tree.flatten((args, kwargs)) if isinstance(
                value, keras.KerasTensor)][self._removal.shortcuts[id(clone)]]
        if self.is_gone(clone):
            return clone.compute_output_spec(*args, **kwargs)
        return super().call(clone, *args, **kwargs)
