"""Encoded JPEG and PNG images to pixels inside a TensorFlow graph.

As tfprune.data.decoding does with Pillow, so that a server sees what the training saw: upright by a
JPEG's EXIF or XMP, transparency shown white, 16 bits a channel to 8, stretched to the model's size
by antialiased bilinear interpolation. Pixels are Pillow's before resizing, resized ones differ by
at most 1 of 255; those of CMYK differ by 1 before. Not done: transparency by a color key (a PNG's
tRNS without a palette), EXIF and XMP inside a PNG.

Memory is bounded, whatever a request holds. What decoding a picture takes is told by its header
(`inspect`): above LARGE_BYTES it is refused; above SMALL_BYTES it is decoded while no other of that
size is, in any request of the process (a mutex of the session). All that follows is done in bands
of rows, picture by picture. So R requests at once hold at most

    LARGE_BYTES + R · (SMALL_BYTES + WORK_BYTES) + 3 · the bytes of the requests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfprune.export.base import dims

CHANNELS = (1, 3)  # of models that encoded images can be decoded for
LARGE_BYTES, SMALL_BYTES = 2 ** 29, 2 ** 25  # of one picture's decoding
WORK_BYTES = 2 ** 26  # of what follows it, the images of a request's slice among it
MOST_SIDE = 2 ** 16 - 1  # pixels, that of JPEG
_JPEG, _PNG = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
_EXIF, _SCAN, _END, _FILL = 0xe1, 0xda, 0xd9, 0xff  # JPEG markers, each after a byte 0xff
_FRAMES = tuple(code for code in range(0xc0, 0xd0) if code not in (0xc4, 0xc8, 0xcc))
_SEQUENTIAL = (0xc0, 0xc1)
_BLOCK = 32  # a JPEG is padded to blocks of at most so many pixels
_RATIOS = (1, 2, 4, 8)  # at which a JPEG can be decoded
_PNG_CHANNELS = (1, 0, 3, 4, 2, 0, 4, 0)  # bytes a pixel that decode_png gives, by color type
_ORIENTATION = 0x0112  # a tag of EXIF
_XMP = b'http://ns.adobe.com/xap/1.0/\0'  # begins a segment of XMP, of the marker of EXIF
_XMP_ORIENTATION = (b'tiff:Orientation="', b'tiff:Orientation>')  # before its digit
_MOST_REASONS = 5
_MOST_SEGMENTS = 1000  # of a JPEG before its pixels; each takes a step of a loop
_PADDING = 16
_WINDOW = 2 ** 20  # bytes that are searched at a time
_BAND_PIXELS = 2 ** 18  # that are composed and resized at a time
_STEPS = 256  # of a value between the two passes of resizing
_LUMINANCE = (19595, 38470, 7471)  # ITU-R 601-2 in 1 / 65536, as Pillow has it
_MUTEX = 'tfprune_large_picture'

Shape = tuple[int, int, int]


def answer_batch(image_bytes: tf.Tensor, image_shape: Shape, name: str,
                 answer: Callable[[tf.Tensor], tf.Tensor], num_classes: int) -> tf.Tensor:
    """float32 [N, K] of strings [N] of encoded images, a slice of them after another.

    answer: float32 images [n, H, W, C], whole numbers 0..255 -> float32 [n, K].
    C is 1 or 3. Fails with InvalidArgumentError: '`name`[position]: why' for the first few strings
    that hold no whole JPEG or PNG, or too large a one; for N = 0; and, in the words of TensorFlow's
    decoder, which knows the size but not the position, for one that is damaged inside.
    """
    checked, facts = check(image_bytes, image_shape, name)

    def of_slice(start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        images = tf.map_fn(
            lambda pair: decode(pair[0], pair[1], image_shape),
            (checked[start:stop], facts[start:stop]), parallel_iterations=1,
            fn_output_signature=tf.TensorSpec(image_shape, tf.float32))
        return answer(images)

    return in_pieces(of_slice, tf.size(checked), slice_size(image_shape), tf.float32,
                     [num_classes])


def slice_size(image_shape: Shape) -> int:
    """Images that are answered at a time: 1 … 32, of a quarter of WORK_BYTES."""
    return min(32, max(1, WORK_BYTES // 4 // (4 * int(np.prod(image_shape)))))


def in_pieces(function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], count: tf.Tensor,
              step: int | tf.Tensor, dtype: tf.DType, shape: list[int | None]) -> tf.Tensor:
    """[count, *shape]: function(start, stop) of successive pieces of `step`, one after another."""
    pieces = (count + step - 1) // step

    def go_on(piece: tf.Tensor, made: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        stop = tf.minimum((piece + 1) * step, count)
        return piece + 1, made.write(piece, function(piece * step, stop))

    _, made = tf.while_loop(
        lambda piece, _: piece < pieces, go_on,
        (0, tf.TensorArray(dtype, pieces, infer_shape=False, element_shape=[None, *shape])),
        parallel_iterations=1)
    return made.concat()


def check(image_bytes: tf.Tensor, image_shape: Shape, name: str) -> tuple[tf.Tensor, tf.Tensor]:
    """(the strings [N], int64 facts [N, 2] of `inspect`), once none is bad; see `answer_batch`."""
    if image_shape[-1] not in CHANNELS:
        raise ValueError(f'image_shape: expected 1 or 3 channels, received [{dims(image_shape)}]')
    reasons, facts = tf.map_fn(
        lambda encoded: inspect(encoded, image_shape), image_bytes, parallel_iterations=1,
        fn_output_signature=(tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int64)))
    bad = tf.where(reasons != '')[:, 0]
    lines = tf.strings.join([name, '[', tf.strings.as_string(bad), ']: ',
                             tf.gather(reasons, bad)])[:_MOST_REASONS]
    empty = tf.size(image_bytes) == 0  # TensorFlow's convolutions fail obscurely on no image.
    message = tf.where(empty, f'{name}: expected at least one image, received none',
                       tf.strings.reduce_join(lines, separator='; '))
    with tf.control_dependencies([
            tf.debugging.Assert(~empty & (tf.size(bad) == 0), [message])]):
        return tf.identity(image_bytes), facts


def inspect(encoded: tf.Tensor, image_shape: Shape) -> tuple[tf.Tensor, tf.Tensor]:
    """Of a string []: why it cannot be decoded, '' if it may; int64 [2]: the orientation 1 … 8 of a
    JPEG, and the bytes that decoding takes at most."""
    is_jpeg, is_png = starts_with(encoded, _JPEG), starts_with(encoded, _PNG)

    def inspect_png() -> tuple[tf.Tensor, tf.Tensor]:
        width, height, _, color = tf.unstack(
            numbers(padded(tf.strings.substr(encoded, 0, 32)), 16, [4, 4, 1, 1]))
        bytes_ = height * width * tf.gather(tf.constant(_PNG_CHANNELS, tf.int64), color % 8)
        return (is_png & contains(encoded, b'IEND'),  # other data may follow the end
                tf.stack([_one(), height, width, bytes_]))

    whole, facts = tf.cond(is_jpeg, lambda: inspect_jpeg(encoded, least_side(image_shape)),
                           inspect_png)
    orientation, height, width, bytes_ = tf.unstack(facts)
    # Shortened rows, two bytes a value, band by band and then as one; they may be columns.
    bytes_ += 2 * 2 * height * max(image_shape[:2]) * image_shape[2]
    most = f'more than {MOST_SIDE} pixels wide or high'
    reason = tf.where(~(is_jpeg | is_png), 'no JPEG or PNG image', tf.where(
        ~whole, 'a truncated image', tf.where(
            tf.maximum(height, width) > MOST_SIDE, most, tf.where(
                bytes_ > LARGE_BYTES, f'takes more than {LARGE_BYTES // 2 ** 20} MiB', ''))))
    size = tf.strings.as_string(tf.strings.length(encoded))
    return (tf.where(reason == '', '', tf.strings.join([reason, ', ', size, ' bytes'])),
            tf.stack([orientation, bytes_]))


def decode(encoded: tf.Tensor, facts: tf.Tensor, image_shape: Shape) -> tf.Tensor:
    """float32 [H, W, C], whole numbers 0..255, of the JPEG or PNG in a string [] with its facts."""
    def pixels(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.cond(starts_with(encoded, _JPEG),
                        lambda: decode_jpeg(encoded, least_side(image_shape)),
                        lambda: tf.io.decode_png(encoded))
        return to_shape(image, facts[0], image_shape)

    def alone() -> tf.Tensor:
        mutex = tf.raw_ops.MutexV2(shared_name=_MUTEX)
        lock = tf.raw_ops.MutexLock(mutex=mutex)
        with tf.control_dependencies([lock]):
            found = pixels(tf.identity(encoded))
        with tf.control_dependencies([found]):
            released = tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)
        with tf.control_dependencies([released]):
            return tf.identity(found)

    return tf.cast(tf.cond(facts[1] > SMALL_BYTES, alone, lambda: pixels(encoded)), tf.float32)


def to_shape(image: tf.Tensor, orientation: tf.Tensor, image_shape: Shape) -> tf.Tensor:
    """uint8 [H, W, C] of pixels as they are decoded, [h, w, 1 … 4].

    Rows are shortened band by band, kept in steps of 1 / _STEPS, and then columns. It is turned
    upright at last: to resize and to turn or mirror may change places.
    """
    height, width, channels = image_shape
    size = tf.where(orientation >= 5, [width, height], [height, width])
    old = tf.shape(image)
    step = tf.maximum(_BAND_PIXELS // old[1], 1)

    def shortened(start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        rows = resized(composed(image[start:stop], channels), stop - start, size[1])
        return tf.cast(tf.round(rows * _STEPS), tf.uint16)

    rows = in_pieces(shortened, old[0], step, tf.uint16, [None, channels])
    image = tf.round(resized(rows, size[0], size[1]) / _STEPS)
    return tf.ensure_shape(upright(tf.cast(image, tf.uint8), orientation), image_shape)


def resized(image: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """float32 [height, width, C] of integers [h, w, C]."""
    return tf.cond(
        tf.reduce_all(tf.shape(image)[:2] == [height, width]),
        lambda: tf.cast(image, tf.float32),
        lambda: tf.image.resize(image, (height, width), 'bilinear', antialias=True))


def composed(image: tf.Tensor, channels: int) -> tf.Tensor:
    """uint8 [h, w, C] of uint8 [h, w, 1 gray, 2 with alpha, 3 RGB, 4 RGBA]: gray repeated,
    transparency shown white, color as gray by luminance if C is 1."""
    height, width, found = tf.unstack(tf.shape(image))

    def on_white() -> tf.Tensor:
        color, alpha = (tf.cast(part, tf.int32) for part in (image[..., :-1], image[..., -1:]))
        return tf.cast((2 * (color * alpha + 255 * (255 - alpha)) + 255) // 510, tf.uint8)

    color = tf.broadcast_to(tf.cond(found % 2 == 0, on_white, lambda: image), [height, width, 3])
    if channels == 1:
        weighted = tf.reduce_sum(tf.cast(color, tf.int32) * _LUMINANCE, axis=-1, keepdims=True)
        return tf.cast((weighted + 2 ** 15) // 2 ** 16, tf.uint8)
    return color


def least_side(image_shape: Shape) -> int:
    """Pixels that the sides of a JPEG keep at least: twice the size leaves work to the filter."""
    return 2 * max(image_shape[:2])


def decode_jpeg(encoded: tf.Tensor, least: int) -> tf.Tensor:
    """uint8 [h, w, 3] of a JPEG, at 1/8, 1/4 or 1/2 of its size if both sides stay >= `least`.

    That is what Pillow's `draft` does, many times faster for a photograph.
    """
    shape = tf.cast(tf.image.extract_jpeg_shape(encoded), tf.int64)
    return tf.switch_case(ratio_index(shape[0], shape[1], least), [
        lambda ratio=ratio: tf.io.decode_jpeg(encoded, channels=3, ratio=ratio,
                                              dct_method='INTEGER_ACCURATE')
        for ratio in _RATIOS])


def ratio_index(height: tf.Tensor, width: tf.Tensor, least: int) -> tf.Tensor:
    """The place in _RATIOS at which a JPEG is decoded."""
    return tf.reduce_sum(tf.cast(tf.minimum(height, width) // least >= _RATIOS[1:], tf.int32))


def starts_with(encoded: tf.Tensor, magic: bytes) -> tf.Tensor:
    """Whether a string [] begins with `magic`."""
    return tf.strings.substr(encoded, 0, len(magic)) == magic


def contains(encoded: tf.Tensor, found: bytes, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Whether the bytes `found` are in a string [] from `start` on, looked for window by window.

    (RE2 takes seconds for what fills a photo.)
    """
    end = length(encoded)

    def look(place: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        data = tf.io.decode_raw(
            tf.strings.substr(encoded, place, _WINDOW + len(found) - 1), tf.uint8)
        places = tf.maximum(tf.size(data) - len(found) + 1, 0)
        here = [data[i:places + i] == byte for i, byte in enumerate(found)]
        return place + _WINDOW, tf.reduce_any(functools.reduce(tf.logical_and, here))

    _, is_there = tf.while_loop(lambda place, is_there: ~is_there & (place < end), look,
                                (tf.cast(start, tf.int64), tf.constant(False)),
                                parallel_iterations=1)
    return is_there


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


def inspect_jpeg(encoded: tf.Tensor, least: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether a JPEG has a scan and an end behind it; int64 [4]: the orientation that its EXIF data
    state, else its XMP data, else 1; height and width as decoded, and the bytes that this takes.

    Segment by segment, since a thumbnail within a segment is a JPEG with a scan and an end too.
    """
    data = padded(encoded)

    def before_scan(offset: tf.Tensor, stated: tf.Tensor, frame: tf.Tensor) -> tf.Tensor:
        first, marker = tf.unstack(numbers(data, offset, [1, 1]))
        return (first == 0xff) & (marker != _SCAN) & (marker != _END)

    def next_segment(offset: tf.Tensor, stated: tf.Tensor, frame: tf.Tensor
                     ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        _, marker, size, name = tf.unstack(numbers(data, offset, [1, 1, 2, 4]))
        step = tf.where(marker == _FILL, _one(), 2 + size)
        in_exif, in_xmp = tf.unstack(stated)

        def content(begin: int) -> tf.Tensor:
            place = tf.minimum(offset + begin, length(encoded))
            return tf.strings.substr(encoded, place, tf.maximum(size + 2 - begin, 0))

        in_exif = tf.cond((marker == _EXIF) & (name == int.from_bytes(b'Exif', 'big')),
                          lambda: exif_orientation(content(10)), lambda: in_exif)
        in_xmp = tf.cond((marker == _EXIF) & starts_with(content(4), _XMP),
                         lambda: xmp_orientation(content(4 + len(_XMP))), lambda: in_xmp)
        found = tf.concat([[marker], numbers(data, offset + 5, [2, 2, 1])], axis=0)
        return offset + step, tf.stack([in_exif, in_xmp]), tf.where(
            tf.reduce_any(marker == _FRAMES), found, frame)

    offset, stated, frame = tf.while_loop(
        before_scan, next_segment, (tf.constant(2, tf.int64), tf.zeros([2], tf.int64),
                                    tf.zeros([4], tf.int64)),
        parallel_iterations=1, maximum_iterations=_MOST_SEGMENTS)
    orientation = tf.where(stated[0] != 0, stated[0], stated[1])
    orientation = tf.where((orientation >= 1) & (orientation <= 8), orientation, _one())
    kind, height, width, components = tf.unstack(frame)
    first, marker, _, in_scan = tf.unstack(numbers(data, offset, [1, 1, 2, 1]))
    # Of several scans all coefficients are kept, two bytes each.
    is_one_scan = tf.reduce_any(kind == _SEQUENTIAL) & (in_scan == components)
    kept = tf.where(is_one_scan, tf.constant(0, tf.int64),
                    2 * components * (height + _BLOCK) * (width + _BLOCK))
    ratio = tf.gather(tf.constant(_RATIOS, tf.int64), ratio_index(height, width, least))
    height, width = (height + ratio - 1) // ratio, (width + ratio - 1) // ratio
    # Compressed pixels never contain the bytes of the end.
    whole = (first == 0xff) & (marker == _SCAN) & contains(
        encoded, bytes([0xff, _END]), tf.minimum(offset, length(encoded)))
    return whole, tf.stack([orientation, height, width, 3 * height * width + kept])


def exif_orientation(exif: tf.Tensor) -> tf.Tensor:
    """The orientation, int64, that EXIF data [] state (EXIF 2.32, 4.6); 0 if they do not."""
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
    return stated


def xmp_orientation(xmp: tf.Tensor) -> tf.Tensor:
    """The orientation, int64, that XMP data [] state, in an attribute or an element; 0 if they do
    not. Pillow takes the first digit that follows either."""
    data = tf.cast(tf.io.decode_raw(xmp, tf.uint8), tf.int64)
    places, digits = [], []
    for name in _XMP_ORIENTATION:
        starts = tf.maximum(tf.size(data) - len(name), 0)
        here = [data[i:starts + i] == byte for i, byte in enumerate(name)]
        digit = data[len(name):starts + len(name)] - ord('0')
        found = tf.where(functools.reduce(tf.logical_and, here) & (digit >= 0) & (digit <= 9))[:, 0]
        places.append(found)
        digits.append(tf.gather(digit, found))
    first = tf.argsort(tf.concat(places, 0))[:1]
    return tf.reduce_sum(tf.gather(tf.concat(digits, 0), first))  # 0 of none


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """The image [h, w, C] turned and mirrored as its EXIF orientation asks for."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    for axis, mirrored in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        image = tf.cond(tf.reduce_any(orientation == mirrored),
                        lambda image=image, axis=axis: tf.reverse(image, [axis]),
                        lambda image=image: image)
    return image
