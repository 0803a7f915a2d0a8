"""Copies of layers by their configs, as surgery makes them and a saved file does.

A config cannot hold every activation: of a function that nobody registered it has a name, which
Keras may not know, or may know as that of another function. A copy gets its activation from the
layer itself, and where Keras has one of equal values, that one, so that the copy can be saved. Of a
Lambda it has the code without the names that it uses: a copy gets the function itself.
"""
import contextlib
import warnings
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from tfprune.structure.keras_internals import (clone_model, functions_of_lambda, is_of_keras,
                                               layers_within, made_with)
from tfprune.structure.layer_rules.activations import keras_activation

# Layer -> whether a copy of it can be made: models are unfolded often.
_CAN_COPY: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_ACTIVATIONS = ('activation', 'recurrent_activation')


def config_of(layer: Any) -> dict[str, Any]:
    """Returns the config of a layer, without the functions that `made_of` and `give_activations`
    give."""
    if isinstance(layer, keras.layers.Lambda):
        return keras.layers.Layer.get_config(layer)
    if type(layer) is keras.layers.Identity:  # which cannot say it if it was given a policy
        return {'name': layer.name, 'trainable': layer.trainable, 'dtype': layer.dtype_policy.name}
    with _plain_activations(layer):
        return layer.get_config()


def copied(layer: Any) -> Any:
    """Returns an unbuilt copy of a layer or model; as the clone_function of `clone_model`."""
    copy = made_of(layer, config_of(layer))
    give_activations(layer, copy)
    return copy


def made_of(layer: Any, config: dict[str, Any]) -> Any:
    """Returns a layer of the class of `layer` by a config; by what `layer` was made with, if its
    get_config says what its __init__ does not take."""
    if isinstance(layer, keras.layers.Lambda):
        return type(layer)(**functions_of_lambda(layer), **config | {
            'dtype': keras.dtype_policies.get(config['dtype'])})
    try:
        return type(layer).from_config(config)
    except Exception:  # of a user's class
        given = made_with(layer)
        if given is None or is_of_keras(type(layer)):
            raise
        clone = type(layer)(**given)
        clone.name = layer.name
        return clone


def can_copy(layer: Any) -> bool:
    """Whether a copy of a layer can be made at all; tried once."""
    if layer not in _CAN_COPY:
        try:
            made_of(layer, config_of(layer))
            _CAN_COPY[layer] = True
        except Exception:  # of a user's class
            _CAN_COPY[layer] = False
    return _CAN_COPY[layer]


def give_activations(layer: Any, copy: Any) -> None:
    """Gives what was made of `config_of(layer)`, and the layers in it, the functions left out."""
    before, after = layers_within(layer), layers_within(copy)
    if [type(inner) for inner in before] != [type(inner) for inner in after]:
        named = {inner.name: inner for inner in before[1:]}  # others are made when it is built
        before = [layer, *(named.get(inner.name, inner) for inner in after[1:])]
    for one, other in zip(before, after):
        for name, function in _functions(one):
            setattr(other, name, keras_activation(function))


def warn_of_configs(layers: Iterable[Any]) -> None:
    """Warns of each layer that no file can hold as it is, saying why; it can be pruned."""
    for layer in layers:
        reason = _unstorable(layer)
        if reason is not None:
            warnings.warn(_described(layer, reason), stacklevel=4)


def check_storable(model: keras.Model) -> None:
    """ValueError naming the first layer that no file can hold."""
    for layer in layers_within(model, itself=False):
        reason = _unstorable(layer)
        if reason is not None:
            raise ValueError(_described(layer, reason))


def storable(model: keras.Model) -> keras.Model:
    """Returns the model, or where functions in it have their like in Keras, a copy with these.

    Raises:
        ValueError: for a layer that no file can hold.
    """
    check_storable(model)
    if not any(_functions(layer) for layer in layers_within(model)):
        return model
    copy = clone_model(model, clone_function=copied)
    copy.set_weights(model.get_weights())
    return copy


def _described(layer: Any, reason: str) -> str:
    return f"layer '{layer.name}' ({type(layer).__name__}) {reason}: a saved model does not have it"


def _functions(layer: Any) -> list[tuple[str, Any]]:
    """(attribute, function) of the activations of a layer that are functions, none of Keras'."""
    found = [(name, vars(layer).get(name)) for name in _ACTIVATIONS]
    return [(name, value) for name, value in found
            if callable(value) and not isinstance(value, keras.Operation)
            and getattr(keras.activations, getattr(value, '__name__', ''), None) is not value]


@contextlib.contextmanager
def _plain_activations(layer: Any) -> Iterator[None]:
    """While it lasts, activations that are functions, none of Keras', are linear."""
    if not isinstance(layer, keras.layers.Layer):
        yield
        return
    left_out = [(vars(inner), name, function) for inner in layers_within(layer)
                for name, function in _functions(inner)]
    for attributes, name, _ in left_out:  # not by setattr: a built layer tracks nothing new
        attributes[name] = keras.activations.linear
    try:
        yield
    finally:
        for attributes, name, function in left_out:
            attributes[name] = function


def _unstorable(layer: Any) -> str | None:
    """Why no file can hold a layer as surgery copies it; None if one can."""
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.Lambda):
        return None
    for inner in layers_within(layer):
        for _, function in _functions(inner):
            if keras_activation(function) is function and not _loads(function):
                name = getattr(function, '__name__', type(function).__name__)
                return f"applies '{name}', which a config cannot hold"
    if not is_of_keras(type(layer)):
        try:
            with _plain_activations(layer):
                layer.get_config()
        except Exception as error:  # of a user's method
            return f'has no config ({type(error).__name__}: {str(error).splitlines()[0]})'
    return None


def _loads(function: Any) -> bool:
    """Whether Keras gets a function back from a config: one that is registered."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of a lambda
            return keras.activations.deserialize(keras.activations.serialize(function)) is function
    except (TypeError, ValueError):
        return False
