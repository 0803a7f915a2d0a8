"""MobileNetV1 and MobileNetV2, width 1.0.

V1: Howard et al., "MobileNets" (arXiv 1704.04861), table 1: 13 pairs of a 3x3 depthwise and a 1x1
convolution. V2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR
2018, arXiv 1801.04381), table 2: 17 blocks that expand, filter depthwise, and project without an
activation; a shortcut where a block keeps the shape.

Activations are ReLU6 in both, as in their authors' code. `small_images` has the strides of the
public CIFAR code: V1 those of ImageNet but 1 in the stem (32x32 pixels end as 2x2); V2 1 in the
stem and in the stage of 24 channels (32x32 end as 4x4). Our choice: no dropout before the logits.
"""

from collections.abc import Sequence
from typing import Any

import keras

from tfprune.models.parts import Parts, check_size

STEM_WIDTH = 32
V1_BLOCKS = (  # output width, stride
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
    (1024, 1))
V2_STAGES = (  # expansion, output width, blocks, stride of the first
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1))
V2_HEAD_WIDTH = 1280
SMALL_STRIDE_STAGE = 2  # of V2, whose stride is 1 for small images


def build_v1(
    *,
    small_images: bool,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    dtype_policy: str = 'float32',
) -> keras.Model:
    """MobileNetV1: pixels [B, H, W, C] in 0..255 -> logits [B, num_classes].

    Raises ValueError for images smaller than 32x32 (small_images: 8x8).
    """
    name = _checked_name('mobilenet_v1', small_images, image_shape)
    parts = Parts(seed, dtype_policy)
    inputs, x = parts.image(image_shape, mean, std)
    x = _conv(parts, x, STEM_WIDTH, 'stem', kernel=3, stride=1 if small_images else 2)
    for number, (width, stride) in enumerate(V1_BLOCKS, start=1):
        x = _depthwise(parts, x, f'block{number}_depthwise', stride)
        x = _conv(parts, x, width, f'block{number}_pointwise')
    return keras.Model(inputs, parts.logits(x, num_classes), name=name)


def build_v2(
    *,
    small_images: bool,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    dtype_policy: str = 'float32',
) -> keras.Model:
    """MobileNetV2: pixels [B, H, W, C] in 0..255 -> logits [B, num_classes].

    Raises ValueError for images smaller than 32x32 (small_images: 8x8).
    """
    name = _checked_name('mobilenet_v2', small_images, image_shape)
    parts = Parts(seed, dtype_policy)
    inputs, x = parts.image(image_shape, mean, std)
    x = _conv(parts, x, STEM_WIDTH, 'stem', kernel=3, stride=1 if small_images else 2)
    for stage, (expansion, width, count, first_stride) in enumerate(V2_STAGES, start=1):
        if small_images and stage == SMALL_STRIDE_STAGE:
            first_stride = 1
        for block in range(1, count + 1):
            x = _inverted_residual(parts, x, expansion, width, first_stride if block == 1 else 1,
                                   f'stage{stage}_block{block}')
    x = _conv(parts, x, V2_HEAD_WIDTH, 'head')
    return keras.Model(inputs, parts.logits(x, num_classes), name=name)


def _inverted_residual(parts: Parts, x: Any, expansion: int, width: int, stride: int, name: str
                       ) -> Any:
    y = x
    if expansion > 1:
        y = _conv(parts, y, expansion * x.shape[-1], f'{name}_expand')
    y = _depthwise(parts, y, f'{name}_depthwise', stride)
    y = parts.norm(parts.conv(y, width, f'{name}_project', 1), f'{name}_project_bn')
    return parts.add(x, y, f'{name}_add') if stride == 1 and x.shape[-1] == width else y


def _conv(parts: Parts, x: Any, width: int, name: str, kernel: int = 1, stride: int = 1) -> Any:
    x = parts.norm(parts.conv(x, width, name, kernel, stride), f'{name}_bn')
    return parts.relu(x, f'{name}_relu', 6.0)


def _depthwise(parts: Parts, x: Any, name: str, stride: int) -> Any:
    x = parts.norm(parts.depthwise(x, name, stride), f'{name}_bn')
    return parts.relu(x, f'{name}_relu', 6.0)


def _checked_name(name: str, small_images: bool, image_shape: tuple[int, int, int]) -> str:
    if small_images:
        name = f'{name}_cifar'
        check_size(name, image_shape, 8)
    else:
        check_size(name, image_shape, 32, f' ({name}_cifar takes smaller ones)')
    return name
