"""The TFLite interpreter, opened in one place: its package is about to move."""

from __future__ import annotations

import warnings

import tensorflow as tf

from tfprune.export.base import one_line


def open_interpreter(content: bytes, *, threads: int | None = None, name: str = 'model',
                     optimised: bool = True) -> tf.lite.Interpreter:
    """An interpreter of a flatbuffer; with optimised=False without delegates, for inspection.

    ValueError if the content is no TFLite file. `name` stands for it in the message.
    """
    resolver = tf.lite.experimental.OpResolverType
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # its move to the package ai_edge_litert
            return tf.lite.Interpreter(
                model_content=content, num_threads=threads, experimental_op_resolver_type=(
                    resolver.AUTO if optimised else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f'{name}: not a TFLite file, or a damaged one: {one_line(error)}') from error
