"""A plain Keras 3 model rebuilt layer by layer in tf_keras, the Keras 2 that TFMOT works on.

`tf_keras` takes seconds to import, so that this module does it where it is needed.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tfprune.structure.copies import config_of
from tfprune.structure.graph import Step, unfold
from tfprune.structure.layer_rules import Keras2Layer, rule_of
from tfprune.structure.layer_rules.activations import keras_activation


# Activations of equal values. Not 'hard_sigmoid': tf_keras has another function of that name.
ACTIVATIONS = {name: name for name in (
    'linear', 'relu', 'elu', 'selu', 'gelu', 'sigmoid', 'tanh', 'softmax', 'softplus', 'softsign',
    'exponential', 'mish')} | {'silu': 'swish', 'swish': 'swish'}
# Those that tf_keras has as layers only: they follow the layer that has them.
ACTIVATION_LAYERS: dict[str, tuple[str, dict[str, float]]] = {
    'relu6': ('ReLU', {'max_value': 6.0}),
    'leaky_relu': ('LeakyReLU', {'alpha': 0.2}),
}
ACTIVATION_KINDS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
# Weights are copied: how they were drawn does not matter.
_OF_TRAINING = ('_initializer', '_regularizer', '_constraint')


def to_keras2(model: keras.Model, *, swish_as_product: bool = False) -> Any:
    """Returns the tf_keras model with the layers, weights and outputs of a Keras 3 model.

    Nested models are unfolded, their layers called 'model_layer'; a layer that is called several
    times stays one layer. Regularisers and constraints of weights are left out.

    Args:
        swish_as_product: whether swish becomes two layers, x sigmoid(x), as TFLite computes it.

    Raises:
        TypeError, ValueError: for what is not a functional or Sequential Keras 3 model, and for a
            layer or keras.ops operation without counterpart, which is named with its class.
    """
    graph = unfold(model)
    rebuild = _Rebuild(swish_as_product)
    values: dict[int, Any] = {}
    for step in graph.steps:
        if step.is_entry:
            made = values[step.inputs[0]]
        elif isinstance(step.operation, keras.layers.InputLayer):
            made = rebuild.input(step)
        else:
            made = rebuild.call(step, [values[index] for index in step.inputs])
        values[step.outputs[0]] = made
    inputs = [values[index] for index in graph.inputs]
    outputs = [values[index] for index in graph.outputs]
    import tf_keras

    return tf_keras.Model(inputs[0] if len(inputs) == 1 else inputs,
                          outputs[0] if len(outputs) == 1 else outputs,
                          name=model.name.replace('/', '_'))


class _Rebuild:
    """Makes the layers of tf_keras, each once."""

    def __init__(self, swish_as_product: bool) -> None:
        import tf_keras

        self._layers, self._swish_as_product = tf_keras.layers, swish_as_product
        self._made: dict[int, list[Any]] = {}  # id of a layer -> what is called for it
        self._names: set[str] = set()

    def input(self, step: Step) -> Any:
        """Returns the input tensor that a step makes."""
        tensor = step.operation.output
        return self._layers.Input(tuple(tensor.shape)[1:], batch_size=tensor.shape[0],
                                  dtype=tensor.dtype, name=self._name(step.path))

    def call(self, step: Step, inputs: list[Any]) -> Any:
        """Returns what a step makes of `inputs`; a new layer has the weights of the step's."""
        layer = step.operation
        if len(step.outputs) != 1:
            raise _no_counterpart(step, f'it has {len(step.outputs)} outputs')
        made = self._made.get(id(layer))
        if made is None:
            made = self._made[id(layer)] = self._counterpart(step)
        args, kwargs = step.arguments.fill_in(
            {id(tensor): value for tensor, value in zip(step.tensors, inputs)})
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        output = made[0](*args, **kwargs)
        for follower in made[1:]:
            output = follower(output)
        _copy_weights(step, made[0])
        return output

    def _counterpart(self, step: Step) -> list[Any]:
        counterpart = _keras2_layer(step)
        config = _translated(step, counterpart)
        config['name'] = self._name(step.path)
        follower = self._follower(step, config)
        if follower is not None:
            config['activation'] = 'linear'
        kind = counterpart.kind or type(step.operation).__name__
        made = getattr(self._layers, kind).from_config(config)
        return [made] if follower is None else [made, follower]

    def _follower(self, step: Step, config: Mapping[str, Any]) -> Any:
        """Returns what computes the activation of a config, None where the layer itself does."""
        activation, name, dtype = config.get('activation'), config['name'], config['dtype']
        if isinstance(activation, keras.layers.Layer):
            inner = dataclasses.replace(step, operation=activation)
            translated = _translated(inner, _keras2_layer(inner))
            translated['name'] = self._name(f'{name}_activation')
            return getattr(self._layers, type(activation).__name__).from_config(translated)
        if activation in ACTIVATION_LAYERS:
            kind, options = ACTIVATION_LAYERS[activation]
            return getattr(self._layers, kind)(
                **options, name=self._name(f'{name}_activation'), dtype=dtype)
        if activation != 'swish' or not self._swish_as_product:
            return None
        sigmoid = self._layers.Activation(
            'sigmoid', name=self._name(f'{name}_sigmoid'), dtype=dtype)
        product = self._layers.Multiply(name=self._name(f'{name}_product'), dtype=dtype)
        return lambda x: product([x, sigmoid(x)])

    def _name(self, path: str) -> str:
        name = path.replace('/', '_')
        while name in self._names:
            name += '_'
        self._names.add(name)
        return name


