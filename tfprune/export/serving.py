"""What a server asks of the SavedModel: its signatures, and requests to warm them up.

    serving_default  images float32 [N, H, W, C], of the values that the model was trained on ->
                     {output layer: [N, K]}
    serve_uint8      images uint8 [N, H, W, C], bytes of pictures -> the same
    serve_bytes      image_bytes string [N], encoded images of any size -> probabilities float32
                     [N, K], and the k = min(5, K) likeliest: classes string [N, k], scores
                     float32 [N, k]

The input's name ends in _bytes as TensorFlow Serving's REST interface has it for binary values, so
{"signature_name": "serve_bytes", "instances": [{"b64": "..."}]} is a request.

The latter two make of bytes the values of training; they are left out where it is not known which
those are (`pixels.PixelRange`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfprune.data.pixels import PixelRange
from tfprune.export import image_bytes, warmup
from tfprune.export.base import image_shape_of, num_classes_of
from tfprune.models.outputs import outputs_probabilities
from tfprune.plain_text import labels

DEFAULT, UINT8, BYTES = 'serving_default', 'serve_uint8', 'serve_bytes'
IMAGES, IMAGE_BYTES = 'images', 'image_bytes'  # names of the inputs
TOP = 5


def signatures(model: keras.Model, serve: Callable[[tf.Tensor], dict[str, tf.Tensor]],
               class_names: Sequence[str] | None, pixels: PixelRange
               ) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """The signatures of a model whose float32 images are answered by `serve`.

    class_names: of the K outputs, whose labels are `classes`; None gives their indices.
    A model of images with neither 1 nor 3 channels has no serve_bytes: no file holds such images.
    """
    image_shape, num_classes = image_shape_of(model), num_classes_of(model)
    names = [str(i) for i in range(num_classes)] if class_names is None else labels(class_names)
    activation = tf.identity if outputs_probabilities(model) else tf.nn.softmax

    def serve_uint8(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return serve(pixels.values(tf.cast(images, tf.float32)))

    def answer(images: tf.Tensor) -> tf.Tensor:
        output, = serve(pixels.values(images)).values()
        return activation(output)

    def serve_bytes(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = image_bytes.answer_batch(encoded, image_shape, IMAGE_BYTES, answer,
                                                 num_classes)
        scores, indices = tf.math.top_k(probabilities, min(TOP, num_classes))
        return {'probabilities': probabilities, 'classes': tf.gather(tf.constant(names), indices),
                'scores': scores}

    found: dict[str, Callable[..., dict[str, tf.Tensor]]] = {DEFAULT: serve}
    if not pixels.is_known:
        return found
    found[UINT8] = tf.function(serve_uint8, autograph=False, input_signature=[
        tf.TensorSpec([None, *image_shape], tf.uint8, name=IMAGES)])
    if image_shape[-1] in image_bytes.CHANNELS:
        found[BYTES] = tf.function(serve_bytes, autograph=False, input_signature=[
            tf.TensorSpec([None], tf.string, name=IMAGE_BYTES)])
    return found


def warmup_requests(model: keras.Model, pixels: PixelRange) -> list[bytes]:
    """A request for each signature: one gray image as pixels, and a JPEG and a PNG of it."""
    image_shape = image_shape_of(model)
    requests = [(DEFAULT, IMAGES, gray_pixels(image_shape, pixels.gray(), tf.float32))]
    if pixels.is_known:
        requests.append((UINT8, IMAGES, gray_pixels(image_shape, 128, tf.uint8)))
    if pixels.is_known and image_shape[-1] in image_bytes.CHANNELS:
        image = tf.fill(image_shape, tf.constant(128, tf.uint8))
        encoded = [tf.io.encode_jpeg(image).numpy(), tf.io.encode_png(image).numpy()]
        requests.append((BYTES, IMAGE_BYTES, tf.make_tensor_proto(encoded)))
    return [warmup.prediction_log(model.name, signature, {name: tensor})
            for signature, name, tensor in requests]


def gray_pixels(image_shape: tuple[int, int, int], value: float, dtype: tf.DType
                ) -> tf.compat.v1.TensorProto:
    """One image [1, H, W, C] of a value: the last of a TensorProto stands for all further."""
    tensor = tf.make_tensor_proto(value, dtype, shape=[1, 1, 1, 1])
    tensor.tensor_shape.CopyFrom(tf.TensorShape([1, *image_shape]).as_proto())
    return tensor
