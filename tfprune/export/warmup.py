"""Warm-up requests: TensorFlow Serving runs them before it calls a model available.

They are tensorflow.serving.PredictionLog messages in a TFRecord file. The tensorflow-serving-api
package, which has the generated classes, is not needed for four nested messages: each of their
fields is length-delimited, and on the wire a message, a string and bytes are the same then
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping

import tensorflow as tf

# Where TensorFlow Serving looks, below the version's directory (servables/tensorflow,
# saved_model_warmup_util.h).
WARMUP_FILE = 'assets.extra/tf_serving_warmup_requests'


def write_warmup(directory: pathlib.Path, requests: Iterable[bytes]) -> None:
    """Writes requests, of `prediction_log`, beside the SavedModel in `directory`."""
    path = directory / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            writer.write(request)


def prediction_log(model: str, signature: str,
                   inputs: Mapping[str, tf.core.framework.tensor_pb2.TensorProto]) -> bytes:
    """A serialized PredictionLog of one predict request.

    Field numbers of tensorflow_serving/apis: prediction_log.proto, predict.proto, model.proto.
    """
    model_spec = field(1, model.encode()) + field(3, signature.encode())
    # An entry of a map is a message of key 1 and value 2.
    entries = b''.join(field(2, field(1, name.encode()) + field(2, tensor.SerializeToString()))
                       for name, tensor in sorted(inputs.items()))
    predict_request = field(1, model_spec) + entries
    predict_log = field(1, predict_request)
    return field(6, predict_log)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field (wire type 2) of a message: its key, length and content."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A whole number >= 0 in groups of 7 bits, the lowest first, the top bit set but on the last.
    """
    groups = [value & 0x7f]
    while value := value >> 7:
        groups[-1] |= 0x80
        groups.append(value & 0x7f)
    return bytes(groups)
