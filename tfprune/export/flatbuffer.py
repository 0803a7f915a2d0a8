"""Operators of a TFLite flatbuffer: reading how they hang together, writing some as a file."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tfprune.export.interpreter import open_interpreter, run_on_zeros

# A size of a tensor: a number, or a share of the in- or out-width of its step.
Dim = int | tuple[str, int, int]
INTEGERS = (schema.TensorType.INT32, schema.TensorType.INT64)
_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items()
          if isinstance(code, int)}
_VALID = schema.Padding.VALID


class Graph:
    """The first subgraph of a file, with sizes at batch 1."""

    def __init__(self, model: Any, shapes: Mapping[int, tuple[int, ...]]) -> None:
        self.codes, self.buffers = model.operatorCodes, model.buffers
        graph = model.subgraphs[0]
        self.operators, self.tensors, self.shapes = graph.operators, graph.tensors, shapes
        self.producer = {int(tensor): position for position, operator in enumerate(self.operators)
                         for tensor in operator.outputs}
        self.users: dict[int, list[int]] = {}
        for position, operator in enumerate(self.operators):
            for tensor in operator.inputs:
                self.users.setdefault(int(tensor), []).append(position)
        self.outputs = {int(tensor) for tensor in graph.outputs}

    @classmethod
    def read(cls, content: bytes, name: str) -> Graph:
        # The flatbuffer gives 1 for sizes that depend on the batch; a run at batch 1 resolves them.
        interpreter = open_interpreter(content, name=name, optimized=False)
        run_on_zeros(interpreter)
        return cls(schema.ModelT.InitFromPackedBuf(content, 0),
                   {detail['index']: tuple(int(n) for n in detail['shape'])
                    for detail in interpreter.get_tensor_details()})

    def kind(self, position: int) -> str:
        code = self.codes[self.operators[position].opcodeIndex]
        return _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def inputs(self, position: int) -> list[int]:
        """Its inputs; an absent optional one is -1."""
        return [int(tensor) for tensor in self.operators[position].inputs]

    def output(self, position: int) -> int:
        return int(self.operators[position].outputs[0])

    def data(self, tensor: int) -> np.ndarray | None:
        """The bytes of a constant, None of another tensor."""
        data = self.buffers[self.tensors[tensor].buffer].data
        return None if data is None or not len(data) else np.asarray(data, np.uint8)

    def is_fixed(self, tensor: int) -> bool:
        """Whether it is a constant, or made of constants only."""
        if tensor < 0 or self.data(tensor) is not None:
            return True
        return tensor in self.producer and self.is_static(self.producer[tensor])

    @functools.cache
    def is_static(self, position: int) -> bool:
        return all(self.is_fixed(tensor) for tensor in self.inputs(position))

    def computes_shape(self, position: int) -> bool:
        tensor = self.output(position)
        return self.tensors[tensor].type in INTEGERS and len(self.shapes[tensor]) < 2

    def moving(self, position: int) -> list[int]:
        """The inputs that change from run to run, shapes left out."""
        return [tensor for tensor in self.inputs(position) if not self.is_fixed(tensor)
                and not (self.tensors[tensor].type in INTEGERS and len(self.shapes[tensor]) < 2)]

    def merged_pads(self) -> dict[int, int]:
        """Position of each PAD that a convolution without padding computes -> that convolution."""
        found = {}
        for position in range(len(self.operators)):
            users = self.users.get(self.output(position), [])
            if self.kind(position) != 'PAD' or len(users) != 1 or (
                    self.output(position) in self.outputs):
                continue
            shape_in, shape_out = (self.shapes[tensor] for tensor in (
                self.inputs(position)[0], self.output(position)))
            options = self.operators[users[0]].builtinOptions
            if (self.kind(users[0]) in ('CONV_2D', 'DEPTHWISE_CONV_2D')
                    and options.padding == _VALID and len(shape_in) == 4
                    and shape_in[0] == shape_out[0] and shape_in[3] == shape_out[3]):
                found[position] = users[0]
        return found

    def static_producers(self, position: int) -> list[int]:
        """Operators on constants that feed it, in order."""
        found: list[int] = []
        for tensor in self.inputs(position):
            if tensor in self.producer and self.is_static(self.producer[tensor]):
                producer = self.producer[tensor]
                found += [*self.static_producers(producer), producer]
        return list(dict.fromkeys(found))


class Writer:
    """Makes a file of some operators at given widths."""

    def __init__(self, graph: Graph, sizes: Mapping[int, tuple[Dim, ...]],
                 widths: Mapping[str, int]) -> None:
        self._graph, self._sizes, self._widths = graph, sizes, widths
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._places: dict[int, int] = {}  # of what the copies share

    def file(self, positions: Sequence[int], copies: int) -> bytes:
        graph = self._graph
        static = [position for position in positions if graph.is_static(position)]
        operators = [self._operator(position, self._places) for position in static]
        outputs = []
        for _ in range(copies):
            own = dict(self._places)
            for position in positions:
                if position not in static:
                    operators.append(self._operator(position, own))
            outputs.append(own[graph.output(positions[-1])])
            made = {graph.output(position) for position in positions if position not in static}
            self._places.update({t: place for t, place in own.items() if t not in made})
        made_here = {int(t) for operator in operators for t in operator.outputs}
        inputs = [place for place, tensor in enumerate(self._tensors)
                  if not tensor.buffer and place not in made_here]
        subgraph = schema.SubGraphT(tensors=self._tensors, inputs=inputs, outputs=outputs,
                                    operators=operators, name='main')
        model = schema.ModelT(version=3, operatorCodes=graph.codes, subgraphs=[subgraph],
                              buffers=self._buffers, description='')
        return _packed(model)

    def _operator(self, position: int, places: dict[int, int]) -> Any:
        graph, old = self._graph, self._graph.operators[position]
        kind = graph.kind(position)
        inputs = [tensor if tensor < 0 else self._tensor(tensor, places, position)
                  for tensor in graph.inputs(position)]
        target = graph.output(position)
        outputs = [self._tensor(target, places, position)]
        options = old.builtinOptions
        if kind == 'RESHAPE' and len(inputs) < 2 and options is not None:
            options = schema.ReshapeOptionsT(newShape=list(graph.shapes[target]))
        return schema.OperatorT(
            opcodeIndex=old.opcodeIndex, inputs=inputs, outputs=outputs,
            builtinOptionsType=old.builtinOptionsType, builtinOptions=options,
            customOptions=old.customOptions, customOptionsFormat=old.customOptionsFormat)

    def _tensor(self, tensor: int, places: dict[int, int], position: int) -> int:
        if tensor not in places:
            graph, old = self._graph, self._graph.tensors[tensor]
            shape, data = self._shape(tensor), graph.data(tensor)
            if graph.kind(position) == 'PAD' and tensor == graph.inputs(position)[1]:
                data = self._paddings(position)
            elif tensor in self._sizes and data is not None:
                # Weights anew by repeating the old ones: bytes an element stay.
                data = np.resize(data, len(data) * math.prod(shape) // math.prod(
                    graph.shapes[tensor]))
            elif data is None and old.type in INTEGERS and graph.kind(position) == 'RESHAPE':
                data = np.array(graph.shapes[graph.output(position)], np.int32).view(np.uint8)
            places[tensor] = self._add(old, shape, data)
        return places[tensor]

    def _add(self, old: Any, shape: Sequence[int], data: np.ndarray | None) -> int:
        buffer = 0
        if data is not None:
            buffer = len(self._buffers)
            self._buffers.append(schema.BufferT(data=np.ascontiguousarray(data)))
        self._tensors.append(schema.TensorT(
            shape=list(shape), type=old.type, buffer=buffer, name=f't{len(self._tensors)}',
            quantization=_quantization(old.quantization, shape), hasRank=True))
        return len(self._tensors) - 1

    def _shape(self, tensor: int) -> tuple[int, ...]:
        shape = self._sizes.get(tensor, self._graph.shapes[tensor])
        return tuple(size if isinstance(size, int) else max(
            self._widths[size[0]] * size[1] // size[2], 1) for size in shape)

    def _paddings(self, position: int) -> np.ndarray:
        """Those of the file, the channels' anew, as many as the widths need."""
        graph = self._graph
        tensor = graph.inputs(position)[1]
        data = graph.data(tensor)
        if data is None:
            raise ValueError(f"operator {graph.kind(position)} '{graph.tensors[tensor].name}': "
                             'its paddings are no constants')
        kind = np.int64 if graph.tensors[tensor].type == schema.TensorType.INT64 else np.int32
        pads = data.view(kind).reshape(-1, 2).copy()
        before, after = (self._shape(t) for t in (graph.inputs(position)[0],
                                                  graph.output(position)))
        pads[-1] = 0, after[-1] - before[-1]
        return pads.reshape(-1).view(np.uint8)


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b'TFL3')
    return bytes(builder.Output())


