"""Encoded JPEG and PNG images to pixels inside a TensorFlow graph.

As tfprune.data.decoding does with Pillow, so that a server sees what the training saw: upright by
EXIF, transparency shown white, 16 bits a channel to 8, stretched to the model's size by antialiased
bilinear interpolation. Pixels are Pillow's before resizing, resized ones differ by at most 1 of
255, for Pillow rounds between its two passes; those of CMYK differ by 1 before. Not done:
transparency by a colour key (a PNG's tRNS without a palette), EXIF inside a PNG.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from tfprune.export.base import dims

CHANNELS = (1, 3)  # of models that encoded images can be decoded for
MOST_PIXELS = 89_478_485  # of a PNG, Pillow's limit; a larger JPEG is decoded to a fraction
_JPEG, _PNG = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
_EXIF, _SCAN, _END, _FILL = 0xe1, 0xda, 0xd9, 0xff  # JPEG markers, each after a byte 0xff
_ORIENTATION = 0x0112  # a tag of EXIF
_MOST_REASONS = 5
_MOST_SEGMENTS = 1000  # of a JPEG before its pixels; each takes a step of a loop
_PADDING = 16
_LUMINANCE = (19595, 38470, 7471)  # ITU-R 601-2 in 1 / 65536, as Pillow has it


def decode_batch(image_bytes: tf.Tensor, image_shape: tuple[int, int, int], name: str) -> tf.Tensor:
    """float32 images [N, H, W, C], whole numbers 0..255, of strings [N] of encoded images.

    C is 1 or 3. Fails with InvalidArgumentError: '`name`[position]: why' for the first few strings
    that hold no whole JPEG or PNG; for N = 0; and, in the words of TensorFlow's decoder, which
    knows the size but not the position, for one that is damaged inside.
    """
    if image_shape[-1] not in CHANNELS:
        raise ValueError(f'image_shape: expected 1 or 3 channels, received [{dims(image_shape)}]')
    reasons, orientations = tf.map_fn(inspect, image_bytes, fn_output_signature=(
        tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)))
    bad = tf.where(reasons != '')[:, 0]
    lines = tf.strings.join([name, '[', tf.strings.as_string(bad), ']: ',
                             tf.gather(reasons, bad)])[:_MOST_REASONS]
    empty = tf.size(image_bytes) == 0  # TensorFlow's convolutions fail obscurely on no image.
    message = tf.where(empty, f'{name}: expected at least one image, received none',
                       tf.strings.reduce_join(lines, separator='; '))
    with tf.control_dependencies([
            tf.debugging.Assert(~empty & (tf.size(bad) == 0), [message])]):
        image_bytes = tf.identity(image_bytes)
    return tf.map_fn(lambda pair: decode(pair[0], pair[1], image_shape),
                     (image_bytes, orientations),
                     fn_output_signature=tf.TensorSpec(image_shape, tf.float32))


def inspect(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of a string []: why it cannot be decoded, '' if it may; the orientation 1 … 8 of a JPEG."""
    is_jpeg, is_png = starts_with(encoded, _JPEG), starts_with(encoded, _PNG)

    def inspect_png() -> tuple[tf.Tensor, tf.Tensor]:
        return is_png & contains(encoded, b'IEND'), _one()  # other data may follow the end

    whole, orientation = tf.cond(is_jpeg, lambda: inspect_jpeg(encoded), inspect_png)
    sides = numbers(padded(tf.strings.substr(encoded, 0, 24)), 16, [4, 4])  # of a PNG
    too_large = is_png & (tf.reduce_prod(sides) > MOST_PIXELS)
    reason = tf.where(~(is_jpeg | is_png), 'no JPEG or PNG image', tf.where(
        ~whole, 'a truncated image', tf.where(too_large, f'more than {MOST_PIXELS} pixels', '')))
    size = tf.strings.as_string(tf.strings.length(encoded))
    return (tf.where(reason == '', '', tf.strings.join([reason, ', ', size, ' bytes'])),
            orientation)


