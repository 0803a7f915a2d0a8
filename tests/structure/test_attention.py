"""Attention in a model of its own: groups, gated == pruned == sub-network, predicted == recount."""
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from table_runs import run
from on_demand import every

from tfprune.costs.model import CostModel
from tfprune.pruning.importance import score_groups
from tfprune.pruning.surgery import prune_model
from tfprune.search.alignment import AlignmentDecay, AlignmentPenalty
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.testing import (check_promises, max_relative_difference, random_masks, randomize,
                             recount)

POSITIONS, INPUTS, WIDTH = 6, 10, 12


def around(function):
    """rows 6x10 - a 12 - swish - function - b 7 - flatten - logits 3; other outputs as they are."""
    keras.utils.set_random_seed(0)
    rows = keras.Input((POSITIONS, INPUTS), name='rows')
    x = layers.Dense(WIDTH, activation='swish', name='a')(rows)
    x, *others = keras.tree.flatten(function(x))
    if len(x.shape) > 2:
        x = layers.Dense(7, activation='tanh', name='b')(x)
    logits = layers.Dense(3, name='logits')(layers.Flatten()(x))
    return randomize(keras.Model(rows, [logits, *others] if others else logits, name='around'))


def mha(*args, **options):
    call = {key: options.pop(key) for key in ('use_causal_mask', 'return_attention_scores')
            if key in options}
    layer = layers.MultiHeadAttention(*args, name='m', **options)
    return lambda x: layer(x, x, **call)


def grouped(*args, **options):
    layer = layers.GroupQueryAttention(*args, name='m', **options)
    return lambda x: layer(x, x)


def three(function, shorter=None):
    """A query 11 and a key 11 and a value 13, of fewer positions if `shorter`."""
    def build(x):
        other = x[:, :shorter] if shorter else x
        return function(layers.Dense(11, activation='swish', name='q')(x),
                        layers.Dense(11, name='k')(other), layers.Dense(13, name='v')(other))
    return build


def heads(name, count=3, width=5):
    return layers.EinsumDense('abc,cde->abde', (POSITIONS, count, width), bias_axes='de', name=name)


def joined(x):
    return layers.EinsumDense('abde,def->abf', (POSITIONS, 8), bias_axes='f', name='o')(x)


def both_ways(x):
    """Products of all positions, over heads and their width."""
    return ops.einsum('bthd,bshd->bts', x, x)


def own_attention(x):
    query, key, value = (heads(name)(x) for name in 'qkv')
    scores = ops.softmax(ops.einsum('bthd,bshd->bhts', query, key) * 0.4)
    return joined(ops.einsum('bhts,bshd->bthd', scores, value))


def images(x):
    return layers.Reshape((2, 3, WIDTH))(x)


def rows(x):
    return layers.Reshape((POSITIONS, x.shape[-1]))(x)


def masked(x):
    """Some keys are hidden by a mask that the model makes."""
    return layers.MultiHeadAttention(3, 5, name='m')(
        x, x, attention_mask=layers.Dense(POSITIONS, name='hidden')(x) > 0)


