"""Every layer of Keras CNNs in a model of its own."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
from keras import layers, ops
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from tfprune.testing import randomize

WIDTH = 6


def around(function, rank=2, width=WIDTH, size=8):
    """image - a 6 - swish - function - b 7 - pool - logits 3; swish so that zeros do not hide."""
    convolution = getattr(layers, f'Conv{rank}D')
    image = keras.Input((size,) * rank + (3,), name='image')
    x = convolution(width, 3, padding='same', activation='swish', name='a')(image)
    x = function(x)
    if len(x.shape) == rank + 2:
        x = convolution(7, 1, activation='tanh', name='b')(x)
    x = layers.Flatten(name='flat')(x) if len(x.shape) > 2 else x
    return keras.Model(image, layers.Dense(3, name='logits')(x), name='around')


def branch(merge):
    """Two convolutions of a's output, merged."""
    def function(x):
        c = layers.Conv2D(5, 1, name='c')(x)
        return merge([c, layers.Conv2D(5, 3, padding='same', name='d')(x)])
    return function


def squeeze_excite(x):
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(4, 1, activation='relu', name='squeeze')(s)
    return layers.Multiply()([x, layers.Conv2D(WIDTH, 1, activation='sigmoid', name='excite')(s)])


def squeeze_excite_by_dense(x):
    s = layers.Dense(4, activation='relu', name='squeeze')(layers.GlobalAveragePooling2D()(x))
    s = layers.Dense(WIDTH, activation='hard_sigmoid', name='excite')(s)
    return x * layers.Reshape((1, 1, WIDTH))(s)


def spatial_attention(x):
    return x * layers.Conv2D(1, 3, padding='same', activation='sigmoid', name='where')(x)


def shared(x):
    layer = layers.Conv2D(WIDTH, 3, padding='same', activation='swish', name='twice')
    norm = layers.BatchNormalization(name='norm')
    return norm(layer(norm(layer(x))))


def nested_twice(x):
    inner = keras.Sequential([keras.Input((8, 8, WIDTH)),
                              layers.Conv2D(WIDTH, 3, padding='same', name='a'),
                              layers.BatchNormalization(name='norm'), layers.ReLU()], name='inner')
    return layers.Add()([inner(x), inner(inner(x))])


def nested_in_nested(x):
    image = keras.Input((None, None, WIDTH))
    innermost = keras.Sequential([
        keras.Input((None, None, WIDTH)), layers.PReLU(shared_axes=(1, 2)),
        layers.Conv2D(4, 3, name='conv')], name='innermost')
    middle = keras.Model(image, innermost(layers.ZeroPadding2D(1)(image)), name='middle')
    return middle(x)


