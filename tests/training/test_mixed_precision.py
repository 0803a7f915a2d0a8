"""Dtype policies of layers, of layers in layers and of models in models."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.models.model_files import as_classifier
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import max_relative_difference

register = keras.saving.register_keras_serializable('test_mixed_precision')


@register
class Block(layers.Layer):
    """Makes a layer of its own, of whose policy no config tells."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.conv = filters, layers.Conv2D(filters, 3, padding='same')

    def build(self, shape):
        self.conv.build(shape)
        self.built = True

    def call(self, inputs):
        return keras.ops.relu(self.conv(inputs))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), 'filters': self.filters}


@register
class Bare(Block):
    """Takes no dtype."""

    def __init__(self, filters, name=None):
        super().__init__(filters, name=name)

    def get_config(self):
        return {'filters': self.filters, 'name': self.name}


@pytest.fixture
def policy_of():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def network(policy_of, policy, global_after='float32'):
    """image 8x8x3 - statistics - a 5 - nested 7 - blocks - tiles - attention - logits 3"""
    keras.utils.set_random_seed(0)
    policy_of(policy)
    image = keras.Input((8, 8, 3))
    normalize = layers.Normalization()
    normalize.adapt(np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(5, 3, name='a')(normalize(image))))
    x = keras.Sequential([keras.Input((6, 6, 5)), layers.Conv2D(7, 1), layers.ReLU()])(x)
    x = Bare(7)(Block(7)(x))
    tile = keras.Sequential([keras.Input((6, 7)), layers.Conv1D(7, 1)])
    x = layers.SpectralNormalization(layers.Conv2D(7, 1))(layers.TimeDistributed(tile)(x))
    x = layers.Reshape((36, 7))(x)
    x = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 3)(x, x))
    model = keras.Model(image, layers.Dense(3, name='logits')(x))
    policy_of(global_after)
    return model


def policies(model):
    return {layer.dtype_policy.name for layer in model._flatten_layers()
            if not isinstance(layer, layers.InputLayer)}


def images():
    return np.random.default_rng(1).uniform(0, 255, (6, 8, 8, 3)).astype('float32')


@pytest.mark.parametrize('default', ['float32', 'mixed_bfloat16'])
def test_a_copy_in_float32_is_so_throughout(policy_of, default, tmp_path):
    model = network(policy_of, 'mixed_bfloat16', default)
    groups = trace_groups(model)
    masks = {'a': np.arange(5) != 2}
    copy = prune_model(model, groups, masks, dtype_policy='float32')
    assert policies(copy) == {'float32'} and keras.config.dtype_policy().name == default
    assert {str(v.dtype) for v in copy.weights if 'count' not in v.path} == {'float32'}
    outputs = copy(images())
    assert outputs.dtype == tf.float32
    assert max_relative_difference(outputs, prune_model(model, groups, masks)(images())) < 5e-2
    policy_of('float32')
    copy.save(tmp_path / 'copy.keras')
    loaded = keras.models.load_model(tmp_path / 'copy.keras')
    assert max_relative_difference(outputs, loaded(images())) < 1e-6


def test_a_copy_keeps_each_layer_s_policy(policy_of):
    model = network(policy_of, 'mixed_bfloat16')
    copy = prune_model(model, trace_groups(model), {})
    assert copy(images()).dtype == tf.bfloat16
    np.testing.assert_array_equal(*(tf.cast(each(images()), tf.float32) for each in (model, copy)))
    assert copy.get_layer('a').dtype_policy.name == 'mixed_bfloat16'
    assert next(layer for layer in copy.layers if type(layer) is Block).conv.dtype_policy.name == (
        'mixed_bfloat16')


@pytest.mark.parametrize('policy, message', [
    ('mixed_float16', 'computes in float16, which needs loss scaling'),
    ('float16', 'computes in float16'), ('bfloat16', 'keeps weights in bfloat16'),
    ('float64', 'keeps weights in float64'), ('mixed_bfloat16', None), ('float32', None)])
def test_what_does_not_train_is_refused(policy_of, policy, message):
    image = keras.Input((8, 8, 3))
    policy_of(policy)
    x = layers.TimeDistributed(layers.Conv1D(5, 1, name='inner'))(image)
    policy_of('float32')
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)), name='mine')

    def check():
        return as_classifier(model, source="model 'mine'", image_shape=(8, 8, 3), num_classes=3)

    if message is None:
        assert check() is model
    else:
        with pytest.raises(ValueError, match=f"model 'mine': layer '.*' {message}") as caught:
            check()
        assert "dtype_policy='float32'" in str(caught.value) and '\n' not in str(caught.value)
        copy = prune_model(model, trace_groups(model), {}, dtype_policy='float32')
        as_classifier(copy, source='copy', image_shape=(8, 8, 3), num_classes=3)
        assert policies(copy) == {'float32'}
