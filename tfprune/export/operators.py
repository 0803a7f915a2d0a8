"""The operators of a TFLite file, each as a file of its own, at its own widths or at others.

A runtime fuses: a convolution comes with its bias and activation, and with the zero padding before
it, which XNNPACK computes within; what works on constants only, as the unpacking of float16
weights, is done once and goes with the operator that it feeds. What is left over is a `Step`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune.export.flatbuffer import INTEGERS, Dim, Graph, Writer

IN, OUT = 'in', 'out'
# Kernels -> which dimensions of their weights are the out- and in-channels.
_KERNELS = {'CONV_2D': (0, 3), 'FULLY_CONNECTED': (0, 1), 'TRANSPOSE_CONV': (0, 3)}
_CHANNELWISE = frozenset(
    'ADD SUB MUL DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE POW PRELU RELU RELU6 RELU_N1_TO_1 '
    'LEAKY_RELU ELU GELU HARD_SWISH LOGISTIC TANH ABS NEG EXP SQRT RSQRT SQUARE SOFTMAX '
    'MAX_POOL_2D AVERAGE_POOL_2D MEAN SUM REDUCE_MAX QUANTIZE DEQUANTIZE CAST RESIZE_BILINEAR '
    'RESIZE_NEAREST_NEIGHBOR'.split())
_REDUCTIONS = ('MEAN', 'SUM', 'REDUCE_MAX')
# A kernel clamps its output in any case; the number of channels is a width.
_FREE = ('fusedActivationFunction', 'depthMultiplier')


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What the runtime computes at one go; `alone` makes it a file.

    Attributes:
        kind: its operator, 'CONV_2D', or two that are one, 'PAD+CONV_2D'.
        name: the tensor that it makes.
        signature: equal for steps that differ in widths and weights only.
        in_width, out_width: channels of the tensor that it reads first, and of the one it makes.
        scaling: which widths its time is a function of: 'both', 'in', or 'linear' where it cannot
            be made at other widths, and time is taken to be in proportion to out_width.
        macs_per_pair: multiply-adds at in- and out-width 1, 0 without a kernel.
    """
    kind: str
    name: str
    signature: str
    in_width: int
    out_width: int
    scaling: str
    macs_per_pair: int
    _graph: Graph
    _operators: tuple[int, ...]
    _sizes: Mapping[int, tuple[Dim, ...]]

    @property
    def likeness(self) -> tuple[str, int, int]:
        """Equal for steps that take the same time."""
        return self.signature, self.in_width, self.out_width

    def alone(self, in_width: int | None = None, out_width: int | None = None, *,
              copies: int = 1) -> bytes:
        """A TFLite file of this step, `copies` times side by side on the same input.

        Widths that are not given are its own; 'linear' steps have no others.
        """
        widths = {IN: in_width or self.in_width, OUT: out_width or self.out_width}
        if self.scaling == 'linear' and widths != {IN: self.in_width, OUT: self.out_width}:
            raise ValueError(f'{self.kind} {self.name}: cannot be made at other widths')
        return Writer(self._graph, self._sizes, widths).file(self._operators, copies)


def read_steps(content: bytes, name: str = 'model') -> list[Step]:
    """The steps of a TFLite file in their order; those that only compute shapes are left out.

    ValueError if it is no TFLite file.
    """
    graph = Graph.read(content, name)
    merged = graph.merged_pads()
    steps = []
    for position in range(len(graph.operators)):
        if position in merged or graph.is_static(position) or graph.computes_shape(position):
            continue
        pads = [pad for pad, conv in merged.items() if conv == position]
        steps.append(_step(graph, (*pads, position)))
    return steps


def _step(graph: Graph, positions: tuple[int, ...]) -> Step:
    """The step of an operator, the last one, and the padding before it."""
    kind = '+'.join(graph.kind(position) for position in positions)
    last = positions[-1]
    source = next(iter(graph.moving(positions[0])), graph.inputs(positions[0])[0])
    target = graph.output(last)
    width_in, width_out = (graph.shapes[tensor][-1] if graph.shapes[tensor] else 1
                           for tensor in (source, target))
    operators = tuple(operator for position in positions
                      for operator in (*graph.static_producers(position), position))
    sizes: dict[int, tuple[Dim, ...]] | None = {}
    for position in positions:
        assert sizes is not None
        sizes = _sizes(graph, position, width_in, width_out, sizes)
        if sizes is None:
            break
    scaling = 'linear'
    if sizes is not None:
        used = {size[0] for shape in sizes.values() for size in shape if isinstance(size, tuple)}
        scaling = 'both' if OUT in used else 'in'
    facts = [kind, scaling, *(
        _facts(graph, position, {} if sizes is None else sizes) for position in operators)]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:10]
    spatial = '>'.join('x'.join(map(str, graph.shapes[tensor][1:-1])) or '1'
                       for tensor in (source, target))
    kernel = ''
    macs = 0
    if graph.kind(last) in (*_KERNELS, 'DEPTHWISE_CONV_2D'):
        weights = graph.shapes[graph.inputs(last)[1]]
        kernel = ' ' + 'x'.join(map(str, weights[1:3])) if len(weights) == 4 else ''
        reach = math.prod(weights[1:3]) if len(weights) == 4 else 1
        macs = math.prod(graph.shapes[target][1:-1]) * reach
    return Step(kind, _text(graph.tensors[target].name), f'{kind}{kernel} {spatial} #{digest}',
                width_in, width_out, scaling, macs, graph, operators, sizes or {})


