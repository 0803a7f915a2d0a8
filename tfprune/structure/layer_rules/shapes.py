"""Layers that pad, drop, repeat or pool positions, and those that only train differently."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.structure.keras_internals import StochasticDepth
from tfprune.structure.layer_rules.arrangement import Moved, ends_kept, permuted
from tfprune.structure.layer_rules.base import (Call, Channelwise, InPlace, Keras2Layer, Labels,
                                                LayerRule, Tracer, axis_of_channels, width_of)


class Input(InPlace):
    """The model's input is frozen; that of a nested model is what it is called on."""
    any_axis = True

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        if inputs:
            return inputs[0]
        labels = tracer.fresh(width_of(call.output_shapes[0]))
        tracer.freeze(labels, "it is the model's input")
        return labels

    def ties_calls(self, layer: Any) -> bool:
        return True  # a nested model that is called twice


class _ZeroPadding2D(LayerRule):
    """Pads height and width, or the channels: 'channels_first' on [B, H, W, C] pads axes 2 and 3.

    The zeros of a padded axis 3 are channels of their own, which an Add then couples with those
    of a convolution; on a shortcut that is how a ResNet's stages come to share channels.
    """
    takes_channels_first = True

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        if not self._pads_channels(call.layer):
            return inputs[0]
        left, right = call.layer.padding[1]
        return np.concatenate([tracer.fresh(left), inputs[0], tracer.fresh(right)])

    def ties_calls(self, layer: Any) -> bool:
        return self._pads_channels(layer)

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        if not self._pads_channels(layer):
            return config
        left, right = layer.padding[1]
        return {**config, 'padding': (layer.padding[0], ends_kept(kept_out, left, right))}

    @staticmethod
    def _pads_channels(layer: Any) -> bool:
        return layer.data_format == 'channels_first'


class _Dropout(Channelwise):

    def refuse(self, call: Call) -> str | None:
        noise_shape = getattr(call.layer, 'noise_shape', None)
        if noise_shape is not None and noise_shape[axis_of_channels(call)] not in (None, 1):
            return f'has noise_shape={tuple(noise_shape)}, which fixes the number of channels'
        return None


class _Augmentation(LayerRule):
    """Works on images, whose colors it may mix."""

    def refuse(self, call: Call) -> str | None:
        if call.input_shapes[0][-1] != call.output_shapes[0][-1]:
            return 'changes the number of channels'
        return None

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        tracer.freeze(inputs[0], f"layer '{call.layer.name}' ({call.kind}) may mix its channels")
        return inputs[0]


class _Positions(LayerRule):
    """Moves, drops or pools positions, each channel by itself."""
    any_width = True


_POSITIONS = [
    f'{name}{rank}D' for rank in (1, 2, 3)
    for name in ('MaxPooling', 'AveragePooling', 'GlobalMaxPooling', 'GlobalAveragePooling',
                 'ZeroPadding', 'Cropping', 'UpSampling')]
# Keras 3.12, the last of Python 3.10, has none.
_ADAPTIVE = [name for rank in (1, 2, 3) for kind in ('Max', 'Average')
             if hasattr(layers, name := f'Adaptive{kind}Pooling{rank}D')]
_AUGMENTATIONS = [name for name in dir(layers) if name.startswith('Random')] + [
    'AugMix', 'AutoContrast', 'CutMix', 'Equalization', 'MixUp', 'RandAugment', 'Solarization']

RULES: dict[type[keras.Operation], LayerRule] = {
    **{getattr(layers, name): _Augmentation() for name in _AUGMENTATIONS},
    **{getattr(layers, name): _Positions().in_keras2() for name in _POSITIONS},
    **{getattr(layers, name): _Positions() for name in _ADAPTIVE},
    layers.ZeroPadding1D: _Positions().in_keras2(Keras2Layer(
        lacks={'data_format': 'channels_last'})),
    layers.ZeroPadding2D: _ZeroPadding2D().in_keras2(),
    layers.Resizing: LayerRule(),
    layers.CenterCrop: LayerRule(),
    layers.RepeatVector: LayerRule().in_keras2(),
    layers.Permute: Moved(permuted).in_keras2(),
    layers.Identity: Channelwise().in_keras2(),
    layers.ActivityRegularization: InPlace().in_keras2(),
    layers.Dropout: _Dropout().in_keras2(),
    layers.AlphaDropout: _Dropout().in_keras2(),
    **{getattr(layers, f'SpatialDropout{rank}D'): Channelwise().in_keras2() for rank in (1, 2, 3)},
    layers.GaussianDropout: Channelwise().in_keras2(),
    layers.GaussianNoise: Channelwise().in_keras2(),
    StochasticDepth: Channelwise(),
    layers.InputLayer: Input(),
}
