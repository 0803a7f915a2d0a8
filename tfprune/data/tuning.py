"""tf.data without its tuner."""
import tensorflow as tf


def untuned(data: tf.data.Dataset) -> tf.data.Dataset:
    """The same data, without the thread that tunes the pipeline; nor has what is made of them one.

    Closing an iterator often waits for the next turn of that thread, and turns come after pauses of
    10 ms, 20, 40, ... up to a minute: with TensorFlow 2.21 epochs on CIFAR-10 ended 82 or 142 s
    after their start, whatever their steps had taken. What is left to the tuner (AUTOTUNE) takes as
    many threads as there are cores.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
