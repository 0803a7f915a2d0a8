"""Pruning beside a user's own fit: by a budget alone, by a score of one's own, with alignment."""
import warnings

import tfprune  # before keras
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tfprune.costs.model import count_cost
from tfprune.testing import plain

L = keras.layers
FEW = {'episodes': 8, 'warmup_episodes': 4, 'lockstep': 2}


@pytest.fixture(scope='module')
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order].reshape(-1, 8, 8, 1) / 16).astype('float32'), y[order]


def compiled(model):
    model.compile('adam', keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  metrics=['accuracy'])
    return model


@pytest.fixture(scope='module')
def trained(digits):
    keras.utils.set_random_seed(0)
    blocks = [[L.Conv2D(width, 3, padding='same', name=f'conv{width}'),
               L.BatchNormalization(momentum=0.8), L.ReLU()] for width in (12, 24)]
    model = compiled(keras.Sequential([
        keras.Input((8, 8, 1)), *sum(blocks, []), L.GlobalAveragePooling2D(), L.Dense(10)]))
    model.fit(digits[0][:1200], digits[1][:1200], epochs=12, batch_size=32, verbose=0)
    return model


def score(digits):
    def accuracy(model):
        outputs = model(digits[0][1200:1500], training=False)
        return np.mean(np.argmax(outputs, -1) == digits[1][1200:1500])

    return accuracy


def two_inputs():
    """Two inputs, two outputs: nothing that is asked of a classifier holds."""
    image, numbers = keras.Input((8, 8, 3), name='image'), keras.Input((5,), name='numbers')
    x = L.Conv2D(16, 3, padding='same', name='conv')(image)
    features = L.Concatenate()([L.GlobalAveragePooling2D()(L.ReLU()(x)),
                                L.Dense(8, name='hidden')(numbers)])
    maps = L.Conv2D(1, 1, activation='sigmoid', name='map')(L.Conv2D(8, 3, padding='same')(x))
    return keras.Model([image, numbers], [L.Dense(1, name='angle')(features), maps])


@pytest.mark.parametrize('limits', [{'macs': 0.5}, {'params': 0.4, 'macs': 0.8}])
@pytest.mark.parametrize('build', [plain, two_inputs], ids=['classifier', 'two inputs'])
def test_a_budget_is_kept_at_once(build, limits):
    model = build()
    before = [w.copy() for w in model.get_weights()]
    pruned = tfprune.prune_to_budget(model, **limits)
    dense, cost = count_cost(model), count_cost(pruned)
    for name, ratio in limits.items():
        assert getattr(cost, name) <= ratio * getattr(dense, name)
    assert max(getattr(cost, name) / (ratio * getattr(dense, name))
               for name, ratio in limits.items()) > 0.85
    assert type(pruned).__module__.startswith('keras') and pruned.output_shape == model.output_shape
    for one, other in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_statistics_are_those_of_the_calibration_data(trained, digits):
    raw = tfprune.prune_to_budget(trained, macs=0.5)
    pruned = tfprune.prune_to_budget(trained, macs=0.5, calibration_data=[digits[0][:256]])
    accuracy = score(digits)
    assert accuracy(pruned) > accuracy(raw) + 0.1
    x = pruned.get_layer('conv12')(digits[0][:256])
    np.testing.assert_allclose(pruned.layers[1].moving_mean, np.mean(x, (0, 1, 2)), atol=1e-4)


def test_examples_choose_channels(trained, digits):
    """Without being asked to; without them norms do. By labels where they are asked for."""
    x, y = digits
    data = [(x[begin:begin + 64], y[begin:begin + 64]) for begin in range(0, 1200, 64)]
    seen, given = {'calibration_data': x[:256]}, {'criterion_data': data}
    kernels = {name: np.array(tfprune.prune_to_budget(trained, macs=0.5, **options)
                              .get_layer('conv12').kernel)
               for name, options in {
                   'seen': seen, 'combined': seen | {'criterion': 'combined'},
                   'seen by l1': seen | {'criterion': 'l1'}, 'none': {}, 'labelled': given,
                   'l1': {'criterion': 'l1'}, 'taylor': given | {'criterion': 'taylor'}}.items()}
    assert [[name for name in kernels if np.array_equal(kernels[name], kernels[other])]
            for other in ('seen', 'none', 'taylor')] == [
        ['seen', 'combined'], ['seen by l1', 'none', 'labelled', 'l1'], ['taylor']]


