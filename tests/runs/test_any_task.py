"""Runs of models that are compiled for any task: inputs, outputs, metrics, callbacks."""
import json

import tfprune
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from light_export import light_export
from tfprune.runs.state import Interrupted
from tfprune.runs.user_callbacks import UserCallbacks
from tfprune.structure.keras_internals import compiled_with

SHORT = {'method': 'uniform', 'macs': 0.5, 'warmup_epochs': 1, 'random_epochs': 0,
         'joint_epochs': 0, 'alignment_epochs': 0, 'fine_tune_epochs': 1, 'progress': False}


def rng(seed=0):
    return np.random.default_rng(seed)


def run(model, data, folder, *, page=False, **options):
    """(pruned model, report.json)."""
    with light_export(page=page):
        pruned = tfprune.train_and_prune(model, *data, run_dir=folder, **{**SHORT, **options})
    return pruned, json.loads((folder / 'report.json').read_text())


def table(outputs=1, activation=None, **compiled):
    """[B, 6] to [B, outputs]."""
    keras.utils.set_random_seed(0)
    row = keras.Input((6,), name='row')
    x = layers.Dense(24, activation='relu', name='hidden_1')(row)
    x = layers.Dense(24, activation='relu', name='hidden_2')(x)
    model = keras.Model(row, layers.Dense(outputs, activation=activation, name='out')(x),
                        name='table')
    model.compile(**compiled)
    return model


def rows(count, seed, kind='number'):
    x = rng(seed).normal(size=(count, 6)).astype('float32')
    total = x[:, :2].sum(1, keepdims=True)
    return x, {'number': total, 'binary': (total > 0).astype('int32'),
               'labels': (x[:, :3] > 0).astype('float32'),
               'class': (x[:, 0] > 0).astype('int32') + (x[:, 1] > 0)}[kind]


def splits(kind='number', counts=(64, 32, 48)):
    return [rows(count, seed, kind) for seed, count in enumerate(counts)]


@pytest.mark.parametrize('kind, options, compiled, metric', [
    ('number', {}, {'loss': 'mse', 'metrics': ['mae']}, 'mae'),
    ('binary', {'activation': 'sigmoid'}, {'loss': 'binary_crossentropy', 'metrics': ['accuracy']},
     'accuracy'),
    ('labels', {'outputs': 3, 'activation': 'sigmoid'},
     {'loss': 'binary_crossentropy', 'metrics': [keras.metrics.AUC(name='auc')]}, 'auc'),
    ('class', {'outputs': 3, 'activation': 'softmax'},
     {'loss': 'sparse_categorical_crossentropy'}, 'loss')])
def test_tables_of_every_kind(kind, options, compiled, metric, tmp_path):
    model, data = table(**options, optimizer='adam', **compiled), splits(kind)
    pruned, report = run(model, data, tmp_path / 'run', page=True)
    assert report['task']['metric'] == metric and 'test_accuracy' not in report['pruned']
    assert pruned.count_params() < model.count_params()
    pruned.compile(**compiled)
    expected = pruned.evaluate(*data[2], verbose=0, return_dict=True)
    for name, value in report['pruned']['test_metrics'].items():
        assert value == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
    assert report['pruned']['test_score'] == report['pruned']['test_metrics'][metric]
    assert f'test {metric}' in (tmp_path / 'run/report.html').read_text()


def test_several_inputs_and_outputs_from_datasets_of_dicts_to_the_end(tmp_path):
    keras.utils.set_random_seed(0)
    image, row = keras.Input((8, 8, 1), name='image'), keras.Input((4,), name='a_row')
    x = layers.ReLU()(layers.BatchNormalization()(
        layers.Conv2D(8, 3, padding='same', name='conv')(image)))
    mask = layers.Conv2D(3, 1, activation='softmax', name='mask')(x)
    joined = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), row])
    number = layers.Dense(1, name='number')(layers.Dense(12, activation='relu', name='h')(joined))
    model = keras.Model([image, row], {'mask': mask, 'number': number}, name='two')
    model.compile('adam', {'mask': 'sparse_categorical_crossentropy', 'number': 'mse'},
                  loss_weights={'mask': 1.0, 'number': 0.5},
                  metrics={'mask': [keras.metrics.MeanIoU(3, sparse_y_pred=False, name='iou')],
                           'number': ['mae']})

    def dataset(count, seed):
        r = rng(seed)
        x = {'image': r.normal(size=(count, 8, 8, 1)).astype('float32'),
             'a_row': r.normal(size=(count, 4)).astype('float32')}
        y = {'mask': (x['image'][..., 0] > 0).astype('int32'),
             'number': x['a_row'][:, :1] + 5}
        weights = {'mask': np.ones((count, 1, 1), 'float32'), 'number': np.ones(count, 'float32')}
        return tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(16)

    data = [dataset(64, 0), dataset(32, 1), dataset(32, 2)]
    pruned = tfprune.train_and_prune(
        model, *data, monitor='val_mask_iou', run_dir=tmp_path / 'run', quantize='int8,float16',
        **SHORT)
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert set(report['pruned']['test_metrics']) == {
        'loss', 'mask_iou', 'number_mae', 'mask_loss', 'number_loss'}
    by_form = {row['form']: row for row in report['artifacts']}
    assert set(by_form) == {'keras', 'saved_model', 'tflite', 'tflite_int8', 'tflite_float16'}
    for form in ('saved_model', 'tflite', 'tflite_float16'):
        assert by_form[form]['metrics'] == pytest.approx(by_form['keras']['metrics'], rel=2e-2)
    assert not (tmp_path / 'run/export/labels.txt').exists()
    # A plain client, by the names of the model.
    lite = tf.lite.Interpreter(str(tmp_path / 'run/export/model.tflite'))
    x, *_ = next(iter(data[2]))
    answers = lite.get_signature_runner()(**{name: value[:1] for name, value in x.items()})
    expected = pruned([x['image'][:1], x['a_row'][:1]])
    for name in ('mask', 'number'):
        np.testing.assert_allclose(answers[name], expected[name], rtol=1e-3, atol=1e-4)


