"""Operations that treat every number by itself, and functions that are made of these alone."""

import types
import weakref
from typing import Any

import keras
import numpy as np

from tfprune.structure.composite_nodes import nodes_before
from tfprune.structure.keras_internals import core, counted_names, math, nn, numpy as knp

_OF_NUMPY = ('Absolute', 'Abs', 'Clip', 'Cos', 'Exp', 'Expm1', 'Log', 'Log1p', 'Negative',
             'Reciprocal', 'Sign', 'Sin', 'Sqrt', 'Square', 'Tanh', 'Copy', 'LogicalNot', 'Floor',
             'Round', 'ZerosLike', 'OnesLike')
_OF_NN = ('Celu', 'Elu', 'Gelu', 'HardShrink', 'HardSigmoid', 'HardSilu', 'HardTanh', 'LeakyRelu',
          'LogSigmoid', 'Relu', 'Relu6', 'Selu', 'Sigmoid', 'Silu', 'SoftShrink', 'Softplus',
          'Softsign', 'SparsePlus', 'SparseSigmoid', 'Squareplus', 'TanhShrink', 'Threshold')
ELEMENTWISE = (*(getattr(knp, name) for name in _OF_NUMPY), *(getattr(nn, name) for name in _OF_NN),
               core.Cast, core.StopGradient, math.Erf, math.Rsqrt)
SUMS = (knp.Add, knp.Subtract, knp.Maximum, knp.Minimum, knp.Where)
PRODUCTS = (knp.Multiply, knp.Divide, knp.TrueDivide, knp.Power, knp.Mod, knp.Greater,
            knp.GreaterEqual, knp.Less, knp.LessEqual, knp.Equal, knp.NotEqual, knp.LogicalAnd,
            knp.LogicalOr)
_SHAPE = (2, 3, 5)
_FOUND: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def is_made_of_elementwise(function: types.FunctionType) -> bool:
    """Whether a function of one tensor is made of operations of keras.ops that treat every number
    by itself, and of numbers; tried once."""
    if function not in _FOUND:
        _FOUND[function] = _is_made(function)
    return _FOUND[function]


def _is_made(function: Any) -> bool:
    tensor = keras.KerasTensor(_SHAPE)
    with counted_names():
        try:
            output = function(tensor)
        except Exception:  # of a user's function: anything
            return False
    return isinstance(output, keras.KerasTensor) and tuple(output.shape) == _SHAPE and all(
        isinstance(node.operation, (*ELEMENTWISE, *SUMS, *PRODUCTS)) and all(
            tuple(value.shape) == _SHAPE if isinstance(value, keras.KerasTensor)
            else np.size(value) <= 1
            for value in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)))
        and all(tuple(made.shape) == _SHAPE for made in node.output_tensors)
        for node in nodes_before([output], {id(tensor)}))