def _quantization(old: Any, shape: Sequence[int]) -> Any:
    """Scales and zero points, one a channel or one in all; None of a float tensor."""
    if old is None or old.scale is None or not len(old.scale):
        return None
    many = len(old.scale) > 1
    count = shape[old.quantizedDimension] if many else 1
    zeros = np.zeros(1, np.int64) if old.zeroPoint is None else np.asarray(old.zeroPoint)
    return schema.QuantizationParametersT(
        scale=np.resize(np.asarray(old.scale, np.float32), count),
        zeroPoint=np.resize(zeros, count).astype(np.int64),
        quantizedDimension=old.quantizedDimension)


def smallest_file() -> bytes:
    """A TFLite file that does next to nothing: its time is that of a call."""
    relu = schema.BuiltinOperator.RELU
    tensors = [schema.TensorT(shape=[1, 1], type=schema.TensorType.FLOAT32, name=name,
                              hasRank=True) for name in ('in', 'out')]
    graph = schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[1], name='main',
                             operators=[schema.OperatorT(inputs=[0], outputs=[1])])
    code = schema.OperatorCodeT(deprecatedBuiltinCode=relu, builtinCode=relu, version=1)
    return _packed(schema.ModelT(version=3, operatorCodes=[code], subgraphs=[graph],
                                 buffers=[schema.BufferT()], description=''))
