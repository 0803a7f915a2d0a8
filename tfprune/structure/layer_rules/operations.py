"""The operations of keras.ops that stand in functional graphs, as in `x * 2` or ops.mean(x)."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfprune.structure.keras_internals import core, image, nn, numpy as knp
from tfprune.structure.layer_rules.activations import Softmax
from tfprune.structure.layer_rules.base import (Call, Channels, Channelwise, InPlace, LayerRule,
                                                Tracer, axis_of_channels, reaches_channels)
from tfprune.structure.layer_rules.merging import Concatenate, Elementwise


class _Elementwise(Channelwise):

    def refuse(self, call: Call) -> str | None:
        given = {name: value for name, value in vars(call.layer).items() if name[0] != '_'}
        for name, value in (*given.items(), *enumerate(call.arguments)):
            if isinstance(value, list | tuple | np.ndarray | tf.Tensor) and np.size(value) > 1:
                return f'has {name} of shape {np.shape(value)}, which may differ by channel'
        return None


class _Reduction(LayerRule):
    any_width, any_axis = True, True

    def refuse(self, call: Call) -> str | None:
        axes, rank = call.layer.axis, len(call.input_shapes[0])
        if 0 in call.input_shapes[0]:
            return None  # of no channels
        if reaches_channels(axes, rank, axis_of_channels(call)):
            return f'reduces the channels (axis={axes})'
        images = call.images_of()
        if images is not None and reaches_channels(axes, rank, images):
            return f'reduces the batch (axis={axes})'
        return None

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        if 0 in call.input_shapes[0]:
            return [Channels(inputs[0].labels[:0])]
        rank, place = len(call.input_shapes[0]), axis_of_channels(call)
        gone = [axis % rank for axis in np.atleast_1d(call.layer.axis)]
        behind = sum(axis > place for axis in gone) * (
            len(call.output_shapes[0]) < rank)  # else the axes stay, of size 1
        return [Channels(inputs[0].labels, inputs[0].axis + behind)]


class _AxesOfOne(InPlace):
    """Adds or drops axes of size one, by the sign of `step`."""
    any_axis = True

    def __init__(self, step: int) -> None:
        self._step = step

    def refuse(self, call: Call) -> str | None:
        gone = self._changed(call) if call.layer.axis is not None else []
        if not gone or call.may_move_images(*gone) or (
                self._step < 0 and call.images_of() in gone):
            return f'may change the batch (axis={call.layer.axis})'
        if self._step < 0 and axis_of_channels(call) in self._changed(call):
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


_OF_NUMPY = ('Absolute', 'Abs', 'Clip', 'Cos', 'Exp', 'Expm1', 'Log', 'Log1p', 'Negative',
             'Reciprocal', 'Sign', 'Sin', 'Sqrt', 'Square', 'Tanh', 'Copy', 'LogicalNot', 'Floor',
             'Round', 'ZerosLike', 'OnesLike')
_OF_NN = ('Celu', 'Elu', 'Gelu', 'HardShrink', 'HardSigmoid', 'HardSilu', 'HardTanh', 'LeakyRelu',
          'LogSigmoid', 'Relu', 'Relu6', 'Selu', 'Sigmoid', 'Silu', 'SoftShrink', 'Softplus',
          'Softsign', 'SparsePlus', 'SparseSigmoid', 'Squareplus', 'TanhShrink', 'Threshold')
_ELEMENTWISE = [*(getattr(knp, name) for name in _OF_NUMPY),
                *(getattr(nn, name) for name in _OF_NN), core.Cast, core.StopGradient]

RULES: dict[type[keras.Operation], LayerRule] = {
    **{operation: _Elementwise() for operation in _ELEMENTWISE},
    **{operation: Elementwise(is_sum=True) for operation in (
        knp.Add, knp.Subtract, knp.Maximum, knp.Minimum, knp.Where)},
    **{operation: Elementwise(is_sum=False) for operation in (
        knp.Multiply, knp.Divide, knp.TrueDivide, knp.Power, knp.Mod, knp.Greater,
        knp.GreaterEqual, knp.Less, knp.LessEqual, knp.Equal, knp.NotEqual, knp.LogicalAnd,
        knp.LogicalOr)},
    **{operation: _Reduction() for operation in (knp.Mean, knp.Sum, knp.Max, knp.Min, knp.Var,
                                                 knp.Std, knp.Any, knp.All)},
    nn.Softmax: Softmax(),
    nn.LogSoftmax: Softmax(),
    nn.MaxPool: LayerRule(),
    nn.AveragePool: LayerRule(),
    image.Resize: LayerRule(),
    knp.Concatenate: Concatenate(),
    knp.ExpandDims: _AxesOfOne(+1),
    knp.Squeeze: _AxesOfOne(-1),
}
