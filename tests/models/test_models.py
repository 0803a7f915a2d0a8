import tfprune  # noqa: F401  (first: sets up Keras)

import keras
import numpy as np
import pytest

from tfprune.models.building import build_model

CIFAR = dict(
    image_shape=(32, 32, 3), num_classes=10, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = dict(image_shape=(8, 8, 1), num_classes=10, mean=(0.3,), std=(0.4,))


def count_macs(model):
    """Multiply-adds of one image: kernel size x output positions, by brute force."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += int(np.prod(layer.kernel.shape)) * height * width
        elif isinstance(layer, keras.layers.Dense):
            total += int(np.prod(layer.kernel.shape))
    return total


def cifar_params(n):
    """Stem + 2n convolutions a stage + batch norm (2 a channel) + dense."""
    kernels = 27 * 16 + 9 * (2 * n * 16 * 16 + 16 * 32 + (2 * n - 1) * 32 * 32
                             + 32 * 64 + (2 * n - 1) * 64 * 64)
    return kernels + 2 * (16 + 2 * n * (16 + 32 + 64)) + 64 * 10 + 10


@pytest.mark.parametrize('name, params, macs', [
    ('resnet20', cifar_params(3), 40_551_040),
    ('resnet56', 853_018, 125_485_696),
    ('resnet110', cifar_params(18), 252_887_680),
])
def test_published_sizes(name, params, macs):
    model = build_model(name, **CIFAR)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == params == cifar_params((int(name.removeprefix('resnet')) - 2) // 6)
    assert count_macs(model) == macs


@pytest.mark.parametrize('name', [f'resnet{depth}' for depth in (8, 20, 32, 44, 56, 110)])
def test_depth_is_the_number_of_weight_layers(name):
    model = build_model(name, **GREY)
    weight_layers = [
        layer for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))]
    assert len(weight_layers) == int(name.removeprefix('resnet'))
    assert model.output_shape == (None, 10)


def test_only_stock_layers_and_the_file_needs_no_tfprune(tmp_path):
    model = build_model('resnet8', **GREY)
    assert {type(layer).__module__.split('.')[0] for layer in model.layers} == {'keras'}
    model.save(tmp_path / 'model.keras')
    loaded = keras.models.load_model(tmp_path / 'model.keras', safe_mode=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype('float32')
    np.testing.assert_array_equal(model(images), loaded(images))


def test_normalize_is_the_first_layer():
    model = build_model('resnet8', **CIFAR)
    assert model.layers[1].name == 'normalize'
    images = np.full((1, 32, 32, 3), 51.0, 'float32')  # 51 / 255 = 0.2
    expected = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(model.layers[1](images)[0, 5, 7], expected, rtol=1e-5)


@pytest.mark.parametrize('size', [(8, 8), (9, 13)])
def test_padding_shortcut_against_numpy(size):
    model = build_model('resnet8', **{**GREY, 'image_shape': (*size, 1)})
    tap = keras.Model(model.input, [
        model.get_layer('stage1_block1_relu2').output,
        model.get_layer('stage2_block1_shortcut_pad').output])
    images = np.random.default_rng(0).uniform(0, 255, (2, *size, 1)).astype('float32')
    before, after = (np.asarray(tensor) for tensor in tap(images))
    expected = np.pad(before[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (8, 8)))
    np.testing.assert_array_equal(after, expected)


def test_stride_2_convolution_pads_both_sides():
    model = build_model('resnet8', **GREY)
    conv = model.get_layer('stage2_block1_conv1')
    tap = keras.Model(model.input, [model.get_layer('stage1_block1_relu2').output, conv.output])
    before, after = (np.asarray(tensor) for tensor in tap(np.full((1, 8, 8, 1), 99.0, 'float32')))
    window = np.pad(before, ((0, 0), (1, 1), (1, 1), (0, 0)))[0, 0:3, 0:3]
    corner = np.einsum('yxc,yxcd->d', window, np.asarray(conv.kernel))
    np.testing.assert_allclose(after[0, 0, 0], corner, rtol=1e-4, atol=1e-4)


def test_initial_weights_are_a_function_of_the_seed():
    first, again, other = (build_model('resnet8', **GREY, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(first.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)
    kernels = [[layer.kernel for layer in model.layers if hasattr(layer, 'kernel')]
               for model in (first, other)]
    assert all(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*kernels))
    # Layers of one shape start different too.
    equal_shapes = [np.asarray(first.get_layer(f'stage1_block1_conv{i}').kernel) for i in (1, 2)]
    assert np.any(equal_shapes[0] != equal_shapes[1])
    # He: variance 2 / fan_in; 36,864 weights, so the estimate is within 3%.
    kernel = np.asarray(first.get_layer('stage3_block1_conv2').kernel)
    assert kernel.var() == pytest.approx(2 / (9 * 64), rel=0.03)


def test_mixed_bfloat16_keeps_the_ends_in_float32():
    model = build_model('resnet8', **GREY, dtype_policy='mixed_bfloat16')
    wide = {layer.name for layer in model.layers if layer.compute_dtype == 'float32'}
    assert wide == {'image', 'normalize', 'logits'}
    assert {str(v.dtype) for v in model.trainable_variables} == {'float32'}
    logits = model(np.full((2, 8, 8, 1), 99.0, 'float32'))
    plain = build_model('resnet8', **GREY)(np.full((2, 8, 8, 1), 99.0, 'float32'))
    assert logits.dtype == 'float32'
    np.testing.assert_allclose(logits, plain, rtol=0.1, atol=0.1)


@pytest.mark.parametrize('change, message', [
    ({'image_shape': (7, 8, 1)}, r'at least 8x8 pixels, received \(7, 8, 1\)'),
    ({'image_shape': (32, 32)}, r'expected \(height, width, channels\), received \(32, 32\)'),
    ({'image_shape': (8, 8, 3)}, r'mean: expected 3 values.* received \(0.3,\)'),
    ({'std': (0.0,)}, r'std: expected positive values, received \(0.0,\)'),
    ({'num_classes': 1}, 'num_classes: expected at least 2, received 1'),
    ({'dtype_policy': 'float8'}, "Unknown dtype_policy 'float8'. Available: float32"),
    ({'seed': -1}, 'seed: expected at least 0, received -1'),
])
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model('resnet8', **{**GREY, **change})
    assert '\n' not in str(caught.value)


def test_unknown_model_lists_the_known():
    expected = "Unknown model 'resnet21'. .* Available: mobilenet_v1, .*, or the path of a .keras"
    with pytest.raises(ValueError, match=expected):
        build_model('resnet21', **CIFAR)
