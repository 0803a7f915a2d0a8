"""Small models of stock layers and keras.ops, each with its multiply-adds by hand.

Their names, images and widths are made up; the blocks are those of the papers named.
"""
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfprune.models import vit
from tfprune.structure.keras_internals import LayerScale


@dataclasses.dataclass(frozen=True)
class Plain:
    """A model and its multiply-adds at batch 1, a sum by hand.

    `inputs` gives those that noise cannot take the place of; such a model is not used elsewhere.
    """
    build: Callable[[], keras.Model]
    macs: int
    inputs: Callable[[], Any] | None = None


def _conv(x: Any, width: int, kernel: int = 1, stride: int = 1, act: str | None = 'silu') -> Any:
    x = layers.Conv2D(width, kernel, stride, padding='same', use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(act)(x) if act else x


def _classifier(image: Any, x: Any, name: str) -> keras.Model:
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name='logits')(x), name=name)


def _vit() -> keras.Model:
    """16 patches, 24 channels, 3 heads, two blocks."""
    return vit.build(patch=8, width=24, depth=2, heads=3, mlp_ratio=2, image_shape=(32, 32, 3),
                     num_classes=10, mean=(0.,) * 3, std=(1 / 255,) * 3)


# Swin (Liu et al., arXiv 2103.14030): windows of 4x4 tokens, every other one shifted by 2.
_WINDOW, _SHIFT = 4, 2


def _places(size: int) -> np.ndarray:
    """Number of the relative position of each two tokens of a window, int [size², size²]."""
    at = np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing='ij')).reshape(2, -1)
    down, right = at[:, :, None] - at[:, None] + size - 1
    return (down * (2 * size - 1) + right).astype(np.int32)


def _apart(side: int) -> np.ndarray:
    """-100 where two tokens of a shifted window are no neighbors, float [windows, 1, 16, 16]."""
    region = np.zeros(side, int)
    region[-_WINDOW:-_SHIFT], region[-_SHIFT:] = 1, 2
    windows = _numpy_windows(region[:, None] * 3 + region[None])
    return np.where(windows[:, None] == windows[..., None], 0, -100)[:, None].astype(np.float32)


def _numpy_windows(x: np.ndarray) -> np.ndarray:
    count = len(x) // _WINDOW
    return x.reshape(count, _WINDOW, count, _WINDOW).transpose(0, 2, 1, 3).reshape(
        count * count, _WINDOW * _WINDOW)


def _window_attention(x: Any, heads: int, shift: int, stacked: bool) -> Any:
    """[B, H, W, C] -> the same; queries, keys and values by one dense layer, taken apart along its
    channels or, `stacked`, along an axis that comes first, before the batch."""
    side, width = x.shape[2], x.shape[3]
    count, tokens, each = side // _WINDOW, _WINDOW * _WINDOW, width // heads
    x = ops.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
    x = ops.reshape(x, (-1, count, _WINDOW, count, _WINDOW, width))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, tokens, width))
    x = layers.Dense(3 * width)(x)
    if stacked:
        x = ops.reshape(x, (-1, tokens, 3, heads, each))
        query, key, value = ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), 3)
    else:
        query, key, value = (ops.transpose(ops.reshape(part, (-1, tokens, heads, each)),
                                           (0, 2, 1, 3)) for part in ops.split(x, 3, axis=-1))
    scores = ops.matmul(query * each ** -.5, ops.transpose(key, (0, 1, 3, 2)))
    # A functional model has no constants of its own: zeros of the batch plus the numbers.
    place = ops.zeros_like(scores[:, 0], dtype='int32') + _places(_WINDOW)
    bias = layers.Embedding((2 * _WINDOW - 1) ** 2, heads)(place)
    scores = scores + ops.transpose(bias, (0, 3, 1, 2))
    if shift:
        scores = ops.reshape(scores, (-1, count * count, heads, tokens, tokens)) + _apart(side)
        scores = ops.reshape(scores, (-1, heads, tokens, tokens))
    x = ops.matmul(ops.softmax(scores, axis=-1), value)
    x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, tokens, width))
    x = ops.reshape(layers.Dense(width)(x), (-1, count, count, _WINDOW, _WINDOW, width))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, side, side, width))
    return ops.roll(x, (shift, shift), axis=(1, 2)) if shift else x


