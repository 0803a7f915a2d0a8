"""Keras' private names, all of them: what a new version of Keras may move stands here."""
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.models.functional import Functional
from keras.src.ops import core, image, nn, numpy

__all__ = ['CustomScaleLayer', 'Functional', 'LayerScale', 'StochasticDepth', 'core', 'image',
           'inputs_of_call', 'is_plain_batch_norm', 'layers_within', 'maker', 'moments', 'nn',
           'numpy', 'ordered_nodes', 'origin', 'sequential_graph', 'standardized']


def layers_within(layer: Any, *, itself: bool = True) -> list[Any]:
    """Every layer in a layer or model, at any depth; the layer itself among them or not."""
    return list(layer._flatten_layers(include_self=itself))


def origin(tensor: Any) -> tuple[Any, int, int]:
    """(operation, index of its call, index among that call's outputs) of a symbolic tensor."""
    operation, node, index = tensor._keras_history
    return operation, node, index


def maker(tensor: Any) -> Any:
    """The layer or operation that made a symbolic tensor."""
    return origin(tensor)[0]


def inputs_of_call(operation: Any, node: int) -> Sequence[Any]:
    """The symbolic tensors that the call of this index took."""
    return operation._inbound_nodes[node].input_tensors


def sequential_graph(model: keras.Sequential) -> Any:
    """The functional graph inside a Sequential model; None before it is built."""
    return model._functional


def ordered_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a functional graph in the order in which Keras runs them."""
    rank = {id(operation): place for place, operation in enumerate(graph.operations)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from sorted(graph._nodes_by_depth[depth],
                          key=lambda node: rank.get(id(node.operation), -1))


def standardized(graph: Any, inputs: Any) -> list[Any]:
    """Inputs of a functional graph as the flat list of tensors that it starts from."""
    return graph._standardize_inputs(inputs)


def is_plain_batch_norm(layer: Any) -> bool:
    """Whether a layer computes what BatchNormalization does: a subclass may do something else."""
    return all(getattr(type(layer), name, None) is getattr(keras.layers.BatchNormalization, name)
               for name in ('call', '_moments'))


def moments(layer: keras.layers.BatchNormalization, inputs: Any, mask: Any) -> tuple[Any, Any]:
    """Mean and variance of a batch as the layer takes them."""
    return layer._moments(inputs, mask)
