"""The graph of a Keras model, nested models and composite layers unfolded."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfprune.structure.composite import Opened, is_composite, is_same, layer_in, opened
from tfprune.structure.composite_nodes import Closed
from tfprune.structure.copies import can_copy
from tfprune.structure.keras_internals import (Functional, SymbolicArguments, built_on,
                                               first_arguments, has_weights, layers_within, numpy,
                                               ordered_nodes, sequential_graph, standardized)
from tfprune.structure.layer_rules.base import Shape, axis_of_images, numbers_of_an_image
from tfprune.structure.layer_rules.einsum import Equation


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call of a layer or an operation.

    Attributes:
        path: its name; inside a nested model or a composite layer 'model/name'. A layer that stands
            in several places has the path of its first call.
        operation: the Keras layer, or operation of keras.ops.
        arguments: how Keras calls it, with symbolic tensors.
        tensors: those symbolic tensors.
        inputs: the values of `tensors`, indices into `Graph.shapes`.
        outputs: the values that it makes, likewise.
        keeps_mode: it runs in inference mode, in training too.
        closed: why a composite layer is one step; '' for all else.
    """
    path: str
    operation: Any
    arguments: Any
    tensors: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    keeps_mode: bool = False
    closed: str = ''

    @property
    def is_entry(self) -> bool:
        """Whether it only passes a value on, into a nested model or composite layer."""
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
        rows: how many of a value's axis of images one example has: more than one where positions
            are moved there, as windows of attention are.
        images: that axis of every value: the only one whose size is not fixed, else the first;
            None where no input had a part in the value.
        inputs, outputs: the values that the model takes and gives.
        nested: id of a nested model or composite layer that was unfolded -> its graph.
    """
    steps: tuple[Step, ...]
    shapes: tuple[Shape, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    nested: Mapping[int, Any]
    rows: tuple[int, ...] = ()
    images: tuple[int | None, ...] = ()

    @property
    def layers(self) -> dict[str, Any]:
        """Every layer and operation by its path."""
        return {step.path: step.operation for step in self.steps}

    def times(self, step: Step) -> int:
        """Returns `rows` of what a step takes: how often it does for one example what its shapes
        say."""
        return max((self.rows[value] for value in step.inputs), default=1)

    def calls(self, layer: Any) -> int:
        """Returns how often one pass runs a layer: more than once if it is shared."""
        return sum(step.operation is layer for step in self.steps)


@dataclasses.dataclass(frozen=True, eq=False)
class Untracked:
    """Keeps Keras and tf.Module from taking the layers and variables of what they hold."""
    value: Any


def functional_graph(model: keras.Model) -> Any:
    """Returns the functional graph of a functional or built Sequential model, and what a subclassed
    one is, once it is opened (`composite`).

    Raises:
        TypeError: if `model` is not a Keras 3 model.
        ValueError: if it is not built, or subclassed and cannot be opened, or a layer has other
            weights than its class: quantized ones, or those of LoRA or of its activation beside
            them.
    """
    if not isinstance(model, keras.Model):
        kind = f'{type(model).__module__}.{type(model).__name__}'
        raise TypeError(f'model must be a Keras 3 model (keras.Model), received {kind}')
    graph = _own_graph(model)
    if graph is None and isinstance(model, keras.Sequential):
        raise ValueError(f"model '{model.name}' is not built: give it an Input layer or call "
                         'model.build(input_shape)')
    if graph is None:
        graph = _opened_model(model)
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


def _own_graph(model: Any) -> Any:
    """The functional graph that a model runs, or None."""
    graph = sequential_graph(model) if isinstance(model, keras.Sequential) else model
    return graph if isinstance(graph, Functional) and type(graph).call is Functional.call else None


def _opened_model(model: keras.Model) -> Opened:
    """The graph of a subclassed model; ValueError if there is none."""
    about = f"model '{model.name}' ({type(model).__name__}) is a subclassed model"
    arguments = first_arguments(model)
    shape = built_on(model)
    if arguments is None and shape is not None:
        arguments = SymbolicArguments(keras.KerasTensor((None, *shape[1:])))
    if arguments is None:
        raise ValueError(f'{about} whose inputs are not known: give keras.Model(x, model(x)) of '
                         'keras.Input tensors x')
    graph, why = opened(model, arguments)
    if graph is None:
        raise ValueError(f'{about}: expected a functional or Sequential one, or one whose call can '
                         f'be traced, but {why}')
    return graph


def unfold(model: keras.Model) -> Graph:
    """Returns the steps of a model; see `functional_graph`."""
    graph = functional_graph(model)
    closed: dict[int, str] = {}
    while True:
        walk = _Walk(closed)
        outer: dict[int, int] = {}
        try:
            walk.run(graph, outer, '', [tuple(tensor.shape) for tensor in graph.inputs])
            break
        except _Differs as layer:
            closed[layer.args[0]] = layer.args[1]
    inputs, shapes = walk.made(graph.inputs, outer), walk.shapes
    return Graph(tuple(walk.steps), tuple(shapes), inputs, walk.made(graph.outputs, outer),
                 walk.nested, _rows(walk.steps, shapes), _images(walk.steps, shapes, inputs))


def _rows(steps: Sequence[Step], shapes: Sequence[Shape]) -> tuple[int, ...]:
    """`Graph.rows`: reshapes alone change them."""
    rows = [1] * len(shapes)
    for step in steps:
        found = max((rows[value] for value in step.inputs), default=1)
        if isinstance(step.operation, numpy.Reshape):
            before, after = (numbers_of_an_image(shapes[value])
                             for value in (step.inputs[0], step.outputs[0]))
            if before and after:
                found = max(found * before // after, 1)
        for value in step.outputs:
            rows[value] = found
    return tuple(rows)


def _images(steps: Sequence[Step], shapes: Sequence[Shape], inputs: Sequence[int]
            ) -> tuple[int | None, ...]:
    """`Graph.images`."""
    found: list[int | None] = [None] * len(shapes)
    given = set(inputs)
    for step in steps:
        if given.intersection(step.outputs) or any(
                found[value] is not None for value in step.inputs):
            for value in step.outputs:
                found[value] = axis_of_images(shapes[value]) if shapes[value] else None
    return tuple(found)


def flat_inputs(model: keras.Model, inputs: Any) -> list[Any]:
    """Returns the tensors that the model's graph starts from, converted as the model does it."""
    graph = functional_graph(model)
    if isinstance(graph, Opened):
        return [keras.ops.convert_to_tensor(value, tensor.dtype) for value, tensor in zip(
            keras.tree.flatten(inputs), graph.inputs, strict=True)]
    return standardized(graph, inputs)


