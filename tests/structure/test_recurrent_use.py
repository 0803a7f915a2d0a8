"""What recurrent layers are used with: masks, costs, gradients, criteria, alignment, files."""
import json
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from cases import slow_but
from test_recurrent import around, around_images, made

from tfprune.costs.model import CostModel, count_cost
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.importance import score_groups
from tfprune.pruning.surgery import prune_model
from tfprune.search.alignment import AlignmentDecay, AlignmentPenalty
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, max_relative_difference, randomize

UNITS = 4


def masked(function):
    """series - mask of zeros - a 5 swish - function - mean of steps - logits 2."""
    series = keras.Input((7, 3), name='series')
    x = function(L.Dense(5, activation='swish', name='a')(L.Masking(name='steps')(series)))
    x = L.GlobalAveragePooling1D()(x) if len(x.shape) > 2 else x
    return randomize(keras.Model(series, L.Dense(2, name='logits')(x)))


def normalized(x):
    x = L.BatchNormalization()(L.LSTM(3, return_sequences=True, name='q')(x))
    return L.LSTM(UNITS, name='r')(L.LayerNormalization()(x))


def nested(x):
    steps = keras.Input((7, 5))
    inner = L.GRU(UNITS, return_sequences=True, name='r')(L.Dense(6, name='b')(steps))
    return keras.Model(steps, inner, name='inner')(x)


def each(x):
    x = L.TimeDistributed(L.Dense(6, activation='tanh'), name='b')(x)
    return L.LSTM(UNITS, name='r')(L.TimeDistributed(L.BatchNormalization())(x))


def decoded(x):
    sequence, *states = L.LSTM(UNITS, return_sequences=True, return_state=True, name='r')(x)
    return L.LSTM(UNITS, name='decoder')(sequence, initial_state=states)


MASKED = {
    'gru': L.GRU(UNITS, name='r'),
    'zeros': L.RNN(L.LSTMCell(UNITS), return_sequences=True, zero_output_for_mask=True, name='r'),
    'backwards': L.SimpleRNN(UNITS, go_backwards=True, name='r'),
    'directions': L.Bidirectional(L.LSTM(UNITS, return_sequences=True), name='r'),
    'stack': L.RNN([L.GRUCell(3), L.GRUCell(UNITS)], name='r'),
    'dense_between': lambda x: L.GRU(UNITS, name='r')(L.Dropout(.1)(L.Dense(6, name='b')(x))),
    'normalized': normalized,
    'nested': nested,
    'each': each,
    'decoded': decoded,
}


@pytest.mark.parametrize('name', slow_but(
    MASKED, ['zeros', 'directions', 'stack', 'normalized', 'nested', 'decoded']))
def test_masked_steps_are_skipped_by_the_gated_the_pruned_and_the_sub_network(name):
    model = masked(MASKED[name])
    groups = trace_groups(model)
    assert 'a' in groups and {'r', 'inner/r'} & set(groups)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 3)).astype('float32')
    x[0, 4:], x[1, :2], x[2, 3] = 0, 0, 0
    masks = {group: np.arange(width) % 3 != 1 for group, width in groups.items()}
    found = check_promises(model, masks, groups=groups, inputs=x)
    assert found.hold(), found
    pruned = prune_model(model, groups, masks)
    for layer in pruned.layers:
        if isinstance(layer, L.Dropout):
            layer.rate = 0.
    network = Subnetwork(model, groups)
    network.set_masks(masks)
    skipped = pruned(x)
    # By the statistics of the batch, of its steps that are not masked.
    by_batch = pruned(x, training=True)
    assert max_relative_difference(by_batch, tf.function(network, autograph=False)(x)) <= 1e-4
    x[0, 5] = 1e-6  # a step that is not masked, though it holds next to nothing
    assert max_relative_difference(skipped, prune_model(model, groups, masks)(x)) > 1e-3


