"""What the zoo's builders share: named stock layers, PyTorch's padding, weights by seed and name.

A convolution with a stride pads both sides (Keras' 'same' pads the far side only), as the public
PyTorch code whose trained weights are in circulation expects. Batch norm: epsilon 1e-5, momentum
0.9 (PyTorch's 0.1).
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers


@dataclasses.dataclass(frozen=True)
class Parts:
    """Layers on [B, H, W, C] of one model.

    Attributes:
        seed: with a layer's name it decides the layer's initial weights.
        dtype_policy: of all layers but the two ends, which are float32.
    """
    seed: int
    dtype_policy: str

    def image(
        self, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float],
    ) -> tuple[Any, Any]:
        """The input, pixels 0..255, and the same normalized: (x / 255 - mean) / std."""
        inputs = keras.Input(image_shape, name='image')
        normalize = layers.Rescaling(
            scale=[1 / (255 * s) for s in std], offset=[-m / s for m, s in zip(mean, std)],
            dtype='float32', name='normalize')
        return inputs, normalize(inputs)

    def conv(self, x: Any, width: int, name: str, kernel: int = 3, stride: int = 1) -> Any:
        """Convolution without bias, output ceil(size / stride); He et al.'s normal weights."""
        x, padding = self._padded(x, name, kernel, stride)
        return layers.Conv2D(
            width, kernel, stride, padding=padding, use_bias=False,
            data_format='channels_last', dtype=self.dtype_policy, name=name,
            kernel_initializer=keras.initializers.HeNormal(seed=self.layer_seed(name)))(x)

    def depthwise(self, x: Any, name: str, stride: int = 1) -> Any:
        """3x3 depthwise convolution without bias, output ceil(size / stride)."""
        x, padding = self._padded(x, name, 3, stride)
        # Keras' HeNormal takes all channels for the fan-in, of which each output reads one.
        initializer = keras.initializers.RandomNormal(
            stddev=(2 / 9) ** 0.5, seed=self.layer_seed(name))
        return layers.DepthwiseConv2D(
            3, stride, padding=padding, use_bias=False, data_format='channels_last',
            dtype=self.dtype_policy, name=name, depthwise_initializer=initializer)(x)

    def norm(self, x: Any, name: str) -> Any:
        """Batch normalization."""
        return layers.BatchNormalization(
            epsilon=1e-5, momentum=0.9, dtype=self.dtype_policy, name=name)(x)

    def relu(self, x: Any, name: str, max_value: float | None = None) -> Any:
        """max(x, 0), at most `max_value`."""
        return layers.ReLU(max_value, dtype=self.dtype_policy, name=name)(x)

    def pad(self, x: Any, size: int, name: str) -> Any:
        """Zeros on all four sides."""
        return layers.ZeroPadding2D(
            size, data_format='channels_last', dtype=self.dtype_policy, name=name)(x)

    def max_pool(self, x: Any, size: int, stride: int, name: str) -> Any:
        """Maximum over windows that lie inside the map."""
        return layers.MaxPooling2D(
            size, stride, data_format='channels_last', dtype=self.dtype_policy, name=name)(x)

    def add(self, x: Any, y: Any, name: str) -> Any:
        """x + y."""
        return layers.Add(dtype=self.dtype_policy, name=name)([x, y])

    def logits(self, x: Any, num_classes: int) -> Any:
        """Mean over the map and one dense layer: [B, num_classes]."""
        x = layers.GlobalAveragePooling2D(
            data_format='channels_last', dtype=self.dtype_policy, name='pool')(x)
        return layers.Dense(
            num_classes, dtype='float32', name='logits',
            kernel_initializer=keras.initializers.HeNormal(seed=self.layer_seed('logits')))(x)

    def _padded(self, x: Any, name: str, kernel: int, stride: int) -> tuple[Any, str]:
        if stride == 1:
            return x, 'same'
        return (self.pad(x, kernel // 2, f'{name}_pad') if kernel > 1 else x), 'valid'

    def layer_seed(self, layer_name: str) -> int:
        """The seed of a layer's initial weights."""
        # One stream a layer: layers of equal shape must not start equal.
        state = np.random.SeedSequence([self.seed, zlib.crc32(layer_name.encode())])
        return int(state.generate_state(1)[0]) & 0x7FFFFFFF


def check_size(name: str, image_shape: tuple[int, int, int], smallest: int, hint: str = '') -> None:
    """ValueError if the images are smaller than `smallest` x `smallest`."""
    if min(image_shape[:2]) < smallest:
        raise ValueError(
            f'image_shape: {name} expected at least {smallest}x{smallest} pixels{hint}, '
            f'received {tuple(image_shape)}')
