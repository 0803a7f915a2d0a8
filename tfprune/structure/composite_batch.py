"""Composite layers whose calls compute with the size of the batch.

Such a call takes no symbolic tensor without that size. It is traced at two sizes of the batch; what
differs between the traces is where the size went, and is expressed without it.
"""
from collections.abc import Sequence
from typing import Any

import keras

from tfprune.structure.composite_nodes import (Closed, Node, is_same_operation, is_same_value,
                                               nodes_before)
from tfprune.structure.keras_internals import SymbolicArguments, numpy as knp

# What may divide the images of a batch: positions that were moved to them, as windows are.
_DIVISORS = 2**6 * 3**2 * 7**2
# Pairs to try, of no sizes of anything else.
SIZES = (7, 11), (7 * _DIVISORS, 11 * _DIVISORS)
_REPEATING = (knp.BroadcastTo, knp.Tile, knp.Repeat)


def at_any_batch(one: Sequence[Node], other: Sequence[Node], swapped: dict[int, Any]
                 ) -> list[Node]:
    """Returns the calls of two traces, at a pair of SIZES images, as calls at any number of them.

    Args:
        one, other: the calls, inputs apart.
        swapped: id of a tensor of `one` -> what it becomes; has the inputs, is given all others.

    Raises:
        Closed: if more differs than sizes that can be left open.
    """
    if len(one) != len(other):
        raise Closed('it does something else at another size of the batch')
    made: list[Node] = []
    alone: dict[int, Any] = {}  # id of a tensor that is repeated for each image -> what it repeats
    for a, b in zip(one, other):
        operation = _operation(a, b)
        if operation is None:
            alone[id(a.output_tensors[0])] = swapped[id(a.input_tensors[0])]
            continue
        for tensor in a.input_tensors:
            if id(tensor) in alone and id(tensor) not in swapped:
                made += _repeated(a, tensor, alone[id(tensor)], swapped)
        if not a.input_tensors:
            made.append(a)
            swapped.update((id(tensor), tensor) for tensor in a.output_tensors)
            continue
        args, kwargs = a.arguments.convert(lambda value: swapped.get(id(value), value))
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        for old, new in zip(a.output_tensors, outputs, strict=True):
            if len(new.shape) != len(old.shape) or any(
                    size not in (None, fixed) for size, fixed in zip(new.shape, old.shape)) or (
                        tuple(new.shape).count(None) > 1):
                raise Closed(f'it makes {tuple(new.shape)}, whose sizes are not fixed')
            swapped[id(old)] = new
        made.append(Node(operation, SymbolicArguments(*args, **kwargs), tuple(outputs),
                         a.keeps_mode))
    return made


def _operation(one: Node, other: Node) -> Any:
    """The operation of two calls at any size of the batch; None if it repeats a tensor for each
    image, which `_repeated` does."""
    given = [[value for value in keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
              if not isinstance(value, keras.KerasTensor)] for node in (one, other)]
    if len(given[0]) != len(given[1]) or not all(map(is_same_value, *given)):
        raise Closed(f'the arguments of {type(one.operation).__name__} depend on the batch')
    if is_same_operation(one.operation, other.operation):
        return one.operation
    kind = type(one.operation)
    if kind is type(other.operation) and kind is knp.Reshape:
        sizes, others = (list(node.output_tensors[0].shape) for node in (one, other))
        differ = [place for place, pair in enumerate(zip(sizes, others)) if pair[0] != pair[1]]
        if len(sizes) == len(others) and len(differ) == 1:
            sizes[differ[0]] = -1
            return knp.Reshape(tuple(sizes))
    shape = one.output_tensors[0].shape
    repeats = kind is type(other.operation) and kind in _REPEATING
    if repeats and shape[0] in dict(SIZES) and (
            one.input_tensors[0].shape == (1, *shape[1:])):
        return None
    raise Closed(f'{kind.__name__} depends on the size of the batch')


def _repeated(reader: Node, tensor: Any, alone: Any, swapped: dict[int, Any]) -> list[Node]:
    """The calls that repeat a tensor for each image: zeros of what it is read with are added."""
    for each in reader.input_tensors:
        beside = swapped.get(id(each))
        if beside is not None and beside.shape[0] is None and (
                len(beside.shape) == len(tensor.shape) and beside.shape[-1] == tensor.shape[-1]):
            first = (slice(None), *[slice(0, 1)] * (len(tensor.shape) - 2))
            swapped[id(tensor)] = alone + keras.ops.zeros_like(beside[first])
            return nodes_before([swapped[id(tensor)]], {id(alone), id(beside)})
    raise Closed('it repeats a tensor for each image')


def with_batch(arguments: Any, size: int) -> Any:
    """The arguments of a call for so many images where their number is open."""
    args, kwargs = arguments.convert(
        lambda value: keras.KerasTensor([size if each is None else each for each in value.shape],
                                        value.dtype)
        if isinstance(value, keras.KerasTensor) else value)
    return SymbolicArguments(*args, **kwargs)


def is_open(arguments: Any) -> bool:
    """Whether the number of images of a call is open, and no other size is."""
    shapes = [tensor.shape for tensor in arguments.keras_tensors]
    return any(None in shape for shape in shapes) and not any(
        shape.count(None) > 1 for shape in shapes)