def decode(encoded: tf.Tensor, orientation: tf.Tensor, image_shape: tuple[int, int, int]
           ) -> tf.Tensor:
    """float32 [H, W, C], whole numbers 0..255, of the JPEG or PNG in a string []."""
    height, width, channels = image_shape
    image = tf.cond(starts_with(encoded, _JPEG),
                    lambda: decode_jpeg(encoded, 2 * max(height, width)),
                    lambda: decode_png(encoded))
    image = upright(image, orientation)
    if channels == 1:
        weighted = tf.reduce_sum(tf.cast(image, tf.int32) * _LUMINANCE, axis=-1, keepdims=True)
        image = tf.cast((weighted + 2 ** 15) // 2 ** 16, tf.uint8)
    resized = tf.image.resize(image, (height, width), 'bilinear', antialias=True)
    return tf.clip_by_value(tf.round(tf.ensure_shape(resized, image_shape)), 0, 255)


def decode_jpeg(encoded: tf.Tensor, least: int) -> tf.Tensor:
    """uint8 [h, w, 3] of a JPEG, at 1/8, 1/4 or 1/2 of its size if both sides stay >= `least`.

    That is what Pillow's `draft` does, many times faster for a photograph.
    """
    ratios = (1, 2, 4, 8)
    scale = tf.reduce_min(tf.image.extract_jpeg_shape(encoded)[:2] // least)
    index = tf.reduce_sum(tf.cast(scale >= ratios[1:], tf.int32))
    return tf.switch_case(index, [
        lambda ratio=ratio: tf.io.decode_jpeg(encoded, channels=3, ratio=ratio,
                                              dct_method='INTEGER_ACCURATE')
        for ratio in ratios])


def decode_png(encoded: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] of a PNG: grey repeated, transparency shown white."""
    image = tf.io.decode_png(encoded)
    height, width, channels = tf.unstack(tf.shape(image))  # 1 grey, 2 with alpha, 3 RGB, 4 RGBA

    def on_white() -> tf.Tensor:
        colour, alpha = (tf.cast(part, tf.int32) for part in (image[..., :-1], image[..., -1:]))
        return tf.cast((2 * (colour * alpha + 255 * (255 - alpha)) + 255) // 510, tf.uint8)

    colour = tf.cond(channels % 2 == 0, on_white, lambda: image)
    return tf.broadcast_to(colour, [height, width, 3])


def starts_with(encoded: tf.Tensor, magic: bytes) -> tf.Tensor:
    """Whether a string [] begins with `magic`."""
    return tf.strings.substr(encoded, 0, len(magic)) == magic


def contains(encoded: tf.Tensor, found: bytes) -> tf.Tensor:
    """Whether the bytes `found` are in a string []. (RE2 takes seconds for what fills a photo.)"""
    data = tf.io.decode_raw(encoded, tf.uint8)
    places = tf.maximum(tf.size(data) - len(found) + 1, 0)
    here = [data[i:places + i] == byte for i, byte in enumerate(found)]
    return tf.reduce_any(functools.reduce(tf.logical_and, here))


def length(data: tf.Tensor) -> tf.Tensor:
    """Bytes of a string [], int64."""
    return tf.cast(tf.strings.length(data), tf.int64)


def _one() -> tf.Tensor:
    return tf.constant(1, tf.int64)


def padded(encoded: tf.Tensor) -> tf.Tensor:
    """A string [] for `numbers` to read from, beyond whose end all is 0."""
    return tf.strings.join([encoded, bytes(_PADDING)])


def numbers(data: tf.Tensor, offset: tf.Tensor, sizes: list[int],
            little: tf.Tensor | bool = False) -> tf.Tensor:
    """int64 [len(sizes)]: the numbers of so many bytes each, in succession from an offset.

    data: a `padded` string.   sizes: 4 bytes at most each, 12 in sum.   little: whether their
    lowest byte is first.
    """
    low_first = np.zeros((len(sizes), sum(sizes)), np.int64)
    high_first = low_first.copy()
    for row, (start, size) in enumerate(zip(np.cumsum([0, *sizes]), sizes)):
        low_first[row, start:start + size] = 256 ** np.arange(size)
        high_first[row, start:start + size] = 256 ** np.arange(size)[::-1]
    weights = tf.where(little, low_first, high_first) if tf.is_tensor(little) else high_first
    offset = tf.minimum(tf.cast(offset, tf.int64), length(data) - _PADDING)
    piece = tf.io.decode_raw(tf.strings.substr(data, offset, sum(sizes)), tf.uint8)
    return tf.reduce_sum(weights * tf.cast(piece, tf.int64), axis=1)


def inspect_jpeg(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether a JPEG has a scan and an end behind it; the orientation of its EXIF data, or 1.

    Segment by segment, since a thumbnail within a segment is a JPEG with a scan and an end too.
    """
    data = padded(encoded)

    def before_scan(offset: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
        first, marker = tf.unstack(numbers(data, offset, [1, 1]))
        return (first == 0xff) & (marker != _SCAN) & (marker != _END)

    def next_segment(offset: tf.Tensor, orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, marker, size, name = tf.unstack(numbers(data, offset, [1, 1, 2, 4]))
        is_exif = (marker == _EXIF) & (name == int.from_bytes(b'Exif', 'big'))
        step = tf.where(marker == _FILL, _one(), 2 + size)
        return offset + step, tf.cond(is_exif, lambda: exif_orientation(tf.strings.substr(
            encoded, tf.minimum(offset + 10, length(encoded)), size)), lambda: orientation)

    offset, orientation = tf.while_loop(
        before_scan, next_segment, (tf.constant(2, tf.int64), _one()), parallel_iterations=1,
        maximum_iterations=_MOST_SEGMENTS)
    at_scan = tf.reduce_all(numbers(data, offset, [1, 1]) == [0xff, _SCAN])
    rest = tf.strings.substr(encoded, tf.minimum(offset, length(encoded)), length(encoded))
    # Compressed pixels never contain the bytes of the end.
    return at_scan & contains(rest, bytes([0xff, _END])), orientation


def exif_orientation(exif: tf.Tensor) -> tf.Tensor:
    """The orientation 1 … 8, int64, that EXIF data [] state (EXIF 2.32, 4.6); 1 if they do not."""
    data = padded(exif)
    little = starts_with(exif, b'I')  # 'II' or 'MM'
    directory = numbers(data, 4, [4], little)[0]
    count = numbers(data, directory, [2], little)[0]

    def entry(i: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tag, _, _, value = tf.unstack(
            numbers(data, directory + 2 + 12 * i, [2, 2, 4, 2], little))
        return i + 1, tf.where(tag == _ORIENTATION, value, found)

    _, stated = tf.while_loop(lambda i, found: (i < count) & (found == 0), entry,
                              (tf.constant(0, tf.int64), tf.constant(0, tf.int64)))
    return tf.where((stated >= 1) & (stated <= 8), stated, _one())


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """The image [h, w, C] turned and mirrored as its EXIF orientation asks for."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    for axis, mirrored in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        image = tf.cond(tf.reduce_any(orientation == mirrored),
                        lambda image=image, axis=axis: tf.reverse(image, [axis]),
                        lambda image=image: image)
    return image
