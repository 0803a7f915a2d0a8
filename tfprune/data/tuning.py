"""tf.data without its tuner."""
import tensorflow as tf


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The same batches, without the thread that tunes the pipeline.

    Closing an iterator can wait for the next turn of that thread, and turns come after 10 ms, 20,
    40, ... up to a minute: TensorFlow 2.21 ended an epoch of 45 s after 82. What is left to the
    tuner (AUTOTUNE) takes as many threads as there are cores.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
