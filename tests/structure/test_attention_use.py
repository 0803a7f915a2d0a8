"""What attention is used with: tokens, transformers, criteria, alignment, files, runs."""
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cases import slow_but
from table_runs import run
from test_attention import CASES, INPUTS, M, POSITIONS, around, mha
from tfprune.costs.model import CostModel
from tfprune.pruning.importance import score_groups
from tfprune.pruning.surgery import prune_model
from tfprune.search.alignment import AlignmentDecay, AlignmentPenalty
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.testing import (check_promises, max_relative_difference, random_masks, randomize,
                             recount)


def tokens(mask=True):
    """Two embeddings, added, in attention that masks the padding."""
    keras.utils.set_random_seed(0)
    words = keras.Input((POSITIONS,), dtype='int32', name='words')
    places = keras.Input((POSITIONS,), dtype='int32', name='places')
    x = layers.Add(name='add')([
        layers.Embedding(size, 8, mask_zero=mask, name=name)(indices) for size, name, indices in (
            (20, 'word', words), (POSITIONS + 1, 'place', places))])
    x = layers.BatchNormalization(name='norm')(x)
    x = layers.MultiHeadAttention(3, 5, name='m')(x, x)
    x = layers.GlobalAveragePooling1D(name='pool')(layers.Dense(7, activation='swish', name='b')(x))
    return randomize(keras.Model([words, places], layers.Dense(3, name='logits')(x)))


def test_embeddings_are_pruned_and_their_mask_reaches_attention():
    model = tokens()
    groups = trace_groups(model)
    assert dict(groups) == {'word': 8, **M, 'm': 8, 'b': 7}, groups.unprunable
    rng = np.random.default_rng(0)
    words = rng.integers(0, 20, (4, POSITIONS)) * (np.arange(POSITIONS) < 4)
    inputs = [words, np.where(words > 0, np.arange(POSITIONS) + 1, 0)]
    masks = random_masks(groups, rng)
    found = check_promises(model, masks, groups=groups, inputs=inputs)
    assert found.hold(), found
    for layer in model.layers:  # by moving statistics, as the pruned model
        layer.trainable = False
    sub = Subnetwork(model, groups)
    sub.set_masks(masks)
    pruned = prune_model(model, groups, masks)
    assert max_relative_difference(pruned(inputs), sub(inputs)) <= 1e-4
    word = pruned.get_layer('word')
    assert word.output_dim == masks['word'].sum() and word.mask_zero
    copy = tokens(mask=False)
    copy.set_weights(model.get_weights())
    unmasked = prune_model(copy, trace_groups(copy), masks)
    assert max_relative_difference(pruned(inputs), unmasked(inputs)) > 1e-3


def test_criteria_rank_an_embedding():
    model = tokens()
    groups = trace_groups(model)
    for name in ('word', 'place'):
        table = model.get_layer(name).embeddings
        table.assign(table.numpy() * np.where(np.arange(8) == 3, 1e-3, 1))
    assert score_groups(model, groups, criterion='l1')['word'].argmin() == 3


def test_one_embedding_for_texts_of_two_lengths():
    embedding = layers.Embedding(20, 8, name='word')
    inputs = [keras.Input((n,), dtype='int32') for n in (4, 6)]
    x = layers.Dot(2)([embedding(each) for each in inputs])
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    groups = trace_groups(model)
    assert dict(groups) == {'word': 8}
    data = [np.random.default_rng(n).integers(0, 20, (2, n)) for n in (4, 6)]
    assert check_promises(model, groups=groups, inputs=data).hold()


