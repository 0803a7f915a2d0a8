"""Runs of recurrent networks to the end: trained, pruned by uniform widths or RLAL, and saved."""
import tfprune  # before keras
import keras
import numpy as np
import pytest
from keras import layers as L
from light_export import light_export

from tfprune.costs.model import count_cost

OPTIONS = {
    'uniform': {'warmup_epochs': 2, 'fine_tune_epochs': 2},
    'rlal': {'warmup_epochs': 1, 'random_epochs': 1, 'joint_epochs': 2, 'alignment_epochs': 1,
             'fine_tune_epochs': 2,
             'rlal': {'episodes_per_epoch': 2, 'comparison_episodes': 2, 'rescored_candidates': 1}},
}


def rising_or_falling(count, rng):
    """Series [count, 8, 3] of noise, and whether the first feature rises, int [count]."""
    x, y = rng.normal(size=(count, 8, 3)).astype('float32'), rng.integers(0, 2, count)
    x[..., 0] += np.where(y, 1, -1)[:, None] * np.linspace(-1.5, 1.5, 8, dtype='float32')
    return x, y


@pytest.fixture(scope='module')
def series():
    rng = np.random.default_rng(0)
    return [rising_or_falling(count, rng) for count in (512, 128, 256)]


@pytest.fixture(scope='module')
def trained(series):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 3)), L.Bidirectional(L.LSTM(10, return_sequences=True), name='lower'),
        L.GRU(12, name='upper'), L.Dense(2, name='classes')])
    model.compile(keras.optimizers.Adam(1e-2),
                  keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  metrics=['accuracy'])
    model.fit(*series[0], epochs=4, batch_size=32, verbose=0)
    assert model.evaluate(*series[2], verbose=0)[1] > .95
    return model


@pytest.mark.slow
@pytest.mark.parametrize('method', sorted(OPTIONS))
def test_a_recurrent_classifier_is_pruned_and_goes_on_to_be_right(method, series, trained,
                                                                  tmp_path):
    with light_export():
        pruned = tfprune.train_and_prune(
            trained, *series, macs=.5, method=method, batch_size=32, seed=1, progress=False,
            **OPTIONS[method])
    cost = count_cost(trained).macs, count_cost(pruned).macs
    assert .3 * cost[0] < cost[1] <= .5 * cost[0]
    lower, upper = pruned.get_layer('lower'), pruned.get_layer('upper')
    assert lower.forward_layer.units == lower.backward_layer.units <= 10 and upper.units <= 12
    x, y = series[2]
    logits = pruned.predict(x, verbose=0)
    assert (logits.argmax(1) == y).mean() > .95
    pruned.save(tmp_path / 'pruned.keras')
    again = keras.models.load_model(tmp_path / 'pruned.keras')
    np.testing.assert_allclose(again.predict(x, verbose=0), logits, rtol=1e-4, atol=1e-5)
