"""The zoo: sizes by hand and as published, expected groups, pruned to half."""
import tfprune  # noqa: F401  (first: sets up Keras)

import functools

import numpy as np
import pytest

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel, count_cost
from tfprune.costs.proportional import uniform_widths
from tfprune.models.building import build_model
from tfprune.models.names import MODELS
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.masks import select_channels
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import max_relative_difference, randomize, recount

RGB = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@functools.cache
def built(name):
    """As published: 224 pixels and 1000 classes, or 32 and 10."""
    size, classes = (32, 10) if name.endswith('_cifar') else (224, 1000)
    return build_model(name, image_shape=(size, size, 3), num_classes=classes, **RGB)


# Sizes by hand: rows (kernel, channels that each output reads, outputs, size of the output map).

def totals(rows, features, classes):
    """MACs and parameters of convolutions with batch norm (2 a channel) and a dense layer."""
    macs = sum(k * k * c * d * size * size for k, c, d, size in rows)
    params = sum(k * k * c * d + 2 * d for k, c, d, _ in rows)
    return macs + features * classes, params + features * classes + classes


def basic_rows(size, counts, stem):
    rows, c = [stem], 64
    for stage, count in enumerate(counts):
        d, s = 64 * 2 ** stage, size // 2 ** stage
        rows += [(3, c, d, s), (3, d, d, s)] + [(3, d, d, s)] * 2 * (count - 1)
        rows += [(1, c, d, s)] if stage else []
        c = d
    return rows


def bottleneck_rows(size, counts, stem):
    rows, c = [stem], 64
    for stage, count in enumerate(counts):
        d, s = 64 * 2 ** stage, size // 2 ** stage
        before = s if stage == 0 else 2 * s  # v1.5: the first 1x1 is still at full resolution
        rows += [(1, c, d, before), (3, d, d, s), (1, d, 4 * d, s), (1, c, 4 * d, s)]
        rows += [(1, 4 * d, d, s), (3, d, d, s), (1, d, 4 * d, s)] * (count - 1)
        c = 4 * d
    return rows


def v1_rows(size):
    rows, c = [(3, 3, 32, size)], 32
    for d, stride in zip((64, 128, 128, 256, 256, *[512] * 6, 1024, 1024),
                         (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)):
        size //= stride
        rows += [(3, 1, c, size), (1, c, d, size)]
        c = d
    return rows


def v2_rows(size, strides):
    rows, c = [(3, 3, 32, size)], 32
    for d, count, stride in zip((16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), strides):
        for block in range(count):
            inner = 6 * c if d > 16 else c
            rows += [(1, c, inner, size)] if d > 16 else []
            size //= stride if block == 0 else 1
            rows += [(3, 1, inner, size), (1, inner, d, size)]
            c = d
    return rows + [(1, 320, 1280, size)]


def vgg_rows(counts):
    rows, c = [], 3
    for stage, (d, count) in enumerate(zip((64, 128, 256, 512, 512), counts)):
        rows += [(3, c, d, 32 >> stage)] + [(3, d, d, 32 >> stage)] * (count - 1)
        c = d
    return rows


STEM, SMALL_STEM = (7, 3, 64, 112), (3, 3, 64, 32)
BY_HAND = {
    'resnet18': totals(basic_rows(56, (2, 2, 2, 2), STEM), 512, 1000),
    'resnet34': totals(basic_rows(56, (3, 4, 6, 3), STEM), 512, 1000),
    'resnet50': totals(bottleneck_rows(56, (3, 4, 6, 3), STEM), 2048, 1000),
    'resnet18_cifar': totals(basic_rows(32, (2, 2, 2, 2), SMALL_STEM), 512, 10),
    'resnet34_cifar': totals(basic_rows(32, (3, 4, 6, 3), SMALL_STEM), 512, 10),
    'resnet50_cifar': totals(bottleneck_rows(32, (3, 4, 6, 3), SMALL_STEM), 2048, 10),
    'mobilenet_v1': totals(v1_rows(112), 1024, 1000),
    'mobilenet_v2': totals(v2_rows(112, (1, 2, 2, 2, 1, 2, 1)), 1280, 1000),
    'mobilenet_v1_cifar': totals(v1_rows(32), 1024, 10),
    'mobilenet_v2_cifar': totals(v2_rows(32, (1, 1, 2, 2, 1, 2, 1)), 1280, 10),
    'vgg16_bn_cifar': totals(vgg_rows((2, 2, 3, 3, 3)), 512, 10),
    'vgg19_bn_cifar': totals(vgg_rows((2, 2, 4, 4, 4)), 512, 10),
}
# Parameters: torchvision's documentation, Keras' summary (V1), and the sums above. MACs: the sums;
# V1's 569 million and V2's 300 million stand in the papers, VGG-16's 313 million in pruning papers.
PUBLISHED = {
    'resnet18': (1_814_073_344, 11_689_512),
    'resnet34': (3_663_761_408, 21_797_672),
    'resnet50': (4_089_184_256, 25_557_032),
    'resnet18_cifar': (555_422_720, 11_173_962),
    'resnet34_cifar': (1_159_402_496, 21_282_122),
    'resnet50_cifar': (1_297_829_888, 23_520_842),
    'mobilenet_v1': (568_740_352, 4_231_976),
    'mobilenet_v2': (300_774_272, 3_504_872),
    'mobilenet_v1_cifar': (46_354_432, 3_217_226),
    'mobilenet_v2_cifar': (87_976_448, 2_236_682),
    'vgg16_bn_cifar': (313_201_664, 14_724_042),
    'vgg19_bn_cifar': (398_136_320, 20_035_018),
}