def test_calibration_data_may_come_as_data_do(trained, digits):
    """An array, pairs with their targets, a dataset of these: the same batches, the same model."""
    x, y = (part[:256] for part in digits)
    batches = [(x[:128], y[:128]), (x[128:], y[128:])]
    kinds = [[x for x, _ in batches], x, batches,
             tf.data.Dataset.from_tensor_slices((x, y)).batch(128)]
    first, *others = (
        tfprune.prune_to_budget(trained, macs=0.5, calibration_data=kind).get_weights()
        for kind in kinds)
    for other in others:
        assert all(np.array_equal(*pair) for pair in zip(first, other, strict=True))


def test_calibration_data_of_several_inputs_and_no_more_than_is_needed(monkeypatch):
    model, counted = two_inputs(), []
    image, numbers = np.ones((4, 8, 8, 3), 'float32'), np.ones((4, 5), 'float32')
    for batch in ([image, numbers], (image, numbers), {'numbers': numbers, 'image': image},
                  ([image, numbers], [numbers, image])):
        tfprune.prune_to_budget(model, macs=0.5, calibration_data=[batch])
    with pytest.raises(ValueError, match=r'expected image \[None, 8, 8, 3\], numbers \[None, 5\]'):
        tfprune.prune_to_budget(model, macs=0.5, calibration_data=[image])
    monkeypatch.setattr('tfprune.models.calibration._MOST', 9)
    endless = (counted.append(1) or [image, numbers] for _ in iter(int, 1))
    with pytest.warns(UserWarning, match='read up to example 12, which are enough'):
        tfprune.prune_to_budget(model, macs=0.5, calibration_data=endless)
    assert len(counted) == 3


@pytest.mark.parametrize('method, options', [
    ('amc', FEW), ('random', {}), ('uniform', {}),
    ('autocompress', {'proposals': 1, 'stop_temperature': 80}),
    *(pytest.param(name, options, marks=pytest.mark.slow) for name, options in (
        ('rlal', {'episodes_per_epoch': 2, 'comparison_episodes': 0, 'context_updates': 2}),
        ('crl', {'rounds': 2, 'episodes': 2}),
        ('ppo_search', {'rounds': 2, 'episodes': 2}),
        ('purl', {'rounds': 2, 'episodes': 2, 'updates': 1})))])
def test_methods_search_by_a_score_of_ones_own(method, options):
    """The score wants the first layer narrow, and is all that they know."""
    model = two_inputs()

    def score(pruned):
        assert pruned.input_shape == model.input_shape
        return -pruned.get_layer('conv').filters / 16

    found = tfprune.search_widths(model, score, method=method, macs=0.5, epochs=3, progress=False,
                                  **{method: options})
    assert found.cost.macs == count_cost(found.model).macs <= 0.5 * found.dense_cost.macs
    assert found.reward == score(found.model)
    assert {name: found.widths[name] for name in found.widths} == {
        name: int(mask.sum()) for name, mask in found.decision.masks.items()}
    assert bool(found.episodes) == (method not in ('random', 'uniform'))
    assert f"widths={found.widths}" in repr(found) and 'array' not in repr(found)


@pytest.mark.slow
def test_a_search_repeats_and_another_seed_searches_elsewhere(trained, digits):
    def rewards(seed):
        return [row['reward'] for row in tfprune.search_widths(
            trained, score(digits), macs=0.5, seed=seed, progress=False, amc=FEW,
            calibration_data=[digits[0][:128]]).episodes]

    first = rewards(0)
    assert first == rewards(0) != rewards(1)


def test_a_search_without_calibration_data_warns_where_it_matters(trained):
    with pytest.warns(UserWarning, match='give calibration_data'):
        tfprune.search_widths(trained, lambda model: 0.5, macs=0.5, method='uniform')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        tfprune.search_widths(two_inputs(), lambda model: 0.5, macs=0.5, method='uniform',
                              progress=False)


@pytest.mark.slow
def test_weights_are_aligned_in_a_users_own_fit(trained, digits):
    model = compiled(keras.models.clone_model(trained))
    model.set_weights(trained.get_weights())
    groups, (x, y) = tfprune.trace_groups(model), digits
    found = tfprune.search_widths(model, score(digits), macs=0.5, method='uniform', progress=False)

    def penalty():
        return float(tfprune.alignment_penalty(model, groups, found.decision.masks, strength=1.0))

    plain_loss = model.fit(x[:1200], y[:1200], verbose=0).history['loss'][0]
    before, alignment = penalty(), tfprune.callbacks.Alignment(found.decision, strength=1.0)
    stopping = keras.callbacks.EarlyStopping('val_loss', patience=0, min_delta=10.0)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.002 / (epoch + 1))
    history = model.fit(x[:1200], y[:1200], validation_data=(x[1200:], y[1200:]), epochs=9,
                        verbose=0, callbacks=[alignment, stopping, rate]).history
    assert len(history['loss']) == 2  # the other callbacks act as in any fit
    assert history['learning_rate'] == pytest.approx([0.002, 0.001])
    assert penalty() < 0.8 * before
    # Part of the loss that is minimized, not of the loss of validation, and gone afterwards.
    assert history['loss'][0] > plain_loss + 0.5 * penalty()
    assert history['val_loss'][0] < history['loss'][0]
    after = model.fit(x[:1200], y[:1200], verbose=0).history['loss'][0]
    assert after < history['loss'][1]


