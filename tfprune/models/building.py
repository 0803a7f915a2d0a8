"""Builds dense models: by name, or from a user's .keras file."""

import pathlib
from collections.abc import Sequence

import keras

from tfprune.data.options import parse_size
from tfprune.errors import unknown
from tfprune.models.model_files import (at_image_shape, load_model_file, plain_graph,
                                        read_keras_file)
from tfprune.models.names import MODELS, is_model_file

# By what --mixed_precision calls them.
DTYPE_POLICIES = {'float32': 'float32', 'bfloat16': 'mixed_bfloat16'}


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
        name: a key of MODELS; or the path of a .keras file, which brings its own normalization,
            weights and dtype policies, so that mean, std and seed are for the others, and which may
            give the probabilities of a softmax in place of logits.
        image_shape: (H, W, C).
        num_classes: at least 2.
        mean: per channel, of pixels in [0, 1]; normalization is the model's first layer.
        std: per channel, of pixels in [0, 1], positive.
        seed: the initial weights are a function of it and of the layers' names.
        dtype_policy: 'float32' or 'mixed_bfloat16'; normalization and logits are float32 in both.

    Raises:
        ValueError: naming the argument, what was expected and what was received.
        FileNotFoundError: `name` is a path, and there is no such file.
    """
    if name not in MODELS and not is_model_file(name):
        raise unknown('model', name, MODELS, ', or the path of a .keras file')
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
    policies = DTYPE_POLICIES.values()
    if dtype_policy not in policies:
        raise ValueError(
            f"Unknown dtype_policy '{dtype_policy}'. Available: {', '.join(policies)}")
    if is_model_file(name):
        return load_model_file(
            name, image_shape=shape, num_classes=num_classes, dtype_policy=dtype_policy)
    return MODELS[name](
        image_shape=shape, num_classes=num_classes, mean=mean, std=std, seed=seed,
        dtype_policy=dtype_policy)


def untrained_model(name: str, *, image_size: str = '', num_classes: int = 10) -> keras.Model:
    """A model to look at: a .keras file, or a name of MODELS with random weights.

    Args:
        image_size: 'N', 'HxW' or 'HxWxC' of a named model, by default 32x32x3; of a file only where
            that takes images of any size, and then needed.
        num_classes: of a named model.

    Raises ValueError, in one line, for a file that is not traceable, or a missing size.
    """
    height, width, channels = parse_size(image_size)
    if not is_model_file(name):
        channels = channels or 3
        return build_model(name, image_shape=(height or 32, width or 32, channels),
                           num_classes=num_classes, mean=(0.5,) * channels, std=(0.5,) * channels)
    model = read_keras_file(pathlib.Path(name))
    plain_graph(model, f"model '{name}'")  # or it says what is wrong with the model
    if len(model.inputs) != 1:
        return model
    fixed = model.inputs[0].shape[1:]
    if any(given and size not in (None, given)
           for size, given in zip(fixed, (height, width, channels))):
        raise ValueError(f'{name} takes images {list(fixed)}: image_size must be left out; '
                         f'received {image_size!r}')
    if None in fixed[:2]:
        if not (height and width):
            raise ValueError(f'{name} takes images of any size: give --image_size')
        return at_image_shape(model, (height, width, model.inputs[0].shape[3]), name)
    return model