def _keras2_layer(step: Step) -> Keras2Layer:
    """What the rule of a step's layer says of tf_keras."""
    rule = rule_of(step.operation)
    if rule is None or rule.keras2 is None:
        raise _no_counterpart(step)
    return rule.keras2


def _translated(step: Step, counterpart: Keras2Layer) -> dict[str, Any]:
    """Returns the config for tf_keras of a step's layer."""
    layer = step.operation
    given = config_of(layer)
    if isinstance(layer, keras.layers.Normalization) and given['mean'] is None:
        for name in ('mean', 'variance'):  # it has learnt them by `adapt`
            given[name] = keras.ops.convert_to_numpy(getattr(layer, f'adapt_{name}')).tolist()
    config: dict[str, Any] = {}
    for key, value in given.items():
        if key.endswith(_OF_TRAINING) or key in counterpart.ignores:
            continue
        if key in counterpart.lacks:
            if value != counterpart.lacks[key]:
                raise _no_counterpart(step, f'with {key}={value!r}')
            continue
        config[counterpart.config.get(key, key)] = value
    config['dtype'] = layer.dtype_policy.name
    if 'activation' in config:
        config['activation'] = _activation(step)
    return config


def _activation(step: Step) -> Any:
    """The name of a layer's activation in tf_keras, or of a key of ACTIVATION_LAYERS; a layer that
    is one, itself, of the kinds that have no weights."""
    activation = keras_activation(step.operation.activation)
    if type(activation) in ACTIVATION_KINDS:
        return activation
    name = getattr(activation, '__name__', type(activation).__name__)
    if getattr(keras.activations, name, None) is activation:
        if name in ACTIVATION_LAYERS:
            return name
        if name in ACTIVATIONS:
            return ACTIVATIONS[name]
    else:
        name = f"'{name}' of its own"
    raise _no_counterpart(step, f'with activation {name}')


def _copy_weights(step: Step, made: Any) -> None:
    layer = step.operation
    if not made.weights:
        return  # none, or constants of the config
    renamed = _keras2_layer(step).weights
    ours = {renamed.get(weight.name, weight.name): keras.ops.convert_to_numpy(weight)
            for weight in layer.weights}
    theirs = [weight.name.split('/')[-1].split(':')[0] for weight in made.weights]
    if sorted(ours) != sorted(theirs):
        raise _no_counterpart(step, f'with weights {", ".join(sorted(ours))}')
    made.set_weights([ours[name] for name in theirs])


def _no_counterpart(step: Step, detail: str = '') -> ValueError:
    kind = type(step.operation).__name__
    return ValueError(f"layer '{step.path}' ({kind}) has no counterpart in tf_keras"
                      + (f': {detail}' if detail else ''))
