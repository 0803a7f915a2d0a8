"""to_keras2: the same layers, weights and outputs in Keras 2, or the layer that has none."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers
from layer_families import FAMILIES, around

from tfprune.export.keras2 import to_keras2
from tfprune.models.building import build_model
from tfprune.testing import TOYS, max_relative_difference, randomize

LACKING = {  # of FAMILIES -> class that the message names
    'layer_scale': 'LayerScale', 'adaptive_pool': 'AdaptiveAveragePooling2D',
    'resizing': 'Resizing', 'center_crop': 'CenterCrop', 'stochastic_depth': 'StochasticDepth',
    'scaled_sum': 'CustomScaleLayer', 'squeeze_excite_by_dense': 'Dense',
    'spatial_attention': 'Multiply', 'ops_scalar': 'Negative', 'ops_square': 'Absolute',
    'ops_mean': 'Mean', 'ops_max_drop': 'Max', 'ops_reshape': 'Mean', 'ops_dims': 'Mean',
    'ops_squeeze': 'Max', 'ops_index': 'GetItem', 'ops_index_ellipsis': 'GetItem',
    'ops_pad': 'Pad', 'ops_concatenate': 'Concatenate', 'ops_maximum': 'Maximum',
    'ops_transpose': 'Transpose', 'ops_resize': 'Resize', 'ops_flip': 'Flip',
    'flip_channels': 'Flip', 'glu': 'Split', 'moveaxis': 'Moveaxis', 'new_axes': 'GetItem',
    'pad_channels': 'Pad', 'repeat_channels': 'Repeat', 'repeat_rows': 'Repeat',
    'rms_norm': 'RMSNormalization', 'roll': 'Roll', 'roll_channels': 'Roll',
    'slice_backwards': 'GetItem', 'slices': 'GetItem', 'split': 'Split', 'split_at': 'Split',
    'split_rows': 'Split', 'stack_in_front': 'Negative', 'stack_rows': 'Tanh',
    'swap_twice': 'Swapaxes', 'take_channels': 'Take', 'take_rows': 'Take', 'tile': 'Tile',
    'unstack_rows': 'Unstack', 'where': 'Absolute'}
NORM = {'num_classes': 10, 'mean': (.4, .45, .5), 'std': (.2, .21, .22)}


def family(name):
    function, rank, _ = FAMILIES[name]
    if isinstance(function, layers.Layer):
        function = type(function).from_config(function.get_config())
    return randomize(around(function, rank))


def difference(model, rebuilt):
    images = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])) * 3
    images = images.astype(np.float32)
    return max_relative_difference(model(images, training=False).numpy(),
                                   rebuilt(images, training=False).numpy())


@pytest.mark.parametrize('name', TOYS)
def test_toys_give_the_same(name):
    model = randomize(TOYS[name].build())
    rebuilt = to_keras2(model)
    assert difference(model, rebuilt) <= 1e-5
    assert [layer.name for layer in rebuilt.layers] == [layer.name for layer in model.layers]
    assert not isinstance(rebuilt, keras.Model)


@pytest.mark.parametrize('name, size', [
    ('resnet8', 16), pytest.param('mobilenet_v2', 32, marks=pytest.mark.slow),
    pytest.param('vgg16_bn_cifar', 32, marks=pytest.mark.slow)])
def test_zoo_gives_the_same(name, size):
    model = randomize(build_model(name, image_shape=(size, size, 3), **NORM))
    assert difference(model, to_keras2(model)) <= 1e-5


@pytest.mark.parametrize('name', sorted(set(FAMILIES) - set(LACKING)))
def test_families_give_the_same(name):
    model = family(name)
    assert difference(model, to_keras2(model)) <= 1e-5


@pytest.mark.parametrize('name', sorted(LACKING.keys() & FAMILIES))  # Keras 3.12 has fewer
def test_what_has_no_counterpart_is_named(name):
    with pytest.raises(ValueError, match=rf"^layer '\w+' \({LACKING[name]}\) has no counterpart"):
        to_keras2(family(name))


@pytest.mark.parametrize('activation', ['relu6', 'leaky_relu', 'silu', 'gelu', 'mish', 'softsign'])
@pytest.mark.parametrize('as_product', [False, True])
def test_activations_give_the_same(activation, as_product):
    model = randomize(keras.Sequential([
        keras.Input((5, 5, 3)), layers.Conv2D(4, 3, activation=activation),
        layers.Activation(activation)]))
    rebuilt = to_keras2(model, swish_as_product=as_product)
    assert difference(model, rebuilt) <= 1e-5
    kinds = [type(layer).__name__ for layer in rebuilt.layers]
    assert ('Multiply' in kinds) == (activation == 'silu' and as_product)


def test_activation_of_another_meaning_is_refused():
    model = keras.Sequential([keras.Input((5, 5, 3)),
                              layers.Conv2D(4, 3, activation='hard_sigmoid', name='gate')])
    with pytest.raises(ValueError, match=r"'gate' \(Conv2D\).*activation hard_sigmoid"):
        to_keras2(model)


def test_normalization_that_was_adapted():
    normalize = layers.Normalization()
    normalize.adapt(np.random.default_rng(0).normal(5, 3, (20, 4, 4, 3)).astype(np.float32))
    model = keras.Sequential([keras.Input((4, 4, 3)), normalize])
    assert difference(model, to_keras2(model)) <= 1e-5


def test_shared_and_nested_layers_stay_shared():
    model = family('nested_twice')
    rebuilt = to_keras2(model)
    assert sum(np.size(w) for w in rebuilt.get_weights()) == model.count_params()
    assert {'inner_a', 'inner_norm'} <= {layer.name for layer in rebuilt.layers}


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match='must be a Keras 3 model'):
        to_keras2(to_keras2(TOYS['plain'].build()))
