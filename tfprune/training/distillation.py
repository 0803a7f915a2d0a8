"""Students: small models scored after a short training on the logits of the dense one."""
from typing import Any, Iterable

import keras
import numpy as np
import tensorflow as tf

from tfprune.models.outputs import as_logits
from tfprune.pruning.importance import Batch
from tfprune.structure.graph import unfold
from tfprune.tasks.classification import count_correct
from tfprune.training.account import EpochAccount
from tfprune.training.batch_norm import reestimate_batch_norm, use_fused_batch_norm

# Tracing a step takes as long as so many steps without.
_TRACED_FROM = 40


class StudentTrainer:
    """Trains students on a teacher's logits by mean squared error, and counts what they get right.

        L = 1/B sum_b 1/K sum_k (student_k(x_b) - teacher_k(x_b))^2

    Adam, without augmenting beyond what the batches are; then the batch-norm statistics are those
    of the student. All of it is charged to the account. It runs on one replica.

    Args:
        teacher: the dense model, its weights frozen.
        scored: held-out (images [B, H, W, C], labels [B]).
        calibration_batches: of the training batches, on which the statistics are re-estimated.
    """

    def __init__(self, teacher: keras.Model, teacher_macs: int, account: EpochAccount,
                 scored: Iterable[Batch], *, learning_rate: float, calibration_batches: int):
        # Fused or not is a difference of the last bits, which a resumed run must not have.
        use_fused_batch_norm(teacher)
        self._macs, self._account, self._scored = teacher_macs, account, scored
        self._learning_rate, self._calibration_batches = learning_rate, calibration_batches
        self._logits = tf.function(lambda images: as_logits(
            teacher, teacher(tf.cast(images, tf.float32), training=False)), autograph=False)

    def taught(self, batches: Iterable[Batch]) -> list[Batch]:
        """(images, the teacher's logits float32 [B, K]) of each of the batches."""
        rows = [(images, tf.cast(self._logits(images), tf.float32)) for images, _ in batches]
        self._account.forward(_count(rows), self._macs)
        return rows

    def accuracy(self, student: keras.Model, macs: int, taught: list[Batch]) -> float:
        """Accuracy in [0, 1] of `student`, which is trained on each of the batches once."""
        use_fused_batch_norm(student)
        optimizer = keras.optimizers.Adam(self._learning_rate)
        optimizer.build(student.trainable_variables)
        step = _step(student, optimizer)
        if len(taught) >= _TRACED_FROM:
            step = tf.function(step, autograph=False)
        for images, logits in taught:
            step(images, logits)
        self._account.train(_count(taught), macs)
        calibration = taught[:self._calibration_batches]
        reestimate_batch_norm(unfold(student),
                              lambda images: student(tf.cast(images, tf.float32), training=True),
                              (images for images, _ in calibration))
        hits = np.sum([count_correct(student, *batch).numpy() for batch in self._scored], axis=0)
        self._account.forward(_count(calibration) + int(hits[1]), macs)
        return float(hits[0] / hits[1])


def _step(student: keras.Model, optimizer: Any) -> Any:
    def step(images: tf.Tensor, logits: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            outputs = student(tf.cast(images, tf.float32), training=True)
            loss = tf.reduce_mean(tf.square(as_logits(student, outputs) - logits))
        optimizer.apply(tape.gradient(loss, student.trainable_variables))

    return step


def _count(batches: Iterable[Batch]) -> int:
    return sum(len(images) for images, _ in batches)
