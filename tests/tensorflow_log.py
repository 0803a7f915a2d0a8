"""What TensorFlow's logger says while something runs."""
import contextlib
import logging

import tensorflow as tf


@contextlib.contextmanager
def heard(level):
    """Messages of this level and above, a list that grows."""
    logger, listener, said = tf.get_logger(), logging.Handler(), []
    listener.emit = lambda record: said.append(record.getMessage())
    before = logger.level
    logger.setLevel(level)
    logger.addHandler(listener)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before)