def test_padded_tokens_are_masked():
    tokens = keras.Input((6,), dtype='int32')
    x = L.Embedding(9, 5, mask_zero=True, name='words')(tokens)
    x = L.Bidirectional(L.GRU(UNITS), name='r')(L.Dense(6, activation='swish', name='a')(x))
    model = randomize(keras.Model(tokens, L.Dense(2)(x)))
    groups = trace_groups(model)
    assert {'a': 6, 'r': UNITS}.items() <= dict(groups).items()
    x = np.array([[3, 1, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0]], 'int32')
    found = check_promises(model, inputs=x)
    assert found.hold(), found


def test_a_mask_as_an_argument_is_no_state_though_it_be_as_long():
    series, steps = keras.Input((UNITS, 3)), keras.Input((UNITS,), dtype='bool')
    x = L.GRU(UNITS, name='r')(L.Dense(5, name='a')(series), mask=steps)
    start = L.GRU(UNITS, name='q')(series)
    y = L.GRU(UNITS, name='p')(series, mask=steps, initial_state=start)
    model = randomize(keras.Model([series, steps], L.Dense(2)(L.Concatenate()([x, y]))))
    assert dict(trace_groups(model)) == {'a': 5, 'r': UNITS, 'q': UNITS}
    x = np.random.default_rng(0).normal(size=(2, UNITS, 3)).astype('float32')
    found = check_promises(model, inputs=[x, np.array([[1, 1, 0, 0], [0, 1, 1, 0]], bool)])
    assert found.hold(), found


@keras.saving.register_keras_serializable('tests')
class OwnCell(L.GRUCell):
    pass


@keras.saving.register_keras_serializable('tests')
class OwnLayer(L.GRU):
    pass


@keras.saving.register_keras_serializable('tests')
def own_activation(x):
    return keras.ops.roll(x, 1, -1)


def stateful():
    series = keras.Input(batch_shape=(2, 7, 3))
    x = L.LSTM(UNITS, stateful=True, name='r')(L.Dense(5, name='a')(series))
    return keras.Model(series, L.Dense(2, name='logits')(x))


def inner_model():
    step = keras.Input((5,))
    return keras.Model(step, L.Dense(UNITS)(step), name='inner')


