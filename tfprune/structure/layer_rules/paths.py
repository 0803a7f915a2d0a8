"""Layers of one's own that drop paths in training (stochastic depth, Huang et al., 2016), known by
what they do: no trace of a call tells what is drawn at random."""

import weakref
from typing import Any

import keras
import numpy as np

from tfprune.structure.keras_internals import is_of_keras, layers_within, takes_training
from tfprune.structure.layer_state import KeptState

_FOUND: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_IMAGES, _POSITIONS, _CHANNELS = 32, 3, 4


def drops_paths(layer: Any) -> bool:
    """Whether a layer gives its input in inference, and in training each example of it times a
    number that is drawn; tried once."""
    if not getattr(layer, 'built', False):
        return False  # a first call would build it for what it is tried on
    if layer not in _FOUND:
        _FOUND[layer] = _may_drop(layer) and _does(layer)
    return _FOUND[layer]


def _may_drop(layer: Any) -> bool:
    return (isinstance(layer, keras.layers.Layer) and not is_of_keras(type(layer))
            and not isinstance(layer, keras.Model) and not layer.weights
            and len(layers_within(layer)) == 1
            and takes_training(layer))


def _does(layer: Any) -> bool:
    kept = KeptState([layer])
    try:
        found = [_factors(layer, rank) for rank in range(2, 6)]
    finally:
        kept.restore()
    known = [each for each in found if each is not None]
    return bool(known) and all(each.size and (each != 1).any() for each in known)


def _factors(layer: Any, rank: int) -> np.ndarray | None:
    """What each example of a tensor is multiplied by in training; none if it is not that, None if
    the layer does not take tensors of that rank."""
    shape = (_IMAGES, *[_POSITIONS] * (rank - 2), _CHANNELS)
    x = np.random.default_rng(0).uniform(1, 2, shape).astype('float32')
    try:
        same, drawn = (np.asarray(keras.ops.convert_to_numpy(layer(x, training=training)))
                       for training in (False, True))
    except Exception:  # of a user's class: anything
        return None
    if same.shape != shape or drawn.shape != shape or (same != x).any():
        return np.empty(0)
    factors = (drawn / x).reshape(_IMAGES, -1)
    alike = np.allclose(factors, factors[:, :1], rtol=1e-2)  # of half precision, too
    return factors[:, 0] if alike else np.empty(0)
