"""The graph of a Keras model, nested models unfolded."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfprune.structure.keras_internals import (Functional, has_weights, layers_within,
                                               ordered_nodes, sequential_graph, standardized)

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call of a layer or an operation.

    Attributes:
        path: its name; inside a nested model 'model/name'. A layer that stands in several places
            has the path of its first call.
        operation: the Keras layer, or operation of keras.ops.
        arguments: how Keras calls it, with symbolic tensors.
        tensors: those symbolic tensors.
        inputs: the values of `tensors`, indices into `Graph.shapes`.
        outputs: the values that it makes, likewise.
    """
    path: str
    operation: Any
    arguments: Any
    tensors: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def is_entry(self) -> bool:
        """Whether it only passes a value on, into a nested model."""
        return bool(self.inputs) and isinstance(self.operation, keras.layers.InputLayer)

    @property
    def masks(self) -> tuple[int, ...]:
        """The places among `tensors` of masks of steps, which Keras gives by this name."""
        found = _masks(self.arguments)
        return tuple(place for place, each in enumerate(self.tensors) if id(each) in found)

    @property
    def constants(self) -> tuple[Any, ...]:
        """The arguments that are no tensors, in order."""
        flat = keras.tree.flatten((self.arguments.args, self.arguments.kwargs))
        return tuple(value for value in flat if not isinstance(value, keras.KerasTensor))


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A model as steps in the order in which Keras runs them.

    Attributes:
        steps: all calls; the inputs of a nested model are steps that pass a value on.
        shapes: of every value, [B, …].
        inputs, outputs: the values that the model takes and gives.
        nested: the models that were unfolded, by id.
    """
    steps: tuple[Step, ...]
    shapes: tuple[Shape, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    nested: Mapping[int, Any]

    @property
    def layers(self) -> dict[str, Any]:
        """Every layer and operation by its path."""
        return {step.path: step.operation for step in self.steps}

    def calls(self, layer: Any) -> int:
        """Returns how often one pass runs a layer: more than once if it is shared."""
        return sum(step.operation is layer for step in self.steps)


@dataclasses.dataclass(frozen=True, eq=False)
class Untracked:
    """Keeps Keras and tf.Module from taking the layers and variables of what they hold."""
    value: Any


def functional_graph(model: keras.Model) -> Any:
    """Returns the functional graph of a functional or built Sequential model.

    Raises:
        TypeError: if `model` is not a Keras 3 model.
        ValueError: if it is subclassed or not built, or a layer has other weights than its class:
            quantized ones, or those of LoRA or of its activation beside them.
    """
    if not isinstance(model, keras.Model):
        kind = f'{type(model).__module__}.{type(model).__name__}'
        raise TypeError(f'model must be a Keras 3 model (keras.Model), received {kind}')
    graph = model
    if isinstance(model, keras.Sequential):
        graph = sequential_graph(model)
        if graph is None:
            raise ValueError(f"model '{model.name}' is not built: give it an Input layer or call "
                             'model.build(input_shape)')
    if not isinstance(graph, Functional) or type(graph).call is not Functional.call:
        raise ValueError(f"model '{model.name}' ({type(model).__name__}) is a subclassed model: "
                         'expected a functional or Sequential one, whose layers can be traced')
    for layer in layers_within(model):
        mode = getattr(layer, 'quantization_mode', None)
        if mode:
            raise ValueError(f"layer '{layer.name}' is quantized ({mode}): give the model as it "
                             'was before quantize(); quantized files are made at the export')
        if getattr(layer, 'lora_enabled', False):
            raise ValueError(f"layer '{layer.name}' has LoRA weights: model.save_weights() merges "
                             'them; load that file into the model without LoRA')
        activation = getattr(layer, 'activation', None)
        if has_weights(activation):
            raise ValueError(f"layer '{layer.name}' has the activation {type(activation).__name__},"
                             ' which has weights: let it follow as a layer of the model')
    return graph


def unfold(model: keras.Model) -> Graph:
    """Returns the steps of a functional or built Sequential model; see `functional_graph`."""
    graph = functional_graph(model)
    walk = _Walk()
    outer: dict[int, int] = {}
    walk.run(graph, outer, '', [tuple(tensor.shape) for tensor in graph.inputs])
    return Graph(tuple(walk.steps), tuple(walk.shapes), walk.made(graph.inputs, outer),
                 walk.made(graph.outputs, outer), walk.nested)


def flat_inputs(model: keras.Model, inputs: Any) -> list[Any]:
    """Returns the tensors that the model's graph starts from, converted as the model does it."""
    return standardized(functional_graph(model), inputs)