def run_steps(model: keras.Model, graph: Graph, inputs: Any,
              run: Callable[[int, list[Any]], Sequence[Any]]) -> Any:
    """Returns what a model gives for `inputs` where `run` makes every call: the place of a step and
    the values of its tensors -> its outputs."""
    values: dict[int, Any] = dict(zip(graph.inputs, flat_inputs(model, inputs)))
    for place, step in enumerate(graph.steps):
        if step.outputs[0] in values:
            continue
        if step.is_entry:
            values[step.outputs[0]] = values[step.inputs[0]]
        else:
            values.update(zip(step.outputs, run(place, [values[value] for value in step.inputs])))
    return keras.tree.pack_sequence_as(functional_graph(model).output,
                                       [values[value] for value in graph.outputs])


def layer_at(model: keras.Model, path: str) -> Any:
    """Returns the layer at a path of `Step.path`."""
    layer = model
    for name in path.split('/'):
        found = layer_in(layer, name)
        if found is None and _own_graph(layer) is None:
            return unfold(model).layers[path]
        layer = layer.get_layer(name) if found is None else found
    return layer


class _Differs(Exception):
    """A composite layer (id, why) that was opened is called in another way."""


def _masks(arguments: Any) -> set[int]:
    """The ids of the tensors that a call takes as masks of steps. Values carry their masks along,
    so that a nested model needs none."""
    return {id(value) for value in keras.tree.flatten(arguments.kwargs.get('mask'))
            if isinstance(value, keras.KerasTensor)}


def _filled(layer: Any, before: Shape, after: Shape) -> Shape:
    """The output shape of an EinsumDense with the sizes that its input says, where Keras does not.
    """
    equation = Equation.parse(layer.equation, (len(before), len(layer.kernel.shape)))
    sizes = dict(zip(equation.operands[0], before))
    return tuple(sizes.get(letter) if size is None else size
                 for letter, size in zip(equation.output, after))


