"""Small pictures whose class is how bright they are, and a network that learns them at once."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import tensorflow as tf
from keras import layers

BATCH, CLASSES = 16, 3


def images(count, seed):
    """Batches of float32 [B, 6, 6, 3] and int32 [B]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    pixels = rng.normal(0, 1.5, (count, 6, 6, 3)) + labels[:, None, None, None]
    return tf.data.Dataset.from_tensor_slices(
        (pixels.astype('float32'), labels.astype('int32'))).batch(BATCH)


def network(seed=0, **options):
    """Two convolutions, the first with these options, and logits; not compiled."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, activation='relu', name='a', **options)(image)
    x = layers.Conv2D(8, 3, activation='relu', name='b')(x)
    return keras.Model(image, layers.Dense(CLASSES, name='logits')(
        layers.GlobalAveragePooling2D()(x)))
