"""Classes of pictures: cross-entropy of logits or of a softmax, judged by accuracy."""
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.models.outputs import log_probabilities, outputs_probabilities
from tfprune.significance import ERRORS
from tfprune.tasks.base import Task
from tfprune.tasks.measure import ACCURACY
from tfprune.tasks.soft_targets import of_classes


class Classification(Task):
    """Images [B, H, W, C] to int labels [B], by outputs [B, K].

    Args:
        is_softmax: whether the outputs are probabilities; else they are logits.
        smoothing: share of a label's mass that goes to all K classes, in training.
    """
    measure = ACCURACY
    loss_name = 'cross_entropy'
    examples = 'images'
    is_classification = True
    tally_size = 3  # right answers, images, cross-entropy

    def __init__(self, is_softmax: bool = False, smoothing: float = 0.0):
        self._is_softmax, self._smoothing = is_softmax, smoothing

    @classmethod
    def of(cls, model: keras.Model, smoothing: float = 0.0) -> 'Classification':
        """That of a model, by its last activation."""
        return cls(outputs_probabilities(model), smoothing)

    def forward(self, model: Any, x: Any, training: bool) -> Any:
        return model(tf.cast(x, tf.float32), training=training)

    def loss(self, outputs: Any, *targets: Any) -> tf.Tensor:
        labels, = targets
        return tf.reduce_sum(cross_entropy(labels, self._logits(outputs), self._smoothing))

    def tally(self, outputs: Any, *targets: Any) -> tf.Tensor:
        labels, = targets
        right = tf.reduce_sum(tf.cast(are_right(outputs, labels), tf.float64))
        return tf.stack([right, tf.cast(tf.size(labels), tf.float64),
                         tf.cast(self.loss(outputs, labels), tf.float64)])

    def metrics(self, tally: np.ndarray) -> dict[str, float]:
        if not tally[1]:
            raise ValueError('there are no images to evaluate on.')
        return {'accuracy': float(tally[0] / tally[1]), 'loss': float(tally[2] / tally[1])}

    def scores(self, outputs: Any, *targets: Any) -> tf.Tensor:
        labels, = targets
        return tf.cast(are_right(outputs, labels), tf.float32)

    @property
    def can_distil(self) -> bool:
        return True

    def divergence(self, outputs: Any, teacher: Any, temperature: float) -> tf.Tensor:
        return tf.reduce_sum(of_classes(self._logits(outputs), self._logits(teacher), temperature))

    def distance(self, outputs: Any, *targets: Any) -> tf.Tensor:
        labels, = targets
        return tf.reduce_sum(cross_entropy(labels, self._logits(outputs), 0.0))

    def shown_score(self, score: float) -> str:
        return f'{score:.2%}'

    def evidence(self, scores: tf.Tensor, outputs: Any, *targets: Any) -> tf.Tensor:
        labels, = targets
        finite = tf.reduce_all(tf.math.is_finite(outputs), axis=1)
        classes = tf.cast(tf.argmax(outputs, 1), tf.float32)
        return tf.stack([tf.where(finite, classes, np.nan), tf.cast(labels, tf.float32)], 1)

    def knows(self, evidence: np.ndarray) -> bool:
        return knows_labels(*evidence.T)

    def _logits(self, outputs: Any) -> tf.Tensor:
        outputs = tf.cast(outputs, tf.float32)
        return log_probabilities(outputs) if self._is_softmax else outputs


def knows_labels(classes: np.ndarray, labels: np.ndarray) -> bool:
    """Whether answers [N], NaN where outputs are not finite, agree with labels [N] by more than
    chance: that of answers and labels as often as they are, sum_k p_k q_k, and ERRORS standard
    errors.

    ValueError for outputs that are not finite.
    """
    if np.isnan(classes).any():
        raise ValueError('the given model answers training images with NaN or infinity.')
    chance = sum(np.mean(classes == k) * np.mean(labels == k) for k in np.unique(labels))
    error = math.sqrt(chance * (1 - chance) / len(labels))
    return bool(np.mean(classes == labels) - chance > ERRORS * error)


def are_right(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """bool [B]: whether the largest of outputs [B, K] is at labels [B]. NaN is never right, though
    argmax takes it for class 0."""
    found = tf.equal(tf.argmax(outputs, 1, output_type=labels.dtype), labels)
    return tf.logical_and(found, tf.logical_not(tf.reduce_any(tf.math.is_nan(outputs), axis=1)))


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Cross-entropy [B] of int labels [B]; smoothing s moves s of the mass to all K classes."""
    logits = tf.cast(logits, tf.float32)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if smoothing:
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=1)
        loss = (1 - smoothing) * loss + smoothing * uniform
    return loss


def count_correct(model: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """int32 [2]: (correct, all) of a batch."""
    logits = model(tf.cast(images, tf.float32), training=False)
    return tf.stack([tf.reduce_sum(tf.cast(are_right(logits, labels), tf.int32)),
                     tf.size(labels)])
