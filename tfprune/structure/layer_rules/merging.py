"""Layers with several inputs: sums couple channels, concatenation joins them."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from tfprune.structure.keras_internals import CustomScaleLayer
from tfprune.structure.layer_rules.base import (Call, Labels, LayerRule, Shape, Tracer,
                                                reaches_channels)


class Elementwise(LayerRule):
    """An operation on tensors of equal channels, or of one channel that is broadcast to all.

    Without `is_sum` the coupling is that of a factor to what it scales (squeeze-excite), not that
    of a residual stream; nor is that of a bias, a tensor without images.
    """
    any_width = True

    def __init__(self, *, is_sum: bool) -> None:
        self._is_sum = is_sum

    def refuse(self, call: Call) -> str | None:
        widths = {shape[-1] for shape in call.input_shapes if shape}
        if len(widths - {1}) > 1 or (None,) in call.input_shapes:
            return f'broadcasts the channels of inputs of shapes {list(call.input_shapes)}'
        for value in call.arguments:
            shape = np.shape(value)
            if shape and shape[-1] != 1:
                return f'combines channels with a constant of shape {tuple(shape)}'
        return None

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        whole = call.output_shapes[0]
        widest, _ = max(zip(inputs, call.input_shapes),
                        key=lambda each: (len(each[0]), _has_images(each[1], whole)))
        for other, shape in zip(inputs, call.input_shapes):
            if len(other) < len(widest):
                # One number an image, that happen to be as many as there are channels.
                varies = len(shape) == 1 and shape != (1,) and not len(other)
                tracer.freeze(widest if varies else other,
                              f"layer '{call.layer.name}' ({call.kind}) broadcasts "
                              f"{'images' if varies else 'it'} to all channels")
            elif self._is_sum and _has_images(shape, whole):
                tracer.sum(widest, other)
            else:
                tracer.union(widest, other)
        return widest


def _has_images(shape: Shape, whole: Shape) -> bool:
    return len(shape) == len(whole) and shape[:1] == whole[:1]


class Concatenate(LayerRule):
    """Along the channels it joins, along another axis it couples."""
    any_width = True

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        if reaches_channels(call.layer.axis, len(call.input_shapes[0])):
            return np.concatenate(inputs)
        for other in inputs[1:]:
            tracer.sum(inputs[0], other)
        return inputs[0]


RULES: dict[type[keras.Operation], LayerRule] = {
    layers.Add: Elementwise(is_sum=True).in_keras2(),
    layers.Subtract: Elementwise(is_sum=True).in_keras2(),
    layers.Average: Elementwise(is_sum=True).in_keras2(),
    layers.Maximum: Elementwise(is_sum=True).in_keras2(),
    layers.Minimum: Elementwise(is_sum=True).in_keras2(),
    layers.Multiply: Elementwise(is_sum=False).in_keras2(),
    layers.Concatenate: Concatenate().in_keras2(),
    CustomScaleLayer: Elementwise(is_sum=True),
}