FAMILIES = {
    # name: (function, rank, names of prunable groups beside 'a')
    'conv1d': (layers.Conv1D(5, 3, name='x'), 1, {'x', 'b'}),
    'conv3d': (layers.Conv3D(5, 2, name='x'), 3, {'x', 'b'}),
    'transpose1d': (layers.Conv1DTranspose(5, 3, 2, name='x'), 1, {'x', 'b'}),
    'transpose2d': (layers.Conv2DTranspose(5, 3, 2, padding='same', name='x'), 2, {'x', 'b'}),
    'transpose3d': (layers.Conv3DTranspose(5, 2, name='x'), 3, {'x', 'b'}),
    'depthwise1d': (layers.DepthwiseConv1D(3, depth_multiplier=2), 1, {'b'}),
    'depthwise2d': (layers.DepthwiseConv2D(3, depth_multiplier=3, activation='swish'), 2, {'b'}),
    'separable1d': (layers.SeparableConv1D(5, 3, name='x'), 1, {'x', 'b'}),
    'separable2d': (layers.SeparableConv2D(5, 3, depth_multiplier=2, name='x'), 2, {'x', 'b'}),
    'grouped': (layers.Conv2D(9, 3, groups=3, activation='swish'), 2, {'b'}),
    'depthwise_by_groups': (layers.Conv2D(12, 3, groups=6), 2, {'b'}),
    'batch_norm': (layers.BatchNormalization(), 2, {'b'}),
    'batch_norm_bare': (layers.BatchNormalization(scale=False, center=False), 2, {'b'}),
    'group_norm': (layers.GroupNormalization(3), 2, {'b'}),
    'group_norm_bare': (layers.GroupNormalization(3, scale=False, center=False), 2, {'b'}),
    'instance_norm': (layers.GroupNormalization(-1), 2, {'b'}),
    'spatial_norm': (layers.LayerNormalization(axis=(1, 2)), 2, {'b'}),
    'one_group': (layers.GroupNormalization(1), 2, {'b'}),
    'layer_norm': (layers.LayerNormalization(), 2, {'b'}),
    'layer_norm_bare': (layers.LayerNormalization(scale=False, center=False), 2, {'b'}),
    'layer_norm_of_all': (layers.LayerNormalization((1, 2, 3)), 2, {'b'}),
    'layer_norm_of_columns': (layers.LayerNormalization((2, 3), center=False), 2, {'b'}),
    'rms_norm': (layers.RMSNormalization(), 2, {'b'}),
    'unit_norm': (layers.UnitNormalization(), 2, {'b'}),
    'layer_scale': (LayerScale(.5, WIDTH), 2, {'b'}),
    'rescaling': (layers.Rescaling([1., 2, 3, 4, 5, 6], 1.), 2, {'b'}),
    'prelu': (layers.PReLU(), 2, {'b'}),
    'prelu_shared': (layers.PReLU(shared_axes=(1, 2)), 2, {'b'}),
    'prelu_one': (layers.PReLU(shared_axes=(1, 2, 3)), 2, {'b'}),
    'elu': (layers.ELU(), 2, {'b'}),
    'softmax_over_rows': (layers.Softmax(axis=1), 2, {'b'}),
    'max_pool1d': (layers.MaxPooling1D(2), 1, {'b'}),
    'average_pool3d': (layers.AveragePooling3D(2), 3, {'b'}),
    **({'adaptive_pool': (layers.AdaptiveAveragePooling2D(2), 2, {'b'})}
       if hasattr(layers, 'AdaptiveAveragePooling2D') else {}),  # Keras 3.12 has none
    'global_keepdims': (layers.GlobalMaxPooling2D(keepdims=True), 2, {'b'}),
    'global3d': (layers.GlobalAveragePooling3D(), 3, set()),
    'pad1d': (layers.ZeroPadding1D(2), 1, {'b'}),
    'pad3d': (layers.ZeroPadding3D(1), 3, {'b'}),
    'crop': (layers.Cropping2D(((1, 2), (0, 1))), 2, {'b'}),
    'upsample': (layers.UpSampling2D(2, interpolation='bilinear'), 2, {'b'}),
    'upsample3d': (layers.UpSampling3D(2), 3, {'b'}),
    'resizing': (layers.Resizing(5, 4), 2, {'b'}),
    'center_crop': (layers.CenterCrop(5, 4), 2, {'b'}),
    'permute_space': (layers.Permute((2, 1, 3)), 2, {'b'}),
    'reshape_space': (layers.Reshape((16, 4, WIDTH)), 2, {'b'}),
    'reshape_joins': (layers.Reshape((8, 4, 2 * WIDTH)), 2, {'b'}),
    'reshape_free': (layers.Reshape((16, 4, -1)), 2, {'b'}),
    'reshape_to_ones': (lambda x: layers.Reshape((8, 8, WIDTH))(
        layers.Reshape((64, WIDTH, 1, 1))(layers.Reshape((8, 1, 8, WIDTH))(x))), 2, {'b'}),
    'flatten': (layers.Flatten(), 2, set()),
    'repeat': (lambda x: layers.RepeatVector(3)(layers.GlobalMaxPooling2D()(x)), 2, set()),
    'dropouts': (lambda x: layers.SpatialDropout2D(.1)(layers.GaussianNoise(.1)(
        layers.AlphaDropout(.1)(layers.GaussianDropout(.1)(layers.Dropout(
            .1, noise_shape=(None, 1, 1, 1))(x))))), 2, {'b'}),
    'stochastic_depth': (StochasticDepth(.1), 2, {'b'}),
    'add': (branch(layers.Add()), 2, {'c', 'b'}),
    'subtract': (branch(layers.Subtract()), 2, {'c', 'b'}),
    'average': (branch(layers.Average()), 2, {'c', 'b'}),
    'maximum': (branch(layers.Maximum()), 2, {'c', 'b'}),
    'minimum': (branch(layers.Minimum()), 2, {'c', 'b'}),
    'multiply': (branch(layers.Multiply()), 2, {'c', 'b'}),
    'concatenate': (branch(layers.Concatenate()), 2, {'c', 'd', 'b'}),
    'concatenate_rows': (branch(layers.Concatenate(axis=1)), 2, {'c', 'b'}),
    'scaled_sum': (branch(CustomScaleLayer(.3)), 2, {'c', 'b'}),
    'squeeze_excite': (squeeze_excite, 2, {'squeeze', 'b'}),
    'squeeze_excite_by_dense': (squeeze_excite_by_dense, 2, {'squeeze', 'b'}),
    'spatial_attention': (spatial_attention, 2, {'b'}),
    'shared': (shared, 2, {'b'}),
    'nested_twice': (nested_twice, 2, {'b'}),
    'nested_in_nested': (nested_in_nested, 2, {'middle/innermost/conv', 'b'}),
    'ops_scalar': (lambda x: ops.relu6(x + 3.) * (1 / 6) - 1. / (2. + ops.exp(-x)), 2, {'b'}),
    'ops_square': (lambda x: x * x / (1. + ops.abs(x)), 2, {'b'}),
    'ops_mean': (lambda x: x - ops.mean(x, axis=(1, 2), keepdims=True), 2, {'b'}),
    'ops_max_drop': (lambda x: ops.max(x, axis=(1, 2)), 2, set()),
    'ops_reshape': (lambda x: ops.reshape(ops.mean(x, (1, 2)), (-1, 1, 1, WIDTH)), 2, {'b'}),
    'ops_dims': (lambda x: ops.expand_dims(ops.expand_dims(ops.mean(x, (1, 2)), 1), 1), 2, {'b'}),
    'ops_squeeze': (lambda x: ops.squeeze(ops.max(x, (1, 2), keepdims=True), (1, 2)), 2, set()),
    'ops_index': (lambda x: x[:, ::2, 1:-1], 2, {'b'}),
    'split': (lambda x: ops.multiply(*ops.split(x, 2, axis=-1)), 2, {'b'}),
    'split_at': (lambda x: ops.concatenate(
        [ops.tanh(part) for part in ops.split(x, [1, 3], axis=-1)][::-1], -1),
        2, {'a/1', 'a/2', 'a/3', 'b'}),
    'split_rows': (lambda x: ops.subtract(*ops.split(x, 2, axis=1)), 2, {'b'}),
    'slices': (lambda x: x[..., 2:] * ops.tanh(x[:, :, :, :-2]), 2, {'b'}),
    'slice_backwards': (lambda x: x[..., ::-1], 2, {'b'}),
    'new_axes': (lambda x: ops.mean(x[:, None, :, 3, :, None], (1, -1)), 2, set()),
    'unstack_rows': (lambda x: ops.add(*ops.unstack(x, axis=1)[:2]), 2, set()),
    'stack_rows': (lambda x: ops.mean(ops.stack([x, ops.tanh(x)], axis=-1), -1), 2, {'b'}),
    'stack_in_front': (lambda x: ops.max(ops.stack([x, -x], 1), 1), 2, {'b'}),
    'where': (branch(lambda xs: ops.where(ops.abs(xs[0]) > 1., *xs)), 2, {'c', 'b'}),
    'repeat_channels': (lambda x: ops.repeat(x, 2, axis=-1), 2, {'b'}),
    'repeat_rows': (lambda x: ops.repeat(x, 2, axis=1), 2, {'b'}),
    'roll_channels': (lambda x: x + ops.roll(x, 2, axis=-1), 2, {'b'}),
    'roll': (lambda x: ops.roll(ops.roll(x, -4, axis=3), (1, 2), axis=(1, 2)), 2, {'b'}),
    'flip_channels': (lambda x: ops.concatenate([x, ops.flip(x, -1)], -1), 2, {'b'}),
    'tile': (lambda x: ops.tile(x, (1, 1, 2, 3)), 2, {'b'}),
    'take_channels': (lambda x: ops.take(x, np.array([4, 0, 0, 2, 1]), axis=-1),
                      2, {'a/1', 'a/2', 'a/3', 'b'}),
    'take_rows': (lambda x: ops.take(x, [4, 0, 0, 2], axis=1), 2, {'b'}),
    'pad_channels': (lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))), 2, {'b'}),
    'swap_twice': (lambda x: ops.swapaxes(ops.tanh(ops.swapaxes(x, 1, -1)), 3, 1), 2, {'b'}),
    'moveaxis': (lambda x: ops.moveaxis(ops.max(ops.moveaxis(x, 3, 1), 3), 1, -1), 2, set()),
    'softmax_of_rows': (lambda x: layers.Permute((2, 3, 1))(layers.Softmax()(
        layers.Permute((3, 1, 2))(x))), 2, {'b'}),
    'shuffle': (lambda x: layers.Reshape((8, 8, WIDTH))(layers.Permute((1, 2, 4, 3))(
        layers.Reshape((8, 8, 2, WIDTH // 2))(x))), 2, {'b'}),
    'pixel_shuffle': (lambda x: layers.Reshape((16, 16, 5))(layers.Permute((1, 3, 2, 4, 5))(
        layers.Reshape((8, 8, 2, 2, 5))(layers.Conv2D(20, 1, name='x')(x)))), 2, {'x', 'b'}),
    'dense_to_maps': (lambda x: layers.Reshape((2, 3, 8))(layers.Dense(48, name='x')(
        layers.Flatten()(x))), 2, {'x', 'b'}),
    'dense_to_large_maps': (lambda x: layers.Reshape((8, 9, 5))(layers.Dense(360, name='x')(
        layers.GlobalMaxPooling2D()(x))), 2, {'x', 'b'}),
    'glu': (lambda x: (lambda a, g: a * ops.sigmoid(g))(*ops.split(
        layers.Conv2D(10, 1, name='x')(x), 2, -1)), 2, {'x', 'b'}),
    'ops_index_ellipsis': (lambda x: x[:, 1:, ..., :], 2, {'b'}),
    'ops_pad': (lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))), 2, {'b'}),
    'ops_concatenate': (branch(lambda xs: ops.concatenate(xs, -1)), 2, {'c', 'd', 'b'}),
    'ops_maximum': (branch(lambda xs: ops.maximum(*xs)), 2, {'c', 'b'}),
    'ops_transpose': (lambda x: ops.transpose(x, (0, 2, 1, 3)), 2, {'b'}),
    'ops_resize': (lambda x: ops.image.resize(x, (4, 4)), 2, {'b'}),
    'ops_flip': (lambda x: ops.flip(x, 1), 2, {'b'}),
}

# These have the rule of another, in other dimensions or by another name.
ALIKE = frozenset([
    'conv3d', 'transpose1d', 'transpose3d', 'depthwise1d', 'separable1d', 'batch_norm_bare',
    'group_norm_bare', 'max_pool1d', 'average_pool3d', 'global3d', 'pad1d', 'pad3d', 'upsample3d',
    'subtract', 'average', 'minimum', 'ops_maximum', 'ops_concatenate', 'ops_transpose',
    'ops_square', 'squeeze_excite_by_dense', 'nested_in_nested', 'repeat_rows', 'take_rows',
    'split_rows', 'stack_in_front', 'ops_dims', 'layer_norm_of_columns'])


def model_of(name):
    function, rank, _ = FAMILIES[name]
    keras.utils.set_random_seed(0)
    if isinstance(function, layers.Layer):
        function = type(function).from_config(function.get_config())
    return randomize(around(function, rank))
