"""The operations of keras.ops that stand in functional graphs, as in `x * 2` or ops.mean(x)."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.structure.keras_internals import core, image, nn, numpy as knp
from tfprune.structure.layer_rules.activations import Softmax
from tfprune.structure.layer_rules.base import (Call, Channelwise, InPlace, Labels, LayerRule,
                                                Tracer, reaches_channels)
from tfprune.structure.layer_rules.merging import Concatenate, Elementwise
from tfprune.structure.layer_rules.shapes import Reshape


class _Elementwise(Channelwise):

    def refuse(self, call: Call) -> str | None:
        given = {name: value for name, value in vars(call.layer).items() if name[0] != '_'}
        for name, value in (*given.items(), *enumerate(call.arguments)):
            if isinstance(value, list | tuple | np.ndarray | tf.Tensor) and np.size(value) > 1:
                return f'has {name} of shape {np.shape(value)}, which may differ by channel'
        return None


class _Reduction(LayerRule):
    any_width = True

    def refuse(self, call: Call) -> str | None:
        axes = call.layer.axis
        if call.input_shapes[0][-1:] == (0,):
            return None  # of no channels
        if reaches_channels(axes if axes is None or isinstance(axes, int) else tuple(axes),
                            len(call.input_shapes[0])):
            return f'reduces the channels (axis={axes})'
        return None


class _SameLastAxis(InPlace):
    """Adds or drops axes of size one; the last axis stays."""

    def refuse(self, call: Call) -> str | None:
        before, after = call.input_shapes[0], call.output_shapes[0]
        axis = call.layer.axis
        last = len(max(before, after, key=len)) - 1
        if axis is None or reaches_channels(axis, last + 1):
            return f'changes the last axis (axis={axis})'
        return None


class _Transpose(LayerRule):

    def refuse(self, call: Call) -> str | None:
        axes, rank = call.layer.axes, len(call.input_shapes[0])
        if axes is None or axes[-1] not in (-1, rank - 1):
            return f'moves the channels (axes={axes})'
        return None


class _Pad(LayerRule):

    def refuse(self, call: Call) -> str | None:
        if call.input_shapes[0][-1] != call.output_shapes[0][-1]:
            return f'pads the channels (pad_width={call.layer.pad_width})'
        return None


class _GetItem(LayerRule):

    def refuse(self, call: Call) -> str | None:
        key = call.arguments if len(call.arguments) > 1 else call.arguments[0]
        items = list(key) if isinstance(key, tuple) else [key]
        rank = len(call.input_shapes[0])
        given = [item for item in items if item is not None]
        if items[-1] is None and (Ellipsis in items or len(given) == rank):
            return f'adds a last axis ({key!r})'
        items = given
        if Ellipsis in items:
            place = items.index(Ellipsis)
            items[place:place + 1] = [slice(None)] * (rank - len(items) + 1)
        if not all(isinstance(item, int | slice) for item in items):
            return f'is indexed with {key!r}'
        if not items or call.output_shapes[0][-1:] == (0,) and items[-1] == slice(0, 0):
            return None  # all, or no channels
        if items[0] != slice(None) or len(items) == rank and items[-1] != slice(None):
            return f'takes some of the images or channels ({key!r})'
        return None

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        return inputs[0][:0] if call.output_shapes[0][-1:] == (0,) else inputs[0]


class _BroadcastTo(LayerRule):
    """Repeats positions."""

    def refuse(self, call: Call) -> str | None:
        before, after = call.input_shapes[0], call.output_shapes[0]
        if before[-1:] != after[-1:]:
            return f'broadcasts {before} to {after}, whose channels differ'
        return None

    def ties_calls(self, layer: Any) -> bool:
        return True

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        return {**config, 'shape': (*config['shape'][:-1], int(kept_out.sum()))}


class _Flip(LayerRule):

    def refuse(self, call: Call) -> str | None:
        if reaches_channels(call.layer.axis, len(call.input_shapes[0])):
            return f'moves the channels (axis={call.layer.axis})'
        return None


_ELEMENTWISE = [*(getattr(knp, name) for name in (
    'Absolute', 'Abs', 'Clip', 'Cos', 'Exp', 'Expm1', 'Log', 'Log1p', 'Negative', 'Reciprocal',
    'Sign', 'Sin', 'Sqrt', 'Square', 'Tanh', 'Copy', 'ZerosLike',
    'OnesLike')), *(getattr(nn, name) for name in (
        'Celu', 'Elu', 'Gelu', 'HardShrink', 'HardSigmoid', 'HardSilu', 'HardTanh', 'LeakyRelu',
        'LogSigmoid', 'Relu', 'Relu6', 'Selu', 'Sigmoid', 'Silu', 'SoftShrink', 'Softplus',
        'Softsign', 'SparsePlus', 'SparseSigmoid', 'Squareplus', 'TanhShrink', 'Threshold')),
    core.Cast, core.StopGradient]

RULES: dict[type[keras.Operation], LayerRule] = {
    **{operation: _Elementwise() for operation in _ELEMENTWISE},
    **{operation: Elementwise(is_sum=True) for operation in (
        knp.Add, knp.Subtract, knp.Maximum, knp.Minimum)},
    **{operation: Elementwise(is_sum=False) for operation in (
        knp.Multiply, knp.Divide, knp.TrueDivide, knp.Power)},
    **{operation: _Reduction() for operation in (knp.Mean, knp.Sum, knp.Max, knp.Min, knp.Var,
                                                 knp.Std)},
    nn.Softmax: Softmax(),
    nn.LogSoftmax: Softmax(),
    nn.MaxPool: LayerRule(),
    nn.AveragePool: LayerRule(),
    image.Resize: LayerRule(),
    knp.BroadcastTo: _BroadcastTo(),
    knp.Concatenate: Concatenate(),
    knp.ExpandDims: _SameLastAxis(),
    knp.Squeeze: _SameLastAxis(),
    knp.Flip: _Flip(),
    knp.GetItem: _GetItem(),
    knp.Pad: _Pad(),
    knp.Reshape: Reshape('newshape'),
    knp.Transpose: _Transpose(),
}
