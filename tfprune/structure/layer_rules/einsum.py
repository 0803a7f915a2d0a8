"""Products of tensors whose axes have letters: einsum, and what is one under another name.

Of each letter the channel axes of the inputs say what it is. Summed in the product, it couples the
channels of both operands (q · kᵀ); in the output, it is the output's channels (scores · v).
"""

import dataclasses
import math
import string
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune.structure.keras_internals import arguments_of_calls, numpy as knp
from tfprune.structure.layer_rules.activations import freeze_if_mixed
from tfprune.structure.layer_rules.base import (Call, Channels, Kept, LayerRule, MacTerm, Shape,
                                                Tracer, WeightAxes, WeightAxis, known_size,
                                                without_weights)


@dataclasses.dataclass(frozen=True)
class Equation:
    """A letter for each axis of the operands and of the output, as in 'bqd', 'bkd' -> 'bqk'."""
    operands: tuple[str, ...]
    output: str

    @classmethod
    def parse(cls, subscripts: str, ranks: Sequence[int]) -> 'Equation':
        """Of einsum's subscripts for operands of these ranks; an ellipsis becomes letters."""
        left, _, right = subscripts.replace(' ', '').partition('->')
        terms = left.split(',')
        if '->' not in subscripts:
            once = sorted(letter for letter in set(left) - set('.,') if left.count(letter) == 1)
            right = '...' * ('.' in left) + ''.join(once)
        free = [letter for letter in string.ascii_letters if letter not in subscripts]
        hidden = [rank - len(term) + 3 for term, rank in zip(terms, ranks) if '...' in term]
        dots = ''.join(free[:max(hidden, default=0)])
        return cls(tuple(term.replace('...', dots[len(dots) - (rank - len(term) + 3):])
                         for term, rank in zip(terms, ranks)), right.replace('...', dots))

    @property
    def wrong(self) -> str | None:
        """Why channels cannot be followed through it, or None."""
        if len(self.operands) > 2:
            return f'multiplies {len(self.operands)} tensors at once'
        if any(len(set(letters)) < len(letters) for letters in (*self.operands, self.output)):
            return 'takes a diagonal'
        return None


@dataclasses.dataclass(frozen=True)
class _Operand:
    """Letters and sizes of the axes of a factor; place among the inputs, None of a constant."""
    letters: str
    shape: Shape
    place: int | None


class Product(LayerRule):
    """A product of tensors without weights; subclasses give its equation."""
    any_axis = True
    any_width = True

    def mixes_channels(self, layer: Any) -> bool:
        return True

    def equation(self, call: Call, shapes: Sequence[Shape]) -> Equation:
        """Of factors of these shapes, constants among them; ValueError says why there is none."""
        raise NotImplementedError

    def refuse(self, call: Call) -> str | None:
        try:
            operands, output = self._factors(call)
        except ValueError as error:
            return str(error)
        wrong = Equation(tuple(each.letters for each in operands), output).wrong
        if wrong is None:
            at = [_images_of(call, each) for each in operands]
            batch = {each.letters[axis] for each, axis in zip(operands, at) if axis is not None}
            if len(batch) > 1 or not batch <= set(output) or any(
                    each.letters.find(letter) != (-1 if axis is None else axis)
                    for each, axis in zip(operands, at) for letter in batch):
                wrong = 'multiplies examples of the batch with one another'
        return wrong

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        operands, output = self._factors(call)
        name = f"layer '{call.layer.name}' ({call.kind})"
        found: dict[str, Channels] = {}
        fixed = set()
        for each in operands:
            if each.place is None:
                continue
            here = inputs[each.place]
            letter = each.letters[here.axis]
            if any(self._is_fixed(letter, len(here.labels), other, inputs) for other in operands):
                tracer.freeze(here.labels, f'{name} multiplies it with what has other channels')
                fixed.add(letter)
            elif letter in found and letter not in fixed:
                tracer.union(found[letter].labels, here.labels)
            found.setdefault(letter, here)
        standing = [letter for letter in found if letter in output]
        standing.sort(key=lambda letter: letter not in fixed)  # the last operand's, if it is free
        for letter in standing[:-1]:
            tracer.freeze(found[letter].labels, f'{name} makes a tensor with two axes of channels')
        if standing:
            letter = standing[-1]
            return [Channels(found[letter].labels, output.index(letter) - len(output))]
        return [without_weights(call, 0, tracer)]

    @staticmethod
    def _is_fixed(letter: str, width: int, other: _Operand, inputs: Sequence[Channels]) -> bool:
        """Whether an operand has channels of another tensor on an axis of its own."""
        if letter not in other.letters:
            return False
        return (other.place is None or other.letters[inputs[other.place].axis] != letter
                or len(inputs[other.place].labels) != width)

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        operands, _ = self._factors(call)
        if len(operands) < 2:
            return ()
        sizes: dict[str, int] = {}
        uses: dict[str, int] = {}
        for each in operands:
            for place, (letter, size) in enumerate(zip(each.letters, each.shape)):
                known = 1 if place == _images_of(call, each) else known_size(call, each.shape, size)
                if known > sizes.get(letter, 0):
                    sizes[letter] = known
                    uses.pop(letter, None)
                    if each.place is not None and each.letters[axis_of(call, each.place)] == letter:
                        uses[letter] = each.place
        static = math.prod(size for letter, size in sizes.items() if letter not in uses)
        return (MacTerm(static, uses=tuple(uses.values())),)

    def _factors(self, call: Call) -> tuple[list[_Operand], str]:
        """The factors in order, and the letters of the output."""
        shapes: list[Shape] = []
        places: list[int | None] = []
        for value in next(iter(arguments_of_calls(call.layer))).values():
            if isinstance(value, keras.KerasTensor):
                place = sum(each is not None for each in places)
                shapes.append(call.input_shapes[place])
                places.append(place)
            else:
                shapes.append(np.shape(value))
                places.append(None)
        equation = self.equation(call, shapes)
        return [_Operand(*each) for each in zip(equation.operands, shapes, places)], equation.output