def layer_at(model: keras.Model, path: str) -> Any:
    """Returns the layer at a path of `Step.path`."""
    for name in path.split('/'):
        model = model.get_layer(name)
    return model


def _masks(arguments: Any) -> set[int]:
    """The ids of the tensors that a call takes as masks of steps. Values carry their masks along,
    so that a nested model needs none."""
    return {id(value) for value in keras.tree.flatten(arguments.kwargs.get('mask'))
            if isinstance(value, keras.KerasTensor)}


class _Walk:
    """What unfolding has met so far."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shapes: list[Shape] = []
        self.nested: dict[int, Any] = {}
        self._paths: dict[int, str] = {}  # id of an operation -> its path

    @staticmethod
    def made(tensors: Sequence[Any], values: Mapping[int, int]) -> tuple[int, ...]:
        return tuple(values[id(tensor)] for tensor in tensors)

    def run(self, graph: Any, values: dict[int, int], prefix: str, shapes: Sequence[Shape],
            feed: Sequence[int] = ()) -> None:
        """Adds the steps of `graph`; `values` maps its tensors to the values that they are.

        `shapes` are those that its inputs have in fact, `feed` their values if it is nested.
        """
        # Shapes inside are known from the graph only where it is fed what it was built on.
        as_built = [tuple(tensor.shape) for tensor in graph.inputs] == list(shapes)
        entries = {id(tensor): place for place, tensor in enumerate(graph.inputs)}
        for node in ordered_nodes(graph):
            tensors = tuple(node.input_tensors)
            inputs = self.made(tensors, values)
            if node.is_input:
                place = entries[id(node.output_tensors[0])]
                inputs, made = tuple(feed[place:place + 1]), [shapes[place]]
            else:
                inner = self._inner(node)
                if inner is not None:
                    self._nest(node, inner, values, prefix)
                    continue
                made = [tuple(tensor.shape) for tensor in node.output_tensors]
                if not as_built:
                    made = self._infer(node, inputs)
            outputs = tuple(range(len(self.shapes), len(self.shapes) + len(made)))
            self.shapes += made
            values.update(zip(map(id, node.output_tensors), outputs))
            self.steps.append(Step(self._path(node.operation, prefix), node.operation,
                                   node.arguments, tensors, inputs, outputs))

    def _path(self, operation: Any, prefix: str) -> str:
        return self._paths.setdefault(id(operation), prefix + operation.name)

    @staticmethod
    def _inner(node: Any) -> Any:
        """Returns the graph of the nested model that a node calls, or None."""
        try:
            graph = functional_graph(node.operation)
        except (TypeError, ValueError):
            return None  # a layer; or a subclassed model, which is one for us
        ranks, masks = [len(tensor.shape) for tensor in graph.inputs], _masks(node.arguments)
        given = [len(tensor.shape) for tensor in node.input_tensors if id(tensor) not in masks]
        return graph if ranks == given else None

    def _nest(self, node: Any, inner: Any, values: dict[int, int], prefix: str) -> None:
        argument = node.arguments.args[0] if node.arguments.args else (
            next(iter(node.arguments.kwargs.values())))
        struct = inner.input
        if isinstance(argument, dict) and not isinstance(struct, dict):
            tensors = [argument[tensor.name] for tensor in inner.inputs]
        else:
            tensors = keras.tree.flatten(argument)
        feed = self.made(tensors, values)
        self.nested[id(node.operation)] = node.operation
        within: dict[int, int] = {}
        self.run(inner, within, self._path(node.operation, prefix) + '/',
                 [self.shapes[value] for value in feed], feed)
        values.update(zip(map(id, node.output_tensors), self.made(inner.outputs, within)))

    def _infer(self, node: Any, inputs: Sequence[int]) -> list[Shape]:
        """Returns the output shapes of a node for inputs of other sizes than it was built on."""
        feed = {id(tensor): keras.KerasTensor(self.shapes[value], tensor.dtype)
                for tensor, value in zip(node.input_tensors, inputs)}
        args, kwargs = node.arguments.fill_in(feed)
        outputs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
        return [tuple(output.shape) for output in outputs]
