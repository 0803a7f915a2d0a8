"""Residual networks for small images, with padding shortcuts.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv 1512.03385), section
4.2: depth 6n + 2, a 3x3 stem of 16 channels, three stages of n blocks of 16, 32 and 64 channels,
the map halved between stages, mean over the map, one dense layer. Shortcuts are option A: every
second pixel, new channels are zeros.

Our choices: (1) the zeros are a quarter of the new width on *both* sides, as in the public PyTorch
code whose trained weights are in circulation; the paper does not say where. (2) Batch-norm epsilon
1e-5, momentum 0.9.
"""

import zlib
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

MIN_SIZE = 8
STAGE_WIDTHS = (16, 32, 64)


def build(
    *,
    depth: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    dtype_policy: str = 'float32',
) -> keras.Model:
    """ResNet of `depth` = 6n + 2 layers: pixels [B, H, W, C] in 0..255 -> logits [B, num_classes].

    Raises ValueError for another depth or for images smaller than 8x8.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f'depth: expected 6n + 2 (8, 14, 20, …), received {depth}')
    if min(image_shape[:2]) < MIN_SIZE:
        raise ValueError(
            f'image_shape: resnet{depth} expected at least {MIN_SIZE}x{MIN_SIZE} pixels, '
            f'received {tuple(image_shape)}')

    def conv(x, width: int, name: str, stride: int = 1):
        if stride > 1:
            # 'same' at stride 2 pads the far side only; PyTorch's weights expect both.
            x = layers.ZeroPadding2D(
                1, data_format='channels_last', dtype=dtype_policy, name=f'{name}_pad')(x)
        return layers.Conv2D(
            width, 3, stride, padding='valid' if stride > 1 else 'same', use_bias=False,
            data_format='channels_last', dtype=dtype_policy, name=name,
            kernel_initializer=_he_normal(seed, name))(x)

    def norm(x, name: str):
        return layers.BatchNormalization(
            epsilon=1e-5, momentum=0.9, dtype=dtype_policy, name=name)(x)

    def relu(x, name: str):
        return layers.ReLU(dtype=dtype_policy, name=name)(x)

    def shortcut(x, width: int, stride: int, name: str):
        if stride > 1:
            x = layers.MaxPooling2D(
                pool_size=1, strides=stride, data_format='channels_last', dtype=dtype_policy,
                name=f'{name}_shortcut_subsample')(x)
        extra = width - x.shape[-1]
        if extra:
            # "channels_first" makes a stock layer pad the last axis of an NHWC tensor.
            x = layers.ZeroPadding2D(
                ((0, 0), (extra // 2, extra - extra // 2)), data_format='channels_first',
                dtype=dtype_policy, name=f'{name}_shortcut_pad')(x)
        return x

    inputs = keras.Input(image_shape, name='image')
    x = layers.Rescaling(
        scale=[1 / (255 * s) for s in std], offset=[-m / s for m, s in zip(mean, std)],
        dtype='float32', name='normalise')(inputs)
    x = conv(x, STAGE_WIDTHS[0], 'stem_conv')
    x = relu(norm(x, 'stem_bn'), 'stem_relu')
    for stage, width in enumerate(STAGE_WIDTHS, start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            name = f'stage{stage}_block{block}'
            stride = 2 if stage > 1 and block == 1 else 1
            y = conv(x, width, f'{name}_conv1', stride)
            y = relu(norm(y, f'{name}_bn1'), f'{name}_relu1')
            y = norm(conv(y, width, f'{name}_conv2'), f'{name}_bn2')
            x = layers.Add(dtype=dtype_policy, name=f'{name}_add')(
                [shortcut(x, width, stride, name), y])
            x = relu(x, f'{name}_relu2')
    x = layers.GlobalAveragePooling2D(
        data_format='channels_last', dtype=dtype_policy, name='pool')(x)
    logits = layers.Dense(
        num_classes, dtype='float32', name='logits',
        kernel_initializer=_he_normal(seed, 'logits'))(x)
    return keras.Model(inputs, logits, name=f'resnet{depth}')


def _he_normal(seed: int, layer_name: str) -> keras.initializers.Initializer:
    # One stream a layer: layers of equal shape must not start equal.
    state = np.random.SeedSequence([seed, zlib.crc32(layer_name.encode())]).generate_state(1)
    return keras.initializers.HeNormal(seed=int(state[0]) & 0x7FFFFFFF)