class _Einsum(Product):

    def equation(self, call: Call, shapes: Sequence[Shape]) -> Equation:
        return Equation.parse(call.layer.subscripts, [len(shape) for shape in shapes])


class _Matmul(Product):
    """[…, n, k] · […, k, m]; axes before these two are broadcast."""

    def equation(self, call: Call, shapes: Sequence[Shape]) -> Equation:
        return Equation.parse('...nk,...km->...nm', _ranks(shapes))


class _TensorDot(Product):
    """Sums over some axes of both; all others of the first, then of the second, are left."""

    def axes(self, layer: Any, ranks: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """The axes of both that are summed over."""
        if isinstance(layer.axes, int):
            return range(ranks[0] - layer.axes, ranks[0]), range(layer.axes)
        first, second = ([axes] if isinstance(axes, int) else axes for axes in layer.axes)
        return first, second

    def equation(self, call: Call, shapes: Sequence[Shape]) -> Equation:
        ranks = _ranks(shapes)
        a, b = list(string.ascii_letters[:ranks[0]]), list(string.ascii_letters[26:26 + ranks[1]])
        first, second = self.axes(call.layer, ranks)
        summed = {a[i] for i in first}
        for i, j in zip(first, second):
            b[j] = a[i]
        return Equation((''.join(a), ''.join(b)),
                        ''.join(letter for letter in (*a, *b) if letter not in summed))


class _OpsDot(_TensorDot):
    """Sums over the last axis of the first and the last but one of the second."""

    def axes(self, layer: Any, ranks: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        return [-1], [-2]


class _Dot(Product):
    """Sums over one axis of each, example by example. With `normalize` each vector along that axis
    has length one, which zeros at closed channels do not change."""
    any_width = False  # Keras reshapes by the sizes

    def equation(self, call: Call, shapes: Sequence[Shape]) -> Equation:
        axes = call.layer.axes
        i, j = (axes, axes) if isinstance(axes, int) else axes
        a, b = list(string.ascii_letters[:len(shapes[0])]), list(string.ascii_letters[
            26:26 + len(shapes[1])])
        b[0], b[j] = a[0], a[i]
        left = [letter for letter in (*a, *b[1:]) if letter != a[i]]
        return Equation((''.join(a), ''.join(b)), ''.join(left))


def _ranks(shapes: Sequence[Shape]) -> list[int]:
    """Of the two factors of a product of matrices; ValueError for vectors."""
    if len(shapes) != 2 or min(map(len, shapes)) < 2:
        raise ValueError(f'multiplies tensors of shapes {[tuple(shape) for shape in shapes]}')
    return [len(shape) for shape in shapes]


class _EinsumDense(LayerRule):
    """x · kernel + bias by an equation such as 'abc,cde->abde'; c are the channels that it reads.

    A channel axis that stands in the output stays one. Else the largest axis that the kernel makes
    is it, and others, such as heads, stay whole.
    """

    def mixes_channels(self, layer: Any) -> bool:
        equation = self._equation(layer)
        return equation.operands[0][-1] not in equation.output

    def refuse(self, call: Call) -> str | None:
        equation = self._equation(call.layer)
        if equation.operands[0][0] != equation.output[0]:
            return f"has the equation '{call.layer.equation}', which moves the batch"
        bias, made = call.layer.bias, self._made(call.layer)
        if bias is not None and made is not None and bias.shape[-1] == 1 != max(bias.shape):
            # Keras takes it for a bias of the last axis wherever that is as long.
            return f'has a bias of shape {tuple(bias.shape)}, where the last axis is expected'
        return equation.wrong

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        equation = self._equation(call.layer)
        made = self._made(call.layer)
        if made is None:
            return [without_weights(call, 0, tracer)]
        axis = equation.output.index(made) - len(equation.output)
        labels = inputs[0].labels if made == equation.operands[0][-1] else tracer.fresh(
            call.output_shapes[0][axis] or 0)
        return [Channels(freeze_if_mixed(call.layer, labels, tracer), axis)]

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        equation, made = self._equation(layer), self._made(layer)
        kernel, read = equation.operands[1], equation.operands[0][-1]
        axes = []
        if read in kernel and read != made:
            axes.append(WeightAxis(kernel.index(read), 'input', reads=True))
        if made is not None and made in kernel:
            axes.append(WeightAxis(kernel.index(made), 'output'))
        found = [WeightAxes('kernel', more=tuple(axes))]
        if layer.bias is not None:
            letters = equation.output[len(equation.output) - len(layer.bias.shape):]
            axis = letters.find(made) if made is not None else -1
            runs = axis >= 0 and made in layer.bias_axes
            found.append(WeightAxes('bias', out_axis=axis if runs else None))
        return tuple(found)

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        equation, made = self._equation(layer), self._made(layer)
        if made is None:
            return config
        shape = list(layer.partial_output_shape)
        place = equation.output.index(made)
        hidden_right = layer.equation.rstrip().endswith('...')
        place = place - 1 if hidden_right else place - len(equation.output) + len(shape)
        if 0 <= place < len(shape) and shape[place] is not None:
            shape[place] = int(kept.outputs[0].sum())
        return {**config, 'output_shape': shape}

    def narrow(self, layer: Any, inputs: Any, weights: Any) -> Any:
        outputs = tf.einsum(layer.equation, inputs, weights['kernel'])
        if 'bias' in weights:
            outputs += weights['bias']
        return outputs if layer.activation is None else layer.activation(outputs)

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        equation, made = self._equation(call.layer), self._made(call.layer)
        shape, read = call.input_shapes[0], equation.operands[0][-1]
        sizes = {letter: known_size(call, shape, size)
                 for letter, size in zip(equation.operands[0][1:], shape[1:])}
        sizes.update(zip(equation.operands[1], call.layer.kernel.shape))
        static = math.prod(size for letter, size in sizes.items() if letter not in (read, made))
        return (MacTerm(static, uses_in=True, uses_out=made not in (None, read)),)

    @staticmethod
    def _equation(layer: Any) -> Equation:
        return Equation.parse(layer.equation, (layer.input_spec.ndim, len(layer.kernel.shape)))

    def _made(self, layer: Any) -> str | None:
        """The letter of the output's channels; None if they are none that are made."""
        equation = self._equation(layer)
        inputs, kernel = equation.operands
        if inputs[-1] in equation.output:
            return inputs[-1]
        sizes = {letter: size for letter, size in zip(kernel, layer.kernel.shape)
                 if letter not in inputs}
        if not sizes:
            return None
        return max(sizes, key=lambda letter: (sizes[letter], equation.output.index(letter)))


def _images_of(call: Call, operand: _Operand) -> int | None:
    """The axis of the images of a factor, None of one that is the same for all."""
    return None if operand.place is None else call.images_of(operand.place)


def axis_of(call: Call, place: int) -> int:
    """The axis of the channels of an input, counted from the end."""
    return call.axes[place] if call.axes else -1


RULES: dict[type[keras.Operation], LayerRule] = {
    knp.Einsum: _Einsum(),
    knp.Matmul: _Matmul(),
    knp.Dot: _OpsDot(),
    knp.Tensordot: _TensorDot(),
    layers.Dot: _Dot(),
    layers.EinsumDense: _EinsumDense(),
}
