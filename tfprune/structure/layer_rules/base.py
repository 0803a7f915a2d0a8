"""What a rule is, and what it works with: calls, the axes of weights, terms of cost."""

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import Self

from tfprune.structure.layer_rules.labels import Channels, Labels, Tracer

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operation, as a rule sees it.

    Attributes:
        layer: a Keras layer, or an operation of keras.ops.
        input_shapes: mostly with the batch axis first, [B, …, C], of each tensor among the
            arguments.
        output_shapes: likewise.
        arguments: the values among the arguments that are no tensors of the graph.
        args: the positional arguments as they are, with symbolic tensors.
        axes: the axis of the channels of each input, counted from the end; none given: the last.
        internals: labels of the channels that only the layer itself sees, by name.
        masks: places of the inputs that are no values but masks of steps.
        images: the axis of the images of each input, counted from the front, None of one that is
            the same for all; none given: the first.
    """
    layer: Any
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    arguments: tuple[Any, ...] = ()
    axes: tuple[int, ...] = ()
    internals: Mapping[str, Labels] = dataclasses.field(default_factory=dict)
    args: tuple[Any, ...] = ()
    masks: tuple[int, ...] = ()
    images: tuple[int | None, ...] = ()

    def images_of(self, place: int = 0) -> int | None:
        """The axis of the images of an input, or None."""
        return self.images[place] if self.images else 0

    def may_move_images(self, *axes: int) -> bool:
        """Whether axes come, go or move in front of the images where no open size tells them."""
        images = self.images_of()
        return images is not None and None not in self.input_shapes[0] and min(axes) <= images

    @property
    def kind(self) -> str:
        """The class of the layer."""
        return type(self.layer).__name__


@dataclasses.dataclass(frozen=True)
class WeightAxis:
    """An axis of a weight that runs over channels.

    Attributes:
        axis: its index in the weight.
        of: whose channels: 'input', 'output', or the name of some of `LayerRule.internals`.
        place: of which input or output.
        reads: whether the layer sums over it; else it makes these channels, or scales them.
        repeat: each channel stands so often in a row along the axis …
        tile: … and that whole so often, as the gates of a recurrent kernel do.
    """
    axis: int
    of: str
    place: int = 0
    reads: bool = False
    repeat: int = 1
    tile: int = 1


@dataclasses.dataclass(frozen=True)
class WeightAxes:
    """Which axes of the weight `layer.<name>` run over channels; a name may have dots.

    Each channel of the first input stands in_repeat times in a row along in_axis; out_axis runs
    over the channels of the first output; `more` over any others.
    """
    name: str
    in_axis: int | None = None
    out_axis: int | None = None
    in_repeat: int = 1
    more: tuple[WeightAxis, ...] = ()

    @property
    def axes(self) -> tuple[WeightAxis, ...]:
        """All of them."""
        found = []
        if self.in_axis is not None:
            found.append(WeightAxis(self.in_axis, 'input', reads=True, repeat=self.in_repeat))
        if self.out_axis is not None:
            found.append(WeightAxis(self.out_axis, 'output'))
        return (*found, *self.more)


@dataclasses.dataclass(frozen=True)
class MacTerm:
    """coefficient · (in channels, if uses_in) · (out channels, if uses_out) multiply-adds.

    Times the channels of `uses` as well: names of `LayerRule.internals`, or places of inputs. At
    most three factors in all.
    """
    coefficient: int
    uses_in: bool = False
    uses_out: bool = False
    uses: tuple[str | int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Which channels of a call stay, bool [C] each.

    Attributes:
        inputs, outputs: along the channel axis of each tensor.
        input_axes, output_axes: that axis, counted from the end.
        input_ranks: the number of axes of each input.
        internals: by the names of `LayerRule.internals`.
    """
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    input_axes: tuple[int, ...]
    output_axes: tuple[int, ...]
    input_ranks: tuple[int, ...]
    internals: Mapping[str, np.ndarray]

    def is_axis(self, axis: int) -> bool:
        """Whether an axis of the first input, counted from either end, is that of its channels."""
        return axis % self.input_ranks[0] == self.input_axes[0] % self.input_ranks[0]


