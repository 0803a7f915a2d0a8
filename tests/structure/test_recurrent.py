"""Recurrent layers and wrappers: units go from every gate and from what they read of themselves."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from cases import SEEDS, fast_but, slow_but
from tfprune.costs.model import CostModel
from tfprune.pruning.surgery import prune_model
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, max_relative_difference, random_masks, randomize

STEPS, FEATURES = 7, 3


def around(function, steps=STEPS):
    """series - a 5 swish - function - logits 2; swish so that zeros do not hide."""
    series = keras.Input((steps, FEATURES), name='series')
    x = function(L.Dense(5, activation='swish', name='a')(series))
    x = L.Flatten(name='flat')(x) if len(x.shape) > 2 else x
    return keras.Model(series, L.Dense(2, name='logits')(x), name='around')


def around_images(function, rank=2, size=6):
    """frames - a 5 swish - function - pool - logits 2."""
    frames = keras.Input((4, *[size] * rank, FEATURES), name='frames')
    x = function(L.Dense(5, activation='swish', name='a')(frames))
    return keras.Model(frames, L.Dense(2, name='logits')(L.Flatten()(x)), name='around')


def with_states(x):
    sequence, h, c = L.LSTM(4, return_sequences=True, return_state=True, name='r')(x)
    return L.Concatenate()([L.GlobalMaxPooling1D()(sequence), h, c])


def encoder_decoder(x):
    _, *states = L.LSTM(4, return_state=True, name='encoder')(x)
    y = L.LSTM(4, return_sequences=True, name='decoder')(x[:, ::2], initial_state=states)
    return L.TimeDistributed(L.Dense(3, activation='tanh', name='inner'), name='each')(y)


def bidirectional_states(x):
    sequence, *states = L.Bidirectional(L.GRU(4, return_sequences=True, return_state=True),
                                        name='encoder')(x)
    y = L.Bidirectional(L.GRU(4), name='decoder')(sequence, initial_state=states)
    return L.Concatenate()([y, *states])


def start_from_dense(x):
    start = L.Dense(4, activation='tanh', name='start')(L.GlobalMaxPooling1D()(x))
    return L.GRU(4, name='r')(x, initial_state=start)


def twice(x):
    layer = L.GRU(5, return_sequences=True, return_state=True, name='r')
    sequence, state = layer(x)
    return layer(sequence, initial_state=state)[0]


def two_directions(x):
    forward, backward = L.Bidirectional(L.GRU(4), merge_mode=None, name='r')(x)
    return L.Concatenate()([forward, L.Dense(3, activation='tanh', name='b')(backward)])


def norm_between(x):
    x = L.BatchNormalization()(L.GRU(4, return_sequences=True, name='r')(x))
    return L.LSTM(3, name='q')(x)


def normalized_reset(bias):
    return L.GRU(4, reset_after=False, use_bias=bias, implementation=1, name='r')


def merged(mode):
    return L.Bidirectional(L.LSTM(4, return_sequences=True), merge_mode=mode, name='r')


def stack(*cells, **options):
    return L.RNN(list(cells), name='r', **options)


def two_layers(x):
    x = L.LSTM(6, return_sequences=True, name='lower')(x)
    return L.LSTM(4, go_backwards=True, name='upper')(x)


def stacked_states(x):
    out, lower, upper = stack(L.GRUCell(4), L.LSTMCell(3), return_state=True)(x)
    h, c = upper if isinstance(upper, list | tuple) else (upper, upper)
    return L.Concatenate()([out, lower, h, c])


SERIES = {
    # name: (function, prunable groups beside 'a')
    'simple': (L.SimpleRNN(4, name='r'), {'r': 4}),
    'simple_bare': (L.SimpleRNN(4, use_bias=False, activation='relu', name='r'), {'r': 4}),
    'gru': (L.GRU(4, name='r'), {'r': 4}),
    'gru_before': (L.GRU(4, reset_after=False, name='r'), {'r': 4}),
    'gru_by_gates': (normalized_reset(True), {'r': 4}),
    'gru_bare': (normalized_reset(False), {'r': 4}),
    'lstm': (L.LSTM(4, name='r'), {'r': 4}),
    'lstm_by_gates': (L.LSTM(4, implementation=1, unit_forget_bias=False, name='r'), {'r': 4}),
    'lstm_dropout': (L.LSTM(4, dropout=.1, recurrent_dropout=.1, name='r'), {'r': 4}),
    'lstm_bare': (L.LSTM(4, use_bias=False, name='r'), {'r': 4}),
    'unrolled': (L.LSTM(4, unroll=True, name='r'), {'r': 4}),
    'sequences': (L.LSTM(4, return_sequences=True, name='r'), {'r': 4}),
    'backwards': (L.GRU(4, go_backwards=True, return_sequences=True, name='r'), {'r': 4}),
    'states': (with_states, {'r': 4}),
    'cell_simple': (L.RNN(L.SimpleRNNCell(4), name='r'), {'r': 4}),
    'cell_gru': (L.RNN(L.GRUCell(4, reset_after=False), return_sequences=True, name='r'),
                 {'r': 4}),
    'cell_lstm': (L.RNN(L.LSTMCell(4), name='r'), {'r': 4}),
    'cells': (stack(L.GRUCell(4), L.LSTMCell(3), L.SimpleRNNCell(6)),
              {'r': 6, 'r/units_0': 4, 'r/units_1': 3}),
    'cells_states': (stacked_states, {'r/1': 4, 'r/2': 3}),
    'concat': (merged('concat'), {'r': 4}),
    'sum': (merged('sum'), {'r': 4}),
    'mul': (merged('mul'), {'r': 4}),
    'ave': (merged('ave'), {'r': 4}),
    'both': (two_directions, {'r': 4, 'b': 3}),
    'bidirectional_cells': (L.Bidirectional(stack(L.GRUCell(4), L.GRUCell(3)), name='r'),
                            {'r': 3, 'r/units_0': 4}),
    'two_kinds': (L.Bidirectional(L.GRU(4), backward_layer=L.SimpleRNN(
        4, go_backwards=True), name='r'), {'r': 4}),
    'two_layers': (two_layers, {'lower': 6, 'upper': 4}),
    'encoder_decoder': (encoder_decoder, {'encoder': 4, 'each': 3}),
    'bidirectional_states': (bidirectional_states, {'encoder': 4}),
    'start_from_dense': (start_from_dense, {'start': 4}),
    'twice': (twice, {}),
    'each_dense': (L.TimeDistributed(L.Dense(4, activation='tanh'), name='r'), {'r': 4}),
    'each_norm': (L.TimeDistributed(L.BatchNormalization(), name='r'), {}),
    'each_activation': (L.TimeDistributed(L.Activation('tanh'), name='r'), {}),
    'norm_between': (norm_between, {'r': 4, 'q': 3}),
    'spectral_dense': (L.SpectralNormalization(L.Dense(4), name='r'), {'r': 4}),
    'spectral_conv': (L.SpectralNormalization(L.Conv1D(4, 3), name='r'), {'r': 4}),
    'spectral_depthwise': (L.SpectralNormalization(L.DepthwiseConv1D(3), name='r'), {}),
    'spectral_transpose': (L.SpectralNormalization(L.Conv1DTranspose(4, 3), name='r'), {'r': 4}),
}


def chain(*names_and_layers):
    def function(x):
        for layer in names_and_layers:
            x = layer(x)
        return x
    return function


FRAMES = {
    # name: (function, rank, prunable groups beside 'a')
    'conv_lstm1d': (L.ConvLSTM1D(4, 3, padding='same', name='r'), 1, {'r': 4}),
    'conv_lstm2d': (L.ConvLSTM2D(4, 3, return_sequences=True, name='r'), 2, {'r': 4}),
    'conv_lstm2d_strides': (L.ConvLSTM2D(4, (3, 2), strides=2, use_bias=False, name='r'), 2,
                            {'r': 4}),
    'conv_lstm3d': (L.ConvLSTM3D(4, 2, name='r'), 3, {'r': 4}),
    'conv_lstm_states': (lambda x: L.Concatenate()(
        L.ConvLSTM2D(4, 3, return_state=True, name='r')(x)), 2, {'r': 4}),
    'conv_lstm_directions': (L.Bidirectional(L.ConvLSTM1D(4, 3), name='r'), 1, {'r': 4}),
    'each_conv': (L.TimeDistributed(L.Conv2D(4, 3, activation='tanh'), name='r'), 2, {'r': 4}),
    'each_transpose': (L.TimeDistributed(L.Conv1DTranspose(4, 3, 2), name='r'), 1, {'r': 4}),
    'each_gru': (L.TimeDistributed(L.GRU(4), name='r'), 1, {'r': 4}),
    'each_lstm': (L.TimeDistributed(L.Bidirectional(L.LSTM(4)), name='r'), 1, {'r': 4}),
    'each_depthwise': (L.TimeDistributed(L.DepthwiseConv2D(3, depth_multiplier=2)), 2, {}),
    'each_separable': (L.TimeDistributed(L.SeparableConv2D(4, 3), name='r'), 2, {'r': 4}),
    'each_pool': (L.TimeDistributed(L.MaxPooling2D()), 2, {}),
    'frames_to_series': (chain(L.TimeDistributed(L.Conv2D(4, 3, name='c'), name='r'),
                               L.TimeDistributed(L.BatchNormalization()),
                               L.TimeDistributed(L.Flatten()), L.GRU(6, name='g')), 2,
                         {'r': 4, 'g': 6}),
    'each_reshape': (L.TimeDistributed(L.Reshape((6, 30))), 2, {}),
    'each_spectral': (L.TimeDistributed(L.SpectralNormalization(L.Conv2D(4, 3)), name='r'), 2,
                      {'r': 4}),
}


def crnn():
    """image - conv 4 - norm - columns [8, 4 rows · 4] - two directions of 5 - letters 6."""
    image = keras.Input((8, 8, 3), name='image')
    x = L.Conv2D(4, 3, padding='same', activation='swish', name='conv')(image)
    x = L.MaxPooling2D((2, 1))(L.BatchNormalization()(x))
    x = L.Reshape((8, 16))(L.Permute((2, 1, 3))(x))
    x = L.Bidirectional(L.LSTM(5, return_sequences=True), name='reader')(x)
    return keras.Model(image, L.Dense(6, activation='softmax', name='letters')(x))


def fresh(function):
    return type(function).from_config(function.get_config()) if isinstance(
        function, L.Layer) else function


def made(name):
    keras.utils.set_random_seed(0)
    if name == 'crnn':
        return randomize(crnn()), {'conv': 4, 'reader': 5}
    if name in SERIES:
        function, groups = SERIES[name]
        return randomize(around(fresh(function))), {'a': 5, **groups}
    function, rank, groups = FRAMES[name]
    return randomize(around_images(fresh(function), rank)), {'a': 5, **groups}


MODELS = [*SERIES, *FRAMES, 'crnn']
# What is around cells and sequences is that of others, or an argument that no rule looks at.
ALIKE = ('simple_bare', 'gru_by_gates', 'lstm_by_gates', 'lstm_dropout', 'lstm_bare', 'unrolled',
         'backwards', 'cell_simple', 'cell_lstm', 'mul', 'ave', 'conv_lstm1d', 'conv_lstm3d',
         'conv_lstm2d_strides', 'each_transpose', 'each_separable', 'each_activation', 'each_lstm',
         'norm_between', 'two_layers', 'spectral_transpose', 'start_from_dense')
# One of each way through the sub-network.
WAYS = ('gru_before', 'lstm', 'states', 'cells', 'concat', 'both', 'encoder_decoder', 'twice',
        'each_norm', 'spectral_conv', 'conv_lstm2d', 'frames_to_series', 'crnn')


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', fast_but(MODELS, ALIKE))
def test_the_promises_hold(name, seed):
    model, expected = made(name)
    groups = trace_groups(model)
    assert dict(groups) == expected, groups.unprunable
    masks = random_masks(groups, np.random.default_rng(seed))
    found = check_promises(model, masks, groups=groups, seed=seed)
    assert found.hold(), found
    assert not CostModel(model, groups).fixed


@pytest.mark.parametrize('name', slow_but(MODELS, WAYS))
def test_the_subnetwork_is_the_pruned_model(name):
    model, _ = made(name)
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            layer.trainable = False  # by its moving statistics, as the pruned one in inference
    groups = trace_groups(model, prune_frozen=True)
    network = Subnetwork(model, groups)
    run = tf.function(lambda x: network(x), autograph=False)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, *model.input.shape[1:])).astype('float32')
    for _ in range(2):
        masks = random_masks(groups, rng)
        network.set_masks(masks)
        pruned = prune_model(model, groups, masks)(x, training=False)
        assert max_relative_difference(pruned, run(x)) <= 1e-4
    assert run.experimental_get_tracing_count() == 1
