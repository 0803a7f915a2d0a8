"""Toy models that ship with their expected groups and costs, and an independent recount.

Widths are distinct primes, so that a swapped dimension cannot pass.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.costs.model import CostModel
from tfprune.costs.running import macs_of_call
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.masks import widths_of
from tfprune.pruning.surgery import prune_model
from tfprune.structure.graph import functional_graph, unfold
from tfprune.structure.groups import ChannelGroups, trace_groups
from tfprune.structure.layer_rules import has_rule


PRODUCTS = (layers.MultiHeadAttention, layers.GroupQueryAttention, layers.Attention, layers.Dot,
            layers.EinsumDense)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A model with the answers: `groups` and `residual` by hand, `macs` and `params` (moving
    statistics included) as sums."""
    build: Callable[[], keras.Model]
    groups: Mapping[str, int]
    residual: frozenset[str]
    macs: int
    params: int


def plain() -> keras.Model:
    """Convolutions, a flatten, dense layers.

        image 6x6x3 - conv1 5 - bn - relu - conv2 7 /2 (+b) - flatten 63 - hidden 11 - logits 2
    """
    image = keras.Input((6, 6, 3), name='image')
    x = layers.Rescaling(scale=[.1, .2, .3], offset=[.4, .5, .6], name='normalize')(image)
    x = layers.Conv2D(5, 3, padding='same', use_bias=False, name='conv1')(x)
    x = layers.BatchNormalization(name='bn1')(x)
    x = layers.ReLU(name='relu1')(x)
    x = layers.Conv2D(7, 3, 2, padding='same', activation='relu', name='conv2')(x)
    x = layers.Flatten(name='flatten')(x)
    x = layers.Dense(11, activation='tanh', name='hidden')(x)
    return keras.Model(image, layers.Dense(2, name='logits')(x), name='plain')


def residual() -> keras.Model:
    """Three stages whose shortcuts pad the channels unevenly: 11 = 2 + 5 + 4, 17 = 1 + 11 + 5.

        image - stem 5 -+- s1_conv1 7  - s1_conv2 5  -(+)- …
                        +----------------------------- |
        … -+- s2_conv1 13 /2 - s2_conv2 11 -(+)- …
           +- every 2nd pixel, pad 2|5|4 ----|
        … -+- s3_conv1 19 /2 - s3_conv2 17 -(+)- pool - logits 3
           +- every 2nd pixel, pad 1|11|5 ---|

    The stream is three groups: 5 channels of all stages, 6 from the second on, 6 of the third. The
    last couples nothing, for one convolution alone writes it.
    """
    def conv(x, width, name, stride=1):
        x = layers.Conv2D(width, 3, stride, padding='same', use_bias=False, name=name)(x)
        return layers.BatchNormalization(name=f'{name}_bn')(x)

    image = keras.Input((8, 8, 3), name='image')
    x = layers.ReLU(name='stem_relu')(conv(image, 5, 'stem'))
    for name, inner, width, pad in (('s1', 7, 5, None), ('s2', 13, 11, (2, 4)),
                                    ('s3', 19, 17, (1, 5))):
        y = layers.ReLU(name=f'{name}_relu1')(conv(x, inner, f'{name}_conv1', 2 if pad else 1))
        y = conv(y, width, f'{name}_conv2')
        if pad:
            x = layers.MaxPooling2D(1, 2, name=f'{name}_subsample')(x)
            x = layers.ZeroPadding2D(((0, 0), pad), data_format='channels_first',
                                     name=f'{name}_pad')(x)
        x = layers.ReLU(name=f'{name}_relu2')(layers.Add(name=f'{name}_add')([x, y]))
    x = layers.GlobalAveragePooling2D(name='pool')(x)
    return keras.Model(image, layers.Dense(3, name='logits')(x), name='residual')


