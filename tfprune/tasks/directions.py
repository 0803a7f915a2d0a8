"""Which way a metric is better, and what kind of number it is."""
from typing import Any

import keras

from tfprune.structure.keras_internals import direction_of

_METRICS = keras.metrics
_SHARES = (
    _METRICS.Accuracy, _METRICS.BinaryAccuracy, _METRICS.CategoricalAccuracy,
    _METRICS.SparseCategoricalAccuracy, _METRICS.TopKCategoricalAccuracy,
    _METRICS.SparseTopKCategoricalAccuracy, _METRICS.AUC, _METRICS.Precision, _METRICS.Recall,
    _METRICS.FBetaScore, _METRICS.IoU, _METRICS.SensitivityAtSpecificity,
    _METRICS.SpecificityAtSensitivity, _METRICS.PrecisionAtRecall, _METRICS.RecallAtPrecision)
_OF_CLASSES = (_METRICS.CategoricalAccuracy, _METRICS.SparseCategoricalAccuracy,
               _METRICS.TopKCategoricalAccuracy, _METRICS.SparseTopKCategoricalAccuracy)


def check_mode(mode: str) -> None:
    """ValueError unless it is one that Keras' callbacks know."""
    if mode not in ('auto', 'max', 'min'):
        raise ValueError(f"mode: expected 'auto', 'max' or 'min', received {mode!r}")


def larger_is_better(name: str, metric: Any, mode: str) -> bool:
    """Whether a metric is to be maximized.

    Args:
        metric: the Keras metric of that name; None for a loss.
        mode: 'max' or 'min' says it; 'auto' leaves it to Keras.

    Raises:
        ValueError: another mode, or a metric of which Keras does not know it.
    """
    check_mode(mode)
    if mode != 'auto':
        return mode == 'max'
    if metric is None:
        return False
    direction = direction_of(metric)
    if direction is None:
        raise ValueError(f"mode: whether more of {name!r} is better is not known: give mode='max' "
                         "or mode='min'")
    return direction == 'up'


def is_share(metric: Any) -> bool:
    """Whether a metric is one of Keras whose values are shares, 0 … 1."""
    return isinstance(metric, _SHARES)


def is_accuracy(metric: Any, outputs: Any) -> bool:
    """Whether a metric counts right answers, one to each example, of the model's one output."""
    flat = keras.tree.flatten(outputs)
    if len(flat) > 1 or len(flat[0].shape) != 2:
        return False
    return isinstance(metric, _OF_CLASSES) or (
        isinstance(metric, _METRICS.BinaryAccuracy) and flat[0].shape[1] == 1)
