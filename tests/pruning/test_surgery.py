"""Surgery: identities, plain Keras out, nothing of the dense model changed."""

import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from tfprune.pruning.masks import open_masks
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, max_relative_difference, plain, random_masks, randomize, residual

TWO = 2.


def images(model, count=3, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype('float32')


def assert_same(a, b):
    """Equal topology, configs and weights."""
    assert a.get_config() == b.get_config()
    for x, y in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('name', TOYS)
def test_pruning_nothing_is_the_identity(name):
    model = randomize(TOYS[name].build())
    groups = trace_groups(model)
    pruned = prune_model(model, groups, open_masks(groups))
    assert_same(model, pruned)
    assert not {id(v) for v in model.weights} & {id(v) for v in pruned.weights}
    np.testing.assert_array_equal(model(images(model)), pruned(images(model)))


@pytest.mark.parametrize('name', TOYS)
def test_pruning_twice_equals_pruning_once(name):
    model = randomize(TOYS[name].build())
    groups = trace_groups(model)
    rng = np.random.default_rng(5)
    first = random_masks(groups, rng)
    once = prune_model(model, groups, first)
    again = trace_groups(once)
    assert dict(again) == {name: int(mask.sum()) for name, mask in first.items()}
    second = random_masks(again, rng)
    both = {name: mask.copy() for name, mask in first.items()}
    for name, mask in both.items():
        mask[mask] = second[name]
    assert_same(prune_model(once, again, second), prune_model(model, groups, both))


def test_the_dense_model_is_unchanged():
    model = randomize(residual())
    groups = trace_groups(model)
    config, weights = model.get_config(), model.get_weights()
    pruned = prune_model(model, groups, random_masks(groups, np.random.default_rng(0)))
    for layer in pruned.layers:
        if layer.weights:
            layer.set_weights([0 * w for w in layer.get_weights()])
    assert model.get_config() == config
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_and_signature_survive():
    model = randomize(residual())
    groups = trace_groups(model)
    pruned = prune_model(model, groups, random_masks(groups, np.random.default_rng(0)))
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    assert pruned.name == model.name
    assert pruned.input_shape == model.input_shape and pruned.output_shape == model.output_shape
    assert pruned.inputs[0].name == model.inputs[0].name == 'image'
    assert pruned.output_names == model.output_names
    assert isinstance(pruned, type(model))


def test_the_padding_keeps_its_zeros_on_their_side():
    model = randomize(residual())
    groups = trace_groups(model)
    # s2_pad is 2 | stem 5 | 4, its zeros are s2_conv2[0:2] and [2:6].
    pruned = prune_model(model, groups, {
        'stem': np.array([True, False, True, True, False]),
        's2_conv2': np.array([False, True, False, True, True, True])})
    assert pruned.get_layer('s2_pad').padding == ((0, 0), (1, 3))
    assert pruned.get_layer('s3_pad').padding == ((0, 0), (1, 5))
    assert pruned.get_layer('s2_conv2').kernel.shape == (3, 3, 13, 3 + 4)
    assert pruned.get_layer('s3_conv2').kernel.shape == (3, 3, 19, 3 + 4 + 6)


def test_weights_by_hand():
    model = randomize(plain())
    groups = trace_groups(model)
    conv1, conv2 = np.arange(5) % 2 == 0, np.arange(7) > 3
    pruned = prune_model(model, groups, {'conv1': conv1, 'conv2': conv2})

    def weight(source, layer, name):
        return np.array(getattr(source.get_layer(layer), name))
    np.testing.assert_array_equal(weight(pruned, 'conv2', 'kernel'),
                                  weight(model, 'conv2', 'kernel')[:, :, conv1][..., conv2])
    np.testing.assert_array_equal(weight(pruned, 'bn1', 'moving_mean'),
                                  weight(model, 'bn1', 'moving_mean')[conv1])
    np.testing.assert_array_equal(
        weight(pruned, 'hidden', 'kernel').reshape(9, 3, 11),
        weight(model, 'hidden', 'kernel').reshape(9, 7, 11)[:, conv2])


@pytest.mark.slow
def test_the_file_loads_and_equals_where_tfprune_is_not_imported(tmp_path):
    model = randomize(residual())
    groups = trace_groups(model)
    pruned = prune_model(model, groups, random_masks(groups, np.random.default_rng(2)))
    x = images(model)
    pruned.save(tmp_path / 'pruned.keras')
    np.save(tmp_path / 'x.npy', x)
    code = ('import sys, keras, numpy as np; model = keras.models.load_model("pruned.keras"); '
            'np.save("y.npy", model(np.load("x.npy"))); assert "tfprune" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, capture_output=True,
                   timeout=300)
    assert max_relative_difference(pruned(x), np.load(tmp_path / 'y.npy')) <= 1e-6


def test_a_mixed_precision_model_exports_as_float32():
    keras.config.set_dtype_policy('mixed_bfloat16')
    try:
        image = keras.Input((4, 4, 3), name='image')
        x = layers.Rescaling(1 / 255, dtype='float32', name='normalize')(image)
        x = layers.Conv2D(5, 3, name='conv')(x)
        x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name='bn')(x))
        model = keras.Model(image, layers.Dense(2, dtype='float32', name='logits')(x))
    finally:
        keras.config.set_dtype_policy('float32')
    randomize(model)
    groups = trace_groups(model)
    pruned = prune_model(model, groups, {}, dtype_policy='float32')
    assert {layer.compute_dtype for layer in pruned.layers} == {'float32'}
    assert model.get_layer('conv').compute_dtype == 'bfloat16'
    for a, b in zip(model.get_weights(), pruned.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert prune_model(model, groups, {}).get_layer('conv').compute_dtype == 'bfloat16'


def test_what_does_not_train_does_not_train_thereafter():
    """A nested model as a whole; a layer in it that trains says so."""
    image = keras.Input((4, 4, 3), name='image')
    inner = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(5, 1, name='a'),
                              layers.Conv2D(4, 1, name='b')], name='inner')
    inner.trainable = False
    inner.get_layer('b').trainable = True
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(inner(image))))
    copy = prune_model(model, trace_groups(model), {})
    for one in (model, copy):
        nested = one.get_layer('inner')
        assert [nested.trainable, *(layer.trainable for layer in nested.layers)] == [
            False, False, True]
        assert len(one.trainable_variables) == len(model.trainable_variables)