def test_sequences_of_any_length_are_pruned_at_the_length_of_the_data(tmp_path):
    keras.utils.set_random_seed(0)
    series = keras.Input((None, 3), name='series')
    x = layers.Conv1D(16, 3, padding='same', activation='relu', name='conv_1')(series)
    x = layers.Conv1D(16, 3, padding='same', activation='relu', name='conv_2')(x)
    model = keras.Model(series, layers.Dense(1, name='out')(layers.GlobalMaxPooling1D()(x)))
    model.compile('adam', 'mae')
    data = [(rng(seed).normal(size=(40, 9, 3)).astype('float32'), np.ones((40, 1)))
            for seed in range(3)]
    pruned, report = run(model, data, tmp_path / 'run', batch_size=16)
    # 9 · 3 · (3 · 16 + 16 · 16) + 16, of the length of the data.
    assert report['dense']['macs'] == 9 * 3 * (3 * 16 + 16 * 16) + 16
    assert pruned.count_params() < model.count_params()


def test_batches_adapt_to_a_small_set(tmp_path, capsys):
    model = table(optimizer='adam', loss='mse')
    _, report = run(model, splits(counts=(20, 8, 8)), tmp_path / 'run', batch_size=64)
    assert report['epochs']['total'] == 2
    assert 'a batch has 20 of them, not 64' in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_with_the_same_weights(tmp_path):
    def of(folder, should_stop=lambda: False):
        return run(table(optimizer='adam', loss='mse', metrics=['mae']), splits(), folder,
                   batch_size=16, method='rlal', random_epochs=1, joint_epochs=1,
                   rlal={'episodes_per_epoch': 2, 'comparison_episodes': 0},
                   should_stop=should_stop)[0]

    asked = []

    def stop():
        asked.append(None)
        return len(asked) % 14 == 0

    whole = of(tmp_path / 'whole')
    for _ in range(60):
        try:
            parts = of(tmp_path / 'parts', stop)
            break
        except Interrupted:
            pass
    assert len(asked) > 20
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_compiled_schedule_is_followed_across_surgery(tmp_path):
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 8)  # 4 steps before, 4 after
    model = table(optimizer=keras.optimizers.Adam(schedule), loss='mse')
    _, report = run(model, splits(), tmp_path / 'run', batch_size=16)
    rates = [json.loads(line)['learning_rate']
             for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
    assert rates == pytest.approx([float(schedule(3)), float(schedule(7))], rel=1e-4)
    assert 'which is followed from step 0' in report['training']['reasons'][0]
    _, report = run(model, splits(), tmp_path / 'own', batch_size=16, learning_rate=0.02)
    assert report['training']['learning_rate'] == 0.02


def test_the_given_model_is_measured_as_it_is(tmp_path):
    """Nothing that comes before moves its weights or statistics: 'as given' is Keras' evaluate."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.BatchNormalization(momentum=0.5)(layers.Conv2D(16, 3, activation='relu')(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3)(x))
    model = keras.Model(image, layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(0.01), 'mse', metrics=['mae'])
    x = rng().normal(size=(48, 8, 8, 1)).astype('float32') * 3 + 2
    data = [(x, x.mean((1, 2)))] * 3
    before = model.evaluate(*data[2], verbose=0, return_dict=True)
    weights = model.get_weights()
    _, report = run(model, data, tmp_path / 'run', batch_size=16)
    assert report['given']['test_metrics'] == pytest.approx(before, rel=1e-4)
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_half_precision_as_keras_compiles_it(tmp_path):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy('mixed_float16')
    try:
        image = keras.Input((8, 8, 1))
        x = layers.BatchNormalization()(layers.Conv2D(16, 3, activation='relu')(image))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3)(x))
        model = keras.Model(image, layers.Dense(1, dtype='float32')(x))
        model.compile(keras.optimizers.Adam(0.01), 'mse')
    finally:
        keras.config.set_dtype_policy('float32')
    assert type(model.optimizer).__name__ == 'LossScaleOptimizer'
    x = rng().normal(size=(48, 8, 8, 1)).astype('float32')
    pruned, report = run(model, [(x, 3 + x.mean((1, 2)))] * 3, tmp_path / 'run', batch_size=16,
                         warmup_epochs=2, fine_tune_epochs=4)
    assert report['training']['optimizer']['class_name'] == 'LossScaleOptimizer'
    assert report['pruned']['test_score'] < report['given']['test_score']
    assert {layer.dtype_policy.name for layer in pruned.layers} == {'float32'}


class Seen(keras.callbacks.Callback):
    """What a callback sees."""
    def __init__(self):
        super().__init__()
        self.calls, self.logs, self.models = [], [], []

    def on_train_begin(self, logs=None):
        self.calls.append('begin')
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
    for logs in seen.logs:
        assert {'loss', 'mae', 'val_loss', 'val_mae'} <= set(logs)


def test_early_stopping_ends_a_phase_and_the_run_goes_on(tmp_path):
    stop = keras.callbacks.EarlyStopping('val_mae', patience=0, min_delta=1e9, mode='min')
    _, report = run(table(optimizer='adam', loss='mse', metrics=['mae']), splits(),
                    tmp_path / 'run', callbacks=[stop], warmup_epochs=5, fine_tune_epochs=4)
    rows = [json.loads(line)
            for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
    # The first epoch of a phase is the best so far, the second no better.
    assert [row['epoch'] for row in rows] == [0, 1, 5, 6]
    assert [row.get('stopped_until') for row in rows] == [None, 5, None, 9]
    assert report['missing'] == []
    assert (report['epochs']['search'], report['epochs']['fine_tune']) == (2, 2)


def test_a_rate_that_a_callback_sets_holds(tmp_path):
    class Rate(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.003 * (epoch + 1)

    seen = []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    run(table(optimizer='adam', loss='mse'), splits(counts=(32, 32, 32)), tmp_path / 'run',
        batch_size=16, callbacks=[Rate(), See()])
    assert seen == pytest.approx([0.003, 0.003, 0.006, 0.006])


def test_a_callback_that_leaves_the_rate_alone_leaves_a_lowered_one_alone():
    """A rate that ruined given weights is lowered by a factor, once, not at each step."""
    class Trained:
        model = table(optimizer=keras.optimizers.SGD(0.1), loss='mse')
        optimizer, rate_factor = model.optimizer, 0.1

    row, y = rows(4, 0)
    seen = UserCallbacks([keras.callbacks.Callback()], Trained, lambda epoch: 'train',
                         compiled_with(Trained.model), lambda: (row, y))
    seen.begin_epoch(0, 0.1)
    for step in range(4):
        rate = seen.begin_step(step, 0.1)
        Trained.optimizer.learning_rate.assign(rate * Trained.rate_factor)  # as Trainer does
        assert float(Trained.optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize('change, error, said', [
    ({'monitor': 'val_mean_io_u'}, ValueError, "no metric 'val_mean_io_u'. Available: val_loss"),
    ({'mode': 'up'}, ValueError, "mode: expected 'auto', 'max' or 'min'"),
    ({'callbacks': keras.callbacks.EarlyStopping()}, TypeError, "a list of Keras' callbacks"),
    ({'class_weight': {0: 'a'}}, ValueError, 'class_weight: expected'),
    ({'class_names': ['a']}, ValueError, 'class_names: expected none as the model has no one'),
    ({'pixel_range': (0, 1)}, ValueError, 'pixel_range: expected one input of pictures'),
    ({'method': 'n2n'}, ValueError, "'n2n' teaches students"),
    ({'quantize': 'int8_qat'}, ValueError, 'int8_qat. trains classifiers of pictures')])
def test_bad_input_is_one_line_before_any_training(change, error, said, tmp_path):
    model = table(optimizer='adam', loss='mse')
    with pytest.raises(error, match=said) as found:
        run(model, splits(), tmp_path / 'run', **change)
    assert len(str(found.value).splitlines()) == 1
    assert not (tmp_path / 'run/checkpoints').exists()


def rounded(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - keras.ops.round(y_pred)))


def test_a_loss_without_gradients_is_said():
    with pytest.raises(ValueError, match='has no gradient for any weight that trains'):
        tfprune.train_and_prune(table(optimizer='adam', loss=rounded), *splits(), **SHORT)


def test_a_plain_classifier_from_arrays_is_taken_as_one(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(16, 3, activation='relu'), layers.Flatten(),
        layers.Dense(3)])
    data = [(rng(seed).random((48, 8, 8, 1)).astype('float32'), np.arange(48) * 7 % 3)
            for seed in range(3)]
    _, report = run(model, data, tmp_path / 'run', learning_rate=0.01,
                    fine_tune_learning_rate=0.01, batch_size=16)
    assert report['task']['metric'] == 'accuracy' and 'test_accuracy' in report['pruned']
