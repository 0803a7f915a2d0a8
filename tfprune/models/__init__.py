"""Dense models by name.

To add a model: a file with a builder taking the keywords of `build_model` (a functional model of
stock Keras layers, raw pixels in, logits out), and a line in MODELS.
"""

import functools
from collections.abc import Callable, Sequence

import keras

from tfprune.models import resnet_cifar
from tfprune.models.initial_weights import load_initial_weights

__all__ = ['MODELS', 'build_model', 'load_initial_weights']

MODELS: dict[str, Callable[..., keras.Model]] = {
    f'resnet{depth}': functools.partial(resnet_cifar.build, depth=depth)
    for depth in (8, 20, 32, 44, 56, 110)
}

DTYPE_POLICIES = ('float32', 'mixed_bfloat16')


def build_model(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    dtype_policy: str = 'float32',
) -> keras.Model:
    """Builds the model called `name`: pixels [B, H, W, C] in 0..255 -> logits [B, num_classes].

    Args:
      name: a key of MODELS.
      image_shape: (H, W, C).
      num_classes: at least 2.
      mean: per channel, of pixels in [0, 1]; normalisation is the model's first layer.
      std: per channel, of pixels in [0, 1], positive.
      seed: the initial weights are a function of it and of the layers' names.
      dtype_policy: 'float32' or 'mixed_bfloat16'; normalisation and logits are float32 in both.

    Raises:
      ValueError: naming the argument, what was expected and what was received.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model '{name}'. Available: {', '.join(sorted(MODELS))}")
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f'image_shape: expected (height, width, channels), received {image_shape}')
    if num_classes < 2:
        raise ValueError(f'num_classes: expected at least 2, received {num_classes}')
    for key, values in (('mean', mean), ('std', std)):
        if len(values) != shape[2]:
            raise ValueError(
                f'{key}: expected {shape[2]} values, one a channel of image_shape {shape}, '
                f'received {tuple(values)}')
    if min(std) <= 0:
        raise ValueError(f'std: expected positive values, received {tuple(std)}')
    if seed < 0:
        raise ValueError(f'seed: expected at least 0, received {seed}')
    if dtype_policy not in DTYPE_POLICIES:
        raise ValueError(
            f"Unknown dtype_policy '{dtype_policy}'. Available: {', '.join(DTYPE_POLICIES)}")
    return MODELS[name](
        image_shape=shape, num_classes=num_classes, mean=mean, std=std, seed=seed,
        dtype_policy=dtype_policy)