M = {'m/heads': 3, 'm/key_width': 5, 'm/value_width': 5}
OWN = {'q': 11, 'v': 13}
CASES = {
    # name: (function, groups beside 'a' and 'b')
    'plain': (mha(3, 5), {**M, 'm': 12}),
    'widths': (mha(3, 5, value_dim=4, output_shape=8), {**M, 'm/value_width': 4, 'm': 8}),
    'gate': (mha(3, 5, use_gate=True, use_bias=False), {**M, 'm': 12}),
    'window': (mha(3, 5, sliding_window=2), {**M, 'm': 12}),
    'causal_window': (mha(3, 5, sliding_window=2, use_causal_mask=True), {**M, 'm': 12}),
    'causal': (mha(3, 5, use_causal_mask=True), {**M, 'm': 12}),
    'dropout': (mha(3, 5, dropout=.1), {**M, 'm': 12}),
    'scores': (mha(3, 5, return_attention_scores=True),
               {'m/key_width': 5, 'm/value_width': 5, 'm/2': 12}),
    'scores_unused': (lambda x: mha(3, 5, return_attention_scores=True)(x)[0],
                      {'m/1': 3, 'm/key_width': 5, 'm/value_width': 5, 'm/2': 12}),
    'matrix_output': (mha(3, 5, output_shape=(2, 9)), {**M, 'm': 9}),
    'residual': (lambda x: x + mha(3, 5)(x), M),
    'mask': (masked, {**M, 'm': 12}),
    'cross': (three(lambda q, k, v: layers.MultiHeadAttention(3, 5, name='m')(q, k), 4),
              {**M, 'q': 11, 'k': 11, 'm': 11}),
    'cross_three': (three(lambda q, k, v: layers.MultiHeadAttention(3, 5, name='m')(q, v, k), 4),
                    {**M, **OWN, 'k': 11, 'm': 11}),
    'by_keyword': (three(lambda q, k, v: layers.MultiHeadAttention(3, 5, name='m')(
        value=v, key=k, query=q), 4), {**M, **OWN, 'k': 11, 'm': 11}),
    'images': (lambda x: rows(mha(3, 5)(images(x))), {**M, 'm': 12}),
    'image_rows': (lambda x: rows(mha(3, 5, attention_axes=2)(images(x))), {**M, 'm': 12}),
    'shared': (lambda x: (lambda f: f(f(x)))(mha(3, 5)), M),
    'grouped': (grouped(5, 6, 3), {'m/heads': 3, 'm/key_width': 5}),
    'grouped_gate': (grouped(5, 6, 2, use_gate=True, use_bias=False),
                     {'m/heads': 2, 'm/key_width': 5}),
    'grouped_causal': (lambda x: layers.GroupQueryAttention(5, 4, 4, name='m', dropout=.1)(
        x, x, use_causal_mask=True), {'m/heads': 4, 'm/key_width': 5}),
    'grouped_scores': (lambda x: layers.GroupQueryAttention(5, 4, 2, name='m')(
        x, x, return_attention_scores=True)[0], {'m': 2, 'm/key_width': 5}),
    'attention_itself': (lambda x: layers.Attention(use_scale=True)([x, x]), {}),
    'attention': (three(lambda q, k, v: layers.Attention()([q, v, k]), 4), OWN),
    'attention_causal': (three(lambda q, k, v: layers.Attention(dropout=.1)(
        [q, v, k], use_causal_mask=True)), OWN),
    'attention_concat': (three(lambda q, k, v: layers.Attention(
        score_mode='concat', use_scale=True)([q, v, k]), 4), OWN),
    'additive': (three(lambda q, k, v: layers.AdditiveAttention()(
        [q, v, k], return_attention_scores=True), 4), OWN),
    'additive_bare': (three(lambda q, k, v: layers.AdditiveAttention(use_scale=False)(
        [q, v, k])), OWN),
    'dots': (three(lambda q, k, v: layers.Dot((2, 1))([layers.Softmax()(
        layers.Dot(2)([q, k])), v]), 4), OWN),
    'dot_normalized': (three(lambda q, k, v: layers.Dot(-1, normalize=True)([q, k]), 4),
                       {'q': 11}),
    'einsum': (three(lambda q, k, v: ops.einsum('...qk,...kc->...qc', ops.softmax(
        ops.einsum('bqc,bkc->bqk', q, k)), v), 4), OWN),
    'matmul': (three(lambda q, k, v: ops.matmul(ops.sigmoid(
        ops.einsum('bqc,bkc->bqk', q, k)), v), 4), OWN),
    'linear': (three(lambda q, k, v: ops.einsum('btd,bde->bte', q, ops.einsum(
        'btd,bte->bde', k, v))), {'v': 13}),
    'own': (own_attention, {'q': 5, 'v': 5, 'o': 8}),
    'operation': (lambda x: joined(ops.dot_product_attention(*[heads(n)(x) for n in 'qkv'])),
                  {'q': 5, 'o': 8}),
    'operation_heads': (lambda x: both_ways(ops.dot_product_attention(
        *[heads(n, 5, 3)(x) for n in 'qkv'])), {'q': 5}),
    'operation_grouped': (lambda x: joined(ops.dot_product_attention(
        heads('q', 4)(x), heads('k', 2)(x), heads('v', 2)(x), is_causal=True)), {'q': 5, 'o': 8}),
    'einsum_dense': (layers.EinsumDense('...c,cd->...d', 9, 'swish', 'd', name='e'), {'e': 9}),
    'einsum_heads': (lambda x: joined(heads('e')(x)), {'e': 5, 'o': 8}),
    'einsum_channelwise': (layers.EinsumDense('abc,c->abc', (POSITIONS, WIDTH), name='e'), {}),
    'einsum_positions': (layers.EinsumDense('abc,bd->adc', (4, WIDTH), name='e'), {}),
    'einsum_first': (layers.EinsumDense('ab...,bd->ad...', 4, name='e'), {}),
    'einsum_sum': (layers.EinsumDense('abc,bd->ad', 4, name='e'), {'e': 4}),
    'positions_by_constant': (lambda x: ops.matmul(np.ones((4, POSITIONS), 'float32'), x), {}),
}
WITHOUT_B = ('einsum_sum',)


