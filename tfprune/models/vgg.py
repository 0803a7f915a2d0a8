"""VGG-16 and VGG-19 with batch norm for CIFAR.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR
2015, arXiv 1409.1556), columns D and E of table 1, in the form that the pruning papers use on CIFAR
(Li et al. 2017, arXiv 1608.08710, and after): batch norm behind each convolution, whose bias it
replaces, and one dense layer in place of the three.

Five max pools leave 1x1 of 32x32 pixels; what larger images leave is averaged.
"""

from collections.abc import Sequence

import keras

from tfprune.models.parts import Parts, check_size

STAGE_WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


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
    """VGG of `depth`: pixels [B, H, W, C] in 0..255 -> logits [B, num_classes].

    The name counts the paper's three dense layers; here are depth - 3 convolutions and one dense.

    Raises ValueError for another depth or for images smaller than 32x32.
    """
    if depth not in CONVOLUTIONS:
        raise ValueError(
            f'depth: expected one of {", ".join(map(str, CONVOLUTIONS))}, received {depth}')
    name = f'vgg{depth}_bn_cifar'
    check_size(name, image_shape, 32)
    parts = Parts(seed, dtype_policy)
    inputs, x = parts.image(image_shape, mean, std)
    for stage, (width, count) in enumerate(zip(STAGE_WIDTHS, CONVOLUTIONS[depth]), start=1):
        for number in range(1, count + 1):
            layer = f'stage{stage}_conv{number}'
            x = parts.norm(parts.conv(x, width, layer), f'{layer}_bn')
            x = parts.relu(x, f'{layer}_relu')
        x = parts.max_pool(x, 2, 2, f'stage{stage}_pool')
    return keras.Model(inputs, parts.logits(x, num_classes), name=name)
