"""Multiply-adds of TensorFlow's operators, and of a function, counted by running it.

Convention: one multiply-add is one, and only operators that multiply by weights or multiply two
tensors as matrices are counted. With output sizes o, kernel k, channels c:
    convolution            prod(o) * c_out * prod(k) * c_in / groups
    depthwise              prod(o) * c_out * prod(k)
    transposed convolution prod(input sizes) * c_in * prod(k) * c_out
    product of matrices    rows * c_in * c_out
    einsum of two tensors  the product of the sizes of all its indices
"""
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_callbacks  # has no public name

Shape = Sequence[int]

# Operator -> (position of the weights among its inputs, MACs from (input, weights, output) shapes).
# Weights of TensorFlow: Conv2D [kh, kw, in / groups, out], depthwise [kh, kw, in, multiplier],
# Conv2DBackpropInput [kh, kw, out, in] with the data as input 2, MatMul [in, out].
GRAPH_MACS: dict[str, tuple[int, int, Callable[[Shape, Shape, Shape], int]]] = {
    'Conv2D': (0, 1, lambda x, w, y: math.prod(y) * math.prod(w[:3])),
    'DepthwiseConv2dNative': (0, 1, lambda x, w, y: math.prod(y) * w[0] * w[1]),
    'Conv2DBackpropInput': (2, 1, lambda x, w, y: math.prod(x) * math.prod(w[:3])),
    'Conv3D': (0, 1, lambda x, w, y: math.prod(y) * math.prod(w[:4])),
    'Conv3DBackpropInputV2': (2, 1, lambda x, w, y: math.prod(x) * math.prod(w[:4])),
    'MatMul': (0, 1, lambda x, w, y: math.prod(y) * math.prod(x) // max(y[0], 1)),
    **{name: (0, 1, lambda x, w, y: math.prod(y) * x[-1] * x[-2] // max(y[-2], 1))
       for name in ('BatchMatMul', 'BatchMatMulV2', 'BatchMatMulV3')},
}
# What may multiply, or call what does, if it is not counted above.
_MAY_MULTIPLY = re.compile('MatMul|Conv[123D]|ConvV|Conv$|Einsum|RNN|LSTM|GRU|PyFunc|Xla|'
                           'PartitionedCall|While$|If$|__inference|__forward')


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """Multiply-adds of an einsum: of one tensor none, of two the product of all sizes."""
    if len(shapes) == 1:
        return 0
    sizes: dict[str, int] = {}
    for labels, shape in zip(equation.split('->')[0].split(','), shapes):
        labels = labels.replace(' ', '')
        before, dots, after = labels.partition('...')
        free = len(shape) - len(before) - len(after)
        # Broadcast axes are aligned at the last.
        names = [*before, *(f'...{place}' for place in range(-free, 0) if dots), *after]
        for name, size in zip(names, shape):
            sizes[name] = max(sizes.get(name, 1), size)
    return math.prod(sizes.values())


def macs_by_running(run: Callable[[], Any]) -> int | None:
    """Multiply-adds of the operators that `run` executes for the tensors that it returns, or to
    assign a variable; loops count as often as they go round.

    None where one of them hides what it multiplies, or `run` fails.
    """
    executed: list[tuple[str, Sequence[Any], Sequence[Any], Sequence[Any]]] = []

    def seen(kind: str | bytes, inputs: Sequence[Any], attributes: Sequence[Any],
             outputs: Sequence[Any], op_name: str | None = None, graph: Any = None) -> None:
        del op_name
        if graph is None:  # else it is of a function that is traced, and counts where that runs
            name = kind.decode() if isinstance(kind, bytes) else kind
            # Copies: the list may be a TensorArray's own, which forgets what was read.
            executed.append((name, tuple(inputs), attributes, tuple(outputs)))

    eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    op_callbacks.add_op_callback(seen)
    try:
        needed = set(map(id, tf.nest.flatten(run())))
        total = 0
        # Backwards, since a loop may try its first round for the shapes alone.
        for kind, inputs, attributes, outputs in reversed(executed):
            if 'Assign' not in kind and needed.isdisjoint(map(id, outputs)):
                continue
            needed.update(map(id, inputs))
            total += _macs(kind, inputs, attributes, outputs)
        return total
    except Exception:  # of a user's layer: anything
        return None
    finally:
        op_callbacks.remove_op_callback(seen)
        tf.config.run_functions_eagerly(eager)


def _macs(kind: str, inputs: Sequence[Any], attributes: Sequence[Any], outputs: Sequence[Any]
          ) -> int:
    """Multiply-adds of one operator; ValueError if they cannot be told."""
    if kind == 'Einsum':
        equation = dict(zip(attributes[::2], attributes[1::2]))['equation']
        return einsum_macs(equation.decode() if isinstance(equation, bytes) else equation,
                           [tensor.shape.as_list() for tensor in inputs])
    if kind in GRAPH_MACS:
        data, weights, count = GRAPH_MACS[kind]
        return count(*(tensor.shape.as_list() for tensor in (
            inputs[data], inputs[weights], outputs[0])))
    if _MAY_MULTIPLY.search(kind):
        raise ValueError(f'{kind} hides what it multiplies')
    return 0