REFUSED = {
    # name: (model, group, what its reason says)
    'stateful': (stateful, 'r', 'stateful'),
    'own_cell': (lambda: around(L.RNN(OwnCell(UNITS), name='r')), 'r', 'class OwnCell'),
    'own_stacked_cell': (lambda: around(L.RNN([L.GRUCell(3), OwnCell(UNITS)], name='r')), 'r',
                         'class OwnCell'),
    'own_direction': (lambda: around(L.Bidirectional(OwnLayer(UNITS), name='r')), 'r',
                      '(OwnLayer) inside, which has no rule'),
    'softmax': (lambda: around(L.GRU(UNITS, activation='softmax', name='r')), 'r',
                "layer 'r' applies 'softmax'"),
    'softmax_gate': (lambda: around(L.RNN(L.LSTMCell(
        UNITS, recurrent_activation='softmax'), name='r')), 'r', "layer 'r' applies 'softmax'"),
    'own_activation': (lambda: around(L.Bidirectional(L.LSTM(
        UNITS, activation=own_activation, name='s'), name='r')), 'r', "applies 'own_activation'"),
    'each_model': (lambda: around(L.TimeDistributed(inner_model(), name='r')), 'r',
                   "touches layer 'inner' (Functional), which has no rule"),
    'each_moved': (lambda: around_images(L.TimeDistributed(L.Softmax(), name='r')), 'a',
                   'normalizes over the channels'),
    'masking': (lambda: around(L.Masking(name='r')), 'a', 'compares all channels'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_beyond_the_rules_is_frozen_with_the_reason(name):
    build, group, reason = REFUSED[name]
    model = build()
    groups = trace_groups(model)
    assert group not in groups and reason in groups.unprunable[group]
    if name != 'stateful':  # the same series gives something else the second time
        randomize(model)
        found = check_promises(model)
        assert found.gated_difference <= 1e-4 and found.dense_difference <= 1e-5


def test_directions_of_unlike_widths_are_refused():
    layer = L.Bidirectional(L.GRU(4), backward_layer=L.GRU(3, go_backwards=True), name='r')
    reasons = trace_groups(around(layer)).unprunable
    assert 'has [4] units forward and [3] backward' in reasons['r']


def test_counting_a_stateful_layer_leaves_its_state():
    model = stateful()
    model(np.ones((2, 7, 3), 'float32'))
    before = [state.numpy() for state in model.get_layer('r').states]
    assert count_cost(model).macs == 7 * (3 * 5 + 4 * UNITS * (5 + UNITS)) + UNITS * 2
    for ours, theirs in zip(before, model.get_layer('r').states, strict=True):
        assert np.abs(ours).max() > 0
        np.testing.assert_array_equal(ours, theirs.numpy())


COSTS = {
    # MACs behind the dense layer of 5, by hand, logits apart.
    'simple': 7 * 4 * (5 + 4),
    'gru': 7 * 3 * 4 * (5 + 4),
    'states': 7 * 4 * 4 * (5 + 4),
    'cells': 7 * (3 * 4 * (5 + 4) + 4 * 3 * (4 + 3) + 6 * (3 + 6)),
    'two_kinds': 7 * (3 + 1) * 4 * (5 + 4),
    'encoder_decoder': (7 + 4) * 4 * 4 * (5 + 4) + 4 * 4 * 3,
    'conv_lstm2d': 4 * 4 * 4 * 9 * 4 * 4 * (5 + 4),
    'each_conv': 4 * 4 * 4 * 9 * 5 * 4,
    'spectral_conv': 5 * 3 * 5 * 4,
}


@pytest.mark.parametrize('name', COSTS)
def test_every_step_costs_the_input_and_the_units_once_for_each_gate(name):
    model, _ = made(name)
    costs = CostModel(model, trace_groups(model))
    rows = [row.macs for row in costs.layers if row.name not in ('a', 'logits')]
    assert sum(rows) == COSTS[name] and not costs.fixed


@pytest.mark.parametrize('layer', [L.GRU(4), L.Bidirectional(L.LSTM(3)),
                                   L.TimeDistributed(L.Dense(2))])
def test_costs_need_a_fixed_number_of_steps(layer):
    series = keras.Input((None, 3))
    model = keras.Model(series, layer(series))
    with pytest.raises(ValueError, match='a cost needs fixed sizes'):
        CostModel(model, trace_groups(model))


@pytest.mark.parametrize('name', slow_but(['gru', 'lstm', 'simple', 'concat', 'conv_lstm2d',
                                           'cell_gru'], ['gru', 'conv_lstm2d']))
def test_a_closed_unit_gets_no_gradient(name):
    model, _ = made(name)
    gated = insert_gates(model, trace_groups(model))
    gated.set_masks({'r': np.arange(UNITS) != 1})
    x = np.random.default_rng(0).normal(size=(2, *model.input.shape[1:])).astype('float32')
    layer = model.get_layer('r')
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(gated.model(x)))
    for weight, gradient in zip(layer.weights, tape.gradient(loss, [
            weight.value for weight in layer.trainable_weights]), strict=True):
        by_unit = np.abs(gradient).reshape(-1, gradient.shape[-1] // UNITS, UNITS).sum((0, 1))
        assert by_unit[1] == 0 and by_unit[[0, 2, 3]].min() > 0, weight.name
        if weight.name == 'recurrent_kernel':
            rows = np.abs(gradient).sum(-1).reshape(-1, UNITS).sum(0)
            assert rows[1] == 0 and rows[[0, 2, 3]].min() > 0


def test_criteria_see_the_columns_of_every_gate_and_taylor_the_rows():
    model, _ = made('gru')
    groups, layer, logits = trace_groups(model), model.get_layer('r'), model.get_layer('logits')
    kernel, recurrent = (weight.numpy() for weight in layer.trainable_weights[:2])
    by_gate = [np.abs(matrix).sum(0).reshape(3, UNITS).sum(0) for matrix in (kernel, recurrent)]
    np.testing.assert_allclose(score_groups(model, groups)['r'], sum(by_gate), rtol=1e-5)
    with pytest.raises(ValueError, match='nothing to look at'):
        score_groups(model, groups, criterion='bn_scale')
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(8, 7, 3)).astype('float32'), rng.integers(0, 2, 8)
    found = score_groups(model, groups, criterion='taylor', data=[batch])['r']

    def loss(unit, by):
        scale = np.where(np.arange(UNITS) == unit, by, 1).astype('float32')[:, None]
        rows = [(weight, weight.numpy()) for weight in (layer.cell.recurrent_kernel,
                                                        logits.kernel)]
        for weight, value in rows:
            weight.assign(value * scale)
        made_loss = keras.losses.sparse_categorical_crossentropy(batch[1], model(batch[0]), True)
        for weight, value in rows:
            weight.assign(value)
        return float(tf.reduce_mean(made_loss))

    numeric = [(loss(unit, 1.01) - loss(unit, .99)) / .02 for unit in range(UNITS)]
    np.testing.assert_allclose(found, np.square(numeric), rtol=.03, atol=1e-7)


def test_alignment_takes_rows_and_columns_and_its_decay_ends_at_the_pruned_model():
    model, _ = made('lstm')
    groups, closed = trace_groups(model), np.array([1, 3])
    masks = {'r': ~np.isin(np.arange(UNITS), closed)}
    kernel, recurrent = (weight.numpy() for weight in model.get_layer('r').weights[:2])
    columns = np.concatenate([closed + gate * UNITS for gate in range(4)])
    squares = sum(np.square(part).sum() for part in (
        kernel[:, columns], recurrent[:, columns], recurrent[closed],
        model.get_layer('logits').kernel.numpy()[closed]))
    penalty = AlignmentPenalty(model, groups, strength=.5)
    penalty.set_masks(masks)
    assert float(penalty()) == pytest.approx(.5 * np.sqrt(squares), rel=1e-4)
    decay = AlignmentDecay(model, groups, penalty.masks)
    decay.is_on.assign(True)
    decay(tf.constant(1.0))
    x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype('float32')
    pruned = prune_model(model, groups, masks)
    assert pruned.get_layer('r').units == 2
    assert max_relative_difference(model(x), pruned(x)) <= 1e-5


@pytest.mark.slow
def test_pruned_models_load_without_tfprune(tmp_path):
    names = ['states', 'cells', 'spectral_conv', 'crnn', 'gru_before', 'lstm', 'both', 'two_kinds',
             'encoder_decoder', 'each_dense', 'bidirectional_states', 'conv_lstm2d',
             'frames_to_series']
    rng, shapes = np.random.default_rng(0), {}
    for name in names:
        model, _ = made(name)
        groups = trace_groups(model)
        masks = {group: np.arange(width) % 2 == 0 for group, width in groups.items()}
        pruned = prune_model(model, groups, masks)
        x = rng.normal(size=(2, *model.input.shape[1:])).astype('float32')
        pruned.save(tmp_path / f'{name}.keras')
        np.savez(tmp_path / f'{name}.npz', x=x, y=pruned(x))
        shapes[name] = [list(weight.shape) for weight in pruned.weights]
    code = f"""
import json, sys
import keras, numpy as np
for name, shapes in json.loads('''{json.dumps(shapes)}''').items():
    model, kept = keras.models.load_model(name + '.keras'), np.load(name + '.npz')
    assert [list(weight.shape) for weight in model.weights] == shapes
    np.testing.assert_allclose(model(kept['x']), kept['y'], rtol=1e-4, atol=1e-5, err_msg=name)
assert 'tfprune' not in sys.modules
print('all', len(json.loads('''{json.dumps(names)}''')))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.stdout.endswith(f'all {len(names)}\n'), done.stderr[-2000:]
