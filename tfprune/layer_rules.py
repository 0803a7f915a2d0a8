"""One rule per layer class: all that tfprune knows about a layer.

Grouping, gates, surgery, cost, criteria and alignment ask the rule and know nothing of layers, so
they cannot disagree. A new layer type is one `LayerRule` subclass and one line in `RULES`.

A rule is found by the exact class: a subclass may override `call`, so it has no rule until it gets
its own line. A layer without a rule, or one that its rule refuses, freezes the groups it touches.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

Shape = tuple[int | None, ...]
Labels = np.ndarray  # int [C]: the label of each position of a tensor's last axis


class Tracer:
    """What a rule may do with channel labels: a union-find whose roots are the smallest labels."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._frozen: list[tuple[Labels, str]] = []

    def fresh(self, count: int) -> Labels:
        """Returns `count` labels that nothing else carries, [count]."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def union(self, a: Labels, b: Labels) -> None:
        """Couples a[i] with b[i] for every i: they are removed together or not at all."""
        if len(a) != len(b):
            raise ValueError(f'cannot couple {len(a)} channels with {len(b)}')
        for x, y in zip(a.tolist(), b.tolist()):
            x, y = self._find(x), self._find(y)
            self._parent[max(x, y)] = min(x, y)

    def freeze(self, labels: Labels, reason: str) -> None:
        """Forbids the removal of `labels`; the reason completes "group 'x' is not prunable: …"."""
        self._frozen.append((labels, reason))

    def _find(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def roots(self) -> np.ndarray:
        """Returns the root of every label, [number of labels]."""
        roots = np.array(self._parent, np.int64)
        for label in range(len(roots)):
            roots[label] = roots[roots[label]]
        return roots

    def reasons(self, roots: np.ndarray) -> dict[int, str]:
        """Returns for every frozen root the first reason."""
        found: dict[int, str] = {}
        for labels, reason in self._frozen:
            for root in np.unique(roots[labels]).tolist():
                found.setdefault(root, reason)
        return found


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer, as a rule sees it: shapes have the batch axis first, [B, …, C]."""
    layer: Any
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]


@dataclasses.dataclass(frozen=True)
class WeightAxes:
    """Which axes of the weight `layer.<name>` run over input and output channels."""
    name: str
    in_axis: int | None = None
    out_axis: int | None = None


@dataclasses.dataclass(frozen=True)
class MacTerm:
    """coefficient · (in channels, if uses_in) · (out channels, if uses_out) multiply-adds."""
    coefficient: int
    uses_in: bool
    uses_out: bool


# Activations that treat channels independently. Softmax and its kin mix them, and a function that
# is not here may, so their channels are frozen. Compared by identity: a user's `relu` is not ours.
ELEMENTWISE = frozenset(getattr(keras.activations, name) for name in (
    'linear', 'relu', 'relu6', 'leaky_relu', 'elu', 'celu', 'selu', 'gelu', 'silu', 'mish',
    'sigmoid', 'tanh', 'softplus', 'softsign', 'exponential', 'hard_sigmoid', 'hard_silu',
    'hard_tanh', 'hard_shrink', 'soft_shrink', 'tanh_shrink', 'threshold', 'squareplus',
    'log_sigmoid', 'sparse_plus', 'sparse_sigmoid'))