def test_layers_without_a_rule_are_copied_whole():
    image = keras.Input((4, 4, 3), name='image')
    x = layers.Conv2D(5, 1, name='a')(image)
    x = layers.Lambda(lambda t: keras.ops.multiply(t, TWO), name='double')(x)
    x = layers.Softmax(name='norm')(layers.Conv2D(7, 1, name='b')(x)) + 1.
    x = layers.Conv2D(11, 1, name='c')(x)
    model = randomize(keras.Model(image, layers.Dense(2, name='logits')(x)))
    groups = trace_groups(model)
    assert dict(groups) == {'c': 11}
    pruned = prune_model(model, groups, {'c': np.arange(11) < 5})
    assert pruned.get_layer('c').filters == 5
    kernel = np.array(model.get_layer('logits').kernel)
    kernel[5:] = 0
    model.get_layer('logits').kernel.assign(kernel)
    assert max_relative_difference(model(images(model)), pruned(images(model))) <= 1e-5


def test_groups_of_another_model_are_refused():
    with pytest.raises(ValueError, match="another model than 'plain': it has no layer 'stem'"):
        prune_model(plain(), trace_groups(residual()), {})
    model = plain()
    groups = trace_groups(model)
    pruned = prune_model(model, groups, {'conv1': np.arange(5) < 3})
    with pytest.raises(ValueError, match=r"'conv1/kernel' has the shape \(3, 3, 3, 3\), expected"):
        prune_model(pruned, groups, {})


def test_bad_masks_are_named():
    model = plain()
    with pytest.raises(ValueError, match="group 'logits' is not prunable: it feeds the model's"):
        prune_model(model, trace_groups(model), {'logits': np.ones(2, bool)})


def test_copies_are_not_given_random_weights_first(monkeypatch):
    """Which would be overwritten; new layers have theirs."""
    model = plain()
    groups, drawn = trace_groups(model), []
    original = keras.initializers.VarianceScaling.__call__

    def draw(self, *args, **options):
        drawn.append(args)
        return original(self, *args, **options)

    monkeypatch.setattr(keras.initializers.VarianceScaling, '__call__', draw)
    prune_model(model, groups, open_masks(groups))
    assert not drawn
    layer = layers.Dense(3)
    layer.build((None, 4))
    assert len(drawn) == 1 and layer.kernel.numpy().all()
