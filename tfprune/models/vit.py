"""Vision transformers of stock layers.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv 2010.11929): patches by a
convolution, learned positions, blocks x + attention(norm(x)), x + mlp(norm(x)). The mean over the
patches takes the place of the class token, as in its appendix D.3. `vit_cifar` has the depth, patch
and ratio of ViT-Lite-6/4 (Hassani et al., arXiv 2104.05704) at 96 channels, of about as many
multiply-adds as ResNet-20.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from tfprune.models.parts import Parts, check_size


def build(
    *,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    dtype_policy: str = 'float32',
) -> keras.Model:
    """A transformer of `depth` blocks: pixels [B, H, W, C] in 0..255 -> logits [B, num_classes].

    Raises ValueError for images that patches of `patch` pixels do not tile.
    """
    name = f'vit_{width}x{depth}_{patch}'
    check_size(name, image_shape, patch)
    if image_shape[0] % patch or image_shape[1] % patch:
        raise ValueError(f'image_shape: {name} expected multiples of {patch} pixels, '
                         f'received {tuple(image_shape)}')
    parts = Parts(seed, dtype_policy)
    inputs, x = parts.image(image_shape, mean, std)
    count = (image_shape[0] // patch) * (image_shape[1] // patch)
    blocks = _Blocks(parts, heads, width // heads)
    x = layers.Conv2D(width, patch, patch, dtype=dtype_policy, name='patches',
                      kernel_initializer=blocks.normal('patches'))(x)
    x = layers.Reshape((count, width), dtype=dtype_policy, name='tokens')(x)
    positions = layers.Embedding(
        count, width, dtype=dtype_policy, name='positions',
        embeddings_initializer=blocks.normal('positions'))(_indices(inputs, count, patch))
    x = layers.Add(dtype=dtype_policy, name='placed')([x, positions])
    for number in range(1, depth + 1):
        x = blocks.attention(x, f'block{number}_attention')
        x = blocks.mlp(x, mlp_ratio * width, f'block{number}_mlp')
    x = blocks.norm(x, 'norm')
    x = layers.GlobalAveragePooling1D(dtype=dtype_policy, name='pool')(x)
    x = layers.Dense(num_classes, dtype='float32', name='logits',
                     kernel_initializer=blocks.normal('logits'))(x)
    return keras.Model(inputs, x, name=name)


def _indices(image: Any, count: int, patch: int) -> Any:
    """0, 1, … of each patch, int [B, count]: a functional model has no constants of its own."""
    one = ops.ones_like(image[:, ::patch, ::patch, 0], dtype='int32')
    return ops.cumsum(ops.reshape(one, (-1, count)), axis=1) - 1


class _Blocks:
    """The halves of a block on [B, T, C], each a residual branch."""

    def __init__(self, parts: Parts, heads: int, width: int) -> None:
        self._parts, self._heads, self._width = parts, heads, width

    def normal(self, name: str) -> Any:
        """The initial weights of a layer: normal of 0.02, cut at two deviations."""
        return keras.initializers.TruncatedNormal(stddev=0.02, seed=self._parts.layer_seed(name))

    def norm(self, x: Any, name: str) -> Any:
        """Layer normalization."""
        return layers.LayerNormalization(
            epsilon=1e-6, dtype=self._parts.dtype_policy, name=name)(x)

    def attention(self, x: Any, name: str) -> Any:
        """x + attention(norm(x))."""
        y = self.norm(x, f'{name}_norm')
        y = layers.MultiHeadAttention(
            self._heads, self._width, dtype=self._parts.dtype_policy, name=name,
            kernel_initializer=self.normal(name))(y, y)
        return self._parts.add(x, y, f'{name}_add')

    def mlp(self, x: Any, width: int, name: str) -> Any:
        """x + dense(gelu(dense(norm(x))))."""
        y = self._dense(self.norm(x, f'{name}_norm'), width, f'{name}_in', 'gelu')
        return self._parts.add(x, self._dense(y, x.shape[-1], f'{name}_out'), f'{name}_add')

    def _dense(self, x: Any, width: int, name: str, activation: str | None = None) -> Any:
        return layers.Dense(width, activation=activation, dtype=self._parts.dtype_policy, name=name,
                            kernel_initializer=self.normal(name))(x)