def branches() -> keras.Model:
    """Depthwise, concatenation and swish, where a gate behind the convolution fails.

        image 6x6x3 -+- a 5 - bn - swish -+- concat 12 - depthwise 3x3 x2 = 24 - bn - swish - …
                     +- b 7 - leaky -------+
        … - pad 1 - c 11, 3x3 /2 valid - average pool 2 - global max pool - dropout - logits 2
    """
    image = keras.Input((6, 6, 3), name='image')
    a = layers.Conv2D(5, 1, use_bias=False, name='a')(image)
    a = layers.Activation('swish', name='a_swish')(layers.BatchNormalization(name='a_bn')(a))
    b = layers.LeakyReLU(name='b_leaky')(layers.Conv2D(7, 3, padding='same', name='b')(image))
    x = layers.Concatenate(name='concat')([a, b])
    x = layers.DepthwiseConv2D(3, padding='same', depth_multiplier=2, name='depthwise')(x)
    x = layers.Activation('swish', name='swish')(layers.BatchNormalization(name='bn')(x))
    x = layers.Conv2D(11, 3, 2, name='c')(layers.ZeroPadding2D(1, name='pad')(x))
    x = layers.GlobalMaxPooling2D(name='pool')(layers.AveragePooling2D(2, 1, name='average')(x))
    x = layers.Dropout(0.5, name='dropout')(x)
    return keras.Model(image, layers.Dense(2, name='logits')(x), name='branches')


TOYS: dict[str, Toy] = {
    'plain': Toy(
        plain, {'conv1': 5, 'conv2': 7, 'hidden': 11}, frozenset(),
        macs=36 * 9 * 3 * 5 + 9 * 9 * 5 * 7 + 63 * 11 + 11 * 2,
        params=9 * 3 * 5 + 4 * 5 + 9 * 5 * 7 + 7 + 63 * 11 + 11 + 11 * 2 + 2),
    'residual': Toy(
        residual, {'stem': 5, 's1_conv1': 7, 's2_conv1': 13, 's2_conv2': 6, 's3_conv1': 19,
                   's3_conv2': 6}, frozenset({'stem', 's2_conv2', 's3_conv2'}),
        macs=9 * (64 * (3 * 5 + 5 * 7 + 7 * 5) + 16 * (5 * 13 + 13 * 11)
                  + 4 * (11 * 19 + 19 * 17)) + 17 * 3,
        params=9 * (3 * 5 + 5 * 7 + 7 * 5 + 5 * 13 + 13 * 11 + 11 * 19 + 19 * 17)
        + 4 * (5 + 7 + 5 + 13 + 11 + 19 + 17) + 17 * 3 + 3),
    'branches': Toy(
        branches, {'a': 5, 'b': 7, 'c': 11}, frozenset(),
        macs=36 * (3 * 5 + 9 * 3 * 7 + 9 * 24) + 9 * 9 * 24 * 11 + 11 * 2,
        params=3 * 5 + 4 * 5 + 9 * 3 * 7 + 7 + 9 * 24 + 24 + 4 * 24 + 9 * 24 * 11 + 11
        + 11 * 2 + 2),
}


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Fills every weight, batch-normalization statistics included, with noise; returns `model`.

    Fresh statistics (mean 0, beta 0) would hide that normalization revives a zeroed channel.
    """
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if len(shape) > 1:
            value = rng.normal(size=shape) / math.sqrt(math.prod(shape[:-1]))
        elif weight.name in ('gamma', 'moving_variance', 'variance'):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape)
        weight.assign(value)
    return model


randomise = randomize  # as scripts outside of the package call it


def random_masks(groups: ChannelGroups, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns masks of random widths in [1, C_g] and random channels."""
    masks = {}
    for name, width in groups.items():
        masks[name] = np.zeros(width, bool)
        masks[name][rng.permutation(width)[:rng.integers(1, width + 1)]] = True
    return masks


def normal_inputs(model: keras.Model, rng: np.random.Generator, count: int = 2) -> Any:
    """Returns normal noise, float32, of the shapes of the model's inputs."""
    return keras.tree.map_structure(
        lambda x: rng.normal(size=(count, *x.shape[1:])).astype(np.float32),
        functional_graph(model).input)


def max_relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Returns max|a − b| / max|a|."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / np.abs(a).max())