def test_every_model_of_the_zoo_is_here():
    cifar_resnets = {f'resnet{depth}' for depth in (8, 20, 32, 44, 56, 110)}
    # Of the transformer tests/models/test_vit.py has the sizes.
    assert set(PUBLISHED) == set(BY_HAND) == set(MODELS) - cifar_resnets - {'vit_cifar'}


@pytest.mark.parametrize('name', PUBLISHED)
def test_sizes(name):
    model = built(name)
    cost = count_cost(model)
    assert (cost.macs, cost.trainable_params) == BY_HAND[name] == PUBLISHED[name]
    assert (cost.macs, cost.params) == recount(model)
    assert model.name == name
    assert {type(layer).__module__.split('.')[0] for layer in model.layers} == {'keras'}


# Groups: inner ones in producers' order, and those that shortcuts couple.

def stages(groups):
    """{group: width} of the residual groups, and how many others there are."""
    residual = {name: width for name, width in groups.items() if groups.groups[name].is_residual}
    return residual, len(groups) - len(residual)


@pytest.mark.parametrize('name, stem, inner', [
    # Stage 1 of the bottlenecks begins with a projection, so that its stem is nobody else's.
    ('resnet18', ['stem_conv'], 8), ('resnet34', ['stem_conv'], 16), ('resnet50', [], 33),
    ('resnet18_cifar', ['stem_conv'], 8)])
def test_residual_stages_couple_and_inner_channels_are_free(name, stem, inner):
    groups = trace_groups(built(name))
    residual, free = stages(groups)
    shortcuts = [f'stage{stage}_block1_shortcut_conv' for stage in (1, 2, 3, 4)][len(stem):]
    wide = 4 if name == 'resnet50' else 1
    assert residual == dict(zip(stem + shortcuts, [64 * wide, 128 * wide, 256 * wide, 512 * wide]))
    assert free == inner
    assert set(groups.unprunable) == {'image', 'logits'}
    inside = groups.groups['stage2_block1_conv1']
    assert inside.consumers == ('stage2_block1_conv2',) and inside.width == 128


def test_mobilenet_v1_couples_nothing():
    groups = trace_groups(built('mobilenet_v1'))
    assert stages(groups) == ({}, 14)
    # A depthwise convolution passes channels on: the group ends at the next 1x1.
    assert groups.groups['stem'].producers == ('stem',)
    assert groups.groups['stem'].consumers == ('block1_pointwise',)
    assert 'block1_depthwise' in groups.groups['stem'].members


def test_mobilenet_v2_couples_blocks_that_keep_the_shape():
    residual, free = stages(trace_groups(built('mobilenet_v2')))
    assert residual == {f'stage{stage}_block1_project': width for stage, width in (
        (2, 24), (3, 32), (4, 64), (5, 96), (6, 160))}
    assert free == 16 + len(('stem', 'stage1_block1_project', 'stage7_block1_project', 'head'))


def test_vgg_is_a_chain():
    groups = trace_groups(built('vgg16_bn_cifar'))
    assert stages(groups) == ({}, 13)
    assert groups['stage3_conv2'] == 256


@pytest.mark.parametrize('name', PUBLISHED)
def test_half_of_the_macs_is_in_reach_without_the_residual_groups(name):
    groups = trace_groups(built(name)).without_residual()
    cost_model = CostModel(built(name), groups)
    budget = Budget(groups, cost_model, {'macs': 0.5})
    cost = cost_model(budget.as_dict(uniform_widths(budget)))
    assert 0.47 * cost_model.dense.macs < cost.macs <= 0.5 * cost_model.dense.macs