def _swin(stacked: bool) -> keras.Model:
    """8x8 tokens of 12 channels, merged to 4x4 of 24; two blocks each, the second shifted."""
    image = keras.Input((32, 32, 3), name='image')
    x = layers.LayerNormalization()(layers.Conv2D(12, 4, 4)(image))
    for heads in (2, 3):
        for shift in (0, _SHIFT if heads == 2 else 0):
            x = x + _window_attention(layers.LayerNormalization()(x), heads, shift, stacked)
            y = layers.Dense(2 * x.shape[-1], 'gelu')(layers.LayerNormalization()(x))
            x = x + layers.Dense(x.shape[-1])(y)
        if heads == 2:
            x = ops.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
            x = layers.Dense(24, use_bias=False)(layers.LayerNormalization()(x))
    return _classifier(image, layers.LayerNormalization()(x), 'swin')


def _swin_block(tokens: int, width: int) -> int:
    """Dense layers 3 + 1 + 2 + 2 times width²; scores and means over the 16 of a window."""
    return tokens * (8 * width ** 2 + 2 * 16 * width)


_SWIN = (64 * 16 * 3 * 12 + 2 * _swin_block(64, 12) + 16 * 48 * 24 + 2 * _swin_block(16, 24)
         + 24 * 10)


def _convnext() -> keras.Model:
    """Liu et al., arXiv 2201.03545: depthwise 7x7, norm, dense layers, layer scale."""
    image = keras.Input((32, 32, 3), name='image')
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(12, 4, 4)(image))
    for width in (12, 20):
        if width != 12:
            x = layers.Conv2D(width, 2, 2)(layers.LayerNormalization(epsilon=1e-6)(x))
        for number in range(2):
            y = layers.DepthwiseConv2D(7, padding='same')(x)
            y = layers.Dense(4 * width, 'gelu')(layers.LayerNormalization(epsilon=1e-6)(y))
            y = layers.Dense(width)(y)
            x = x + LayerScale(.1, width, name=f'scale{width}_{number}')(y)
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(10, name='logits')(x), name='convnext')


def _crnn() -> keras.Model:
    """Shi et al., arXiv 1507.05717: columns of a line of text are the steps; a class each."""
    image = keras.Input((16, 48, 1), name='line')
    x = layers.MaxPooling2D(2)(_conv(image, 8, 3, act='relu'))
    x = layers.MaxPooling2D(2)(_conv(x, 12, 3, act='relu'))
    x = layers.Reshape((12, 4 * 12))(layers.Permute((2, 1, 3))(x))
    x = layers.Bidirectional(layers.GRU(10, return_sequences=True))(layers.Dense(14, 'relu')(x))
    x = layers.Bidirectional(layers.GRU(9, return_sequences=True))(x)
    return keras.Model(image, layers.Dense(10, name='logits')(x), name='crnn')


def _lstm() -> keras.Model:
    """24 steps of 6 values, two layers."""
    steps = keras.Input((24, 6), name='steps')
    x = layers.LSTM(12, return_sequences=True)(steps)
    x = layers.LSTM(16)(layers.Dropout(.1)(x))
    return keras.Model(steps, layers.Dense(10, name='logits')(x), name='lstm')


_NODES, _EDGES = 7, 20


