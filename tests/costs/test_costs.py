"""Costs: sums by hand, predicted == recount, batch == single."""

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from hidden_layer import Hidden
from tfprune.costs.model import BYTES, CostModel, count_cost
from tfprune.pruning.masks import widths_of
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, branches, plain, random_masks, recount, residual


def cost_model(model, **kwargs):
    return CostModel(model, trace_groups(model), **kwargs)


@pytest.mark.parametrize('name', TOYS)
def test_dense_costs_by_hand(name):
    toy = TOYS[name]
    model = toy.build()
    cost = count_cost(model)
    assert (cost.macs, cost.params) == (toy.macs, toy.params) == recount(model)
    assert cost.latency_ms is None


@pytest.mark.parametrize('residual_too', [True, False])
@pytest.mark.parametrize('name', TOYS)
def test_predicted_equals_recount(name, residual_too):
    model = TOYS[name].build()
    groups = trace_groups(model)
    groups = groups if residual_too else groups.without_residual()
    costs = CostModel(model, groups)
    rng = np.random.default_rng(3)
    for _ in range(5):
        masks = random_masks(groups, rng)
        predicted = costs(widths_of(masks))
        pruned = prune_model(model, groups, masks)
        assert (predicted.macs, predicted.params) == recount(pruned)
        assert predicted == count_cost(pruned)  # peak memory too


def test_one_layer_as_a_sum():
    # 36 positions · 9 weights · 3 in · w1 out + 9 positions · 9 · w1 · w2 + 9 · w2 · w3 + w3 · 2
    model = plain()
    cost = cost_model(model)({'conv1': 2, 'conv2': 3, 'hidden': 4})
    assert cost.macs == 36 * 9 * 3 * 2 + 9 * 9 * 2 * 3 + 27 * 4 + 4 * 2
    assert cost.params == 9 * 3 * 2 + 4 * 2 + 9 * 2 * 3 + 3 + 27 * 4 + 4 + 4 * 2 + 2
    assert cost.trainable_params == cost.params - 2 * 2


def test_peak_memory_by_hand():
    # plain: image (in place: normalized) 6·6·3, then conv1 6·6·5 beside it, then conv2 3·3·7.
    costs = cost_model(plain())
    assert costs.dense.peak_memory_bytes == BYTES * (36 * 3 + 36 * 5)
    assert costs({'conv1': 1}).peak_memory_bytes == BYTES * (36 * 3 + 36)
    # residual: at s1_conv2 the block's input 5, s1_conv1 7 and the output 5 live, 8x8 each.
    costs = cost_model(residual())
    assert costs.dense.peak_memory_bytes == BYTES * 64 * (5 + 7 + 5)
    assert costs({'stem': 2, 's1_conv1': 3}).peak_memory_bytes == BYTES * 64 * (2 + 3 + 2)


def test_in_place_only_where_nobody_else_reads():
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(5, 1)(image)
    y = layers.BatchNormalization()(x)  # x is read by the Add: a copy
    x = layers.ReLU()(layers.Add()([x, y]))
    model = keras.Model(image, layers.Conv2D(2, 1)(x))
    assert count_cost(model).peak_memory_bytes == BYTES * 16 * (5 + 5 + 5)


@pytest.mark.parametrize('name', TOYS)
def test_batch_equals_single_and_targets(name):
    costs = cost_model(TOYS[name].build())
    rng = np.random.default_rng(0)
    widths = rng.integers(1, costs.dense_widths + 1, (20, len(costs.group_names)))
    many = costs.batch(widths)
    assert list(many) == ['macs', 'params', 'peak_memory_bytes', 'trainable_params']
    for row, vector in enumerate(widths):
        single = costs(dict(zip(costs.group_names, vector)))
        for target, values in many.items():
            assert values.dtype == np.int64
            assert values[row] == getattr(single, target) == costs.target(target)(vector)
    assert isinstance(costs.target('macs')(widths[0]), int)


def test_costs_grow_with_every_width():
    costs = cost_model(residual())
    widths = np.ones((1, len(costs.group_names)), np.int64)
    least = costs.batch(widths)
    for column in range(len(costs.group_names)):
        more = widths.copy()
        more[0, column] += 1
        grown = costs.batch(more)
        assert grown['macs'] > least['macs'] and grown['params'] > least['params']
        assert grown['peak_memory_bytes'] >= least['peak_memory_bytes']


