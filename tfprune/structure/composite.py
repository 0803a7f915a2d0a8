"""Composite layers opened: what the `call` of a user's layer does, as steps of the graph.

The call is traced on symbolic tensors, in inference and in training mode; where both do the same,
made of Keras layers and keras.ops, the layer is the graph of these. Names in it are those of the
attributes that hold its layers ('expand'), or those that the user gave them, and of operations the
class and a number ('add', 'add_1'): the same in every copy of the layer.
"""

import dataclasses
import functools
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from tfprune.errors import first_line
from tfprune.structure.composite_batch import SIZES, at_any_batch, is_open, with_batch
from tfprune.structure.composite_calls import Within
from tfprune.structure.composite_nodes import Closed, Node, difference, for_any_batch, nodes_before
from tfprune.structure.keras_internals import (SymbolicArguments, VariableReads, casts_inputs,
                                               is_cast, is_of_keras, layers_within, maker, mask_of,
                                               own_variables, remember_call, takes_training,
                                               untouched)
from tfprune.structure.layer_rules import has_rule
from tfprune.structure.parameter import Constant, Parameter, as_symbolic


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """The graph of a layer, with the attributes of a functional model's that we use.

    Attributes:
        name: of the layer.
        nodes: its calls in topological order, its inputs first.
        inputs, outputs: its symbolic tensors.
        input, output: these as the layer takes and gives them: one tensor, or a structure.
        names: id of every layer and operation -> its name in the graph.
        drops: whether the layer has weights that its call does not use, which a copy has not.
    """
    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    input: Any
    output: Any
    names: Mapping[int, str]
    drops: bool = False

    @property
    def operations(self) -> list[Any]:
        """Every layer and operation, once."""
        return list({id(node.operation): node.operation for node in self.nodes}.values())


# Layer -> what it is called on -> its graph, or why it has none: paths and operations must stay.
_FOUND: weakref.WeakKeyDictionary[Any, dict[Any, tuple[Opened | None, str]]] = (
    weakref.WeakKeyDictionary())


def is_composite(operation: Any) -> bool:
    """Whether an operation is a layer of the user's own that no rule knows."""
    return (isinstance(operation, keras.layers.Layer) and not has_rule(operation)
            and not is_of_keras(type(operation)))


def opened(layer: Any, arguments: Any) -> tuple[Opened | None, str]:
    """Returns the graph of a composite layer, or None and why it cannot be opened.

    Args:
        layer: a layer or model for which `is_composite`.
        arguments: those of a symbolic call (`SymbolicArguments`).
    """
    if any(mask_of(tensor) is not None for tensor in arguments.keras_tensors):
        return None, 'it is called on a tensor with a mask'
    found = _FOUND.setdefault(layer, {})
    key = _signature(layer, arguments)
    if key not in found:
        try:
            found[key] = _open(layer, arguments), ''
        except Closed as reason:
            found[key] = None, str(reason)
    return found[key]


def layer_in(layer: Any, name: str) -> Any:
    """Returns the layer or operation of that name in a layer that has been opened, or None."""
    for graph in [graph for graph, _ in _FOUND.get(layer, {}).values() if graph is not None]:
        for operation in graph.operations:
            if graph.names[id(operation)] == name:
                return operation
    return None


def is_same(one: Opened, other: Opened) -> bool:
    """Whether two graphs of a layer differ in the sizes of tensors alone."""
    return difference(one.nodes, other.nodes) is None


def _signature(layer: Any, arguments: Any) -> Any:
    """What decides the graph of a layer."""
    args, kwargs = arguments.convert(
        lambda value: f'{value.shape}{value.dtype}' if isinstance(value, keras.KerasTensor)
        else repr(value))
    held = [*layers_within(layer), *own_variables(layer)]
    return repr((args, kwargs)), layer.dtype_policy.name, tuple(map(id, held))


def _open(layer: Any, arguments: Any) -> Opened:
    _refuse_unlike(layer)
    with untouched(layer):
        _stand_in(layer)
        try:
            entries, made, output = _traced(layer, arguments)
            nodes, swapped = for_any_batch([*map(_input_node, entries), *made])
        except Closed:
            if not is_open(arguments):
                raise
            entries, nodes, output, swapped = _open_at_sizes(layer, arguments)
        output = keras.tree.map_structure(
            lambda tensor: swapped.get(id(tensor), tensor), output)
        names = _names(layer, nodes)
    for node in nodes:
        if isinstance(node.operation, keras.layers.Layer):
            remember_call(node.operation, node.arguments)
    struct = entries[0] if len(entries) == 1 else list(entries)
    return Opened(layer.name, tuple(nodes), tuple(entries), tuple(keras.tree.flatten(output)),
                  struct, output, names, _has_unused(layer, nodes))