@dataclasses.dataclass(frozen=True)
class Keras2Layer:
    """The layer of tf_keras, the Keras 2 of quantization-aware training, that computes the same.

    Attributes:
        kind: its class in tf_keras.layers; '' for that of the Keras 3 layer.
        config: key of the Keras 3 config -> key in tf_keras.
        weights: name of a Keras 3 weight -> name in tf_keras.
        lacks: keys that tf_keras does not have -> the value that means what tf_keras does anyway.
        ignores: keys that tf_keras does not have and that change no value.
    """
    kind: str = ''
    config: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lacks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignores: tuple[str, ...] = ()


SAME_IN_KERAS2 = Keras2Layer()


class LayerRule:
    """A channelwise layer with one input and without weights; subclasses say what differs."""

    # The layer of tf_keras that computes the same; None where there is none.
    keras2: Keras2Layer | None = None

    # Reads and writes one buffer, if nobody else needs the input (peak memory).
    in_place = False
    # Its weights do not depend on what is pruned: they are copied as they are.
    static_weights = False
    # data_format='channels_first' is no mistake here.
    takes_channels_first = False
    # The layer itself, without weights, runs on fewer channels than it was built for.
    any_width = False
    # Channels may stand on another axis than the last: `trace` looks at `call.axes`.
    any_axis = False
    # It may have several outputs: `trace` gives the channels of each.
    many_outputs = False

    def in_keras2(self, layer: Keras2Layer = SAME_IN_KERAS2) -> Self:
        """A copy of the rule whose layer is this one in tf_keras."""
        rule = copy.copy(self)
        rule.keras2 = layer
        return rule

    def mixes_channels(self, layer: Any) -> bool:
        """Whether it sums over input channels: it needs gates and starts new channels."""
        del layer
        return False

    def over_channels(self, layer: Any, rank: int) -> bool:
        """Whether it takes statistics over the channels of an input of that rank: `masked` takes
        them over those kept."""
        del layer, rank
        return False

    def refuse(self, call: Call) -> str | None:
        """Returns what puts this call beyond the rule, or None; completes "layer 'x', which …"."""
        del call
        return None

    def sums_channels(self, layer: Any) -> bool:
        """Whether its output is Σ_c kernel_c · x_c, kernel_c being the slice of its `kernel` that
        reads channel c, by a window or none, plus a `bias`: what one channel tells of another, the
        slices can take over."""
        del layer
        return False

    def internals(self, layer: Any) -> Mapping[str, int]:
        """Returns the widths of channels that stand in no tensor of the graph, by name: those of
        the heads of attention, say. All calls of the layer share them."""
        del layer
        return {}

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        """Returns the labels of the output from the labels of the inputs, along the last axes."""
        del call, tracer
        return inputs[0]

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        """Returns the channels of every output: for a rule of `many_outputs`, or one of `any_axis`
        whose channels change their axis."""
        axis = inputs[0].axis if self.any_axis and inputs else -1
        return [Channels(self.flow(call, [each.labels for each in inputs], tracer), axis)]

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
            kept_in: for each input which positions stay, bool [C_in] each.
            kept_out: which positions of the output stay, bool [C_out].
        """
        del layer, kept_in, kept_out
        return config

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        """Returns the config of the pruned layer: `edit_config` with all that a call has."""
        return self.edit_config(layer, config, kept.inputs, kept.outputs[0])

    def edit_arguments(self, layer: Any, args: Any, kwargs: Any, kept: Kept) -> tuple[Any, Any]:
        """Returns the arguments of the call after the removal, of an operation of keras.ops that
        holds indices or sizes of channels there."""
        del layer, kept
        return args, kwargs

    def edit_weights(self, layer: Any, weights: dict[str, np.ndarray], kept: Kept
                     ) -> dict[str, np.ndarray]:
        """Returns the weights of the pruned layer, by name, from what is kept of them."""
        del layer, kept
        return weights

    def masked(self, layer: Any, inputs: Any, weights: Mapping[str, Any], mask: Any) -> Any:
        """Returns the output of a layer `over_channels` where only the channels of `mask`, float
        [C], count. What closed channels become does not matter.

        Args:
            layer: the dense layer, of one input.
            inputs: tensor [B, …, C].
            weights: name to tensor, of `weight_axes`.
            mask: None: all channels of `inputs` count, however many there are.
        """
        raise NotImplementedError(f'{type(self).__name__} is over_channels and has no masked()')

    def narrow(self, layer: Any, inputs: Any, weights: Mapping[str, Any]) -> Any:
        """Returns the layer's output by weights of fewer channels, or None if the rule cannot.

        Args:
            layer: the dense layer, of one input.
            inputs: tensor [B, …, C'] of the kept channels, whose number the graph need not know.
            weights: name to tensor, what is kept of each of `weight_axes`.
        """
        if self.over_channels(layer, len(inputs.shape)):
            return self.masked(layer, inputs, weights, None)
        return None

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        """Returns the multiply-adds of the call at batch 1; none by convention for most layers."""
        del call
        return ()

    def geometry(self, layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns kernel size and strides, (1, 1) each where the layer has none."""
        return (tuple(getattr(layer, 'kernel_size', (1, 1))),
                tuple(getattr(layer, 'strides', (1, 1))))


class InPlace(LayerRule):
    """A channelwise layer that may overwrite its input."""
    in_place = True


class Channelwise(InPlace):
    """One that treats each channel by itself, however many there are and on whatever axis."""
    any_width = True
    any_axis = True


def positions(call: Call, shape: Shape) -> int:
    """Returns the number of positions per channel of a tensor [B, …, C]: 1 for [B, C].

    Raises:
        ValueError: if the size is not fixed.
    """
    skipped = axis_of_images(shape)
    return math.prod(known_size(call, shape, size) for axis, size in enumerate(shape[:-1])
                     if axis != skipped)


def axis_of_images(shape: Shape) -> int:
    """Returns the axis along which a tensor has its images: the only one whose size is not fixed,
    else the first."""
    free = [axis for axis, size in enumerate(shape) if size is None]
    return free[0] if len(free) == 1 else 0


def numbers_of_an_image(shape: Shape) -> int:
    """Returns how many numbers stand at one place of the axis of images; 0 if sizes are open."""
    sizes = list(shape)
    sizes.pop(axis_of_images(shape))
    return math.prod(size or 0 for size in sizes)


def known_size(call: Call, shape: Shape, size: int | None) -> int:
    """Returns a size of `shape`; ValueError if it is not fixed."""
    if size is None:
        raise ValueError(f"layer '{call.layer.name}' works on the shape {shape}: a cost needs "
                         'fixed sizes; give the model a fixed input shape')
    return size


def width_of(shape: Shape) -> int:
    """Returns the size of the last axis; 0 where it is not fixed, and of a number an image [B]."""
    return (shape[-1] or 0) if len(shape) > 1 else 0


def without_weights(call: Call, output: int, tracer: Tracer) -> Channels:
    """The channels of an output that has none which could be removed, such as scores."""
    labels = tracer.fresh(width_of(call.output_shapes[output]))
    tracer.freeze(labels, f"layer '{call.layer.name}' ({call.kind}) makes it without weights")
    return Channels(labels)


def axis_of_channels(call: Call) -> int:
    """Returns the axis of the first input's channels, counted from the front."""
    return len(call.input_shapes[0]) + (call.axes[0] if call.axes else -1)


def reaches_channels(axes: int | Sequence[int] | None, rank: int, channels: int = -1) -> bool:
    """Whether `axes` (of a tensor of that rank; None is all) hold the one of the `channels`."""
    if axes is None:
        return True
    return any(axis % rank == channels % rank
               for axis in ([axes] if isinstance(axes, int) else axes))
