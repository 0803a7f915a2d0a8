"""Surgery: the physical removal of channels. The result is a plain Keras model."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.pruning.masks import check_masks
from tfprune.structure.copies import config_of, give_activations
from tfprune.structure.graph import Graph, functional_graph, unfold
from tfprune.structure.groups import ChannelGroups, check_traced, trace_groups
from tfprune.structure.keras_internals import clone_model, layers_within, maker
from tfprune.structure.layer_rules import RULES
from tfprune.structure.layout import LayerNode, weight_of


def prune_model(model: keras.Model, groups: ChannelGroups, masks: Mapping[str, np.ndarray], *,
                dtype_policy: str | None = None) -> keras.Model:
    """Returns a new model without the channels that `masks` close; `model` stays as it is.

    Topology, layer names, inputs and outputs are those of `model`.

    Args:
        model: the dense model.
        groups: its channel groups.
        masks: {group name: bool [C_g]}, True = kept; a missing group stays whole.
        dtype_policy: the policy of every layer of the result, those in layers included, e.g.
            'float32' for the export of a model trained under 'mixed_bfloat16'; None keeps each
            layer's own.

    Raises:
        ValueError, TypeError: for unknown groups, wrong masks, or groups of another model.
    """
    graph, layout = unfold(model), groups.layout
    check_traced(model, graph, groups)
    kept = layout.kept(check_masks(groups, masks))
    cloning = _Cloning(graph, groups, kept, dtype_policy)
    with _policy_of_layers(dtype_policy or keras.config.dtype_policy()):
        pruned = cloning.rebuild(model)
    ruled = {slot.layer for slot in layout.weights}
    for path, layer in graph.layers.items():
        if path not in ruled and isinstance(layer, keras.layers.Layer) and layer.weights:
            copy_weights(layer, cloning.clone_of(layer))
    for path, weights in _kept_weights(graph, groups, kept).items():
        clone = cloning.clone_of(graph.layers[path])
        for name, value in weights.items():
            weight_of(clone, name).assign(value)
    return pruned


def _kept_weights(graph: Graph, groups: ChannelGroups, kept: Sequence[np.ndarray]
                  ) -> dict[str, dict[str, np.ndarray]]:
    """What is left of the weights, by the path of their layer and their name."""
    layout, found = groups.layout, dict[str, dict[str, np.ndarray]]()
    for slot in layout.weights:
        value = keras.ops.convert_to_numpy(weight_of(graph.layers[slot.layer], slot.weight))
        for each in slot.axes:
            value = np.compress(each.along(kept[each.tensor]), value, each.axis)
        found.setdefault(slot.layer, {})[slot.weight] = value
    nodes = {node.layer: node for node in reversed(layout.nodes)}
    for path in found:
        rule = RULES[type(graph.layers[path])]
        found[path] = rule.edit_weights(graph.layers[path], found[path],
                                        layout.kept_of(nodes[path], kept))
    return found


def float32_copy(model: keras.Model) -> keras.Model:
    """Returns a plain copy of a model in which every layer computes in float32."""
    return prune_model(model, trace_groups(model), {}, dtype_policy='float32')


def copy_layer(layer: Any, dtype_policy: str | None = None) -> Any:
    """Returns an unbuilt copy of a layer; an operation of keras.ops, which has no state, itself."""
    if not isinstance(layer, keras.layers.Layer):
        return layer
    return _from_config(layer, config_of(layer), dtype_policy)


def copy_weights(layer: Any, clone: Any) -> None:
    """Gives a built copy the weights of `layer`."""
    clone.set_weights(layer.get_weights())
    if isinstance(layer, keras.layers.Normalization):
        clone.finalize_state()


def _from_config(layer: Any, config: dict[str, Any], dtype_policy: str | None) -> Any:
    if not isinstance(layer, keras.layers.Layer):
        return type(layer).from_config(config)
    if dtype_policy is not None:
        config = _with_policy(config, dtype_policy)
    # The function of a Lambda comes from memory, not from a file: nothing to guard against.
    options = {'safe_mode': False} if isinstance(layer, keras.layers.Lambda) else {}
    with _policy_of_layers(layer.dtype_policy if dtype_policy is None else dtype_policy):
        clone = type(layer).from_config(config, **options)
    give_activations(layer, clone)
    # Layers that it makes itself may have policies that no config tells.
    before, after = (layers_within(each) for each in (layer, clone))
    same = [type(one) for one in before] == [type(other) for other in after]
    for place, inner in enumerate(after):
        policy = dtype_policy or (before[place].dtype_policy if same else inner.dtype_policy)
        if inner.dtype_policy != keras.dtype_policies.get(policy) and not isinstance(
                inner, keras.layers.InputLayer):
            inner.dtype_policy = policy
    return clone


def _with_policy(config: Any, dtype_policy: str) -> Any:
    """The config of a layer, and of the layers in it, with another dtype policy."""
    if isinstance(config, list | tuple):
        return type(config)(_with_policy(value, dtype_policy) for value in config)
    if not isinstance(config, dict):
        return config
    changed = {key: _with_policy(value, dtype_policy) for key, value in config.items()}
    if 'dtype' in config and 'trainable' in config:  # of a layer that is no input
        changed['dtype'] = dtype_policy
    return changed


@contextlib.contextmanager
def _policy_of_layers(policy: Any) -> Iterator[None]:
    """Within it, layers that are made without a policy of their own have this one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class _Cloning:
    """Copies layers with the configs that their rules give them; nested models likewise."""

    def __init__(self, graph: Graph, groups: ChannelGroups, kept: list[np.ndarray],
                 dtype_policy: str | None) -> None:
        self._nested, self._kept, self._dtype_policy = graph.nested, kept, dtype_policy
        self._layout = groups.layout
        self._nodes: dict[int, LayerNode] = {}  # id of an operation -> its first call
        for step, node in zip(graph.steps, groups.layout.nodes):
            self._nodes.setdefault(id(step.operation), node)
        self._clones: dict[int, Any] = {}
        self._calls: dict[int, LayerNode] = {}  # id of the copy of an operation -> its only call

    def rebuild(self, model: keras.Model) -> keras.Model:
        """Returns a copy of a model, root or nested, of cloned layers."""
        # Not model.input: of a nested Sequential model it is what that was called on.
        inputs = keras.tree.map_structure(self._input, functional_graph(model).input)
        # A Sequential model has layers alone, and Keras takes no function for their calls.
        call = {} if isinstance(model, keras.Sequential) else {'call_function': self._call}
        return clone_model(model, input_tensors=inputs, clone_function=self.clone_of, **call)

    def clone_of(self, layer: Any) -> Any:
        """Returns the copy of a layer or operation, always the same one."""
        if id(layer) not in self._clones:
            is_model = id(layer) in self._nested
            clone = self.rebuild(layer) if is_model else self._clone(layer)
            self._clones[id(layer)] = clone
            if not is_model and not isinstance(layer, keras.layers.Layer):
                self._calls[id(clone)] = self._nodes[id(layer)]
        return self._clones[id(layer)]

    def _call(self, clone: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the copy of a layer or operation with the arguments that are right for it."""
        rule, node = RULES.get(type(clone)), self._calls.get(id(clone))
        if rule is not None and node is not None and node.refused is None:
            args, kwargs = rule.edit_arguments(clone, args, kwargs,
                                               self._layout.kept_of(node, self._kept))
        return clone(*args, **kwargs)

    def _input(self, tensor: Any) -> Any:
        layer = maker(tensor)
        width = int(self._kept[self._nodes[id(layer)].outputs[0]].sum())
        shape = (*tensor.shape[:-1], width) if len(tensor.shape) > 1 else tensor.shape
        return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=layer.name,
                           optional=layer.optional)

    def _clone(self, layer: Any) -> Any:
        node, rule = self._nodes[id(layer)], RULES.get(type(layer))
        if node.refused is not None or rule is None:
            return copy_layer(layer, self._dtype_policy)
        try:
            config = config_of(layer)
        except NotImplementedError:
            return layer  # an operation with arguments that no config can hold
        edited = rule.edit(layer, dict(config), self._layout.kept_of(node, self._kept))
        if not isinstance(layer, keras.layers.Layer) and edited == config:
            return layer
        return _from_config(layer, edited, self._dtype_policy)
