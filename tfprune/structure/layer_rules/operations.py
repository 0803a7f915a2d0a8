"""The operations of keras.ops that stand in functional graphs, as in `x * 2` or ops.mean(x)."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.structure.keras_internals import image, nn, numpy as knp
from tfprune.structure.layer_rules.activations import Softmax
from tfprune.structure.layer_rules.base import (Call, Channels, Channelwise, InPlace, LayerRule,
                                                Tracer, axis_of_channels, reaches_channels,
                                                without_weights)
from tfprune.structure.layer_rules.functions import ELEMENTWISE, PRODUCTS, SUMS
from tfprune.structure.layer_rules.merging import Concatenate, Elementwise


class _Elementwise(Channelwise):

    def refuse(self, call: Call) -> str | None:
        given = {name: value for name, value in vars(call.layer).items() if name[0] != '_'}
        for name, value in (*given.items(), *enumerate(call.arguments)):
            if isinstance(value, list | tuple | np.ndarray | tf.Tensor) and np.size(value) > 1:
                return f'has {name} of shape {np.shape(value)}, which may differ by channel'
        return None


class _Reduction(LayerRule):
    """Over other axes than that of the channels; what is `over_channels`, over these alone, too."""
    any_width, any_axis = True, True

    def refuse(self, call: Call) -> str | None:
        axes, rank = call.layer.axis, len(call.input_shapes[0])
        if 0 in call.input_shapes[0]:
            return None  # of no channels
        if reaches_channels(axes, rank, axis_of_channels(call)) and not self._is_over(call):
            return f'reduces the channels (axis={axes})'
        images = call.images_of()
        if images is not None and reaches_channels(axes, rank, images):
            return f'reduces the batch (axis={axes})'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        if 0 in call.input_shapes[0]:
            return [Channels(inputs[0].labels[:0])]
        if self._is_over(call):
            return [without_weights(call, 0, tracer)]
        rank, place = len(call.input_shapes[0]), axis_of_channels(call)
        gone = [axis % rank for axis in np.atleast_1d(call.layer.axis)]
        behind = sum(axis > place for axis in gone) * (
            len(call.output_shapes[0]) < rank)  # else the axes stay, of size 1
        return [Channels(inputs[0].labels, inputs[0].axis + behind)]

    def _is_over(self, call: Call) -> bool:
        rank = len(call.input_shapes[0])
        return axis_of_channels(call) == rank - 1 and self.over_channels(call.layer, rank)


class _Total(_Reduction):
    """A mean or a sum: over channels, as in a normalization that is written out, of those kept."""

    def __init__(self, *, is_mean: bool) -> None:
        self._is_mean = is_mean

    def over_channels(self, layer: Any, rank: int) -> bool:
        return layer.axis is not None and rank > 1 and [
            axis % rank for axis in np.atleast_1d(layer.axis)] == [rank - 1]

    def masked(self, layer: Any, inputs: Any, weights: Mapping[str, Any], mask: Any) -> Any:
        if mask is None:
            return layer(inputs)
        mask = keras.ops.cast(mask, inputs.dtype)
        found = keras.ops.sum(inputs * mask, axis=-1, keepdims=layer.keepdims)
        return found / keras.ops.sum(mask) if self._is_mean else found


class _AxesOfOne(InPlace):
    """Adds or drops axes of size one, by the sign of `step`."""
    any_axis = True

    def __init__(self, step: int) -> None:
        self._step = step

    def refuse(self, call: Call) -> str | None:
        changed = [] if call.layer.axis is None else self._changed(call)
        if not changed or call.may_move_images(*changed) or (
                self._step < 0 and call.images_of() in changed):
            return f'may change the batch (axis={call.layer.axis})'
        if self._step < 0 and axis_of_channels(call) in changed:
            return f'drops the axis of the channels (axis={call.layer.axis})'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        rank, place = len(call.output_shapes[0]), axis_of_channels(call)
        changed = self._changed(call)
        if self._step > 0:
            left = [axis for axis in range(rank) if axis not in changed]
            return [Channels(inputs[0].labels, left[place] - rank)]
        return [Channels(inputs[0].labels, place - sum(axis < place for axis in changed) - rank)]

    @staticmethod
    def _changed(call: Call) -> list[int]:
        """The axes that come or go, in the larger of the shapes, from the front."""
        rank = max(len(call.input_shapes[0]), len(call.output_shapes[0]))
        return [axis % rank for axis in np.atleast_1d(call.layer.axis).tolist()]


RULES: dict[type[keras.Operation], LayerRule] = {
    **{operation: _Elementwise() for operation in ELEMENTWISE},
    **{operation: Elementwise(is_sum=True) for operation in SUMS},
    **{operation: Elementwise(is_sum=False) for operation in PRODUCTS},
    **{operation: _Reduction() for operation in (knp.Max, knp.Min, knp.Var, knp.Std, knp.Any,
                                                 knp.All)},
    knp.Mean: _Total(is_mean=True),
    knp.Sum: _Total(is_mean=False),
    nn.Softmax: Softmax(),
    nn.LogSoftmax: Softmax(),
    nn.MaxPool: LayerRule(),
    nn.AveragePool: LayerRule(),
    image.Resize: LayerRule(),
    knp.Concatenate: Concatenate(),
    knp.ExpandDims: _AxesOfOne(+1),
    knp.Squeeze: _AxesOfOne(-1),
}
