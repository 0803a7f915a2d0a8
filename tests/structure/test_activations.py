"""Activations given by name, as a layer or as a function: groups, surgery, files, Keras 2."""
import functools
import warnings

import tfprune  # before keras
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L, ops

from tfprune.export.exporter import export_model
from tfprune.export.keras2 import to_keras2
from tfprune.pruning.depth import remove_blocks
from tfprune.pruning.surgery import prune_model
from tfprune.structure.copies import copied, storable
from tfprune.structure.groups import trace_groups
from tfprune.structure.keras_internals import clone_model
from tfprune.structure.layer_rules import activations
from tfprune.testing import check_promises, max_relative_difference, random_masks, randomize

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32) * 3
SLOPED = functools.partial(keras.activations.leaky_relu, negative_slope=.4)


def relu(x):
    """No relu."""
    return tf.nn.relu(x) + 1.


def network(inside, outside='relu'):
    """image - a 5, activation - b 6 - activation - logits 3."""
    image = keras.Input((8, 8, 3))
    x = L.Conv2D(5, 3, activation=inside, name='a')(image)
    x = L.Activation(outside, name='after')(L.Conv2D(6, 3, name='b')(x))
    x = L.GlobalAveragePooling2D(name='pool')(x)
    return randomize(keras.Model(image, L.Dense(3, name='logits')(x)))


def check_surgery(model, names, tmp_path, *, saves=True):
    """The groups are these, surgery keeps the values, and so does the file of its result."""
    groups = trace_groups(model)
    assert set(groups) == names, groups.unprunable
    masks = random_masks(groups, np.random.default_rng(1))
    found = check_promises(model, masks, groups=groups)
    assert found.hold(), found
    pruned = prune_model(model, groups, masks)
    if saves:
        pruned.save(tmp_path / 'm.keras')
        again = keras.models.load_model(tmp_path / 'm.keras')
        assert max_relative_difference(again(IMAGES), pruned(IMAGES)) == 0


@pytest.mark.parametrize('inside, outside', [
    (lambda: L.LeakyReLU(.4), L.Activation('tanh')), (lambda: L.ReLU(6.), L.ELU()),
    (lambda: L.Activation(tf.nn.relu6), 'relu'), (lambda: ops.silu, ops.leaky_relu),
    (lambda: tf.nn.swish, tf.nn.silu), (lambda: tf.tanh, tf.sigmoid)])
