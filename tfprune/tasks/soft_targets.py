"""Answers of a teacher as targets, softened by a temperature T.

    T^2 KL(softmax(t / T) || softmax(s / T))

t, s are the logits of teacher and student; T^2 keeps the size of the gradient, which falls with
1 / T^2. Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015,
arXiv 1503.02531.
"""
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfprune.models.outputs import log_probabilities
from tfprune.structure.keras_internals import function_of_loss

Divergence = Callable[[Any, Any, float], tf.Tensor]  # (outputs, teacher's, T) -> float32 [B]


def of_classes(logits: tf.Tensor, teacher: tf.Tensor, temperature: float) -> tf.Tensor:
    """The divergence [B] over K classes, logits [B, ..., K]; the mean over places."""
    wanted = tf.nn.softmax(teacher / temperature)
    each = tf.reduce_sum(wanted * (tf.nn.log_softmax(teacher / temperature)
                                   - tf.nn.log_softmax(logits / temperature)), -1)
    return temperature ** 2 * _mean_of_examples(each)


def of_labels(logits: tf.Tensor, teacher: tf.Tensor, temperature: float) -> tf.Tensor:
    """The divergence [B] of labels that are true or false, each a logit of [B, ...]; the mean over
    them."""
    wanted = tf.sigmoid(teacher / temperature)
    entropy, crossed = (tf.nn.sigmoid_cross_entropy_with_logits(wanted, each / temperature)
                        for each in (teacher, logits))
    return temperature ** 2 * _mean_of_examples(crossed - entropy)


def divergence_of(loss: Any) -> Divergence | None:
    """The divergence that goes with a loss of Keras'; None but for cross-entropies, whose outputs
    are probabilities or logits."""
    function, options = function_of_loss(loss)
    if function not in _OF_FUNCTIONS or options.get('axis', -1) != -1:
        return None
    divergence, logits_of = _OF_FUNCTIONS[function]

    def of_outputs(outputs: Any, teacher: Any, temperature: float) -> tf.Tensor:
        answers, wanted = tf.cast(outputs, tf.float32), tf.cast(teacher, tf.float32)
        if not options.get('from_logits', False):
            answers, wanted = logits_of(answers), logits_of(wanted)
        return divergence(answers, wanted, temperature)

    return of_outputs


def _log_odds(probabilities: tf.Tensor) -> tf.Tensor:
    return log_probabilities(probabilities) - log_probabilities(1 - probabilities)


_OF_FUNCTIONS: dict[Any, tuple[Divergence, Callable[[tf.Tensor], tf.Tensor]]] = {
    keras.losses.categorical_crossentropy: (of_classes, log_probabilities),
    keras.losses.sparse_categorical_crossentropy: (of_classes, log_probabilities),
    keras.losses.binary_crossentropy: (of_labels, _log_odds)}


def _mean_of_examples(values: tf.Tensor) -> tf.Tensor:
    """[B, ...] -> [B]."""
    return tf.reduce_mean(tf.reshape(values, [tf.shape(values)[0], -1]), 1)