def _open_at_sizes(layer: Any, arguments: Any
                   ) -> tuple[list[Any], list[Node], Any, dict[int, Any]]:
    """The inputs, the calls, the output of one trace, and what became of its tensors by id, from
    traces at two sizes of the batch."""
    closed = Closed()
    for sizes in SIZES:
        try:
            one, other = (_traced(layer, with_batch(arguments, size)) for size in sizes)
            entries = _entries(layer, arguments)[0]
            swapped = {id(old): new for old, new in zip(one[0], entries)}
            nodes = [*map(_input_node, entries), *at_any_batch(one[1], other[1], swapped)]
            return entries, nodes, one[2], swapped
        except Closed as why:
            closed = why
    raise closed


def _traced(layer: Any, arguments: Any) -> tuple[list[Any], list[Node], Any]:
    """The inputs, the calls and the output of a layer in either mode."""
    entries, fed = _entries(layer, arguments)
    traces = [_trace(layer, entries, fed, training) for training in (False, True)]
    differs = difference(traces[0].nodes, traces[1].nodes)
    if differs is not None:
        raise Closed(f'it does something else in training: {differs}')
    _refuse_unused(layer, traces[0].nodes)
    return entries, _in_either_mode(*(trace.nodes for trace in traces)), traces[0].output


def _refuse_unlike(layer: Any) -> None:
    """Closed for a layer that does more than its call."""
    base = keras.layers.Layer
    if type(layer).__call__ not in (base.__call__, keras.Model.__call__):
        raise Closed('it has a __call__ of its own')
    if not layer.built:
        raise Closed('it is not built')
    if type(layer).compute_mask is not base.compute_mask:
        raise Closed('it makes masks of its own')
    if layer.activity_regularizer is not None:
        raise Closed('it has an activity regularizer')
    for variable in own_variables(layer):
        if variable.trainable and not keras.backend.is_float_dtype(variable.dtype):
            raise Closed(f"its weight '{variable.name}' is of {variable.dtype}")
        if variable.constraint is not None:
            raise Closed(f"its weight '{variable.name}' has a constraint")