def test_what_is_elementwise_is_pruned_and_saved(inside, outside, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        check_surgery(network(inside(), outside), {'a', 'b'}, tmp_path)


@pytest.mark.parametrize('function, name', [
    (ops.gelu, 'gelu'), (SLOPED, 'partial'), (tf.square, 'square'),
    (lambda x: x * ops.sigmoid(1.7 * x), '<lambda>')])
def test_what_no_config_holds_is_pruned_with_a_warning(function, name, tmp_path):
    with pytest.warns(UserWarning, match=rf"^layer 'a' \(Conv2D\) applies '{name}', which a"):
        check_surgery(network(function, function), {'a', 'b'}, tmp_path, saves=False)


@pytest.mark.parametrize('function, name', [
    (lambda x: x[..., ::-1], '<lambda>'), (relu, 'relu'), (tf.nn.softmax, 'softmax'),
    (functools.partial(keras.activations.softmax, axis=1), 'partial')])
def test_what_is_not_known_is_frozen_copied_and_warned_of(function, name, tmp_path):
    model = network(function, 'relu')
    with pytest.warns(UserWarning, match="layer 'a'.*a saved model does not have it"):
        reason = trace_groups(model).unprunable['a']
    assert f"layer 'a' applies '{name}" in reason
    check_surgery(model, {'b'}, tmp_path, saves=False)


def test_a_softmax_as_a_layer_freezes(tmp_path):
    model = network(L.Softmax())
    check_surgery(model, {'b'}, tmp_path)
    assert "applies 'Softmax'" in trace_groups(model).unprunable['a']


@pytest.mark.parametrize('called', [False, True])
def test_weights_of_an_activation_are_refused_by_name(called):
    """Keras makes them at the first call."""
    model = network(L.PReLU())
    if called:
        model(IMAGES)
    with pytest.raises(ValueError, match="layer 'a' has the activation PReLU, which has weights"):
        trace_groups(model)


def test_functions_of_equal_values():
    x = np.linspace(-6, 6, 301, dtype=np.float32)
    replaced = 0
    for function in activations._EQUAL:
        equal = activations.keras_activation(function)
        if equal is not function:
            replaced += 1
            np.testing.assert_allclose(function(x), equal(x), atol=1e-6, err_msg=equal.__name__)
    assert replaced > 30


def test_functions_in_layers_without_a_rule_are_copied():
    image = keras.Input((6, 8))
    x = L.TimeDistributed(L.Dense(5, activation=relu))(L.LSTM(
        4, activation=tf.nn.swish, recurrent_activation=relu, return_sequences=True)(image))
    model = randomize(keras.Model(image, L.Dense(2)(x)))
    with pytest.warns(UserWarning, match=r"\((LSTM|TimeDistributed)\) applies"):
        pruned = prune_model(model, trace_groups(model), {})
    x = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    assert max_relative_difference(model(x), pruned(x)) < 1e-6
    assert model.layers[1].cell.recurrent_activation is relu  # as it was
    assert model.layers[1].cell.activation is tf.nn.swish


@pytest.mark.filterwarnings('ignore:layer')
def test_copies_of_blocks_and_of_models_keep_functions():
    image = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 1, activation=relu, name='a')(image)
    x = L.Add(name='sum')([x, L.Conv2D(4, 1, activation=tf.nn.swish, name='b')(x)])
    model = randomize(keras.Model(image, L.Conv2D(2, 1)(x)))
    again = clone_model(model, clone_function=copied)
    again.set_weights(model.get_weights())
    assert max_relative_difference(model(IMAGES), again(IMAGES)) < 1e-6
    assert remove_blocks(model, ['sum']).get_layer('a').activation is relu


def test_a_layer_of_ones_own_without_a_config_is_warned_of():
    class Mine(L.Layer):
        def call(self, x):
            return tf.identity(x)

        def get_config(self):
            raise NotImplementedError('none here')
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, L.Conv2D(2, 1)(Mine(name='odd')(L.Conv2D(4, 1)(image))))
    with pytest.warns(UserWarning, match=r"^layer 'odd' \(Mine\) has no config.*none here"):
        trace_groups(model)


@pytest.mark.parametrize('inside', [
    lambda: L.LeakyReLU(.4), lambda: L.ReLU(6.), lambda: L.ELU(), lambda: tf.nn.swish,
    lambda: ops.leaky_relu, lambda: tf.nn.relu6])
def test_keras2_of_layers_and_functions(inside):
    model = network(inside())
    assert max_relative_difference(model(IMAGES), to_keras2(model)(IMAGES).numpy()) < 1e-5


@pytest.mark.parametrize('function, name', [
    (relu, "'relu'"), (ops.gelu, "'gelu'"), (SLOPED, "'partial'"), (L.Softmax(), "'Softmax'")])
def test_keras2_refuses_others_by_name(function, name):
    with pytest.raises(ValueError, match=rf"^layer 'a' \(Conv2D\) has no .* activation {name} of"):
        to_keras2(network(function))


def test_files_hold_the_like_of_a_function_and_refuse_what_has_none(tmp_path):
    model = network(tf.nn.swish, tf.nn.silu)
    assert keras_activations(storable(model)) == [keras.activations.silu] * 2
    named = network('relu')
    assert storable(named) is named
    with pytest.raises(ValueError, match=r"^layer 'a' \(Conv2D\) applies 'partial', which a "):
        export_model(network(SLOPED), tmp_path / 'export')
    assert not list(tmp_path.iterdir())


def test_a_run_says_before_it_trains_what_it_could_not_save(tmp_path):
    images, labels = np.zeros((40, 8, 8, 3), np.float32), np.arange(40) % 3
    data = [(images, labels)] * 3
    with pytest.raises(ValueError, match="layer 'a'.*applies 'relu'"):
        tfprune.train_and_prune(network(relu), *data, macs=.5, method='uniform', progress=False,
                                run_dir=tmp_path / 'run')


def keras_activations(model):
    return [model.get_layer(name).activation for name in ('a', 'after')]
