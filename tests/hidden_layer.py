"""A layer whose multiply-adds nobody can count."""
import tfprune  # noqa: F401  (before keras)
import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable('hidden_layer')
class Hidden(layers.Layer):
    """Multiplies by a square matrix of ones where TensorFlow does not look."""

    def call(self, inputs):
        size = inputs.shape[-1]
        made = tf.py_function(lambda x: x @ tf.ones((size, size)), [inputs], tf.float32)
        return tf.ensure_shape(made, inputs.shape)
