"""Residual networks for small images, with padding shortcuts.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv 1512.03385), section
4.2: depth 6n + 2, a 3x3 stem of 16 channels, three stages of n blocks of 16, 32 and 64 channels,
the map halved between stages, mean over the map, one dense layer. Shortcuts are option A: every
second pixel, new channels are zeros.

Our choices: (1) the zeros are a quarter of the new width on *both* sides, as in the public PyTorch
code whose trained weights are in circulation; the paper does not say where. (2) Batch-norm epsilon
1e-5, momentum 0.9.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from tfprune.models.parts import Parts, check_size

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
    check_size(f'resnet{depth}', image_shape, MIN_SIZE)
    parts = Parts(seed, dtype_policy)
    inputs, x = parts.image(image_shape, mean, std)
    x = parts.conv(x, STAGE_WIDTHS[0], 'stem_conv')
    x = parts.relu(parts.norm(x, 'stem_bn'), 'stem_relu')
    for stage, width in enumerate(STAGE_WIDTHS, start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            name = f'stage{stage}_block{block}'
            stride = 2 if stage > 1 and block == 1 else 1
            y = parts.conv(x, width, f'{name}_conv1', stride=stride)
            y = parts.relu(parts.norm(y, f'{name}_bn1'), f'{name}_relu1')
            y = parts.norm(parts.conv(y, width, f'{name}_conv2'), f'{name}_bn2')
            x = parts.add(_shortcut(parts, x, width, stride, name), y, f'{name}_add')
            x = parts.relu(x, f'{name}_relu2')
    return keras.Model(inputs, parts.logits(x, num_classes), name=f'resnet{depth}')


def _shortcut(parts: Parts, x: Any, width: int, stride: int, name: str) -> Any:
    if stride > 1:
        x = parts.max_pool(x, 1, stride, f'{name}_shortcut_subsample')
    extra = width - x.shape[-1]
    if extra:
        # "channels_first" makes a stock layer pad the last axis of an NHWC tensor.
        x = layers.ZeroPadding2D(
            ((0, 0), (extra // 2, extra - extra // 2)), data_format='channels_first',
            dtype=parts.dtype_policy, name=f'{name}_shortcut_pad')(x)
    return x
