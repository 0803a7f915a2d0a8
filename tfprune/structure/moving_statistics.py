"""Whose moving statistics a pass updates."""
from collections.abc import Callable

import keras
import tensorflow as tf

from tfprune.structure.graph import Graph, functional_graph
from tfprune.structure.keras_internals import layers_within
from tfprune.structure.layer_state import KeptState


def updated_layers(graph: Graph, run: Callable[[], object]
                   ) -> list[keras.layers.BatchNormalization]:
    """The layers whose moving statistics `run` updates; all that the graph's layers hold is then as
    it was. One that is frozen, or that its subclass or the layer around it keeps in inference mode,
    is none of them."""
    kept = KeptState(graph.layers.values(), weights=True)
    run()
    moved = moved_layers(graph, kept)
    kept.restore()
    return moved


def moved_layers(graph: Graph, kept: KeptState) -> list[keras.layers.BatchNormalization]:
    """The layers whose moving statistics are other ones than were kept."""
    moved = set(map(id, kept.moved()))
    return [layer for layer in _normalizations(graph)
            if id(layer.moving_mean) in moved or id(layer.moving_variance) in moved]


def updated_in_training(model: keras.Model, graph: Graph) -> list[keras.layers.BatchNormalization]:
    """The layers that a training pass updates; `graph` is that of the model. Who calls those that
    are no steps of their own, and how, shows in a pass."""
    alone, found = set(map(id, graph.layers.values())), _normalizations(graph)
    if all(id(layer) in alone and type(layer) is keras.layers.BatchNormalization
           for layer in found) and not any(
               'training' in step.arguments.kwargs for step in graph.steps):
        return [layer for layer in found if layer.trainable]
    zeros = keras.tree.map_structure(
        lambda x: tf.zeros([x.shape[0] or 2, *(size or 32 for size in x.shape[1:])], x.dtype),
        functional_graph(model).input)
    return updated_layers(graph, lambda: model(zeros, training=True))


def _normalizations(graph: Graph) -> list[keras.layers.BatchNormalization]:
    """The built ones among the layers of a graph and in them, each once."""
    return list({id(inner): inner for layer in graph.layers.values()
                 if isinstance(layer, keras.layers.Layer) for inner in layers_within(layer)
                 if isinstance(inner, keras.layers.BatchNormalization) and inner.built}.values())
