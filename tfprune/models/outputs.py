"""What a classifier's output is: logits, or the probabilities of a softmax."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.structure.keras_internals import inputs_of_call, origin

# Operations behind which the activation may lie, since they change no value of an output [B, K].
_PASSING = ('flatten', 'reshape', 'squeeze', 'identity', 'cast', 'activation')
_SMALLEST = float(np.finfo(np.float32).tiny)


def last_activation(model: keras.Model) -> str:
    """Name of the activation that gives the model's first output, 'linear' where there is none.

    It is an argument of the last layer, or a layer or keras.ops operation of its own; nested models
    are looked into. The last operation itself where that is neither: 'add', 'relu', …
    """
    tensor = model.outputs[0]
    while True:
        operation, node, index = origin(tensor)
        if isinstance(operation, keras.Model) and getattr(operation, 'outputs', None):
            tensor = operation.outputs[index]
            continue
        kind = type(operation).__name__.lower()
        activation = getattr(operation, 'activation', None)
        name = kind if activation is None else getattr(activation, '__name__', 'unknown')
        inputs = inputs_of_call(operation, node)
        if kind not in _PASSING or name not in (*_PASSING, 'linear') or not inputs:
            return name
        tensor = inputs[0]


def outputs_probabilities(model: keras.Model) -> bool:
    """Whether the model ends in a softmax."""
    return last_activation(model) == 'softmax'


def as_logits(model: keras.Model, outputs: Any) -> tf.Tensor:
    """float32 logits [B, K] of the outputs [B, K] of `model`.

    Those of a model that ends in a softmax are log p, for softmax(log p) = p: the cross-entropy is
    then -log p of the label, the gradient that of the logits before the softmax.
    """
    outputs = tf.cast(outputs, tf.float32)
    return log_probabilities(outputs) if outputs_probabilities(model) else outputs


def log_probabilities(probabilities: tf.Tensor) -> tf.Tensor:
    """log p, finite for p = 0."""
    return tf.math.log(tf.maximum(probabilities, _SMALLEST))
