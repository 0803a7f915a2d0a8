"""Surgery: the physical removal of channels. The result is a plain Keras model."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.graph import functional_graph
from tfprune.groups import ChannelGroups
from tfprune.layout import LayerNode
from tfprune.layer_rules import RULES
from tfprune.masks import check_masks


def prune_model(model: keras.Model, groups: ChannelGroups, masks: Mapping[str, np.ndarray], *,
                dtype_policy: str | None = None) -> keras.Model:
    """Returns a new model without the channels that `masks` close; `model` stays as it is.

    Topology, layer names, inputs and outputs are those of `model`.

    Args:
      model: the dense model.
      groups: its channel groups.
      masks: {group name: bool [C_g]}, True = kept; a missing group stays whole.
      dtype_policy: the policy of every layer of the result, e.g. 'float32' for the export of a
        model trained under 'mixed_bfloat16'; None keeps each layer's own.

    Raises:
      ValueError, TypeError: for unknown groups, wrong masks, or groups of another model.
    """
    layers = {layer.name: layer for layer in functional_graph(model).layers}
    layout = groups.layout
    for node in layout.nodes:
        if node.refused is None and node.layer not in layers:
            raise ValueError(f"groups was traced on another model than '{model.name}': it has no "
                             f"layer '{node.layer}'")
    for slot in layout.weights:
        shape = tuple(getattr(layers[slot.layer], slot.weight).shape)
        if shape != slot.shape:
            raise ValueError(f"groups was traced on another model than '{model.name}': "
                             f"'{slot.layer}/{slot.weight}' has the shape {shape}, "
                             f'expected {slot.shape}')
    kept = [np.flatnonzero(mask) for mask in layout.kept(check_masks(groups, masks))]
    nodes: dict[str, LayerNode] = {}
    for node in layout.nodes:
        if node.refused is None:
            nodes.setdefault(node.layer, node)

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer  # an operation of keras.ops has no state
        config = layer.get_config()
        if dtype_policy is not None:
            config['dtype'] = dtype_policy
        node = nodes.get(layer.name)
        if node is not None:
            config = RULES[type(layer)].edit_config(
                layer, config, [kept[i] for i in node.inputs], kept[node.outputs[0]])
        if isinstance(layer, keras.layers.Lambda):
            # The function comes from memory, not from a file: nothing to guard against.
            return type(layer).from_config(config, safe_mode=False)
        return type(layer).from_config(config)

    pruned = keras.models.clone_model(model, clone_function=clone)
    for name, layer in layers.items():
        if name not in nodes and layer.weights:
            pruned.get_layer(name).set_weights(layer.get_weights())
    for slot in layout.weights:
        value = keras.ops.convert_to_numpy(slot.variable(model))
        for axis, tensor in ((slot.in_axis, slot.in_tensor), (slot.out_axis, slot.out_tensor)):
            if axis is not None and tensor is not None:
                value = np.take(value, kept[tensor], axis)
        slot.variable(pruned).assign(value)
    return pruned
