"""The functional graph of a Keras model; the only place that knows Keras' internals of it."""

from typing import Any

import keras
from keras.src.models.functional import Functional  # no public name


def functional_graph(model: keras.Model) -> Any:
    """Returns the functional graph of a functional or built Sequential model.

    Raises:
      TypeError: if `model` is not a Keras 3 model.
      ValueError: if it is subclassed or not built.
    """
    if not isinstance(model, keras.Model):
        kind = f'{type(model).__module__}.{type(model).__name__}'
        raise TypeError(f'model must be a Keras 3 model (keras.Model), received {kind}')
    graph = model
    if isinstance(model, keras.Sequential):
        # Keras has no public name for the graph inside a Sequential.
        graph = model._functional
        if graph is None:
            raise ValueError(f"model '{model.name}' is not built: give it an Input layer or call "
                             'model.build(input_shape)')
    if not isinstance(graph, Functional) or type(graph).call is not Functional.call:
        raise ValueError(f"model '{model.name}' ({type(model).__name__}) is a subclassed model: "
                         'expected a functional or Sequential one, whose layers can be traced')
    return graph


def ordered_nodes(graph: Any) -> list[Any]:
    """Returns the Keras nodes of a functional graph in the order in which Keras runs them."""
    rank = {id(operation): place for place, operation in enumerate(graph.operations)}
    nodes = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        nodes += sorted(graph._nodes_by_depth[depth],
                        key=lambda node: rank.get(id(node.operation), -1))
    return nodes