def recount(model: keras.Model) -> tuple[int, int]:
    """Returns (MACs, parameters) from the shapes of kernels, not through CostModel; what multiplies
    tensors with one another is run, and its operators are counted."""
    macs, graph = 0, unfold(model)
    for step in graph.steps:
        layer = step.operation
        if isinstance(layer, (layers.RNN, layers.Bidirectional)):
            macs += graph.times(step) * _recurrent_macs(
                layer, graph.shapes[step.inputs[0]], graph.shapes[step.outputs[0]])
            continue
        if isinstance(layer, layers.TimeDistributed) and isinstance(
                layer.layer, (layers.RNN, layers.Bidirectional)):
            (batch, times, *before), (_, _, *after) = (
                graph.shapes[side[0]] for side in (step.inputs, step.outputs))
            macs += (times or 1) * _recurrent_macs(layer.layer, (batch, *before), (batch, *after))
            continue
        if isinstance(layer, PRODUCTS) or not has_rule(layer) or not isinstance(
                layer, keras.layers.Layer):
            macs += graph.times(step) * (
                macs_of_call(step, [graph.shapes[value] for value in step.inputs]) or 0)
            continue
        # Every kernel weight is used once at each output position; of a transposed one, input.
        within = layer.layer if isinstance(layer, layers.Wrapper) else layer
        side = step.inputs if 'Transpose' in type(within).__name__ else step.outputs
        size = graph.times(step) * math.prod(
            n or 1 for n in graph.shapes[side[0]][1:-1]) if side else 0
        for name in ('kernel', 'depthwise_kernel', 'pointwise_kernel'):
            if isinstance(within, keras.layers.Layer) and hasattr(within, name):
                macs += math.prod(getattr(within, name).shape) * size
    return macs, model.count_params()


def _recurrent_macs(layer: Any, before: Any, after: Any) -> int:
    """Every weight of a matrix once at each step, and position of the output of a step."""
    positions = after[1:-1][bool(layer.return_sequences):]
    return before[1] * math.prod(positions) * sum(
        math.prod(weight.shape) for weight in layer.weights if 'kernel' in weight.name)


@dataclasses.dataclass(frozen=True)
class Promises:
    """What `check_promises` found on one model.

    Attributes:
        groups: prunable groups.
        gated_difference: largest relative difference of the gated to the pruned model.
        dense_difference: of a surgery that removes nothing to the model.
        predicted, counted: (MACs, parameters) by CostModel and by recount of the pruned model.
    """
    groups: int
    gated_difference: float
    dense_difference: float
    predicted: tuple[int, int]
    counted: tuple[int, int]

    def hold(self, tolerance: float = 1e-4) -> bool:
        """Whether gated is pruned, surgery without masks is the identity, and costs are exact."""
        return (self.gated_difference <= tolerance and self.dense_difference <= tolerance
                and self.predicted == self.counted)


def check_promises(model: keras.Model, masks: Mapping[str, np.ndarray] | None = None, *,
                   groups: ChannelGroups | None = None, inputs: Any = None, seed: int = 0
                   ) -> Promises:
    """Returns how well gates, surgery and costs agree on `model` under `masks` (default: random).

    Weights should be noise (`randomize`); `inputs` are drawn if none are given.
    """
    rng = np.random.default_rng(seed)
    groups = trace_groups(model) if groups is None else groups
    masks = random_masks(groups, rng) if masks is None else masks
    inputs = normal_inputs(model, rng) if inputs is None else inputs
    gated = insert_gates(model, groups)
    gated.set_masks(masks)
    pruned = prune_model(model, groups, masks)
    cost = CostModel(model, groups)(widths_of(masks))
    return Promises(
        len(groups),
        largest_difference(pruned(inputs, training=False), gated.model(inputs, training=False)),
        largest_difference(model(inputs, training=False),
                           prune_model(model, groups, {})(inputs, training=False)),
        (cost.macs, cost.params), recount(pruned))


def largest_difference(a: Any, b: Any) -> float:
    """Returns the `max_relative_difference` of two structures of outputs."""
    return max(max_relative_difference(x, y) for x, y in zip(
        keras.tree.flatten(a), keras.tree.flatten(b), strict=True))
