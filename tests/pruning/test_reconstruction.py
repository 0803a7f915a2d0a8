"""What kept channels tell of those that go stays in the kernels that read them."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from tfprune.pruning.masks import open_masks
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.pruning.surgery import prune_model
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.graph import unfold
from tfprune.structure.groups import trace_groups
from tfprune.training.batch_norm import reestimate_batch_norm


def pictures(count=64, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 8, 8, 3)).astype('float32')


def told(model, constant=3):
    """Makes channel 0 of a convolution of four twice channel 1 minus channel 2, plus a constant."""
    kernel, bias = map(np.array, model.get_layer('made').get_weights())
    kernel[..., 0] = 2 * kernel[..., 1] - kernel[..., 2]
    bias[0] = 2 * bias[1] - bias[2] + constant
    model.get_layer('made').set_weights([kernel, bias])
    return model


def convolution(**reader):
    keras.utils.set_random_seed(0)
    return told(keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name='made', bias_initializer='normal'),
        layers.Conv2D(**{'filters': 5, 'kernel_size': 3, 'name': 'reader'} | reader)]))


def without_first(model, batches=None):
    groups = trace_groups(model)
    masks = open_masks(groups)
    masks['made'][0] = False
    reconstruction = Reconstruction(model, groups, [(pictures(),)] if batches is None else batches)
    reconstruction.observe()
    return prune_model(model, groups, masks, reconstruction=reconstruction), reconstruction


@pytest.mark.parametrize('reader', ({}, {'strides': 2}, {'dilation_rate': 2}, {'kernel_size': 1}))
def test_what_the_others_tell_is_not_lost(reader):
    model = convolution(**reader)
    pruned, _ = without_first(model)
    x = pictures(4, seed=1)
    assert pruned.get_layer('reader').kernel.shape[-2] == 3
    np.testing.assert_allclose(pruned(x), model(x), rtol=0, atol=0.02 * np.std(model(x)))


@pytest.mark.parametrize('reader', ({'strides': 2}, {'padding': 'same', 'use_bias': False}))
def test_of_a_transposed_convolution(reader):
    keras.utils.set_random_seed(0)
    model = told(keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name='made'),
        layers.Conv2DTranspose(5, 3, name='reader', **reader), layers.BatchNormalization()]), 0)
    pruned, reconstruction = without_first(model)
    assert not reconstruction.readers['reader'].centered  # its edges have fewer taps
    x = pictures(4, seed=1)
    assert pruned.get_layer('reader').kernel.shape == (3, 3, 5, 3)
    np.testing.assert_allclose(pruned(x), model(x), rtol=0, atol=0.02 * np.std(model(x)))


def test_of_a_dense_layer():
    model = told(keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name='made'),
        layers.GlobalAveragePooling2D(), layers.Dense(3, name='reader')]))
    pruned, _ = without_first(model, [(pictures(2000),)])  # a position each
    x = pictures(4, seed=1)
    np.testing.assert_allclose(pruned(x), model(x), rtol=0, atol=0.02 * np.std(model(x)))


def test_batch_normalization_takes_up_the_constant():
    model = told(keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name='made'),
        layers.Conv2D(5, 3, use_bias=False, name='reader'), layers.BatchNormalization()]))
    x = pictures()
    reestimate_batch_norm(unfold(model), lambda x: model(x, training=True), [x])
    pruned, _ = without_first(model)
    reestimate_batch_norm(unfold(pruned), lambda x: pruned(x, training=True), [x])
    x = pictures(4, seed=1)
    np.testing.assert_allclose(pruned(x), model(x), rtol=0, atol=0.02 * np.std(model(x)))


@pytest.mark.parametrize('trainable', (True, False))
def test_normalization_that_no_training_updates_takes_up_nothing(trainable):
    inner = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name='made'),
        layers.Conv2D(5, 3, use_bias=False, name='reader'),
        layers.BatchNormalization(trainable=trainable)])
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, inner(inputs))
    readers = Reconstruction(model, trace_groups(model), []).readers
    assert [reader.centered for reader in readers.values()] == [trainable]


def test_without_bias_or_normalization_the_regression_has_no_constant():
    model = convolution(use_bias=False)
    pruned, reconstruction = without_first(model)
    assert not reconstruction.readers['reader'].centered
    x = pictures(16, seed=1)
    cut = prune_model(model, trace_groups(model), {'made': np.arange(4) > 0})

    def error(one):
        return np.square(one(x) - np.array(model(x))).mean()

    assert error(pruned) < 0.9 * error(cut)  # the constant 3 is lost


def test_relu_networks_keep_more_of_their_answers():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), *(
        layers.Conv2D(16, 3, padding='same', activation='relu') for _ in range(3)),
        layers.GlobalAveragePooling2D(), layers.Dense(4)])
    x = pictures(64, seed=1)
    errors = [np.square(tfprune.prune_to_budget(
        model, macs=0.5, calibration_data=[pictures()], reconstruction=reconstruction)(x)
        - np.array(model(x))).mean() for reconstruction in (True, False)]
    assert errors[0] < errors[1] / 3


@pytest.mark.parametrize('reader', ({'trainable': False}, {'kernel_constraint': 'non_neg'},
                                    {'padding': 'same', 'groups': 2, 'filters': 4}))
def test_kernels_that_stay_as_they_are(reader):
    model = convolution(**reader)
    assert not Reconstruction(model, trace_groups(model, prune_frozen=True), []).readers


def test_a_shared_layer_is_told_by_all_of_its_calls():
    made, reader = layers.Conv2D(4, 3, name='made'), layers.Conv2D(5, 3, name='reader')
    inputs = [keras.Input((8, 8, 3)) for _ in range(2)]
    model = told(keras.Model(inputs, [reader(made(x)) for x in inputs]))
    pruned, _ = without_first(model, [([pictures(), pictures(seed=2)],)])
    x = [pictures(4, seed=1), pictures(4, seed=3)]
    for ours, theirs in zip(pruned(x), model(x)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * np.std(theirs))


def test_few_positions_tell_nothing():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name='made'),
                              layers.Flatten(), layers.Dense(5)])
    groups, masks, x = trace_groups(model), {'made': np.arange(4) > 1}, pictures(9, seed=1)
    reconstruction = Reconstruction(model, groups, [(pictures(71),)])  # of 144 channels
    assert reconstruction.observe() == 71
    cut = prune_model(model, groups, masks)
    pruned = prune_model(model, groups, masks, reconstruction=reconstruction)
    for ours, theirs in zip(pruned.get_weights(), cut.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    network = Subnetwork(model, groups, reconstruction)
    network.set_masks(masks)
    np.testing.assert_allclose(network(x), cut(x), rtol=1e-4, atol=1e-4)


def test_dead_channels_tell_nothing():
    model = convolution()
    kernel, bias = map(np.array, model.get_layer('made').get_weights())
    model.get_layer('made').set_weights([0 * kernel, 0 * bias + [1, 2, 3, 4]])
    pruned, _ = without_first(model)
    x = pictures(4, seed=1)
    np.testing.assert_allclose(pruned(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_is_asked_for_too_early_or_of_nothing():
    model = convolution()
    groups = trace_groups(model)
    with pytest.raises(ValueError, match='observe'):
        Reconstruction(model, groups, [(pictures(),)]).merges({'made': np.arange(4) > 0})
    with pytest.raises(ValueError, match='received none'):
        Reconstruction(model, groups, []).observe()
