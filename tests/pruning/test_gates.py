"""Gates: gated == pruned, layers shared, the dense model untouched."""

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.pruning.gates import ChannelGate, insert_gates
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, max_relative_difference, plain, random_masks, randomize, residual


def images(model, count=3, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype('float32')


@pytest.mark.parametrize('name', TOYS)
def test_gated_equals_pruned(name):
    model = randomize(TOYS[name].build())
    groups = trace_groups(model)
    gated = insert_gates(model, groups)
    rng = np.random.default_rng(1)
    x = images(model)
    for _ in range(4):
        masks = random_masks(groups, rng)
        gated.set_masks(masks)
        pruned = prune_model(model, groups, masks)
        assert max_relative_difference(gated.model(x), pruned(x)) <= 1e-4
        # In training mode too: batch statistics are per channel.
        if name != 'branches':  # dropout draws
            before = [np.array(v) for v in model.weights]
            assert max_relative_difference(
                gated.model(x, training=True), pruned(x, training=True)) <= 1e-3
            for variable, value in zip(model.weights, before):
                variable.assign(value)


def test_a_gate_behind_the_convolution_would_fail():
    """The test above can fail: filters zeroed before their normalization are not pruned."""
    model = randomize(residual())
    groups = trace_groups(model)
    masks = {'s1_conv1': np.arange(7) % 2 == 0}
    pruned = prune_model(model, groups, masks)
    kernel = model.get_layer('s1_conv1').kernel
    kernel.assign(np.array(kernel) * masks['s1_conv1'])
    assert max_relative_difference(model(images(model)), pruned(images(model))) > 1e-2


def test_open_gates_change_nothing_and_set_masks_reopens():
    model = randomize(residual())
    groups = trace_groups(model)
    gated = insert_gates(model, groups)
    x = images(model)
    np.testing.assert_array_equal(gated.model(x), model(x))
    gated.set_masks(random_masks(groups, np.random.default_rng(0)))
    assert max_relative_difference(model(x), gated.model(x)) > 1e-2
    gated.set_masks({})
    np.testing.assert_array_equal(gated.model(x), model(x))


def test_gates_stand_at_consumers_of_prunable_groups_only():
    model = residual()
    groups = trace_groups(model)
    # Two consumers of one tensor would share a gate; here each convolution but the stem and the
    # dense layer read a tensor of their own: 7 kernels.
    assert len(insert_gates(model, groups).gates) == 7
    inner = groups.without_residual()  # s1_conv1, s2_conv1, s3_conv1
    assert len(insert_gates(model, inner).gates) == 3
    names = {layer.name for layer in insert_gates(model, groups).model.layers
             if isinstance(layer, ChannelGate)}
    assert any(name.startswith('logits_gate') for name in names)


def test_a_gate_is_shared_by_the_consumers_of_a_tensor():
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(5, 1, name='conv')(image)
    x = layers.Concatenate()([layers.Conv2D(7, 1)(x), layers.Conv2D(11, 3, padding='same')(x)])
    model = keras.Model(image, x)
    assert len(insert_gates(model, trace_groups(model)).gates) == 1


def test_set_masks_never_retraces():
    model = randomize(plain())
    groups = trace_groups(model)
    gated = insert_gates(model, groups)
    traces = []

    @tf.function
    def run(x):
        traces.append(1)
        return gated.model(x, training=False)

    x = images(model)
    rng = np.random.default_rng(0)
    for _ in range(3):
        masks = random_masks(groups, rng)
        gated.set_masks(masks)
        assert max_relative_difference(prune_model(model, groups, masks)(x), run(x)) <= 1e-4
    assert len(traces) == 1


def test_layers_are_shared_and_masks_are_not_trained():
    model = randomize(plain())
    gated = insert_gates(model, trace_groups(model))
    assert [id(v) for v in gated.model.trainable_variables] == [
        id(v) for v in model.trainable_variables]
    assert len(gated.model.non_trainable_variables) == (
        len(model.non_trainable_variables) + len(gated.gates))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(gated.model(images(model)) ** 2)
    assert all(g is not None for g in tape.gradient(
        loss, [v.value for v in model.trainable_variables]))


def test_the_dense_model_still_predicts_saves_clones_and_traces(tmp_path):
    model = randomize(residual())
    x = images(model)
    before = model.predict(x, verbose=0)
    config = model.get_config()
    groups = trace_groups(model)
    for _ in range(2):
        gated = insert_gates(model, groups)
        gated.set_masks(random_masks(groups, np.random.default_rng(0)))
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    assert model.get_config() == config
    model.save(tmp_path / 'model.keras')
    np.testing.assert_allclose(
        keras.models.load_model(tmp_path / 'model.keras').predict(x, verbose=0), before, rtol=1e-6)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone.predict(x, verbose=0), before, rtol=1e-6)
    assert not any(isinstance(layer, ChannelGate) for layer in clone.layers)
    assert dict(trace_groups(model)) == dict(groups)


def test_a_sequential_model_and_mixed_precision():
    keras.config.set_dtype_policy('mixed_bfloat16')
    try:
        model = keras.Sequential([
            keras.Input((4, 4, 3)), layers.Conv2D(5, 3, name='conv'), layers.BatchNormalization(),
            layers.Flatten(), layers.Dense(2, dtype='float32', name='logits')])
    finally:
        keras.config.set_dtype_policy('float32')
    randomize(model)
    groups = trace_groups(model)
    gated = insert_gates(model, groups)
    gate, = gated.gates.values()
    assert gate.mask.dtype == 'float32'
    assert gate(tf.zeros((1, 20), tf.bfloat16)).dtype == tf.bfloat16
    masks = {'conv': np.array([True, False, True, True, False])}
    gated.set_masks(masks)
    pruned = prune_model(model, groups, masks)
    assert max_relative_difference(gated.model(images(model)), pruned(images(model))) <= 0.02


def test_several_inputs_and_outputs_keep_their_structure():
    a, b = keras.Input((4, 4, 3), name='a'), keras.Input((4, 4, 2), name='b')
    x = layers.Add()([layers.Conv2D(5, 1, name='conv_a')(a), layers.Conv2D(5, 1, name='conv_b')(b)])
    y = layers.Conv2D(7, 1, activation='swish', name='middle')(x)
    model = randomize(keras.Model({'a': a, 'b': b}, {
        'first': layers.Conv2D(2, 1, name='first')(y),
        'second': layers.Dense(3, name='second')(layers.GlobalAveragePooling2D()(y))}))
    groups = trace_groups(model)
    assert dict(groups) == {'conv_a': 5, 'middle': 7}
    gated = insert_gates(model, groups)
    masks = random_masks(groups, np.random.default_rng(1))
    gated.set_masks(masks)
    pruned = prune_model(model, groups, masks)
    rng = np.random.default_rng(0)
    x = {'a': rng.normal(size=(2, 4, 4, 3)), 'b': rng.normal(size=(2, 4, 4, 2))}
    expected, received = pruned(x), gated.model(x)
    assert set(received) == set(expected) == {'first', 'second'}
    for name in expected:
        assert max_relative_difference(expected[name], received[name]) <= 1e-4


def test_bad_masks_and_another_model_are_refused():
    model = plain()
    gated = insert_gates(model, trace_groups(model))
    with pytest.raises(ValueError, match="Unknown group 'conv9'"):
        gated.set_masks({'conv9': np.ones(5, bool)})
    with pytest.raises(ValueError, match="groups was traced on another model than 'plain'"):
        insert_gates(model, trace_groups(residual()))