@pytest.mark.parametrize('name', every(3, CASES))
def test_the_promises_hold(name):
    function, others = CASES[name]
    if isinstance(function, layers.Layer):
        function = type(function).from_config(function.get_config())
    model = around(function)
    groups = trace_groups(model)
    last = {} if name in WITHOUT_B else {'b': 7}
    assert dict(groups) == {'a': 12, **others, **last}, groups.unprunable
    assert not CostModel(model, groups).uncounted
    x = np.random.default_rng(0).normal(size=(2, POSITIONS, INPUTS)).astype('float32')
    for seed in range(2):
        masks = random_masks(groups, np.random.default_rng(seed))
        found = check_promises(model, masks, groups=groups, seed=seed)
        assert found.hold(), found
        sub = Subnetwork(model, groups)
        sub.set_masks(masks)
        outputs = keras.tree.flatten(tf.function(sub, autograph=False)(tf.constant(x)))
        for one, other in zip(outputs, keras.tree.flatten(prune_model(model, groups, masks)(x)),
                              strict=True):
            assert max_relative_difference(other, one) <= 1e-4


REFUSED = {
    # name: (function, what is refused, the reason)
    'different_calls': (lambda x: (lambda f: f(x, f(x, x), x))(layers.MultiHeadAttention(
        3, 5, name='m')), 'a', 'is called on different arguments'),
    'image_scores': (lambda x: rows(mha(3, 5, return_attention_scores=True)(images(x))[0]), 'a',
                     'gives the scores of inputs of rank 4'),
    'constant_key': (lambda x: layers.MultiHeadAttention(3, 5, name='m')(
        x, np.ones((2, 4, 8), 'float32')), 'a', 'is a constant'),
    'fixed_matrix': (lambda x: ops.matmul(x, np.ones((WIDTH, 5), 'float32')), 'a',
                     'multiplies it with what has other channels'),
    'outer_product': (lambda x: ops.einsum('bta,btc->btac', x, x), 'a',
                      'makes a tensor with two axes of channels'),
    'three_factors': (lambda x: ops.einsum('abc,abc,abc->abc', x, x, x), 'a',
                      'multiplies 3 tensors at once'),
    'column_bias': (layers.EinsumDense('abc,bd->adc', (4, WIDTH), bias_axes='d', name='e'), 'a',
                    'has a bias of shape'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_followed_is_refused_with_the_reason(name):
    function, group, reason = REFUSED[name]
    model = around(function)
    groups = trace_groups(model)
    assert group not in groups and reason in groups.unprunable[group], groups.unprunable
    found = check_promises(model, groups=groups)
    assert found.hold(), found


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


@pytest.mark.parametrize('name', every(4, ['plain', 'cross_three', 'gate', 'own', 'grouped',
                                           'operation', 'additive_bare', 'causal_window']))
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


@pytest.mark.parametrize('method', every(3, ['amc', 'uniform', 'rlal']))
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