def test_beyond_the_reach_of_floats_costs_stay_exact():
    size = 2 ** 20 - 1
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(257, 1, use_bias=False, name='a')(image)
    costs = cost_model(keras.Model(image, layers.Conv2D(126, 1, use_bias=False, name='b')(x)))
    macs = size ** 2 * 257 * (3 + 126)
    assert macs > 2 ** 53 and macs % 2 == 1  # odd: no float64 equals it
    assert costs.dense.macs == costs.target('macs')(np.array([257])) == macs
    assert costs({'a': 255}).macs == size ** 2 * 255 * (3 + 126)


def test_layer_table():
    costs = cost_model(residual())
    assert [row.name for row in costs.layers] == [
        'stem', 's1_conv1', 's1_conv2', 's2_conv1', 's2_conv2', 's3_conv1', 's3_conv2', 'logits']
    row = costs.layers[5]
    assert (row.kind, row.kernel, row.stride, row.in_width, row.out_width, row.macs) == (
        'Conv2D', (3, 3), (2, 2), 11, 19, 4 * 9 * 11 * 19)
    assert row.groups_in == ('stem', 's2_conv2') and row.groups_out == ('s3_conv1',)
    assert sum(row.macs for row in costs.layers) == costs.dense.macs
    widths = np.stack([costs.dense_widths, np.ones_like(costs.dense_widths)])
    np.testing.assert_array_equal(costs.layer_macs(widths).sum(-1), costs.batch(widths)['macs'])
    inputs, outputs = costs.layer_widths(widths[1])
    assert inputs.tolist() == [3, 1, 1, 1, 1, 2, 1, 3]
    assert outputs.tolist() == [1, 1, 1, 1, 2, 1, 3, 3]


def own(layer):
    """A subclass of a layer's class, which has no rule, and is not opened for its own __call__."""
    return type(f'Own{layer.__name__}', (layer,), {
        '__call__': lambda self, *args, **kwargs: layer.__call__(self, *args, **kwargs)})


# What has no rule, with its MACs by hand at an input of [5, 6, 3].
OPAQUE = {
    'einsum': (lambda x: own(layers.EinsumDense)('bhwc,cd->bhwd', (5, 6, 7))(x), 30 * 3 * 7),
    'time_distributed': (lambda x: own(layers.TimeDistributed)(layers.Conv1D(7, 2))(x),
                         5 * 5 * 2 * 3 * 7),
    'spectral': (lambda x: own(layers.SpectralNormalization)(layers.Conv2D(7, 2))(x),
                 4 * 5 * 4 * 3 * 7),
    'attention': (lambda x: own(layers.MultiHeadAttention)(2, 7)(*[layers.Reshape((30, 3))(x)] * 2),
                  4 * 30 * 3 * 14 + 2 * 30 * 30 * 14),
    # Five rounds of a loop: four gates, of the input and of the state.
    'lstm': (lambda x: own(layers.LSTM)(7)(layers.Reshape((5, 18))(x)), 5 * 4 * 7 * (18 + 7)),
    'conv_lstm': (lambda x: own(layers.ConvLSTM1D)(7, 2, padding='same')(x),
                  5 * 6 * 2 * 4 * 7 * (3 + 7)),
    'operation': (lambda x: keras.ops.conv(x, np.ones((2, 1, 3, 4), 'float32')), 4 * 6 * 2 * 3 * 4),
    'lambda': (lambda x: layers.Lambda(lambda t: t * 2)(x), 0),
    'pooling': (lambda x: own(layers.TimeDistributed)(layers.MaxPooling1D())(x), 0),
    'reshape': (lambda x: layers.Reshape((5, 9, 2))(x), 0),
}


