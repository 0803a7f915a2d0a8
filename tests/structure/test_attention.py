"""Attention in a model of its own: groups, gated == pruned == sub-network, predicted == recount."""
import functools
import inspect

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from cases import SEEDS, fast_but
from tfprune.costs.model import CostModel
from tfprune.pruning.surgery import prune_model
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, max_relative_difference, random_masks, randomize

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
    layer = functools.cache(lambda: layers.MultiHeadAttention(*args, name='m', **options))
    return lambda x: layer()(x, x, **call)


def grouped(*args, **options):
    layer = functools.cache(lambda: layers.GroupQueryAttention(*args, name='m', **options))
    return lambda x: layer()(x, x)


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
if 'use_gate' not in inspect.signature(layers.MultiHeadAttention).parameters:  # Keras 3.12
    for name in ('gate', 'window', 'causal_window', 'grouped_gate'):
        del CASES[name]
    # Its groups of queries have other operations, or none.
    del CASES['grouped_scores'], CASES['operation_grouped']
WITHOUT_B = ('einsum_sum',)

# These differ from another in an argument alone that no rule looks at.
ALIKE = ('window', 'causal', 'dropout', 'scores_unused', 'cross', 'images', 'grouped_causal',
         'attention_causal', 'additive_bare', 'operation_heads')


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', fast_but(CASES, ALIKE))
def test_the_promises_hold(name, seed):
    function, others = CASES[name]
    if isinstance(function, layers.Layer):
        function = type(function).from_config(function.get_config())
    model = around(function)
    groups = trace_groups(model)
    last = {} if name in WITHOUT_B else {'b': 7}
    assert dict(groups) == {'a': 12, **others, **last}, groups.unprunable
    assert not CostModel(model, groups).uncounted
    x = np.random.default_rng(0).normal(size=(2, POSITIONS, INPUTS)).astype('float32')
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
