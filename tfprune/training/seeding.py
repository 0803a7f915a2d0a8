"""Seeds of all random streams at the start of an epoch or a round."""
import keras
import numpy as np
from tensorflow.python.eager import context as eager

from tfprune.structure.keras_internals import layers_within

NO_EPOCH = 2 ** 20  # the first number of a place that is no epoch; no run has so many


def derived_seed(seed: int, *place: int) -> int:
    """A seed of a place in a run, such as an epoch: of their sum, seed 1 would repeat the epochs of
    seed 0."""
    return int(np.random.default_rng((seed, *place)).integers(2 ** 31))


def set_seed(seed: int, model: keras.Model) -> None:
    """keras.utils.set_random_seed, without its price where `model` is made of Keras' own layers.

    TensorFlow restarts the streams of operations such as tf.random.normal by forgetting the kernels
    of all functions, which are made and optimized anew at their next call: seconds an epoch. Keras'
    layers draw from variables; only others may need it. Use each seed once: one that comes again
    goes on with the streams that it had.
    """
    if not all(_is_stock(layer) for layer in layers_within(model)):
        keras.utils.set_random_seed(seed)
        return
    context = eager.context()
    # Without its handle the context sets its seeds and has nothing to forget.
    handle, context._context_handle = context._context_handle, None
    try:
        keras.utils.set_random_seed(seed)
    finally:
        context._context_handle = handle


def _is_stock(layer: keras.layers.Layer) -> bool:
    """Whether a layer is Keras' own; a Lambda may hold anything."""
    return (type(layer).__module__.split('.')[0] == 'keras'
            and not isinstance(layer, keras.layers.Lambda))