def _graph() -> keras.Model:
    """Kipf and Welling, arXiv 1609.02907: neighbors by a matrix that is an input."""
    nodes = keras.Input((_NODES, 5), name='nodes')
    edges = keras.Input((_NODES, _NODES), name='adjacency')
    x = layers.Dense(12, 'tanh')(nodes)
    for width in (16, 12):
        x = layers.Dense(width, 'tanh')(ops.matmul(edges, x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model([nodes, edges], layers.Dense(10, name='logits')(x), name='graph')


def _ends() -> tuple[np.ndarray, np.ndarray]:
    """The nodes that each edge leaves and reaches, int32 [edges]; all are reached."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, _NODES, _EDGES).astype(np.int32),
            np.arange(_EDGES, dtype=np.int32) % _NODES)


def _segments() -> keras.Model:
    """Gilmer et al., arXiv 1704.01212: messages along edges, sums over segments. A row is a node
    or an edge, so that a batch is one graph."""
    nodes = keras.Input((5,), name='nodes')
    sender, receiver = (keras.Input((), dtype='int32', name=name) for name in ('from', 'to'))
    x = layers.Dense(12, 'tanh')(nodes)
    for width in (8, 6):
        ends = ops.concatenate([ops.take(x, sender, axis=0), ops.take(x, receiver, axis=0)], -1)
        received = ops.segment_sum(layers.Dense(width, 'tanh')(ends), receiver, _NODES)
        x = x + layers.Dense(12)(ops.concatenate([x, received], -1))
    return keras.Model([nodes, sender, receiver], layers.Dense(10, name='logits')(x),
                       name='segments')


def _graph_inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(_NODES, 5)).astype(np.float32), *_ends()]


def _segments_of_batch() -> keras.Model:
    """The same for batches of nodes of one graph: segments are along the first axis, so that the
    batch goes to the second and back."""
    sender, receiver = _ends()
    nodes = keras.Input((_NODES, 5), name='nodes')
    x = layers.Dense(12, 'tanh')(nodes)
    for width in (8, 6):
        ends = ops.concatenate([ops.take(x, sender, axis=1), ops.take(x, receiver, axis=1)], -1)
        message = ops.transpose(layers.Dense(width, 'tanh')(ends), (1, 0, 2))
        received = ops.segment_sum(message, receiver, num_segments=_NODES)
        x = x + layers.Dense(12)(ops.concatenate([x, ops.transpose(received, (1, 0, 2))], -1))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(nodes, layers.Dense(10, name='logits')(x), name='segments_of_batch')


def _c2f(x: Any, width: int, count: int, add: bool) -> Any:
    """Jocher et al., YOLOv8: halves, bottlenecks one after the other, all joined."""
    parts = list(ops.split(_conv(x, width), 2, axis=-1))
    for _ in range(count):
        y = _conv(_conv(parts[-1], width // 2, 3), width // 2, 3)
        parts.append(parts[-1] + y if add else y)
    return _conv(layers.Concatenate()(parts), width)


def _yolo() -> keras.Model:
    """Backbone of two stages with pooling of four sizes, a neck upwards, two heads."""
    image = keras.Input((32, 32, 3), name='image')
    fine = _c2f(_conv(_conv(image, 8, 3, 2), 12, 3, 2), 12, 2, True)
    x = _c2f(_conv(fine, 16, 3, 2), 16, 1, True)
    pools = [_conv(x, 8)]
    for _ in range(3):
        pools.append(layers.MaxPooling2D(5, 1, 'same')(pools[-1]))
    x = _conv(layers.Concatenate()(pools), 16)
    fine = _c2f(layers.Concatenate()([layers.UpSampling2D()(x), fine]), 12, 1, False)
    means = [layers.GlobalAveragePooling2D()(_conv(y, 8, 3)) for y in (fine, x)]
    return keras.Model(image, layers.Dense(10, name='logits')(layers.Concatenate()(means)),
                       name='yolo')


def _c2f_macs(size: int, before: int, width: int, count: int) -> int:
    return size ** 2 * (before * width + count * 2 * 9 * (width // 2) ** 2
                        + (2 + count) * width // 2 * width)


def _side(x: Any, width: int, stride: int) -> Any:
    y = layers.DepthwiseConv2D(3, stride, padding='same', use_bias=False)(
        _conv(x, width, act='relu'))
    return _conv(layers.BatchNormalization()(y), width, act='relu')


def _shuffled(parts: list[Any]) -> Any:
    x = layers.Concatenate()(parts)
    _, height, width, channels = x.shape
    x = layers.Reshape((height, width, 2, channels // 2))(x)
    return layers.Reshape((height, width, channels))(layers.Permute((1, 2, 4, 3))(x))


def _shufflenet() -> keras.Model:
    """Ma et al., arXiv 1807.11164: halves, one of them through three convolutions, shuffled."""
    image = keras.Input((32, 32, 3), name='image')
    x = _conv(image, 12, 3, 2, 'relu')
    for width in (16, 24):
        near = layers.DepthwiseConv2D(3, 2, padding='same', use_bias=False)(x)
        near = _conv(layers.BatchNormalization()(near), width // 2, act='relu')
        x = _shuffled([near, _side(x, width // 2, 2)])
        for _ in range(2):
            left, right = ops.split(x, 2, axis=-1)
            x = _shuffled([left, _side(right, width // 2, 1)])
    return _classifier(image, _conv(x, 32, act='relu'), 'shufflenet')


def _shuffle_stage(size: int, before: int, half: int) -> int:
    """The unit that halves the size from `before` channels, then two that keep it."""
    down = size ** 2 * (9 * before + before * half) + size ** 2 * (
        4 * before * half + 9 * half + half ** 2)
    return down + 2 * size ** 2 * (2 * half ** 2 + 9 * half)


# 4 gates of an LSTM, 3 of a GRU: every weight once a step, each direction.
MODELS: dict[str, Plain] = {
    'PlainViT': Plain(_vit, 16 * 8 * 8 * 3 * 24 + 2 * (
        16 * 4 * 24 ** 2 + 2 * 16 ** 2 * 24 + 16 * 2 * 24 * 48) + 24 * 10),
    'PlainSwin': Plain(functools.partial(_swin, False), _SWIN),
    'PlainSwinStacked': Plain(functools.partial(_swin, True), _SWIN),
    'PlainConvNeXt': Plain(_convnext, 64 * 16 * 3 * 12 + 2 * 64 * (49 * 12 + 8 * 12 ** 2)
                           + 16 * 4 * 12 * 20 + 2 * 16 * (49 * 20 + 8 * 20 ** 2) + 20 * 10),
    'PlainCRNN': Plain(_crnn, 16 * 48 * 9 * 8 + 8 * 24 * 9 * 8 * 12 + 12 * (
        48 * 14 + 2 * 3 * (14 + 10) * 10 + 2 * 3 * (20 + 9) * 9 + 18 * 10)),
    'PlainLSTM': Plain(_lstm, 24 * 4 * ((6 + 12) * 12 + (12 + 16) * 16) + 16 * 10),
    'PlainGraph': Plain(_graph, 7 * 5 * 12 + 7 * (7 * 12 + 12 * 16) + 7 * (7 * 16 + 16 * 12)
                        + 12 * 10),
    # Of one node and one edge, the rows.
    'PlainSegments': Plain(_segments, 5 * 12 + 24 * (8 + 6) + (20 + 18) * 12 + 12 * 10,
                           _graph_inputs),
    'PlainSegmentsOfBatch': Plain(_segments_of_batch, 7 * 5 * 12 + 20 * 24 * (8 + 6)
                                  + 7 * (20 + 18) * 12 + 12 * 10),
    'PlainC2f': Plain(
        _yolo, 16 ** 2 * 9 * 3 * 8 + 8 ** 2 * 9 * 8 * 12 + _c2f_macs(8, 12, 12, 2)
        + 4 ** 2 * 9 * 12 * 16 + _c2f_macs(4, 16, 16, 1) + 4 ** 2 * (16 * 8 + 32 * 16)
        + _c2f_macs(8, 16 + 12, 12, 1) + 9 * 8 * (8 ** 2 * 12 + 4 ** 2 * 16) + 16 * 10),
    'PlainShuffleNetV2': Plain(
        _shufflenet, 16 ** 2 * 9 * 3 * 12 + _shuffle_stage(8, 12, 8) + _shuffle_stage(4, 16, 12)
        + 4 ** 2 * 24 * 32 + 32 * 10),
}