class LayerRule:
    """A channelwise layer with one input and without weights; subclasses say what differs."""

    # A sum over input channels: needs a gate at its input, starts new channels at its output.
    mixes_channels = False
    # Reads and writes one buffer, if nobody else needs the input (peak memory).
    in_place = False

    def refuse(self, call: Call) -> str | None:
        """Returns what puts this call beyond the rule, or None; completes "layer 'x', which …"."""
        if getattr(call.layer, 'data_format', None) == 'channels_first':
            return "has data_format='channels_first', where 'channels_last' is expected"
        return None

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        """Returns the labels of the output from the labels of the inputs."""
        del call, tracer
        return inputs[0]

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        """Returns the channel axes of every weight of the layer."""
        del layer
        return ()

    def ties_calls(self, layer: Any) -> bool:
        """Whether the calls of a shared layer must keep the same channels."""
        return bool(self.weight_axes(layer))

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        """Returns the config of the pruned layer.

        Args:
          layer: the dense layer.
          config: its config, which may be changed.
          kept_in: for each input the kept positions, int [C_in_kept] each.
          kept_out: the kept positions of the output, int [C_out_kept].
        """
        del layer, kept_in, kept_out
        return config

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        """Returns the multiply-adds of the call at batch 1; none by convention for most layers."""
        del call
        return ()

    def geometry(self, layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns kernel size and strides, (1, 1) each where the layer has none."""
        return (tuple(getattr(layer, 'kernel_size', (1, 1))),
                tuple(getattr(layer, 'strides', (1, 1))))


def positions(call: Call, shape: Shape) -> int:
    """Returns the number of positions per channel of a tensor [B, …, C]: 1 for [B, C].

    Raises:
      ValueError: if the size is not fixed.
    """
    sizes = shape[1:-1]
    if None in sizes:
        raise ValueError(f"layer '{call.layer.name}' works on the shape {shape}: a cost needs "
                         'fixed sizes; give the model a fixed input shape')
    return math.prod(size for size in sizes if size is not None)


def _freeze_if_mixed(layer: Any, labels: Labels, tracer: Tracer) -> Labels:
    activation = getattr(layer, 'activation', None)
    if activation is not None and activation not in ELEMENTWISE:
        name = getattr(activation, '__name__', type(activation).__name__)
        tracer.freeze(labels, f"layer '{layer.name}' applies '{name}', which is not known to treat "
                              'channels independently')
    return labels


class _Pass(LayerRule):
    in_place = True


class _Activation(_Pass):

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        return _freeze_if_mixed(call.layer, inputs[0], tracer)


class _Kernel(LayerRule):
    """A layer with a kernel [*window, in, out] and maybe a bias [out]."""
    mixes_channels = True
    units = 'filters'

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        return _freeze_if_mixed(call.layer, tracer.fresh(getattr(call.layer, self.units)), tracer)

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        rank = len(layer.kernel.shape)
        kernel = WeightAxes('kernel', in_axis=rank - 2, out_axis=rank - 1)
        return (kernel, WeightAxes('bias', out_axis=0)) if layer.use_bias else (kernel,)

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        return {**config, self.units: len(kept_out)}

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        window = math.prod(call.layer.kernel.shape[:-2])
        size = window * positions(call, call.output_shapes[0])
        return (MacTerm(size, uses_in=True, uses_out=True),)


class _Convolution(_Kernel):

    def refuse(self, call: Call) -> str | None:
        if call.layer.groups != 1:
            return f'has groups={call.layer.groups}, where 1 is expected'
        return super().refuse(call)


class _Dense(_Kernel):
    units = 'units'


class _Depthwise(LayerRule):
    """Kernel [kh, kw, in, multiplier]: channel c becomes channels c·multiplier + (0 …)."""

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        labels = np.repeat(inputs[0], call.layer.depth_multiplier)
        return _freeze_if_mixed(call.layer, labels, tracer)

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        kernel = WeightAxes('kernel', in_axis=len(layer.kernel.shape) - 2)
        return (kernel, WeightAxes('bias', out_axis=0)) if layer.use_bias else (kernel,)

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        window = math.prod(call.layer.kernel_size)
        size = window * positions(call, call.output_shapes[0])
        return (MacTerm(size, uses_in=False, uses_out=True),)


class _BatchNormalization(LayerRule):
    in_place = True

    def refuse(self, call: Call) -> str | None:
        rank = len(call.input_shapes[0])
        if call.layer.axis not in (-1, rank - 1):
            return f'normalises axis {call.layer.axis}, where the last axis is expected'
        return None

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        names = [*(['gamma'] if layer.scale else []), *(['beta'] if layer.center else []),
                 'moving_mean', 'moving_variance']
        return tuple(WeightAxes(name, out_axis=0) for name in names)


class _Rescaling(LayerRule):
    in_place = True

    def ties_calls(self, layer: Any) -> bool:
        return any(np.size(value) > 1 for value in (layer.scale, layer.offset))

    def refuse(self, call: Call) -> str | None:
        width = call.input_shapes[0][-1]
        for name in ('scale', 'offset'):
            shape = np.shape(getattr(call.layer, name))
            if shape not in ((), (1,), (width,)):
                return f'has a {name} of shape {shape}, where () or ({width},) is expected'
        return None

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        for name in ('scale', 'offset'):
            value = np.asarray(getattr(layer, name))
            if value.size > 1:
                config[name] = value[kept_out].tolist()
        return config


class _ZeroPadding2D(LayerRule):
    """Pads height and width, or the channels: 'channels_first' on [B, H, W, C] pads axes 2 and 3.

    The zeros of a padded axis 3 are channels of their own, which an Add then couples with those
    of a convolution; on a shortcut that is how a ResNet's stages come to share channels.
    """

    def refuse(self, call: Call) -> str | None:
        return None

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
        left = int(np.sum(kept_out < layer.padding[1][0]))
        right = len(kept_out) - left - len(kept_in[0])
        return {**config, 'padding': (layer.padding[0], (left, right))}

    @staticmethod
    def _pads_channels(layer: Any) -> bool:
        return layer.data_format == 'channels_first'


class _Add(LayerRule):

    def refuse(self, call: Call) -> str | None:
        widths = {(len(shape), shape[-1]) for shape in call.input_shapes}
        if len(widths) > 1:
            return f'broadcasts the channels of inputs of shapes {list(call.input_shapes)}'
        return None

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        for other in inputs[1:]:
            tracer.union(inputs[0], other)
        return inputs[0]


class _Concatenate(LayerRule):

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        if call.layer.axis in (-1, len(call.input_shapes[0]) - 1):
            return np.concatenate(inputs)
        for other in inputs[1:]:
            tracer.union(inputs[0], other)
        return inputs[0]


class _Flatten(LayerRule):
    in_place = True

    def refuse(self, call: Call) -> str | None:
        if call.output_shapes[0][-1] is None:
            return f'flattens the shape {call.input_shapes[0]}, whose size is not fixed'
        return super().refuse(call)

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        # Row-major: the channels of the first position, then those of the second, …
        return np.tile(inputs[0], positions(call, call.input_shapes[0]))


class _Dropout(_Pass):

    def refuse(self, call: Call) -> str | None:
        noise_shape = call.layer.noise_shape
        if noise_shape is not None and noise_shape[-1] not in (None, 1):
            return f'has noise_shape={tuple(noise_shape)}, which fixes the number of channels'
        return None


class _Input(LayerRule):

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        labels = tracer.fresh(call.output_shapes[0][-1] or 0)
        tracer.freeze(labels, "it is the model's input")
        return labels


RULES: dict[type[keras.layers.Layer], LayerRule] = {
    keras.layers.InputLayer: _Input(),
    keras.layers.Conv2D: _Convolution(),
    keras.layers.DepthwiseConv2D: _Depthwise(),
    keras.layers.Dense: _Dense(),
    keras.layers.BatchNormalization: _BatchNormalization(),
    keras.layers.Activation: _Activation(),
    keras.layers.ReLU: _Activation(),
    keras.layers.LeakyReLU: _Activation(),
    keras.layers.Rescaling: _Rescaling(),
    keras.layers.ZeroPadding2D: _ZeroPadding2D(),
    keras.layers.MaxPooling2D: LayerRule(),
    keras.layers.AveragePooling2D: LayerRule(),
    keras.layers.GlobalAveragePooling2D: LayerRule(),
    keras.layers.GlobalMaxPooling2D: LayerRule(),
    keras.layers.Add: _Add(),
    keras.layers.Concatenate: _Concatenate(),
    keras.layers.Flatten: _Flatten(),
    keras.layers.Dropout: _Dropout(),
}


def find_rule(call: Call) -> tuple[LayerRule | None, str | None]:
    """Returns the rule of the layer that is called, or None and the reason why there is none."""
    layer = call.layer
    rule = RULES.get(type(layer))
    if rule is None:
        return None, f"touches layer '{layer.name}' ({type(layer).__name__}), which has no rule"
    reason = rule.refuse(call)
    if reason is None and len(rule.weight_axes(layer)) != len(layer.weights):
        reason = 'has weights that its rule does not know'
    if reason is not None:
        return None, f"touches layer '{layer.name}' ({type(layer).__name__}), which {reason}"
    return rule, None
