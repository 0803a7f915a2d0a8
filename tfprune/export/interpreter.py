"""The TFLite interpreter, opened in one place: its package is about to move."""

from __future__ import annotations

import concurrent.futures
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.errors import first_line
from tfprune.export.base import is_float, unique_names
from tfprune.export.examples import part
from tfprune.tasks.base import count_of


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


def run_on_zeros(interpreter: tf.lite.Interpreter) -> None:
    """Runs a file at batch 1, which resolves the sizes that depend on it."""
    for detail in interpreter.get_input_details():
        interpreter.resize_tensor_input(detail['index'], [1, *detail['shape'][1:]])
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():  # what is there may be no valid index
        interpreter.set_tensor(detail['index'], np.zeros(detail['shape'], detail['dtype']))
    interpreter.invoke()


class Runner:
    """Runs a file: {input: [N, …]} -> {output: float32 [N, …]}, by the names of its signature.

    Integers that stand for real numbers are de- and requantized outside. A file of any batch runs
    all examples at once; of a fixed batch several interpreters, of one thread each, share them, the
    last batch filled up. ValueError naming the file if TFLite cannot run it.

    inputs, outputs: details of the tensors by name, in the order of the file.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._content, self._name = content, name
        first = open_interpreter(content, threads=os.cpu_count(), name=name)
        self.inputs, self.outputs = named_details(first)
        self._interpreters = [first]
        self._batches = {int(size) for detail in self.inputs.values()
                         for size in detail['shape_signature'][:1]}

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            if len(self._batches) != 1 or min(self._batches) < 0:
                return self._run(self._interpreters[0], arrays, count_of(arrays))
            return self._run_shared(arrays, *self._batches)
        except RuntimeError as error:  # a kernel refuses, such as DIV a divisor rounded to 0
            raise ValueError(
                f'{self._name}: TFLite cannot run it: {first_line(error)}') from error

    def _run(self, interpreter: tf.lite.Interpreter, arrays: Mapping[str, np.ndarray], batch: int
             ) -> dict[str, np.ndarray]:
        """Outputs of examples, `batch` at a time."""
        for name, detail in self.inputs.items():
            interpreter.resize_tensor_input(detail['index'], [batch, *arrays[name].shape[1:]])
        interpreter.allocate_tensors()
        found = []
        for start in range(0, count_of(arrays), batch):
            for name, detail in self.inputs.items():
                interpreter.set_tensor(
                    detail['index'], quantized(arrays[name][start:start + batch], detail))
            interpreter.invoke()
            found.append({name: dequantized(interpreter.get_tensor(detail['index']), detail)
                          for name, detail in self.outputs.items()})
        return joined(found)

    def _run_shared(self, arrays: Mapping[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
        count = count_of(arrays)
        arrays = {name: np.concatenate([array, np.zeros((-count % batch, *array.shape[1:]),
                                                        array.dtype)])
                  for name, array in arrays.items()}
        starts = np.arange(0, count, batch)
        parts = np.array_split(starts, min(len(starts), os.cpu_count() or 1, _MOST_INTERPRETERS))
        if len(parts) == 1:
            return part(self._run(self._interpreters[0], arrays, batch), slice(count))
        while len(self._interpreters) <= len(parts):  # beside the first, which has all threads
            self._interpreters.append(
                open_interpreter(self._content, threads=1, name=self._name))
        with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
            found = pool.map(
                lambda interpreter, starts: self._run(
                    interpreter, part(arrays, slice(starts[0], starts[-1] + batch)), batch),
                self._interpreters[1:], parts)
            return part(joined(list(found)), slice(count))


Details = dict[str, dict[str, Any]]


def named_details(interpreter: tf.lite.Interpreter) -> tuple[Details, Details]:
    """({input: details}, {output: details}) in the file's order, by the names of its signature.

    Of a file without a signature, or with several, the names are those of the tensors.
    """
    found: list[Details] = [
        dict(zip(unique_names([detail['name'] for detail in details]), details))
        for details in (interpreter.get_input_details(), interpreter.get_output_details())]
    if len(interpreter.get_signature_list()) == 1:
        runner = interpreter.get_signature_runner()
        signature = (runner.get_input_details(), runner.get_output_details())
        for place, named in enumerate(signature):
            order = [detail['index'] for detail in found[place].values()]
            if {detail['index'] for detail in named.values()} == set(order):
                by_index = {detail['index']: detail for detail in found[place].values()}
                found[place] = {name: by_index[named[name]['index']] for name in sorted(
                    named, key=lambda name: order.index(named[name]['index']))}
    return found[0], found[1]


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of several batches as one each."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def stands_for_float(detail: Mapping[str, Any]) -> bool:
    """Whether a tensor holds real numbers, maybe as integers: plain ones of 8 bits are pixels."""
    return bool(np.dtype(detail['dtype']).itemsize == 1 and detail['dtype'] != np.bool_
                or detail['quantization'][0] or is_float(np.dtype(detail['dtype']).name))


def quantized(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Values in the type and quantization of a tensor, out of range is clipped."""
    if is_float(np.dtype(detail['dtype']).name) or not stands_for_float(detail):
        return values.astype(detail['dtype'], copy=False)
    scale, zero_point = detail['quantization']  # 0, 0 if the integers are plain pixels
    limits = np.iinfo(detail['dtype'])
    levels = np.round(values / (scale or 1)) + zero_point
    return np.clip(levels, limits.min, limits.max).astype(detail['dtype'])


def dequantized(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """A tensor's values as float32: scale * (value - zero point) of quantized integers."""
    if is_float(np.dtype(detail['dtype']).name) or not stands_for_float(detail):
        return values.astype(np.float32, copy=False)
    scale, zero_point = detail['quantization']
    return ((values.astype(np.float32) - zero_point) * (scale or 1)).astype(np.float32)
