"""Costs recounted from the operators of an exported file, independent of tfprune.costs.model.

Convention: one multiply-add is one, batch 1, and only operators that multiply by weights or
multiply two tensors as matrices are counted. With output sizes o, kernel k, channels c:
    convolution            prod(o) * c_out * prod(k) * c_in / groups
    depthwise              prod(o) * c_out * prod(k)
    transposed convolution prod(input sizes) * c_in * prod(k) * c_out
    fully connected        rows * c_in * c_out
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.python.framework import convert_to_constants

from tfprune.costs.multiply_adds import GRAPH_MACS, einsum_macs
from tfprune.export.base import ArtifactCost
from tfprune.export.interpreter import open_interpreter, run_on_zeros

Shape = Sequence[int]

# Operator -> (position of the weights among its inputs, MACs from (input, weights, output) shapes).
# Weights of TFLite: CONV_2D [out, kh, kw, in / groups], DEPTHWISE_CONV_2D [1, kh, kw, out],
# TRANSPOSE_CONV [out, kh, kw, in] with the data as input 2, CONV_3D [kd, kh, kw, in, out],
# FULLY_CONNECTED [out, in].
TFLITE_MACS: dict[str, tuple[int, int, Callable[[Shape, Shape, Shape], int]]] = {
    'CONV_2D': (0, 1, lambda x, w, y: math.prod(y) * math.prod(w[1:])),
    'DEPTHWISE_CONV_2D': (0, 1, lambda x, w, y: math.prod(y) * w[1] * w[2]),
    'TRANSPOSE_CONV': (2, 1, lambda x, w, y: math.prod(x) * math.prod(w[:3])),
    'CONV_3D': (0, 1, lambda x, w, y: math.prod(y) * math.prod(w[:4])),
    'FULLY_CONNECTED': (0, 1, lambda x, w, y: math.prod(y) * w[1]),
    'BATCH_MATMUL': (0, 1, lambda x, w, y: math.prod(y) * x[-1] * x[-2] // y[-2]),
}
TFLITE_UNCOUNTED = ('CONV_3D_TRANSPOSE', 'CUSTOM', 'LSTM', 'RNN', 'SVDF', 'WHILE', 'IF',
                    'UNIDIRECTIONAL_SEQUENCE_LSTM', 'UNIDIRECTIONAL_SEQUENCE_RNN',
                    'BIDIRECTIONAL_SEQUENCE_LSTM', 'BIDIRECTIONAL_SEQUENCE_RNN')

GRAPH_UNCOUNTED = ('PartitionedCall', 'StatefulPartitionedCall',
                   'While', 'StatelessWhile', 'If', 'StatelessIf', 'XlaConvV2', 'XlaDotV2')


def tflite_cost(model: bytes | str | pathlib.Path) -> ArtifactCost:
    """MACs and parameters of a TFLite file, from its operators at batch 1.

    params: the elements of the constant weights and biases of the counted operators (any type).
    ValueError if it is no TFLite file.
    """
    content = model if isinstance(model, bytes) else pathlib.Path(model).read_bytes()
    name = 'model' if isinstance(model, bytes) else str(model)
    # The flatbuffer gives 1 for sizes that depend on the batch; a run at batch 1 resolves them.
    interpreter = open_interpreter(content, name=name, optimized=False)
    run_on_zeros(interpreter)
    shapes = {detail['index']: [int(d) for d in detail['shape']]
              for detail in interpreter.get_tensor_details()}

    flat = schema.Model.GetRootAs(content, 0)
    sources = constant_sources(flat)
    macs, constants, uncounted = 0, {}, []
    for kind, inputs, output in operators(flat):
        if kind in TFLITE_MACS:
            data, weights, count = TFLITE_MACS[kind]
            macs += count(shapes[inputs[data]], shapes[inputs[weights]], shapes[output])
            for index in inputs[weights:]:
                if index in sources:  # a weight may serve several operators
                    constants[sources[index]] = math.prod(shapes[index])
        elif kind in TFLITE_UNCOUNTED:
            uncounted.append(f'{kind} {flat.Subgraphs(0).Tensors(output).Name().decode()}')
    return ArtifactCost(macs=macs, params=sum(constants.values()), uncounted=tuple(uncounted))


def operators(flat: schema.Model) -> Iterator[tuple[str, list[int], int]]:
    """(type, input tensors, first output tensor) of each operator; an absent input, a bias, is -1.
    """
    names = {code: key for key, code in vars(schema.BuiltinOperator).items()
             if isinstance(code, int)}
    graph = flat.Subgraphs(0)
    for position in range(graph.OperatorsLength()):
        operator = graph.Operators(position)
        code = flat.OperatorCodes(operator.OpcodeIndex())
        kind = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = [] if operator.InputsIsNone() else operator.InputsAsNumpy().tolist()
        yield kind, inputs, int(operator.Outputs(0))


def constant_sources(flat: schema.Model) -> dict[int, int]:
    """Tensor -> the stored constant that it is, or that a DEQUANTIZE makes it from (float16)."""
    graph = flat.Subgraphs(0)
    sources = {index: index for index in range(graph.TensorsLength())
               if flat.Buffers(graph.Tensors(index).Buffer()).DataLength()}
    for kind, inputs, output in operators(flat):
        if kind == 'DEQUANTIZE' and inputs[0] in sources:
            sources[output] = sources[inputs[0]]
    return sources


def number_formats(content: bytes) -> set[tuple[str, str]]:
    """(type of the data, type of the stored weights) of every product, such as 'FLOAT32', 'INT8'.
    """
    flat = schema.Model.GetRootAs(content, 0)
    graph, sources = flat.Subgraphs(0), constant_sources(flat)
    types = {code: key for key, code in vars(schema.TensorType).items() if isinstance(code, int)}
    found = set()
    for kind, inputs, _ in operators(flat):
        if kind in TFLITE_MACS:
            data, weights = (inputs[position] for position in TFLITE_MACS[kind][:2])
            found.add((types[graph.Tensors(data).Type()],
                       types[graph.Tensors(sources.get(weights, weights)).Type()]))
    return found


def float_operators(content: bytes) -> list[str]:
    """Types of the operators that give float32, but for DEQUANTIZE, sorted."""
    flat = schema.Model.GetRootAs(content, 0)
    return sorted({kind for kind, _, output in operators(flat) if kind != 'DEQUANTIZE'
                   and flat.Subgraphs(0).Tensors(output).Type() == schema.TensorType.FLOAT32})


def graph_cost(function: tf.types.experimental.ConcreteFunction) -> ArtifactCost:
    """MACs and parameters of a SavedModel's signature, from its graph at batch 1.

    A grouped convolution hides in a compiled call that is not inlined: it is listed as uncounted.
    """
    params = sum(int(np.prod(variable.shape)) for variable in function.variables)
    frozen = convert_to_constants.convert_variables_to_constants_v2(function)
    with tf.Graph().as_default() as graph:
        inputs = {tensor.name: tf.compat.v1.placeholder(tensor.dtype, [1, *tensor.shape[1:]])
                  for tensor in frozen.inputs if tensor.dtype != tf.resource}
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), input_map=inputs, name='')
    macs, uncounted = 0, []
    for operation in graph.get_operations():
        if operation.type in GRAPH_MACS:
            data, weights, count = GRAPH_MACS[operation.type]
            x, w, y = (operation.inputs[data].shape, operation.inputs[weights].shape,
                       operation.outputs[0].shape)
            if all(shape.is_fully_defined() for shape in (x, w, y)):
                macs += count(x.as_list(), w.as_list(), y.as_list())
                continue
        elif operation.type == 'Einsum' and all(
                tensor.shape.is_fully_defined() for tensor in operation.inputs):
            macs += einsum_macs(operation.get_attr('equation').decode(),
                                [tensor.shape.as_list() for tensor in operation.inputs])
            continue
        elif operation.type not in GRAPH_UNCOUNTED:
            continue
        uncounted.append(f'{operation.type} {operation.name}')
    return ArtifactCost(macs=macs, params=params, uncounted=tuple(uncounted))
