"""The calls that a composite layer is traced to: compared, and made to fit any batch."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.structure.keras_internals import SymbolicArguments, node_of, numpy as knp


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One call in an opened layer, with the attributes that Keras' nodes have.

    keeps_mode: it runs in inference mode whatever the layer around it does.
    """
    operation: Any
    arguments: Any
    output_tensors: tuple[Any, ...]
    keeps_mode: bool = False

    @property
    def input_tensors(self) -> list[Any]:
        """The symbolic tensors among the arguments."""
        return self.arguments.keras_tensors

    @property
    def is_input(self) -> bool:
        """Whether it only gives a tensor that the layer is called on."""
        return isinstance(self.operation, keras.layers.InputLayer)


class Closed(Exception):
    """Why a layer cannot be opened; completes "could not be opened: …"."""


def nodes_before(outputs: Sequence[Any], entries: set[int]) -> list[Node]:
    """The calls that lead to `outputs`, in topological order, without those of the inputs."""
    found: dict[int, Node] = {}
    stack = [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, is_ready = stack.pop()
        node = None if id(tensor) in entries else node_of(tensor)
        if node is None or id(node) in found:
            continue
        if is_ready:
            found[id(node)] = Node(node.operation, node.arguments, tuple(node.output_tensors))
        else:
            stack.append((tensor, True))
            stack += [(each, False) for each in reversed(node.input_tensors)]
    return list(found.values())


def difference(one: Sequence[Node], other: Sequence[Node]) -> str | None:
    """What differs between two traces of one layer, apart from the argument `training`."""
    places: dict[int, tuple[int, int]] = {}
    for nodes in (one, other):
        for number, node in enumerate(nodes):
            places.update({id(tensor): (number, place)
                           for place, tensor in enumerate(node.output_tensors)})
    for a, b in zip(one, other):
        if not is_same_operation(a.operation, b.operation):
            return f'{type(a.operation).__name__} became {type(b.operation).__name__}'
        before, after = (
            [(path, places.get(id(value), value)) for path, value in keras.tree.flatten_with_path(
                (node.arguments.args, node.arguments.kwargs)) if 'training' not in path]
            for node in (a, b))
        if len(before) != len(after) or not all(map(is_same_value, before, after)):
            return f'the arguments of {type(a.operation).__name__} changed'
    return None if len(one) == len(other) else f'{len(one)} operations became {len(other)}'


def is_same_operation(one: Any, other: Any) -> bool:
    """Whether two are one layer, or operations of equal settings."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, keras.layers.Layer):
        return isinstance(one, keras.layers.InputLayer) or _is_made_alike(one, other)
    settings = [{name: value for name, value in vars(each).items()
                 if name[0] != '_' and name != 'name'} for each in (one, other)]
    return settings[0].keys() == settings[1].keys() and all(
        is_same_value(settings[0][name], settings[1][name]) for name in settings[0])


def _is_made_alike(one: Any, other: Any) -> bool:
    """Whether two layers do the same, as those do that a call makes anew each time."""
    if one.weights or other.weights:
        return False
    try:
        settings = [each.get_config() for each in (one, other)]
    except Exception:  # of a user's class: anything
        return False
    for each in settings:
        each.pop('name', None)
    return is_same_value(*(sorted(each.items()) for each in settings))


def is_same_value(one: Any, other: Any) -> bool:
    """Whether two settings or arguments are equal; of symbolic tensors only the same is."""
    if one is other:
        return True
    if isinstance(one, keras.KerasTensor):
        return False
    try:
        if isinstance(one, tuple | list):
            return len(one) == len(other) and all(map(is_same_value, one, other))
        return type(one) is type(other) and bool(np.all(np.equal(one, other))
                                                 if np.ndim(one) else one == other)
    except (TypeError, ValueError):
        return False


def for_any_batch(nodes: Sequence[Node]) -> tuple[list[Node], dict[int, Any]]:
    """The calls with sizes that are not fixed, as of keras.ops.shape, expressed without them; and
    which tensors became which, by id."""
    swapped: dict[int, Any] = {}
    kept: list[Node] = []
    for node in nodes:
        express, setting = _OF_SIZES.get(type(node.operation), (None, ''))
        if express is not None and None in getattr(node.operation, setting):
            swapped[id(node.output_tensors[0])] = express(node, nodes)
        else:
            kept.append(node)
    if not swapped:
        return kept, {}
    known = {id(tensor) for node in nodes for tensor in node.output_tensors}
    kept += nodes_before(list(swapped.values()), known)
    called = []
    for node in _sorted([_rewired(node, swapped) for node in kept]):
        new = _rewired(node, swapped)
        if new.input_tensors and (new is not node or any(
                id(tensor) not in known for tensor in node.input_tensors)):
            # Called anew, for sizes may be fixed now.
            outputs = keras.tree.flatten(node.operation(*new.arguments.args,
                                                        **new.arguments.kwargs))
            swapped.update(zip(map(id, node.output_tensors), outputs))
            new = dataclasses.replace(new, output_tensors=tuple(outputs))
        called.append(new)
    return called, {key: _last(tensor, swapped) for key, tensor in swapped.items()}


def _last(tensor: Any, swapped: Mapping[int, Any]) -> Any:
    while id(tensor) in swapped:
        tensor = swapped[id(tensor)]
    return tensor


def _rewired(node: Node, swapped: Mapping[int, Any]) -> Node:
    """The call on the tensors that its own became; itself where these are the same."""
    if not any(id(tensor) in swapped for tensor in node.input_tensors):
        return node
    args, kwargs = node.arguments.convert(
        lambda value: _last(value, swapped) if id(value) in swapped else value)
    return dataclasses.replace(node, arguments=SymbolicArguments(*args, **kwargs))


def _sorted(nodes: Sequence[Node]) -> list[Node]:
    """Calls in topological order, as far as possible in the order given."""
    done: set[int] = set()
    found: list[Node] = []
    left = list(nodes)
    while left:
        node = next(node for node in left
                    if all(id(tensor) in done for tensor in node.input_tensors))
        left.remove(node)
        found.append(node)
        done.update(map(id, node.output_tensors))
    return found


def _reshaped(node: Node, _: Sequence[Node]) -> Any:
    before, sizes = node.input_tensors[0].shape, list(node.operation.newshape)
    if sizes[0] is None and before[0] is None and None not in (*before[1:], *sizes[1:]):
        if -1 in sizes:  # each image has as many numbers as before
            sizes[sizes.index(-1)] = math.prod(before[1:]) // math.prod(
                size for size in sizes[1:] if size != -1)
        return keras.ops.reshape(node.input_tensors[0], (-1, *sizes[1:]))
    if sizes[0] is None and before[0] is None and sizes.count(-1) == 1 and None not in sizes[1:]:
        return keras.layers.Reshape(tuple(sizes[1:]))(node.input_tensors[0])
    raise Closed(f'it reshapes {before} to {tuple(sizes)}, whose sizes are not fixed')


def _broadcast(node: Node, nodes: Sequence[Node]) -> Any:
    """A tensor for every image of a batch: zeros of what follows it, of as many channels, added."""
    tensor, shape = node.input_tensors[0], node.output_tensors[0].shape
    for reader in nodes:
        others = [each for each in reader.input_tensors if each.shape[0] is None
                  and len(each.shape) == len(shape) and each.shape[-1] == shape[-1]
                  and each is not node.output_tensors[0]]
        if node.output_tensors[0] in reader.input_tensors and others and (
                shape[0] is None and None not in shape[1:]) and shape[1:] == (
                    1,) * (len(shape) - len(tensor.shape)) + tuple(tensor.shape[1:]):
            first = (slice(None), *[slice(0, 1)] * (len(shape) - 2))
            return tensor + keras.ops.zeros_like(others[0][first])
    raise Closed(f'it broadcasts {tensor.shape} to {shape}, whose sizes are not fixed')


_OF_SIZES = {knp.Reshape: (_reshaped, 'newshape'), knp.BroadcastTo: (_broadcast, 'shape')}
