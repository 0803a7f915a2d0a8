"""Residual networks with projection shortcuts: ResNet-18, -34 and -50.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv 1512.03385), table 1;
option B: a 1x1 convolution where a block changes the shape, the identity elsewhere. ResNet-50 has
its stride in the 3x3 convolution ("v1.5", as torchvision), not in the first 1x1.

Two stems: the paper's for ImageNet (7x7 convolution and 3x3 max pool, stride 2 each), and the usual
one for small images (3x3 convolution, stride 1, no pool).
"""

from collections.abc import Sequence
from typing import Any

import keras

from tfprune.models.parts import Parts, check_size

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
STAGE_WIDTHS = (64, 128, 256, 512)
EXPANSION = 4  # of a bottleneck's output over its inner width


def build(
    *,
    depth: int,
    small_images: bool,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    dtype_policy: str = 'float32',
) -> keras.Model:
    """ResNet of `depth` layers: pixels [B, H, W, C] in 0..255 -> logits [B, num_classes].

    Raises ValueError for another depth, or for images smaller than 32x32 (small_images: 8x8).
    """
    if depth not in BLOCKS:
        raise ValueError(f'depth: expected one of {", ".join(map(str, BLOCKS))}, received {depth}')
    name = f'resnet{depth}_cifar' if small_images else f'resnet{depth}'
    if small_images:
        check_size(name, image_shape, 8)
    else:
        check_size(name, image_shape, 32, f' ({name}_cifar takes smaller ones)')
    parts = Parts(seed, dtype_policy)
    inputs, x = parts.image(image_shape, mean, std)
    x = _conv_norm(parts, x, STAGE_WIDTHS[0], 'stem', kernel=3 if small_images else 7,
                   stride=1 if small_images else 2)
    x = parts.relu(x, 'stem_relu')
    if not small_images:
        # After a ReLU a border of zeros changes no maximum.
        x = parts.max_pool(parts.pad(x, 1, 'stem_pool_pad'), 3, 2, 'stem_pool')
    block = _bottleneck if depth >= 50 else _basic
    for stage, (width, count) in enumerate(zip(STAGE_WIDTHS, BLOCKS[depth]), start=1):
        for number in range(1, count + 1):
            stride = 2 if stage > 1 and number == 1 else 1
            x = block(parts, x, width, stride, f'stage{stage}_block{number}')
    return keras.Model(inputs, parts.logits(x, num_classes), name=name)


def _conv_norm(parts: Parts, x: Any, width: int, name: str, number: str = '', *, kernel: int = 3,
               stride: int = 1) -> Any:
    x = parts.conv(x, width, f'{name}_conv{number}', kernel, stride)
    return parts.norm(x, f'{name}_bn{number}')


def _basic(parts: Parts, x: Any, width: int, stride: int, name: str) -> Any:
    y = _conv_norm(parts, x, width, name, '1', stride=stride)
    y = _conv_norm(parts, parts.relu(y, f'{name}_relu1'), width, name, '2')
    y = parts.add(_shortcut(parts, x, width, stride, name), y, f'{name}_add')
    return parts.relu(y, f'{name}_relu2')


def _bottleneck(parts: Parts, x: Any, width: int, stride: int, name: str) -> Any:
    y = _conv_norm(parts, x, width, name, '1', kernel=1)
    y = _conv_norm(parts, parts.relu(y, f'{name}_relu1'), width, name, '2', stride=stride)
    y = _conv_norm(parts, parts.relu(y, f'{name}_relu2'), EXPANSION * width, name, '3', kernel=1)
    y = parts.add(_shortcut(parts, x, EXPANSION * width, stride, name), y, f'{name}_add')
    return parts.relu(y, f'{name}_relu3')


def _shortcut(parts: Parts, x: Any, width: int, stride: int, name: str) -> Any:
    if stride == 1 and x.shape[-1] == width:
        return x
    return _conv_norm(parts, x, width, f'{name}_shortcut', kernel=1, stride=stride)