def vision_transformer(norm=layers.BatchNormalization):
    """image 8x8x3 - 4 patches of 16x3 - 12 - two blocks - pool - logits 3."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name='image')
    x = layers.Conv2D(12, 4, 4, name='patches')(image)
    x = layers.Reshape((4, 12), name='rows')(x)
    for block in range(2):
        y = norm(name=f'norm{block}')(x)
        x = layers.Add()([x, layers.MultiHeadAttention(3, 5, name=f'attention{block}')(y, y)])
        y = layers.Dense(17, activation='gelu', name=f'up{block}')(x)
        x = layers.Add()([x, layers.Dense(12, name=f'down{block}')(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, layers.Dense(3, name='logits')(x), name='vit')


def test_multiply_adds_of_a_transformer_by_hand_at_pruned_widths():
    model = vision_transformer()
    groups = trace_groups(model)
    cost = CostModel(model, groups)
    widths = {'patches': 7, 'attention0/heads': 2, 'attention0/key_width': 3,
              'attention0/value_width': 4, 'up0': 11}

    def block(c, h, d, v, u, t=4):
        return t * c * h * (2 * d + v) + t * t * h * (d + v) + t * h * v * c + 2 * t * c * u

    def total(c, *blocks):
        return 4 * 16 * 3 * c + sum(block(c, *each) for each in blocks) + c * 3

    assert cost({}).macs == total(12, (3, 5, 5, 17), (3, 5, 5, 17))
    assert cost(widths).macs == total(7, (2, 3, 4, 11), (3, 5, 5, 17))
    masks = {name: np.arange(groups[name]) < width for name, width in widths.items()}
    assert recount(prune_model(model, groups, masks))[0] == cost(widths).macs


def test_scores_are_scaled_by_the_dense_width():
    model = around(mha(3, 5))
    groups = trace_groups(model)
    mask = {'m/key_width': np.array([True, False, True, False, False])}
    pruned, dense = prune_model(model, groups, mask).get_layer('m'), model.get_layer('m')
    assert pruned.key_dim == 2 and pruned.num_heads == 3 and pruned.value_dim == 5
    np.testing.assert_allclose(pruned.query_dense.kernel,
                               dense.query_dense.kernel.numpy()[..., [0, 2]] * np.sqrt(2 / 5), 1e-6)
    np.testing.assert_array_equal(pruned.key_dense.kernel,
                                  dense.key_dense.kernel.numpy()[..., [0, 2]])


def test_a_closed_head_is_no_head():
    """Its filters may be anything."""
    model = around(mha(3, 5))
    groups = trace_groups(model)
    masks = {'m/heads': np.array([True, False, True])}
    x = np.random.default_rng(0).normal(size=(2, POSITIONS, INPUTS)).astype('float32')
    before = prune_model(model, groups, masks)(x)
    gated = tfprune.insert_gates(model, groups)
    gated.set_masks(masks)
    value = model.get_layer('m').value_dense.kernel
    change = np.zeros(value.shape, 'float32')
    change[:, 1] = 100
    value.assign_add(change)
    assert max_relative_difference(before, gated.model(x)) <= 1e-5
    assert max_relative_difference(before, model(x)) > 1


def test_criteria_look_at_heads_and_widths():
    model = around(mha(3, 5))
    groups = trace_groups(model)
    layer = model.get_layer('m')
    for weight in (layer.query_dense.kernel, layer.key_dense.kernel, layer.value_dense.kernel,
                   layer.output_dense.kernel):
        value = weight.numpy()
        np.moveaxis(value, 0 if weight.shape[0] == 3 else 1, 0)[1] *= 1e-3
        weight.assign(value)
    data = [(np.random.default_rng(0).normal(size=(8, POSITIONS, INPUTS)).astype('float32'),
             np.arange(8) % 3)]
    for criterion in ('l1', 'l2', 'taylor', 'geometric_median', 'random'):
        scores = score_groups(model, groups, criterion=criterion, data=data)
        assert {name: len(score) for name, score in scores.items()} == dict(groups)
        if criterion in ('l1', 'l2', 'taylor'):
            assert scores['m/heads'].argmin() == 1, criterion
    assert (scores['m/key_width'] > 0).all()


def test_alignment_takes_closed_heads_and_widths_to_zero():
    model = around(mha(3, 5))
    groups = trace_groups(model)
    masks = {'m/heads': np.array([True, False, True]), 'm/key_width': np.arange(5) < 3,
             'a': np.arange(12) != 7}
    penalty = AlignmentPenalty(model, groups, strength=1.0)
    penalty.set_masks(masks)
    assert penalty() > 0
    decay = AlignmentDecay(model, groups, penalty.masks)
    decay.is_on.assign(True)
    decay(tf.constant(1.0))
    layer = model.get_layer('m')
    assert not layer.output_dense.kernel.numpy()[1].any()
    assert layer.output_dense.kernel.numpy()[[0, 2]].all()
    key = layer.key_dense.kernel.numpy()
    assert not key[..., 3:].any() and not key[7].any() and key[:7, :, :3].all()
    x = np.random.default_rng(0).normal(size=(2, POSITIONS, INPUTS)).astype('float32')
    assert max_relative_difference(model(x), prune_model(model, groups, masks)(x)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    name for name in ('plain', 'cross_three', 'gate', 'grouped', 'own', 'operation',
                      'additive_bare', 'causal_window') if name in CASES])
def test_files_of_the_pruned_model_agree(name, tmp_path):
    """Where tfprune is not imported: a Keras file loads and converts to TFLite."""
    model = around(CASES[name][0])
    groups = trace_groups(model)
    pruned = prune_model(model, groups, random_masks(groups, np.random.default_rng(2)))
    x = np.random.default_rng(0).normal(size=(1, POSITIONS, INPUTS)).astype('float32')
    pruned.save(tmp_path / 'pruned.keras')
    np.save(tmp_path / 'x.npy', x)
    code = '''if True:
        import sys, keras, numpy as np, tensorflow as tf
        model, x = keras.models.load_model('pruned.keras'), np.load('x.npy')
        model.export('saved', verbose=False)
        lite = tf.lite.TFLiteConverter.from_saved_model('saved').convert()
        interpreter = tf.lite.Interpreter(model_content=lite)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]['index'], x)
        interpreter.invoke()
        lite = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])
        np.save('y.npy', [model(x), lite])
        assert 'tfprune' not in sys.modules'''
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, capture_output=True,
                   timeout=300)
    for found in np.load(tmp_path / 'y.npy'):
        assert max_relative_difference(pruned(x), found) <= 1e-5


@pytest.mark.parametrize('method', slow_but(['uniform', 'amc', 'rlal'], []))
def test_a_run_prunes_a_transformer(method, tmp_path):
    model = vision_transformer()
    model.compile('adam', keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  metrics=['accuracy'])
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(n, 8, 8, 3)).astype('float32'), rng.integers(0, 3, n))
            for n in (96, 32, 32)]
    pruned, report = run(model, data, tmp_path, method=method, macs=.6, batch_size=16,
                         joint_epochs=1, random_epochs=1, prune_residual_groups=True)
    assert recount(pruned)[0] <= .6 * recount(model)[0]
    assert pruned.get_layer('attention0').num_heads <= 3 and report
