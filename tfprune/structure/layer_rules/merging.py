"""Layers with several inputs: sums couple channels, concatenation joins them."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from tfprune.structure.keras_internals import CustomScaleLayer
from tfprune.structure.layer_rules.base import (Call, Channels, LayerRule, Shape, Tracer,
                                                reaches_channels)


class Elementwise(LayerRule):
    """An operation on tensors of equal channels, or of one channel that is broadcast to all.

    Without `is_sum` the coupling is that of a factor to what it scales (squeeze-excite), not that
    of a residual stream; nor is that of a bias, a tensor without images.
    """
    any_width, any_axis = True, True

    def __init__(self, *, is_sum: bool) -> None:
        self._is_sum = is_sum

    def refuse(self, call: Call) -> str | None:
        if (None,) in call.input_shapes:
            return f'broadcasts numbers of images, {list(call.input_shapes)}'
        axis = call.axes[self._main(call)]
        width = _size(call.input_shapes[self._main(call)], axis)
        for shape, own in zip(call.input_shapes, call.axes):
            size = _size(shape, axis)
            if size not in (1, width) or own != axis and size != 1:
                return f'broadcasts the channels of inputs of shapes {list(call.input_shapes)}'
        for value in call.arguments:
            shape = np.shape(value)
            if _size(shape, axis) != 1:
                return f'combines channels with a constant of shape {tuple(shape)}'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        main, whole = inputs[self._main(call)], call.output_shapes[0]
        for other, shape in zip(inputs, call.input_shapes):
            if other.axis != main.axis or len(other.labels) < len(main.labels):
                # One number an image, that happen to be as many as there are channels.
                varies = len(shape) == 1 and shape != (1,) and not len(other.labels)
                tracer.freeze((main if varies else other).labels,
                              f"layer '{call.layer.name}' ({call.kind}) broadcasts "
                              f"{'images' if varies else 'it'} to all channels")
            elif self._is_sum and _has_images(shape, whole):
                tracer.sum(main.labels, other.labels)
            else:
                tracer.union(main.labels, other.labels)
        return [main]

    @staticmethod
    def _main(call: Call) -> int:
        """The input whose channels are those of the output: one that has them on another axis than
        the last, for somebody moved them there; else the widest."""
        sizes = [_size(shape, axis) or 0 for shape, axis in zip(call.input_shapes, call.axes)]
        whole = call.output_shapes[0]
        return max(range(len(sizes)), key=lambda i: (
            call.axes[i] != -1 and sizes[i] > 1, sizes[i],
            _has_images(call.input_shapes[i], whole), -i))


def _size(shape: Shape, axis: int) -> int | None:
    """The size of an axis, counted from the end; 1 where the shape has none."""
    return shape[axis] if len(shape) >= -axis else 1


def _has_images(shape: Shape, whole: Shape) -> bool:
    return len(shape) == len(whole) and shape[:1] == whole[:1]


class Concatenate(LayerRule):
    """Along the channels it joins, along another axis it couples."""
    any_width, any_axis = True, True

    def refuse(self, call: Call) -> str | None:
        if len(set(call.axes)) > 1:
            return 'joins tensors with channels on different axes'
        images = [call.images_of(place) for place in range(len(call.input_shapes))]
        if any(reaches_channels(call.layer.axis, len(call.input_shapes[0]), axis)
               for axis in images if axis is not None):
            return 'joins along the batch'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        axis = inputs[0].axis
        if reaches_channels(call.layer.axis, len(call.input_shapes[0]), axis):
            return [Channels(np.concatenate([each.labels for each in inputs]), axis)]
        for other in inputs[1:]:
            tracer.sum(inputs[0].labels, other.labels)
        return [inputs[0]]


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