def _sizes(graph: Graph, position: int, width_in: int, width_out: int,
           sizes: dict[int, tuple[Dim, ...]]) -> dict[int, tuple[Dim, ...]] | None:
    """Adds the sizes of an operator's tensors as functions of widths; None if they are none."""
    kind, inputs, target = graph.kind(position), graph.inputs(position), graph.output(position)
    shapes = graph.shapes
    source = next(iter(graph.moving(position)), inputs[0])
    made: dict[int, tuple[Dim, ...]] = {}

    def last(tensor: int, size: Dim) -> None:
        made[tensor] = (*shapes[tensor][:-1], size)

    if not shapes[target] or len(shapes[source]) < 2:
        return None
    if kind in _KERNELS:
        out_axis, in_axis = _KERNELS[kind]
        weights = list(shapes[inputs[1]])
        groups, rest = divmod(width_in, weights[in_axis])
        if rest or (kind == 'TRANSPOSE_CONV') or (kind == 'CONV_2D' and groups < 1):
            return None
        shape: list[Dim] = list(weights)
        shape[out_axis], shape[in_axis] = (OUT, 1, 1), (IN, 1, groups)
        made[inputs[1]] = tuple(shape)
        last(source, (IN, 1, 1))
        last(target, (OUT, 1, 1))
        if len(inputs) > 2 and inputs[2] >= 0:
            last(inputs[2], (OUT, 1, 1))
    elif kind == 'DEPTHWISE_CONV_2D':
        size = (IN, width_out // width_in, 1)
        last(source, (IN, 1, 1))
        for tensor in (inputs[1], *(t for t in inputs[2:] if t >= 0), target):
            last(tensor, size)
    elif kind == 'PAD':
        last(source, (IN, 1, 1))
        last(target, (IN, 1, 1) if shapes[source][-1] == shapes[target][-1] else (OUT, 1, 1))
    elif kind in _CHANNELWISE and len(shapes[target]) > 1:
        if shapes[target][-1] != width_in or (
                kind in _REDUCTIONS and not _keeps_channels(graph, position)):
            return None
        for tensor in (*(t for t in inputs if t >= 0), target):
            shape_of = shapes[tensor]
            if graph.tensors[tensor].type not in INTEGERS and (
                    shape_of and shape_of[-1] == width_in):
                last(tensor, (IN, 1, 1))
    else:
        return None
    for tensor in list(made):  # what the constant is unpacked from has its size
        producer = graph.producer.get(tensor)
        if graph.is_fixed(tensor) and producer is not None:
            if graph.kind(producer) != 'DEQUANTIZE' or (
                    graph.data(graph.inputs(producer)[0]) is None):
                return None
            made[graph.inputs(producer)[0]] = made[tensor]
    return {**sizes, **made}


def _keeps_channels(graph: Graph, position: int) -> bool:
    """Whether a reduction leaves the last axis, its axes being constant."""
    tensors = graph.inputs(position)
    data = graph.data(tensors[1])
    rank = len(graph.shapes[tensors[0]])
    return data is not None and rank - 1 not in {int(a) % rank for a in data.view(np.int32)}


def _facts(graph: Graph, position: int, sizes: Mapping[int, tuple[Dim, ...]]) -> Any:
    """What decides the time of an operator beside widths and the values of weights."""
    operator = graph.operators[position]
    known = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
    options = {name: value for name, value in known.items()
               if isinstance(value, (int, float)) and name not in _FREE}
    tensors = [*graph.inputs(position), graph.output(position)]
    rows: list[Any] = []
    for tensor in tensors:
        if tensor < 0:
            rows.append(None)
            continue
        shape = sizes.get(tensor)
        if shape is None:  # of a step at no other widths the last size is left open
            shape = graph.shapes[tensor] if sizes else graph.shapes[tensor][:-1]
        rows.append((int(graph.tensors[tensor].type), graph.is_fixed(tensor), tuple(
            size if isinstance(size, tuple) else int(size) for size in shape)))
    return graph.kind(position), sorted(options.items()), rows


def _text(name: bytes | str | None) -> str:
    """A tensor's name, the last of those that were fused into it."""
    text = name.decode() if isinstance(name, bytes) else str(name or '')
    return text.split(';')[0]
