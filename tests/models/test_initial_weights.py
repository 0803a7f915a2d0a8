import tfprune  # noqa: F401  (first: sets up Keras)

import functools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.data.image_data import Augmentation
from tfprune.data.loading import load_data
from tfprune.models.building import build_model
from tfprune.models.initial_weights import load_initial_weights

SHARED = pathlib.Path(__file__).resolve().parents[2] / '../shared/data'
GREY = dict(image_shape=(8, 8, 1), num_classes=10, mean=(0.3,), std=(0.4,))


def small(name='resnet8', seed=0, **changes):
    return build_model(name, **{**GREY, **changes}, seed=seed)


def public_name(layer):
    """Our layer name -> the public code's, written apart from the table under test."""
    if layer in ('stem_conv', 'stem_bn', 'logits'):
        return {'stem_conv': 'conv1', 'stem_bn': 'bn1', 'logits': 'linear'}[layer]
    stage, block, part = layer.split('_')
    return f'layer{stage[-1]}/{int(block.removeprefix("block")) - 1}/{part}'


def arrays_of(model, rename=public_name):
    return {f'{rename(layer.name)}/{variable.name}': np.asarray(variable)
            for layer in model.layers for variable in layer.variables}


def save(model, folder, suffix):
    path = folder / f'source{suffix}'
    if suffix == '.npz':
        np.savez(path, **arrays_of(model))
    elif suffix == '.keras':
        model.save(path)
    else:
        model.save_weights(path)
    return path


def assert_same_weights(a, b, same=True):
    equal = all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights()))
    assert equal == same


SUFFIXES = pytest.mark.parametrize('suffix', ['.npz', '.weights.h5', '.keras'])


@SUFFIXES
def test_round_trip(tmp_path, suffix):
    source, target = small(seed=1), small(seed=2)
    for variable in source.non_trainable_variables:  # Moving statistics travel too.
        variable.assign(np.random.default_rng(0).uniform(1, 2, variable.shape))
    assert_same_weights(source, target, same=False)
    load_initial_weights(target, save(source, tmp_path, suffix))
    assert_same_weights(source, target)


def test_h5_of_a_compiled_model_loads_without_its_optimizer(tmp_path):
    source, target = small(seed=1), small(seed=2)
    source.compile('adam', 'mse')
    source.optimizer.build(source.trainable_variables)
    load_initial_weights(target, save(source, tmp_path, '.weights.h5'))
    assert_same_weights(source, target)


def test_npz_with_our_own_names(tmp_path):
    source, target = small(seed=1), small(seed=2)
    np.savez(tmp_path / 'a.npz', **arrays_of(source, rename=lambda name: name))
    load_initial_weights(target, str(tmp_path / 'a.npz'))
    assert_same_weights(source, target)


@SUFFIXES
def test_another_architecture_is_refused_and_nothing_is_assigned(tmp_path, suffix):
    target, before = small('resnet8', seed=2), small('resnet8', seed=2)
    path = save(small('resnet20'), tmp_path, suffix)  # Holds every layer of a ResNet-8, and more.
    # A .weights.h5 counts layers instead of naming them, so there it is a shape that is wrong.
    expected = 'expected shape' if suffix == '.weights.h5' else 'has no place in the model'
    with pytest.raises(ValueError, match=f"array '.*{expected}") as caught:
        load_initial_weights(target, path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)
    assert_same_weights(target, before)
    with pytest.raises(ValueError, match="array '.*expected shape"):
        load_initial_weights(small('resnet20'), save(small('resnet8'), tmp_path, suffix))


@SUFFIXES
def test_wrong_shape_names_array_expected_and_received(tmp_path, suffix):
    path = save(small(num_classes=7), tmp_path, suffix)
    target, before = small(), small()
    with pytest.raises(ValueError, match=r'array .*expected shape \(64, 10\), received \(64, 7\)'):
        load_initial_weights(target, path)
    assert_same_weights(target, before)


@SUFFIXES
@pytest.mark.parametrize('kept', [0, 20, 0.5])
def test_damaged_file(tmp_path, suffix, kept):
    path = save(small(), tmp_path, suffix)
    content = path.read_bytes()
    path.write_bytes(content[:kept if isinstance(kept, int) else int(len(content) * kept)])
    target, before = small(seed=1), small(seed=1)
    with pytest.raises(ValueError, match='the file cannot be read') as caught:
        load_initial_weights(target, path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)
    assert_same_weights(target, before)


@SUFFIXES
def test_non_finite_array(tmp_path, suffix):
    source = small()
    source.get_layer('logits').bias.assign([np.nan] + [0.0] * 9)
    with pytest.raises(ValueError, match='expected finite numbers'):
        load_initial_weights(small(), save(source, tmp_path, suffix))


def test_keras_file_with_code_is_refused(tmp_path):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs))
    model.save(tmp_path / 'code.keras')
    with pytest.raises(ValueError, match='the file cannot be read'):
        load_initial_weights(small(), tmp_path / 'code.keras')


def test_missing_file_and_unknown_suffix(tmp_path):
    with pytest.raises(FileNotFoundError, match="'.*none.npz': no such file"):
        load_initial_weights(small(), tmp_path / 'none.npz')
    with pytest.raises(ValueError, match='expected a file ending in .npz, .weights.h5, .keras'):
        load_initial_weights(small(), tmp_path / 'weights.pth')


@functools.cache
def cifar10():
    folder = SHARED / 'tensorflow_datasets'
    if not (folder / 'cifar10').is_dir():
        pytest.skip(f'no CIFAR-10 in {folder}')
    return load_data('cifar10', data_dir=str(folder), reward_images=5000)


# Published accuracies of these weights, of 10,000 images, and what the first 2,000 of them have:
# model, import, normalization and data all have to be right.
@pytest.mark.parametrize('name, images, correct', [
    pytest.param('resnet20', 2000, 1835, marks=pytest.mark.slow),
    pytest.param('resnet20', 10_000, 9173, marks=pytest.mark.slow),
    pytest.param('resnet56', 10_000, 9339, marks=pytest.mark.slow),
])
def test_published_weights_reach_their_accuracy_on_cifar10(name, images, correct):
    data = cifar10()
    model = build_model(
        name, image_shape=data.image_shape, num_classes=data.num_classes,
        mean=data.mean, std=data.std)
    load_initial_weights(model, SHARED / f'weights/cifar10_{name}.npz')

    @tf.function
    def hits(images, labels):
        logits = model(tf.cast(images, tf.float32), training=False)
        return tf.math.count_nonzero(tf.argmax(logits, -1, tf.int32) == labels)

    batches = data.test_batches(500).take(images // 500)
    received = sum(int(hits(*batch)) for batch in batches)
    assert abs(received - correct) <= 1  # One image may lie on a boundary: sums differ by machine.


@pytest.mark.slow
def test_cifar10_splits():
    data = cifar10()
    assert (data.num_train, data.num_reward, data.num_test) == (45_000, 5_000, 10_000)
    assert data.image_shape == (32, 32, 3)
    assert data.class_names[3] == 'cat'
    np.testing.assert_array_equal(np.bincount(data.train_labels), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(data.test_labels), [1000] * 10)
    assert data.augmentation == Augmentation(max_shift=4, flip=True, fill=(124, 116, 104))
    images, labels = next(iter(data.train_batches(0, 128)))
    assert images.shape == (128, 32, 32, 3) and images.dtype == 'uint8' and labels.dtype == 'int32'