def _entries(layer: Any, arguments: Any) -> tuple[list[Any], Any]:
    """Inputs like the tensors that a layer is called on, and its arguments made of them."""
    entries: list[Any] = []

    def entry(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        name = f'input_{len(entries)}' if entries else 'input'
        made = keras.Input(batch_shape=value.shape, dtype=value.dtype, name=name)
        entries.append(made)
        if casts_inputs(layer) and (keras.backend.is_float_dtype(value.dtype)
                                    and value.dtype != layer.compute_dtype):
            made = keras.layers.Identity(dtype=layer.dtype_policy.name, name='cast')(made)
        return made

    args, kwargs = arguments.convert(entry)
    return entries, (args, {name: value for name, value in kwargs.items() if name != 'training'})


def _stand_in(layer: Any) -> None:
    """Puts symbolic tensors where a layer holds variables of its own. To be undone by `untouched`.
    """
    own = {id(variable) for variable in own_variables(layer)}
    tensors: dict[int, Any] = {}

    def tensor(name: str, variable: Any) -> Any:
        if not keras.backend.is_float_dtype(variable.dtype):
            return Constant(variable).symbolic_call()  # such as numbers of positions
        if id(variable) not in tensors:
            dtype = layer.compute_dtype if is_cast(layer, variable) else variable.dtype
            tensors[id(variable)] = Parameter(variable, dtype, name).symbolic_call()
        return tensors[id(variable)]

    def replaced(name: str, value: Any) -> Any:
        if id(value) in own:
            return tensor(name, value)
        if isinstance(value, dict):
            return {key: replaced(f'{name}_{key}', inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [replaced(f'{name}_{place}', inner) for place, inner in enumerate(value)]
        return value

    for name, value in _attributes(layer).items():
        if id(value) in own or isinstance(value, list | tuple | dict) and any(
                id(leaf) in own for leaf in _leaves(value)):
            vars(layer)[name] = replaced(name.strip('_'), value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _attributes(layer: Any) -> dict[str, Any]:
    """What a class of the user's put into its object."""
    return {name: value for name, value in vars(layer).items()
            if name not in _plain_attributes() and not name.startswith('_self_')}  # of tf.Module


@functools.cache
def _plain_attributes() -> frozenset[str]:
    return frozenset({*vars(keras.layers.Layer()), *vars(keras.Model())})


@dataclasses.dataclass(frozen=True, eq=False)
class _Trace:
    nodes: list[Node]
    output: Any


def _trace(layer: Any, entries: Sequence[Any], fed: Any, training: bool) -> _Trace:
    args, kwargs = fed
    if takes_training(layer):
        kwargs = {**kwargs, 'training': training}
    within = Within(layers_within(layer, itself=False))
    while True:
        try:
            with VariableReads() as reads, within.traced():
                output = keras.tree.map_structure(
                    lambda value: _apart_from(entries, as_symbolic(value)),
                    layer.call(*args, **kwargs))
            break
        except Exception as error:  # of a user's code: anything
            if not within.has_learnt:
                raise Closed(f'its call does not take symbolic tensors: {first_line(error, 200)}'
                             ) from error
    if reads.read:
        raise Closed(f"it reads the weight '{reads.read[0].path}' itself")
    if reads.state_mapping:
        raise Closed('it assigns variables')
    if reads.losses:
        raise Closed('it adds losses')
    flat = keras.tree.flatten(output)
    if not flat or not all(isinstance(tensor, keras.KerasTensor) for tensor in flat):
        raise Closed('it gives something else than tensors')
    return _Trace(nodes_before(flat, set(map(id, entries))), output)


def _apart_from(entries: Sequence[Any], output: Any) -> Any:
    """An output that is no input: a model that gives one back as it is cannot be called on tensors,
    for Keras would find it to be made of itself."""
    if not any(output is entry for entry in entries):
        return output
    return keras.layers.Identity(dtype=output.dtype, name='identity')(output)


def _input_node(tensor: Any) -> Node:
    return Node(maker(tensor), SymbolicArguments(), (tensor,))


def _has_unused(layer: Any, nodes: Sequence[Node]) -> bool:
    used = {id(node.operation.variable) for node in nodes if isinstance(node.operation, Parameter)}
    return any(id(variable) not in used for variable in own_variables(layer))


def _refuse_unused(layer: Any, nodes: Sequence[Node]) -> None:
    """Closed unless the graph has all layers in a layer that have weights, and no others."""
    called = {id(inner) for node in nodes for inner in (
        layers_within(node.operation) if isinstance(node.operation, keras.layers.Layer)
        else [node.operation])}
    within = {id(inner) for inner in layers_within(layer)}
    for inner in layers_within(layer, itself=False):
        if own_variables(inner) and id(inner) not in called:
            raise Closed(f"its layer '{inner.name}' is not used in its call")
    for node in nodes:
        operation = node.operation
        if (isinstance(operation, keras.layers.Layer) and id(operation) not in within
                and operation.weights):
            raise Closed(f"its call runs the layer '{operation.name}', which is none of its own")
        if any(isinstance(value, keras.Variable) for value in keras.tree.flatten(
                (node.arguments.args, node.arguments.kwargs))):
            raise Closed(f"'{operation.name}' takes a weight of another layer")


def _in_either_mode(inference: Sequence[Node], training: Sequence[Node]) -> list[Node]:
    """The calls without the argument `training`, but where it is always False."""
    nodes, kept, left = [], set[int](), set[int]()
    for one, other in zip(inference, training):
        modes = [node.arguments.kwargs.get('training') for node in (one, other)]
        args, kwargs = one.arguments.args, dict(one.arguments.kwargs)
        # Of a layer without weights and random streams the mode changes nothing.
        keeps = takes_training(one.operation) and modes[0] == modes[1] and (
            modes[0] is not None and not (modes[0] and not one.operation.variables))
        if keeps and modes[0]:
            raise Closed(f"it calls '{one.operation.name}' in training mode always")
        if not keeps:
            kwargs.pop('training', None)
        elif one.operation.weights and not isinstance(one.operation,
                                                      keras.layers.BatchNormalization):
            raise Closed(f"it calls '{one.operation.name}' in inference mode always")
        (kept if keeps else left).add(id(one.operation))
        nodes.append(Node(one.operation, SymbolicArguments(*args, **kwargs), one.output_tensors,
                          keeps))
    if kept & left:
        raise Closed('it calls one layer in either mode')
    return nodes


def _names(layer: Any, nodes: Sequence[Node]) -> dict[int, str]:
    """A name for every layer and operation, each once, given to the operations, too."""
    held: dict[int, str] = {}
    for name, value in _attributes(layer).items():
        _hold(held, name.strip('_'), value)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for node in nodes:
        operation = node.operation
        if id(operation) in names:
            continue
        wanted = operation.name
        of_class = _snake_case(type(operation).__name__)
        if not isinstance(operation, keras.layers.Layer):
            wanted = wanted if isinstance(operation, Parameter) else of_class
        elif re.fullmatch(rf'{of_class}(_\d+)?', wanted):  # a name that Keras made
            wanted = held.get(id(operation), of_class)
        name, number = wanted, 0
        while name in taken:
            number += 1
            name = f'{wanted}_{number}'
        taken.add(name)
        names[id(operation)] = name
        if not isinstance(operation, keras.layers.Layer):
            operation.name = name
    return names


def _hold(held: dict[int, str], name: str, value: Any) -> None:
    """Names the layers that an attribute holds."""
    if isinstance(value, keras.layers.Layer):
        held.setdefault(id(value), name)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _hold(held, f'{name}_{key}', inner)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            _hold(held, f'{name}_{place}', inner)


def _snake_case(name: str) -> str:
    name = re.sub(r'(.)([A-Z][a-z]+)', r'\1_\2', re.sub(r'\W+', '', name))
    return re.sub(r'([a-z])([A-Z])', r'\1_\2', name).lower()