class _Walk:
    """What unfolding has met so far.

    Args:
        closed: id of a composite layer that stays one step -> why.
    """

    def __init__(self, closed: Mapping[int, str]) -> None:
        self._closed = closed
        self._opened: dict[int, Opened | None] = {}  # id of a composite layer -> its graph
        self.steps: list[Step] = []
        self.shapes: list[Shape] = []
        self.nested: dict[int, Any] = {}
        self._names: dict[int, str] = {}  # id of an operation in an opened layer -> its name
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
        if isinstance(graph, Opened):
            self._names.update(graph.names)
        for node in graph.nodes if isinstance(graph, Opened) else ordered_nodes(graph):
            tensors, closed = tuple(node.input_tensors), ''
            inputs = self.made(tensors, values)
            if node.is_input:
                place = entries[id(node.output_tensors[0])]
                inputs, made = tuple(feed[place:place + 1]), [shapes[place]]
            else:
                inner = self._inner(node)
                if inner is not None:
                    self._nest(node, inner, values, prefix)
                    continue
                if is_composite(node.operation):
                    inner, closed = self._open(node)
                    if inner is not None:
                        self._unfold(node, inner, self.made(tensors, values), values, prefix)
                        continue
                    if isinstance(graph, Opened) and not can_copy(node.operation):
                        raise Closed(f"its layer '{node.operation.name}' cannot be copied")
                made = [tuple(tensor.shape) for tensor in node.output_tensors]
                if not as_built or any(self.shapes[value] != tuple(tensor.shape)
                                       for value, tensor in zip(inputs, tensors)):
                    made = self._infer(node, inputs)
                if isinstance(node.operation, keras.layers.EinsumDense):
                    made = [_filled(node.operation, self.shapes[inputs[0]], made[0])]
            outputs = tuple(range(len(self.shapes), len(self.shapes) + len(made)))
            self.shapes += made
            values.update(zip(map(id, node.output_tensors), outputs))
            self.steps.append(Step(self._path(node.operation, prefix), node.operation,
                                   node.arguments, tensors, inputs, outputs,
                                   getattr(node, 'keeps_mode', False), closed))

    def _path(self, operation: Any, prefix: str) -> str:
        name = self._names.get(id(operation), operation.name)
        return self._paths.setdefault(id(operation), prefix + name)

    @staticmethod
    def _inner(node: Any) -> Any:
        """Returns the graph of the nested model that a node calls, or None."""
        graph = _own_graph(node.operation)
        if graph is None:
            return None
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
        self._unfold(node, inner, self.made(tensors, values), values, prefix)

    def _open(self, node: Any) -> tuple[Opened | None, str]:
        """Returns the graph of the composite layer that a node calls, or None and why."""
        layer = node.operation
        if id(layer) in self._closed:
            return None, self._closed[id(layer)]
        graph, why = opened(layer, node.arguments)
        first = self._opened.setdefault(id(layer), graph)
        if graph is not first:
            if graph is None or first is None or not is_same(first, graph):
                raise _Differs(id(layer), why or 'its calls do different things')
        return first, why

    def _unfold(self, node: Any, inner: Any, feed: Sequence[int], values: dict[int, int],
                prefix: str) -> None:
        self.nested[id(node.operation)] = inner
        within: dict[int, int] = {}
        before = len(self.shapes)
        try:
            self.run(inner, within, self._path(node.operation, prefix) + '/',
                     [self.shapes[value] for value in feed], feed)
        except Closed as why:
            raise _Differs(id(node.operation), str(why)) from why
        if isinstance(inner, Opened) and not any(
                self.shapes[value].count(None) > 1 for value in feed):
            free = [shape for shape in self.shapes[before:] if shape.count(None) > 1]
            if free:
                raise _Differs(id(node.operation), f'it makes {free[0]}, whose sizes are not fixed')
        values.update(zip(map(id, node.output_tensors), self.made(inner.outputs, within)))

    def _infer(self, node: Any, inputs: Sequence[int]) -> list[Shape]:
        """Returns the output shapes of a node for inputs of other sizes than it was built on."""
        feed = {id(tensor): keras.KerasTensor(self.shapes[value], tensor.dtype)
                for tensor, value in zip(node.input_tensors, inputs)}
        args, kwargs = node.arguments.fill_in(feed)
        outputs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
        return [tuple(output.shape) for output in outputs]
