"""What a task says of a model's outputs and of the targets of a batch.

A batch is (x, y) or (x, y, weights), each a tensor or a structure of tensors whose first axis is
that of the examples. What is measured is kept as a tally: a vector of sums over examples, which
adds up over batches, replicas and workers.
"""
import abc
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.significance import Scored
from tfprune.tasks.measure import Measure

Targets = tuple[Any, ...]  # (y,) or (y, weights)


class Task(abc.ABC):
    """Loss, metrics and reward.

    Attributes:
        measure: the metric that a run is judged by.
        loss_name: how rows call the loss of the task alone.
        examples: what its examples are called.
        is_classification: whether labels are classes of pictures, and outputs logits or a softmax.
        tally_size: L, the length of a tally.
    """
    measure: Measure
    loss_name: str
    examples = 'examples'
    is_classification = False
    tally_size: int

    def forward(self, model: Any, x: Any, training: bool) -> Any:
        """Outputs of a model for the inputs of a batch, which Keras casts to those of the model."""
        return model(x, training=training)

    @abc.abstractmethod
    def loss(self, outputs: Any, *targets: Any) -> tf.Tensor:
        """The loss of a batch times its examples, a float32 scalar."""

    @abc.abstractmethod
    def tally(self, outputs: Any, *targets: Any) -> tf.Tensor:
        """The sums of a batch, float64 [L]."""

    @abc.abstractmethod
    def metrics(self, tally: np.ndarray) -> dict[str, float]:
        """All metrics of a tally [L], that of `measure` among them."""

    @abc.abstractmethod
    def scores(self, outputs: Any, *targets: Any) -> tf.Tensor:
        """How well each example of a batch is answered, float32 [B], the higher the better: 1 or 0
        of an answer that is right or wrong, minus the loss of an example of other tasks."""

    @property
    def can_distil(self) -> bool:
        """Whether a teacher's outputs can be targets."""
        return False

    @property
    def is_distilled(self) -> bool:
        """Whether a teacher's outputs are targets where nobody has said whether."""
        return self.can_distil

    def divergence(self, outputs: Any, teacher: Any, temperature: float) -> tf.Tensor:
        """How far the outputs of a batch are from those of a teacher, softened by a temperature,
        times the examples, a float32 scalar: see tfprune.tasks.soft_targets."""
        raise NotImplementedError

    def distance(self, outputs: Any, *targets: Any) -> tf.Tensor:
        """How far the outputs of a batch are from its targets, times the examples, a float32 scalar
        by which student and teacher are compared: the loss, without --label_smoothing, which a
        teacher that is sure does not fit; what a model is compiled with stays as it is."""
        return self.loss(outputs, *targets)

    @abc.abstractmethod
    def shown_score(self, score: float) -> str:
        """A mean of scores, in words: '91.20%', 'a loss of 0.31'."""

    @abc.abstractmethod
    def evidence(self, scores: tf.Tensor, outputs: Any, *targets: Any) -> tf.Tensor:
        """What `knows` asks of the examples of a batch, two numbers of each, whose scores are
        known."""

    @abc.abstractmethod
    def knows(self, evidence: np.ndarray) -> bool:
        """Whether outputs agree with their targets by more than chance, by the evidence [N, 2] of
        all batches."""

    def value(self, tally: np.ndarray) -> float:
        """The metric that a run is judged by."""
        return self.metrics(tally)[self.measure.name]

    def spread(self, outputs: Any, *targets: Any) -> tf.Tensor:
        """See `spread_of`, of the scores of a batch."""
        return spread_of(self.scores(outputs, *targets))

    def to_json(self) -> Mapping[str, Any]:
        """What a report says of the task."""
        return {**self.measure.to_json(), 'loss': self.loss_name, 'examples': self.examples}


def spread_of(scores: tf.Tensor) -> tf.Tensor:
    """float64 [3]: the sums of scores and of their squares, and their number."""
    scores = tf.cast(scores, tf.float64)
    return tf.stack([tf.reduce_sum(scores), tf.reduce_sum(tf.square(scores)),
                     tf.cast(tf.size(scores), tf.float64)])


def scored(spread: np.ndarray) -> Scored:
    """Mean score and its standard error of the sums of `Task.spread`; ValueError for no
    examples."""
    total, squares, count = (float(value) for value in spread)
    if not count:
        raise ValueError('there are no examples to evaluate on.')
    mean = total / count
    return Scored(mean, (max(0.0, squares / count - mean ** 2) / count) ** 0.5, int(count))


def count_of(batch: Any) -> int:
    """The examples of a batch, or of its inputs."""
    return int(keras.tree.flatten(batch)[0].shape[0])
