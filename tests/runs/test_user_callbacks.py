"""Runs with a user's callbacks."""
import types

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from table_runs import logged, rates, rows, run, splits, table
from tfprune.methods.base import EpochResult, Method
from tfprune.runs.state import Interrupted
from tfprune.runs.user_callbacks import UserCallbacks
from tfprune.structure.keras_internals import compiled_with


class Seen(keras.callbacks.Callback):
    """What a callback sees."""
    def __init__(self):
        super().__init__()
        self.calls, self.logs, self.models, self.given = [], [], [], []

    def on_train_begin(self, logs=None):
        self.calls.append('begin')
        self.given.append(self.params)
        self.models.append(self.model.count_params())

    def on_train_end(self, logs=None):
        self.calls.append('end')

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(f'step {batch}')

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(logs)


def test_callbacks_see_each_phase_as_a_fit(tmp_path):
    seen = Seen()
    model = table(optimizer='adam', loss='mse', metrics=['mae'])
    run(model, splits(counts=(32, 32, 32)), tmp_path / 'run', batch_size=16, callbacks=[seen])
    steps = ['step 0', 'step 1']
    assert seen.calls == ['begin', 0, *steps, 'end', 'begin', 1, *steps, 'end']
    assert seen.models[0] == model.count_params() > seen.models[1]
    # As in fit, whose epochs end there.
    assert seen.given == [{'verbose': 0, 'epochs': end, 'steps': 2} for end in (1, 2)]
    for logs in seen.logs:
        assert {'loss', 'mae', 'val_loss', 'val_mae'} <= set(logs)


@pytest.mark.slow
@pytest.mark.keras('3.13')  # whose patience of 0 is an epoch more
def test_early_stopping_ends_a_phase_and_the_run_goes_on(tmp_path):
    stop = keras.callbacks.EarlyStopping('val_mae', patience=0, min_delta=1e9, mode='min')
    _, report = run(table(optimizer='adam', loss='mse', metrics=['mae']), splits(),
                    tmp_path / 'run', callbacks=[stop], warmup_epochs=5, fine_tune_epochs=4)
    rows = logged(tmp_path / 'run')
    # The first epoch of a phase is the best so far, the second no better.
    assert [row['epoch'] for row in rows] == [0, 1, 5, 6]
    assert [row.get('stopped_until') for row in rows] == [None, 5, None, 9]
    assert report['missing'] == []
    assert (report['epochs']['search'], report['epochs']['fine_tune']) == (2, 2)


@pytest.mark.keras('3.13')
@pytest.mark.parametrize('ema', [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_is_decided_on_and_saved_are_the_weights_that_a_callback_restores(
        ema, tmp_path, monkeypatch):
    best, acted_on, begins = [], [], []

    class Best(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begins.append(True)

        def on_epoch_end(self, epoch, logs=None):
            if begins and begins.pop():  # the second of a phase is no better, see below
                best.append(self.model.get_weights())

    def act(method, epoch, coming, trained):
        acted_on.append(method.problem.model.get_weights())
        return EpochResult()

    def stops():  # with the checkpoint after the last epoch before surgery
        return (tmp_path / 'run/checkpoints/e00004_s00000000').exists()

    monkeypatch.setattr(Method, 'after_epoch', act)
    optimizer = keras.optimizers.SGD(0.01, use_ema=ema, ema_momentum=0.9)
    callbacks = [Best(), keras.callbacks.EarlyStopping(
        'val_mae', patience=0, min_delta=1e9, mode='min', restore_best_weights=True)]
    options = {'callbacks': callbacks, 'warmup_epochs': 4, 'fine_tune_epochs': 4}
    model = table(optimizer=optimizer, loss='mse', metrics=['mae'])
    with pytest.raises(Interrupted):
        run(model, splits(), tmp_path / 'run', should_stop=stops, **options)
    pruned, _ = run(model, splits(), tmp_path / 'run', **options)
    assert [row['epoch'] for row in logged(tmp_path / 'run')] == [0, 1, 4, 5]
    dense = keras.models.load_model(tmp_path / 'run/dense.keras')
    for found, expected in ((acted_on[-1], best[0]), (dense.get_weights(), best[0]),
                            (pruned.get_weights(), best[1])):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_statistics_are_as_young_as_the_steps_that_callbacks_leave(tmp_path, monkeypatch):
    settled = []
    monkeypatch.setattr('tfprune.runs.fine_tuning._settle', lambda state: settled.append(1))
    keras.utils.set_random_seed(0)
    row = keras.Input((6,))
    x = layers.BatchNormalization(momentum=0.5)(layers.Dense(24, activation='relu')(row))
    model = keras.Model(row, layers.Dense(1)(layers.Dense(24)(x)))
    model.compile('adam', 'mse')
    stop = keras.callbacks.EarlyStopping('val_loss', patience=0, min_delta=1e9)
    for callbacks, calls in (([], 1), ([stop], 2)):  # at surgery; after two steps of eight, too
        run(model, splits(), tmp_path / str(calls), callbacks=callbacks, batch_size=64,
            fine_tune_epochs=8)
        assert len(settled) == calls
        settled.clear()


def test_a_rate_that_a_callback_sets_holds(tmp_path):
    class Rate(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.003 * (epoch + 1)

        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 1.0  # of no step

    seen = []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    run(table(optimizer='adam', loss='mse'), splits(counts=(32, 32, 32)), tmp_path / 'run',
        batch_size=16, callbacks=[Rate(), See()])
    assert seen == pytest.approx([0.003, 0.003, 0.006, 0.006])
    assert rates(tmp_path / 'run') == pytest.approx([0.003, 0.006])


def seen_by(callback):
    """(UserCallbacks, what they take for a trainer, whose rate was lowered to a tenth)."""
    model, (row, y) = table(optimizer=keras.optimizers.SGD(0.1), loss='mse'), rows(4, 0)
    trained = types.SimpleNamespace(model=model, optimizer=model.optimizer, rate_factor=0.1,
                                    strategy=tf.distribute.get_strategy())
    return UserCallbacks([callback], trained, lambda epoch: 'train', compiled_with(model),
                         lambda: (row, y)), trained


def test_a_callback_that_leaves_the_rate_alone_leaves_a_lowered_one_alone():
    """A rate that ruined given weights is lowered by a factor, once, not at each step."""
    seen, trained = seen_by(keras.callbacks.Callback())
    seen.begin_epoch(0, 0.1, steps=1, end=1)
    for step in range(4):
        rate = seen.begin_step(step, 0.1)
        trained.optimizer.learning_rate.assign(rate * trained.rate_factor)  # as Trainer does
        assert float(trained.optimizer.learning_rate) == pytest.approx(0.01)


def test_workers_agree_on_what_their_callbacks_ask_for(monkeypatch):
    class Alone(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.optimizer.learning_rate = 0.7

    monkeypatch.setattr('tfprune.runs.user_callbacks.from_chief', lambda strategy, rate: 0.004)
    monkeypatch.setattr('tfprune.runs.user_callbacks.any_worker', lambda strategy, stop: True)
    seen, trained = seen_by(Alone())
    seen.begin_epoch(0, 0.1, steps=1, end=1)
    assert seen.begin_step(0, 0.1) * trained.rate_factor == pytest.approx(0.004)
    assert float(trained.optimizer.learning_rate) == pytest.approx(0.004)
    assert seen.end_epoch(0, {}, {}) and not trained.model.stop_training
