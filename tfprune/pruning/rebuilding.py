"""A model built anew from copies of its layers; opened composite layers become nested models."""

import collections
import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfprune.structure.composite import Opened
from tfprune.structure.composite_nodes import Node
from tfprune.structure.copies import config_of, give_activations, made_of
from tfprune.structure.graph import Graph, Shape, functional_graph
from tfprune.structure.keras_internals import (clone_model, core, layers_within, maker,
                                               without_random_weights)
from tfprune.structure.parameter import Constant, Parameter


_HALF = ('float16', 'bfloat16')


class Rebuilding:
    """Copies layers, each once, and the models that they stand in.

    A composite layer that was opened, and is to change, becomes a plain functional model of its
    name; its own weights become embeddings, looked up at an index that is a constant. One that is
    to stay is copied by its config.

    Args:
        model: the model.
        graph: what it is unfolded.
        dtype_policy: of every layer of the result; None keeps each layer's own.
    """

    def __init__(self, model: keras.Model, graph: Graph, dtype_policy: str | None = None) -> None:
        self.nested, self.dtype_policy = graph.nested, dtype_policy
        self._models = collections.Counter(
            id(operation) for inner in (functional_graph(model), *graph.nested.values())
            for operation in inner.operations)
        opened = [inner for inner in graph.nested.values() if isinstance(inner, Opened)]
        self._names = {key: name for inner in opened for key, name in inner.names.items()}
        self._fixed = {id(node.operation) for inner in opened for node in inner.nodes
                       if node.keeps_mode}
        self._shapes: dict[int, Shape] = {}  # id of an input -> its shape in all calls
        for step in graph.steps:
            if isinstance(step.operation, keras.layers.InputLayer):
                shape, key = graph.shapes[step.outputs[0]], id(step.operation)
                self._shapes[key] = tuple(one if one == other else None for one, other in zip(
                    shape, self._shapes.get(key, shape)))
        self._clones: dict[int, Any] = {}
        self._plain: set[int] = set()       # ids of the models that composite layers became
        self._whole: list[tuple[Any, Any]] = []  # composite layers and their copies
        self._within: set[int] = set()      # ids of what stands in these

    def is_changed(self, operation: Any) -> bool:
        """Whether the copy of a layer or operation that is no model is to be another one."""
        raise NotImplementedError

    def copy(self, operation: Any) -> Any:
        """Returns the copy of a layer or operation that is no model."""
        raise NotImplementedError

    def shape_like(self, layer: Any, shape: Shape) -> Shape:
        """Returns the shape of the copy of an input of this shape."""
        del layer
        return shape

    def copied(self, model: keras.Model, graph: Graph) -> keras.Model:
        """Returns a copy of the root model, with the weights that its layers' copies are given."""
        policy = self.dtype_policy or keras.config.dtype_policy()
        with policy_of_layers(policy), without_random_weights():
            copy = self.rebuild(model)
        self.copy_weights(graph)
        return copy

    def rebuild(self, model: keras.Model) -> keras.Model:
        """Returns a copy of a model, root or nested, of cloned layers."""
        graph = self.nested.get(id(model)) or functional_graph(model)
        if isinstance(graph, Opened):
            return self._as_model(graph)
        # Not model.input: of a nested Sequential model it is what that was called on.
        inputs = keras.tree.map_structure(self._input_like, graph.input)
        # Sequential models call each layer on one tensor.
        call = {} if isinstance(model, keras.Sequential) else {'call_function': self.call}
        copy = clone_model(model, input_tensors=inputs, clone_function=self.clone_of, **call)
        if not model.trainable:
            # Which Keras tells the layers in it, too; these have their own.
            own = [(layer, layer.trainable) for layer in layers_within(copy, itself=False)]
            copy.trainable = False
            for layer, trains in own:
                layer.trainable = trains
        return copy

    def clone_of(self, layer: Any) -> Any:
        """Returns the copy of a layer, operation or model, always the same one."""
        if id(layer) not in self._clones:
            clone = self._clones[id(layer)] = self._clone(layer)
            if isinstance(clone, keras.layers.Layer) and clone is not layer:
                clone.name = self._names.get(id(layer), clone.name)
        return self._clones[id(layer)]

    def call(self, clone: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a copy as its layer is called."""
        if id(clone) in self._plain:
            tensors = _tensors(args, kwargs)
            return clone(tensors[0] if len(tensors) == 1 else tensors)
        return clone(*args, **kwargs)

    def copy_weights(self, graph: Graph) -> None:
        """Gives the copies the weights of layers, those in whole composite layers included."""
        for layer, clone in self._whole:
            copy_weights(layer, clone)
        for layer in graph.layers.values():
            if id(layer) not in self._within:
                self.copy_weights_of(layer)

    def copy_weights_of(self, layer: Any) -> None:
        """Gives the copy of a layer its weights."""
        raise NotImplementedError

    def _clone(self, layer: Any) -> Any:
        inner = self.nested.get(id(layer))
        if id(layer) in self._fixed:
            return self._in_inference(layer)
        if inner is None:
            return self.copy(layer)
        if isinstance(inner, Opened):
            if not self._is_changed(inner) and (clone := self._copied_whole(layer)) is not None:
                return clone
            clone = self._as_model(inner)
            self._plain.add(id(clone))
            return clone
        return self.rebuild(layer)

    def _in_inference(self, layer: Any) -> Any:
        """A copy that runs in inference mode always, as a layer that is called that way."""
        if not layer.weights:
            return keras.layers.Identity(
                name=layer.name, dtype=self.dtype_policy or layer.dtype_policy.name)
        clone = self.copy(layer)
        clone.trainable = False
        return clone

    def _is_changed(self, inner: Any) -> bool:
        if isinstance(inner, Opened) and inner.drops:
            return True
        return any(self._is_changed(self.nested[id(operation)]) if id(operation) in self.nested
                   else self.is_changed(operation) for operation in inner.operations)

    def _copied_whole(self, layer: Any) -> Any:
        """The copy of a composite layer by its config; None where that is not possible."""
        inside = {id(each) for each in self._all_within(self.nested[id(layer)])}
        if any(self._models[each] > 1 for each in inside):
            return None  # a layer that stands elsewhere, too
        try:
            clone = copy_layer(layer, self.dtype_policy)
        except Exception:  # of a user's class: anything
            return None
        if len(layers_within(clone)) != len(layers_within(layer)):
            return None
        self._whole.append((layer, clone))
        self._within |= inside
        return clone

    def _all_within(self, inner: Any) -> Iterator[Any]:
        for operation in inner.operations:
            yield operation
            if id(operation) in self.nested:
                yield from self._all_within(self.nested[id(operation)])

    def _as_model(self, graph: Opened) -> keras.Model:
        """A functional model of the copies of what an opened layer is made of."""
        inputs = [self._input_like(tensor, opened=True) for tensor in graph.inputs]
        values = {id(tensor): made for tensor, made in zip(graph.inputs, inputs)}
        zero: Any = None
        for node in graph.nodes:
            if node.is_input:
                continue
            operation = node.operation
            if isinstance(operation, Constant | Parameter) and not self.is_gone(operation):
                if zero is None:
                    zero = _zero(inputs[0], graph.names[id(operation)])
                made = (_beside(operation, zero, graph.names[id(operation)])
                        if isinstance(operation, Constant)
                        else self._looked_up(operation, zero))
            else:
                made = self._called(node, values)
            values.update(zip(map(id, node.output_tensors), keras.tree.flatten(made)))
        outputs = keras.tree.map_structure(lambda tensor: values[id(tensor)], graph.output)
        if all(any(output is made for made in inputs) for output in keras.tree.flatten(outputs)):
            # What is left of it gives its inputs back; Keras 3.12 wants a layer between them.
            outputs = keras.tree.map_structure(keras.layers.Identity(), outputs)
        return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=graph.name)

    def _input_like(self, tensor: Any, *, opened: bool = False) -> Any:
        layer, shape = maker(tensor), tensor.shape
        if opened:  # by nobody but its calls
            shape = self._shapes[id(layer)]
        if len(shape) > 1:
            shape = self.shape_like(layer, shape)
        return keras.Input(batch_shape=shape, dtype=self._dtype_like(tensor), name=layer.name,
                           optional=layer.optional)

    def _dtype_like(self, tensor: Any) -> str:
        if self.dtype_policy and tensor.dtype in _HALF:
            return str(keras.DTypePolicy(self.dtype_policy).compute_dtype)
        return str(tensor.dtype)

    def is_gone(self, operation: Any) -> bool:
        """Whether nothing of a layer or operation is left."""
        del operation
        return False

    def _called(self, node: Node, values: dict[int, Any]) -> Any:
        args, kwargs = node.arguments.fill_in(values)
        if node.keeps_mode:
            kwargs = {name: value for name, value in kwargs.items() if name != 'training'}
        return self.call(self.clone_of(node.operation), *args, **kwargs)

    def _looked_up(self, parameter: Parameter, zero: Any) -> Any:
        """The copy of a weight, as a tensor of its shape; `zero` is an index of no axes."""
        embedding = self.clone_of(parameter)
        shape = tuple(parameter.variable.shape)
        rows = np.arange(math.prod(shape[:-1]), dtype='int32').reshape(shape[:-1])
        name = embedding.name
        index = zero if rows.ndim == 0 else _named(f'{name}_rows', zero + rows)
        found = embedding(index)
        return found if shape else _named(f'{name}_value', keras.ops.squeeze(found, -1))


def embedding_like(parameter: Parameter, dtype_policy: str | None, width: int | None = None
                   ) -> Any:
    """An embedding [rows, width] that can hold a weight […, width], by default all of it."""
    variable = parameter.variable
    *sizes, last = tuple(variable.shape) or (1,)
    policy = dtype_policy or (variable.dtype if parameter.dtype == variable.dtype
                              else f'mixed_{parameter.dtype}')
    return keras.layers.Embedding(
        math.prod(sizes), last if width is None else width, name=parameter.name, dtype=policy,
        embeddings_regularizer=variable.regularizer, trainable=variable.trainable)


def give_embeddings(embedding: Any, value: np.ndarray) -> None:
    """Gives what `embedding_like` made a weight […, width]."""
    embedding.embeddings.assign(value.reshape(embedding.embeddings.shape))


def copy_layer(layer: Any, dtype_policy: str | None = None) -> Any:
    """Returns an unbuilt copy of a layer; an operation of keras.ops, which has no state, itself."""
    if not isinstance(layer, keras.layers.Layer):
        return layer
    return from_config(layer, config_of(layer), dtype_policy)


def copy_weights(layer: Any, clone: Any) -> None:
    """Gives a built copy the weights of `layer`; ValueError where its configuration makes others.
    """
    own, made = ([tuple(weight.shape) for weight in each.weights] for each in (layer, clone))
    if own != made:
        raise ValueError(f"layer '{layer.name}' ({type(layer).__name__}) has {len(own)} weights, "
                         f'what its configuration makes has {len(made)}, or others: it cannot be '
                         'copied, neither by Keras.')
    clone.set_weights(layer.get_weights())
    if isinstance(layer, keras.layers.Normalization):
        clone.finalize_state()


def from_config(layer: Any, config: dict[str, Any], dtype_policy: str | None,
                given: dict[str, Any] | None = None) -> Any:
    """Returns a layer of the class of `layer`, or an operation: itself if `config` is the one that
    was `given`."""
    if not isinstance(layer, keras.layers.Layer):
        if isinstance(layer, core.Cast) and dtype_policy and layer.dtype in _HALF:
            config = {**config, 'dtype': keras.DTypePolicy(dtype_policy).compute_dtype}
        return layer if config == given else type(layer).from_config(config)
    if dtype_policy is not None:
        config = _with_policy(config, dtype_policy)
    with policy_of_layers(layer.dtype_policy if dtype_policy is None else dtype_policy):
        clone = made_of(layer, config)
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


@contextlib.contextmanager
def policy_of_layers(policy: Any) -> Iterator[None]:
    """Within it, layers that are made without a policy of their own have this one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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


def _tensors(*structure: Any) -> list[Any]:
    return [value for value in keras.tree.flatten(structure)
            if isinstance(value, keras.KerasTensor)]


def _zero(tensor: Any, name: str) -> Any:
    """An integer 0 without axes, which TensorFlow knows to be a constant: the sum of none of the
    tensor's channels. `name` begins those of the operations."""
    key = (*[slice(None)] * (len(tensor.shape) - 1), slice(0, 0))
    none = _named(f'{name}_sum', keras.ops.sum(_named(f'{name}_no_channels', tensor[key])))
    zero = _named(f'{name}_zero', keras.ops.zeros_like(none))
    return _named(f'{name}_index', keras.ops.cast(zero, 'int32'))


def _beside(constant: Constant, zero: Any, name: str) -> Any:
    """The value of a constant as a symbolic tensor; `zero` is a symbolic integer of no axes."""
    zero = _named(f'{name}_cast', keras.ops.cast(zero, constant.value.dtype.name))
    combine = keras.ops.logical_or if constant.value.dtype == bool else keras.ops.add
    return _named(f'{name}_value', combine(zero, constant.value))


def _named(name: str, tensor: Any) -> Any:
    maker(tensor).name = name
    return tensor
