"""Sliced weights compute what surgery leaves, and what it costs."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cases import fast_but, slow_but
from layer_families import ALIKE, FAMILIES, model_of
from tfprune.models.building import build_model
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.pruning.surgery import prune_model
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.graph import unfold
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, max_relative_difference, random_masks, randomize, residual
from tfprune.training.batch_norm import (batch_norm_layers, reestimate_batch_norm,
                                         use_fused_batch_norm)
from tfprune.training.distribution import make_strategy

MODELS = {**{name: lambda toy=toy: randomize(toy.build()) for name, toy in TOYS.items()},
          **{name: lambda name=name: model_of(name) for name in FAMILIES}}


def quiet(model):
    """Without what draws in training mode, so that batch statistics are all that it changes."""
    for layer in model._flatten_layers():
        for name in ('rate', 'stddev', 'drop_path_rate'):
            if hasattr(layer, name):
                setattr(layer, name, 0.0)
    return model


def images(model, count=6, seed=0):
    shapes = [tensor.shape for tensor in model.inputs]
    rng = np.random.default_rng(seed)
    made = [rng.uniform(0, 1, (count, *(size or 8 for size in shape[1:]))).astype('float32')
            for shape in shapes]
    return made if isinstance(model.input, list) else made[0]


def outputs(values):
    return [np.array(value, np.float32) for value in keras.tree.flatten(values)]


# With kernels that make up for what they lose all that is done without is done, too.
CUT_ALONE = ('residual', 'branches', 'shared')


@pytest.mark.parametrize('name', fast_but(MODELS, ALIKE))
def test_sliced_is_pruned(name):
    check_sliced(name, reconstructs=True)


@pytest.mark.parametrize('name', slow_but(MODELS, CUT_ALONE))
def test_sliced_is_what_is_cut_alone(name):
    check_sliced(name, reconstructs=False)


def check_sliced(name, reconstructs):
    model = quiet(MODELS[name]())
    groups = trace_groups(model)
    reconstruction = None
    if reconstructs:
        reconstruction = Reconstruction(model, groups, [(images(model, 8, seed=3),)])
        if reconstruction.readers:
            assert reconstruction.observe() == 8
        else:  # no kernel of it reads channels that can go
            reconstruction = None
    network = Subnetwork(model, groups, reconstruction)
    run = tf.function(lambda x: network(x), autograph=False)
    x, before = images(model), model.get_weights()
    rng = np.random.default_rng(1)
    for _ in range(2):
        masks = random_masks(groups, rng)
        network.set_masks(masks)
        pruned = quiet(prune_model(model, groups, masks, reconstruction=reconstruction))
        for ours, theirs in zip(outputs(run(x)), outputs(pruned(x, training=True)), strict=True):
            assert max_relative_difference(ours, theirs) <= 2e-3
    assert run.experimental_get_tracing_count() == 1
    for value, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, weight)


@pytest.mark.parametrize('residual_groups', [False, True])
def test_sliced_is_masked(residual_groups):
    """The reference: gates over the dense network, statistics of the batch."""
    model = randomize(residual())
    groups = trace_groups(model)
    groups = groups if residual_groups else groups.without_residual()
    network, gated = Subnetwork(model, groups), insert_gates(model, groups)
    x, statistics = images(model, 32), model.get_weights()
    rng = np.random.default_rng(2)
    for _ in range(4):
        masks = random_masks(groups, rng)
        network.set_masks(masks)
        gated.set_masks(masks)
        assert max_relative_difference(network(x), gated.model(x, training=True)) <= 1e-3
        model.set_weights(statistics)  # which the reference has moved


def test_today_s_weights_are_read():
    model = randomize(residual())
    groups = trace_groups(model)
    network, x = Subnetwork(model, groups), images(model)
    before = np.array(network(x))
    model.set_weights([1.1 * value for value in model.get_weights()])
    after = np.array(network(x))
    assert max_relative_difference(before, after) > 1e-3
    network.set_masks({})
    assert max_relative_difference(after, model(x, training=True)) <= 1e-4


def test_a_kernel_that_a_pass_of_training_divides_stays_as_it_was():
    model = model_of('batch_norm')
    image = keras.Input((8, 8, 3))
    x = layers.SpectralNormalization(layers.Conv2D(3, 3, padding='same'))(image)
    model = randomize(keras.Model(image, model(x)))
    before = model.get_weights()
    Subnetwork(model, trace_groups(model))
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_frozen_normalization_keeps_its_statistics():
    model = randomize(residual())
    for layer in batch_norm_layers(model):
        layer.trainable = False
    groups, x = trace_groups(model), images(model)
    network = Subnetwork(model, groups)
    masks = random_masks(groups, np.random.default_rng(0))
    network.set_masks(masks)
    assert max_relative_difference(network(x), prune_model(model, groups, masks)(x)) <= 1e-4


def test_the_graph_holds_no_more_than_the_kept_channels():
    """Neither a mask nor a full convolution: the widths of all tensors, as the graph runs."""
    model = build_model('resnet8', image_shape=(8, 8, 1), num_classes=10, mean=(.5,), std=(.25,))
    groups = trace_groups(model).without_residual()
    network = Subnetwork(model, groups)
    masks = {name: np.arange(width) < 3 for name, width in groups.items()}
    network.set_masks(masks)
    seen, convolve = [], tf.nn.convolution

    def spy(inputs, kernel, *args, **kwargs):
        seen.append((int(tf.shape(inputs)[-1]), *kernel.shape[-2:]))
        return convolve(inputs, kernel, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.nn, 'convolution', spy)
        network(images(model))
    inner = [shape for shape in seen if 3 in shape]
    assert len(inner) == 2 * len(groups) and all(3 in shape[1:] for shape in inner)
    assert all(given == taken for given, taken, _ in seen)


def test_mixed_precision():
    model = build_model('resnet8', image_shape=(8, 8, 1), num_classes=10, mean=(.5,), std=(.25,),
                        dtype_policy='mixed_bfloat16')
    groups = trace_groups(model)
    with make_strategy().scope():
        network = Subnetwork(model, groups)
    masks = random_masks(groups, np.random.default_rng(0))
    network.set_masks(masks)
    x = 255 * images(model, 64)
    pruned = prune_model(model, groups, masks)
    assert max_relative_difference(network(x), pruned(x, training=True)) <= 5e-2


def test_a_normalization_over_another_axis_has_the_statistics_of_the_batch():
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(axis=1)(layers.Conv2D(5, 3, padding='same')(image))
    model = randomize(keras.Model(image, layers.Dense(2)(layers.Flatten()(x))))
    x = images(model)
    network = Subnetwork(model, trace_groups(model))
    assert max_relative_difference(network(x), model(x, training=True)) <= 1e-3


@pytest.mark.parametrize('policy', ['bfloat16', 'float16'])
def test_weights_of_sixteen_bits(policy):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, dtype=policy, name='a')(image)
    x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3, dtype=policy)(x))
    model = randomize(keras.Model(image, layers.Dense(2)(x)))
    groups, x = trace_groups(model), images(model)
    masks = {'a': np.arange(6) % 2 == 0}
    expected = prune_model(model, groups, masks)(x, training=True)
    use_fused_batch_norm(model)
    network = Subnetwork(model, groups)
    network.set_masks(masks)
    assert max_relative_difference(network(x), expected) <= 5e-2
    assert np.isfinite(np.array(model(x, training=True))).all()


def test_constants_for_each_channel_freeze_them():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name='a')(image)
    x = keras.ops.clip(x, -np.ones(6, np.float32), np.ones(6, np.float32))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    groups = trace_groups(model)
    assert 'a' not in groups and 'may differ by channel' in groups.unprunable['a']


def test_other_groups_are_refused():
    groups = trace_groups(residual())
    image = keras.Input((8, 8, 3))
    other = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))
    with pytest.raises(ValueError, match='groups was traced on another model'):
        Subnetwork(other, groups)


def test_a_sequential_model_out_of_a_file(tmp_path):
    """Loaded, it has no `input` of its own, and its dropout is called with `training`."""
    model = keras.Sequential([
        keras.Input((6, 6, 3)), layers.Conv2D(7, 3), layers.BatchNormalization(), layers.ReLU(),
        layers.Conv2D(5, 3), layers.Flatten(), layers.Dropout(0.5), layers.Dense(4)])
    model.save(tmp_path / 'model.keras')
    loaded = keras.models.load_model(tmp_path / 'model.keras')
    groups, images = trace_groups(loaded), tf.random.normal((8, 6, 6, 3))
    masks = {name: np.arange(width) % 2 == 0 for name, width in groups.items()}
    network = Subnetwork(loaded, groups)
    network.set_masks(masks)
    pruned = prune_model(loaded, groups, masks)
    reestimate_batch_norm(unfold(pruned), lambda x: pruned(x, training=True), [images])
    np.testing.assert_allclose(network(images), pruned(images, training=False), atol=1e-4)