@pytest.mark.parametrize('name', [
    'mobilenet_v2', *(pytest.param(name, marks=pytest.mark.slow) for name in (
        'resnet50', 'vgg16_bn_cifar', 'resnet18_cifar', 'mobilenet_v1_cifar'))])
def test_pruned_to_half_equals_gated_and_costs_what_was_predicted(name):
    model = randomize(build_model(name, image_shape=(32, 32, 3), num_classes=3, **RGB))
    groups = trace_groups(model)
    cost_model = CostModel(model, groups)
    budget = Budget(groups, cost_model, {'macs': 0.5})
    widths = budget.as_dict(uniform_widths(budget))
    masks = select_channels(model, groups, widths)
    pruned = prune_model(model, groups, masks)
    predicted = cost_model(widths)
    assert predicted.macs <= 0.5 * cost_model.dense.macs
    assert recount(pruned) == (predicted.macs, predicted.params)
    gated = insert_gates(model, groups)
    gated.set_masks(masks)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype('float32')
    assert max_relative_difference(gated.model(images), pruned(images)) <= 1e-4
    assert max_relative_difference(model(images), pruned(images)) > 1e-2


# What the builders share.

def test_depthwise_stride_2_pads_both_sides():
    model = built('mobilenet_v1_cifar')
    conv = model.get_layer('block2_depthwise')
    x = np.random.default_rng(0).normal(size=(1, 32, 32, 64)).astype('float32')
    y = np.asarray(conv(model.get_layer('block2_depthwise_pad')(x)))
    assert y.shape == (1, 16, 16, 64)
    window = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[0, 0:3, 2:5]
    np.testing.assert_allclose(
        y[0, 0, 1], np.einsum('yxc,yxc->c', window, np.asarray(conv.kernel)[..., 0]),
        rtol=1e-4, atol=1e-5)


def test_stem_pool_is_the_maximum_of_what_there_is():
    model = built('resnet18')
    x = np.random.default_rng(0).uniform(size=(1, 6, 6, 64)).astype('float32')  # behind a ReLU
    y = np.asarray(model.get_layer('stem_pool')(model.get_layer('stem_pool_pad')(x)))
    assert y.shape == (1, 3, 3, 64)
    np.testing.assert_array_equal(y[0, 0, 0], x[0, :2, :2].max((0, 1)))
    np.testing.assert_array_equal(y[0, 1, 2], x[0, 1:4, 3:6].max((0, 1)))


def test_initial_weights():
    """A function of seed and name; variance 2 / weights that an output reads."""
    kernels = [np.asarray(build_model('mobilenet_v1_cifar', image_shape=(8, 8, 3), num_classes=2,
                                      seed=seed, **RGB).get_layer('block9_depthwise').kernel)
               for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(kernels[0] != kernels[2])
    other = np.asarray(built('mobilenet_v1_cifar').get_layer('block10_depthwise').kernel)
    assert other.shape == kernels[0].shape and np.any(other != kernels[0])
    assert kernels[0].var() == pytest.approx(2 / 9, rel=0.08)  # 4,608 weights
    pointwise = np.asarray(built('mobilenet_v1_cifar').get_layer('block9_pointwise').kernel)
    assert pointwise.var() == pytest.approx(2 / 512, rel=0.03)


@pytest.mark.parametrize('name', ['resnet50_cifar', 'mobilenet_v2_cifar', 'vgg16_bn_cifar'])
def test_mixed_bfloat16_keeps_the_ends_in_float32(name):
    model = build_model(name, image_shape=(32, 32, 3), num_classes=2, dtype_policy='mixed_bfloat16',
                        **RGB)
    wide = {layer.name for layer in model.layers if layer.compute_dtype == 'float32'}
    assert wide == {'image', 'normalize', 'logits'}


@pytest.mark.parametrize('name, size, message', [
    ('resnet18', 31, r'resnet18 expected at least 32x32 pixels \(resnet18_cifar takes smaller'),
    ('mobilenet_v2', 28, r'at least 32x32 pixels \(mobilenet_v2_cifar takes smaller ones\), rec'),
    ('resnet18_cifar', 7, r'resnet18_cifar expected at least 8x8 pixels, received \(7, 7, 3\)'),
    ('vgg16_bn_cifar', 31, r'vgg16_bn_cifar expected at least 32x32 pixels, received'),
])
def test_images_that_are_too_small(name, size, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, image_shape=(size, size, 3), num_classes=10, **RGB)
