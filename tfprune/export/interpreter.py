"""The TFLite interpreter, opened in one place: its package is about to move."""

from __future__ import annotations

import concurrent.futures
import os
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.errors import first_line


_MOST_INTERPRETERS = 8  # of one file: each has memory of its own


def open_interpreter(content: bytes, *, threads: int | None = None, name: str = 'model',
                     optimized: bool = True) -> tf.lite.Interpreter:
    """An interpreter of a flatbuffer; with optimized=False without delegates, for inspection.

    ValueError if the content is no TFLite file. `name` stands for it in the message.
    """
    resolver = tf.lite.experimental.OpResolverType
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # its move to the package ai_edge_litert
            return tf.lite.Interpreter(
                model_content=content, num_threads=threads, experimental_op_resolver_type=(
                    resolver.AUTO if optimized else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f'{name}: not a TFLite file, or a damaged one: {first_line(error)}') from error


class Runner:
    """Runs a file of one image input and one output: float32 [N, H, W, C] -> float32 [N, K].

    Integers are de- and requantized outside. A file of any batch runs all images at once; of a
    fixed batch several interpreters, of one thread each, share the images, the last batch filled
    up. ValueError naming the file if TFLite cannot run it.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content, self._name = content, name
        first = open_interpreter(content, threads=os.cpu_count(), name=name)
        self.inputs, self.outputs = first.get_input_details(), first.get_output_details()
        self._interpreters = [first]
        self._shape = [int(size) for size in self.inputs[0]['shape_signature']]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        try:
            if self._shape[0] < 0:
                return self._run(self._interpreters[0], images, len(images))
            return self._run_shared(images)
        except RuntimeError as error:  # a kernel refuses, such as DIV a divisor rounded to 0
            raise ValueError(
                f'{self._name}: TFLite cannot run it: {first_line(error)}') from error

    def _run(self, interpreter: tf.lite.Interpreter, images: np.ndarray, batch: int) -> np.ndarray:
        """Outputs of images, `batch` at a time."""
        source, sink = self.inputs[0], self.outputs[0]
        interpreter.resize_tensor_input(source['index'], [batch, *images.shape[1:]])
        interpreter.allocate_tensors()
        found = []
        for start in range(0, len(images), batch):
            interpreter.set_tensor(source['index'], quantized(images[start:start + batch], source))
            interpreter.invoke()
            found.append(dequantized(interpreter.get_tensor(sink['index']), sink))
        return np.concatenate(found)

    def _run_shared(self, images: np.ndarray) -> np.ndarray:
        batch = self._shape[0]
        count = len(images)
        images = np.concatenate([images, np.zeros((-count % batch, *images.shape[1:]),
                                                  images.dtype)])
        starts = np.arange(0, len(images), batch)
        parts = np.array_split(starts, min(len(starts), os.cpu_count() or 1, _MOST_INTERPRETERS))
        if len(parts) == 1:
            return self._run(self._interpreters[0], images, batch)[:count]
        while len(self._interpreters) <= len(parts):  # beside the first, which has all threads
            self._interpreters.append(
                open_interpreter(self._content, threads=1, name=self._name))
        with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
            found = pool.map(
                lambda interpreter, part: self._run(
                    interpreter, images[part[0]:part[-1] + batch], batch),
                self._interpreters[1:], parts)
            return np.concatenate(list(found))[:count]


def quantized(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """float32 values in the type and quantization of a tensor, out of range is clipped."""
    if detail['dtype'] == np.float32:
        return values
    scale, zero_point = detail['quantization']  # 0, 0 if the integers are plain pixels
    limits = np.iinfo(detail['dtype'])
    levels = np.round(values / (scale or 1)) + zero_point
    return np.clip(levels, limits.min, limits.max).astype(detail['dtype'])


def dequantized(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """A tensor's values as float32: scale * (value - zero point) of integers."""
    if detail['dtype'] == np.float32:
        return values
    scale, zero_point = detail['quantization']
    return ((values.astype(np.float32) - zero_point) * (scale or 1)).astype(np.float32)