@pytest.mark.parametrize('name', OPAQUE)
def test_what_has_no_rule_is_counted_by_running_it(name):
    build, macs = OPAQUE[name]
    image = keras.Input((5, 6, 3))
    x = build(image)
    model = keras.Model(image, layers.Dense(2, name='logits')(layers.Flatten()(x)))
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    costs = cost_model(model)
    head = 2 * int(np.prod(x.shape[1:]))
    assert costs.dense.macs == macs + head and costs.uncounted == []
    assert [row.macs for row in costs.fixed] == [macs] * bool(macs)
    assert costs.dense.params == model.count_params()
    for ours, theirs in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_cannot_be_counted_is_said():
    image = keras.Input((4, 4, 3))
    x = Hidden(name='hidden')(layers.Conv2D(3, 1, name='conv')(image))
    costs = cost_model(keras.Model(image, layers.Dense(2, name='logits')(x)))
    assert costs.uncounted == ['hidden (Hidden)']
    assert costs.dense.macs == 16 * (3 * 3 + 3 * 2)
    assert cost_model(branches()).uncounted == []


def test_frozen_and_moving_weights_are_parameters_that_do_not_train():
    model = plain()
    assert count_cost(model).trainable_params == TOYS['plain'].params - 2 * 5
    model.get_layer('conv1').trainable = False
    cost = count_cost(model)
    assert cost.params == TOYS['plain'].params == model.count_params()
    assert cost.trainable_params == TOYS['plain'].params - 2 * 5 - 9 * 3 * 5
    groups = trace_groups(model)
    pruned = prune_model(model, groups, {'conv2': np.arange(7) < 3})
    assert count_cost(pruned) == CostModel(model, groups)({'conv2': 3})


def test_a_latency_table_is_bound_to_the_model_and_gives_whole_nanoseconds():
    class Table:
        about: dict = {}

        def bind(self, model, groups):
            assert (model.name, list(groups)) == ('plain', ['conv1', 'conv2', 'hidden'])
            return lambda widths: np.asarray(widths).prod(-1)

    costs = cost_model(plain(), latency_table=Table())
    assert costs.dense.latency_ms == 5 * 7 * 11 / 1e6
    assert costs.target('latency_ms')(np.array([1, 2, 3])) == 6e-6
    assert costs.batch(np.array([[1, 2, 3], [5, 1, 1]]))['latency_ms'].tolist() == [6e-6, 5e-6]


@pytest.mark.parametrize('call, error, message', [
    (lambda c: c({'conv9': 1}), ValueError, "Unknown group 'conv9'. Available: conv1, conv2"),
    (lambda c: c({'conv1': 6}), ValueError, r"group 'conv1' must be in \[1, 5\], received 6"),
    (lambda c: c({'conv1': 1.5}), TypeError, "group 'conv1' must be an integer"),
    (lambda c: c.batch(np.ones((2, 2), int)), ValueError, r'shape \[N, 3\], received \(2, 2\)'),
    (lambda c: c.batch(np.ones((2, 3))), TypeError, 'must be integers, received float64'),
    (lambda c: c.batch(np.array([[5, 0, 1]])), ValueError, r"'conv2' must be in \[1, 7\]"),
    (lambda c: c.target('flops'), ValueError, "Unknown target 'flops'. Available: macs, params"),
    (lambda c: c.target('latency_ms'), ValueError, 'needs a latency table'),
])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(cost_model(plain()))


def test_sizes_must_be_fixed():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layers.Conv2D(2, 1, name='conv')(image))
    with pytest.raises(ValueError, match='give the model a fixed input shape'):
        count_cost(model)
    with pytest.raises(ValueError, match="groups was traced on another model than 'plain'"):
        CostModel(plain(), trace_groups(residual()))


@pytest.mark.parametrize('depth, macs, params', [
    (20, 40_551_040, None), (56, 125_485_696, 853_018)])  # parameters that train
def test_published_counts(depth, macs, params):
    resnet_cifar = pytest.importorskip('tfprune.models.resnet_cifar')
    model = resnet_cifar.build(depth=depth, image_shape=(32, 32, 3), num_classes=10,
                               mean=(0.5,) * 3, std=(0.25,) * 3)
    cost = count_cost(model)
    assert cost.macs == macs and params in (None, cost.trainable_params)
    # The Add of the first stage reads two maps of 32x32x16 and writes a third.
    assert cost.peak_memory_bytes == BYTES * 3 * 32 * 32 * 16