@pytest.mark.parametrize('reward_fn, error, message', [
    (lambda model: float('nan'), ValueError, 'reward_fn must return a finite number; received nan'),
    (lambda model: -np.inf, ValueError, 'reward_fn must return a finite number; received -inf'),
    (lambda model: 'good', TypeError, "reward_fn must return a number; received str 'good'"),
    (lambda model: None, TypeError, 'reward_fn must return a number; received NoneType None'),
    (lambda model: 1 / 0, ValueError, 'reward_fn raised ZeroDivisionError: division by zero'),
])
def test_a_score_that_is_none(reward_fn, error, message):
    with pytest.raises(error) as caught:
        tfprune.search_widths(plain(), reward_fn, macs=0.5, method='uniform')
    assert str(caught.value).startswith(message) and '\n' not in str(caught.value)


@pytest.mark.parametrize('score', [np.float32(0.5), np.array([0.5]), tf.constant(0.5), 1])
def test_numbers_of_any_kind_are_scores(score):
    found = tfprune.search_widths(plain(), lambda model: score, macs=0.5, method='uniform')
    assert found.reward == float(np.squeeze(score))


IMAGES = np.ones((4, 6, 6, 3), 'float32')


@pytest.mark.parametrize('options, error, message', [
    ({}, ValueError, 'a budget is needed: macs, params'),
    ({'macs': 1.5}, ValueError, 'macs must be a ratio in'),
    ({'mac': 0.5}, TypeError, "Unknown option 'mac'. Did you mean 'macs'"),
    ({'macs': 0.001}, tfprune.InfeasibleBudgetError, 'the smallest reachable'),
    ({'macs': 0.5, 'criterion': 'l3'}, ValueError, "Unknown criterion 'l3'"),
    ({'macs': 0.5, 'calibration_data': 5}, TypeError,
     r'calibration_data: expected batches, as \[images\]; received int'),
    ({'macs': 0.5, 'calibration_data': [np.zeros((4, 7, 6, 3))]}, ValueError,
     r'calibration_data: batch 0: expected .* \[None, 6, 6, 3\], received \[4, 7, 6, 3\]'),
    ({'macs': 0.5, 'calibration_data': np.zeros((8, 8, 3))}, ValueError,
     r'calibration_data: batch 0: expected .* received \[8, 8, 3\]'),
    ({'macs': 0.5, 'calibration_data': [IMAGES, IMAGES * np.nan]}, ValueError,
     'calibration_data: batch 1 has values that are NaN or infinite'),
    ({'macs': 0.5, 'calibration_data': tf.data.Dataset.from_tensors(IMAGES).repeat()}, ValueError,
     r'calibration_data: does not end; leave out repeat\(\)'),
])
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        tfprune.prune_to_budget(plain(), **options)


@pytest.mark.parametrize('options, error, message', [
    ({'method': 'n2n'}, ValueError, "'n2n' does not search widths by a score alone. Available: am"),
    ({'method': 'scratch'}, ValueError, "'scratch' does not search widths"),
    ({'method': 'rlla'}, ValueError, "Unknown method 'rlla'"),
    ({'amc': {'episods': 3}}, ValueError, "no option 'episods'. Did you mean 'episodes'"),
    ({'crl': {'rounds': 3}}, ValueError, "crl is for method 'crl'; the method is 'amc'"),
    ({'method': 'rlal', 'epochs': 0}, ValueError, "method 'rlal' searches in"),
])
def test_bad_methods(options, error, message):
    with pytest.raises(error, match=message):
        tfprune.search_widths(plain(), lambda model: 0.5, macs=0.5, **options)


@pytest.mark.parametrize('strength', [-1.0, float('nan'), float('inf')])
def test_bad_alignment(strength):
    with pytest.raises(ValueError, match='strength must be finite and at least 0; received'):
        tfprune.callbacks.Alignment({}, strength=strength)
    callback = tfprune.callbacks.Alignment({'no such group': np.ones(3, bool)})
    with pytest.raises((ValueError, KeyError), match='no such group'):
        compiled(plain()).fit(np.zeros((4, 8, 8, 3)), np.zeros(4), verbose=0, callbacks=[callback])
