"""What a server asks of the SavedModel: its signatures, and requests to warm them up.

Of a picture classifier:

    serving_default  images float32 [N, H, W, C], of the values that the model was trained on ->
                     {output layer: [N, K]}
    serve_uint8      images uint8 [N, H, W, C], bytes of pictures -> the same
    serve_bytes      image_bytes string [N], encoded images of any size -> probabilities float32
                     [N, K], and the k = min(5, K) likeliest: classes string [N, k], scores
                     float32 [N, k]

The input's name ends in _bytes as TensorFlow Serving's REST interface has it for binary values, so
{"signature_name": "serve_bytes", "instances": [{"b64": "..."}]} is a request.

Of any other model serving_default takes the inputs and gives the outputs of the model by the names
of Signature, and serve_uint8, where it takes one picture, the bytes of that.

The latter two make of bytes the values of training; they are left out where it is not known which
those are (`pixels.PixelRange`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data.pixels import PixelRange
from tfprune.export import image_bytes, warmup
from tfprune.export.base import Signature, image_shape_of, num_classes_of
from tfprune.models.outputs import outputs_probabilities
from tfprune.plain_text import labels

DEFAULT, UINT8, BYTES = 'serving_default', 'serve_uint8', 'serve_bytes'
IMAGES, IMAGE_BYTES = 'images', 'image_bytes'  # names of the inputs
TOP = 5


def input_names(signature: Signature) -> list[str]:
    """Names of the inputs of serving_default, in the order of the model."""
    return [IMAGES] if signature.is_picture_classifier else list(signature.inputs)


def signatures(model: keras.Model, serve: Callable[..., dict[str, tf.Tensor]],
               class_names: Sequence[str] | None, pixels: PixelRange
               ) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """The signatures of a model whose inputs, in order, are answered by `serve`.

    class_names: of the K outputs, whose labels are `classes`; None gives their indices.
    A model of images with neither 1 nor 3 channels has no serve_bytes: no file holds such images.
    """
    signature = Signature.of(model)
    found: dict[str, Callable[..., dict[str, tf.Tensor]]] = {DEFAULT: serve}
    image_shape = signature.image_shape
    if image_shape is None or not pixels.is_known:
        return found

    def serve_uint8(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return serve(pixels.values(tf.cast(images, tf.float32)))

    name, = input_names(signature)
    found[UINT8] = tf.function(serve_uint8, autograph=False, input_signature=[
        tf.TensorSpec([None, *image_shape], tf.uint8, name=name)])
    if takes_files(signature, pixels):
        found[BYTES] = tf.function(
            bytes_function(model, serve, class_names, pixels), autograph=False,
            input_signature=[tf.TensorSpec([None], tf.string, name=IMAGE_BYTES)])
    return found


def takes_files(signature: Signature, pixels: PixelRange) -> bool:
    """Whether a model classifies what files of pictures hold, and is known to take their bytes."""
    image_shape = signature.image_shape
    return (image_shape is not None and image_shape[-1] in image_bytes.CHANNELS
            and signature.is_picture_classifier and pixels.is_known)


def bytes_function(model: keras.Model, serve: Callable[..., dict[str, tf.Tensor]],
                   class_names: Sequence[str] | None, pixels: PixelRange
                   ) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """serve_bytes of a picture classifier."""
    image_shape, num_classes = image_shape_of(model), num_classes_of(model)
    names = [str(i) for i in range(num_classes)] if class_names is None else labels(class_names)
    activation = tf.identity if outputs_probabilities(model) else tf.nn.softmax

    def answer(images: tf.Tensor) -> tf.Tensor:
        output, = serve(pixels.values(images)).values()
        return activation(output)

    def serve_bytes(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = image_bytes.answer_batch(encoded, image_shape, IMAGE_BYTES, answer,
                                                 num_classes)
        scores, indices = tf.math.top_k(probabilities, min(TOP, num_classes))
        return {'probabilities': probabilities, 'classes': tf.gather(tf.constant(names), indices),
                'scores': scores}

    return serve_bytes


def warmup_requests(model: keras.Model, pixels: PixelRange) -> list[bytes]:
    """A request for each signature: zeros, of a picture classifier one gray image; one gray image
    as bytes, and a JPEG and a PNG of it."""
    signature = Signature.of(model)
    names, image_shape = input_names(signature), signature.image_shape
    gray = pixels.gray() if signature.is_picture_classifier else 0
    requests: list[tuple[str, dict[str, Any]]] = [(DEFAULT, {
        name: filled(shape, gray, tf.as_dtype(dtype))
        for name, (shape, dtype) in zip(names, signature.inputs.values())})]
    if image_shape is not None and pixels.is_known:
        requests.append((UINT8, {names[0]: filled(image_shape, 128, tf.uint8)}))
    if takes_files(signature, pixels):
        image = tf.fill(image_shape, tf.constant(128, tf.uint8))
        encoded = [tf.io.encode_jpeg(image).numpy(), tf.io.encode_png(image).numpy()]
        requests.append((BYTES, {IMAGE_BYTES: tf.make_tensor_proto(encoded)}))
    return [warmup.prediction_log(model.name, name, tensors) for name, tensors in requests]


def filled(shape: Sequence[int], value: float, dtype: tf.DType) -> tf.compat.v1.TensorProto:
    """One example [1, …] of a value: the last of a TensorProto stands for all further."""
    tensor = tf.make_tensor_proto(
        np.full([1] * (1 + len(shape)), value, dtype.as_numpy_dtype))
    tensor.tensor_shape.CopyFrom(tf.TensorShape([1, *shape]).as_proto())
    return tensor
