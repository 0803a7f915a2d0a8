"""Runs of models that are compiled for any task: inputs, outputs, metrics."""
import json
import types

import tfprune
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from table_runs import SHORT, rates, rng, rows, run, splits, table
from tfprune.report.table import table_notes
from tfprune.runs.first_epoch import FirstEpoch
from tfprune.runs.state import Interrupted
from tfprune.significance import Scored
from tfprune.training.step import NonFiniteLossError


@pytest.mark.parametrize('kind, options, compiled, metric', [
    pytest.param('number', {}, {'loss': 'mse', 'metrics': ['mae']}, 'mae',
                 marks=pytest.mark.slow),
    pytest.param('binary', {'activation': 'sigmoid'},
                 {'loss': 'binary_crossentropy', 'metrics': ['accuracy']}, 'accuracy',
                 marks=pytest.mark.slow),
    ('labels', {'outputs': 3, 'activation': 'sigmoid'},
     {'loss': 'binary_crossentropy', 'metrics': [keras.metrics.AUC(name='auc')]}, 'auc'),
    pytest.param('class', {'outputs': 3, 'activation': 'softmax'},
                 {'loss': 'sparse_categorical_crossentropy'}, 'loss', marks=pytest.mark.slow)])
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_dict_of_inputs_by_keys_that_are_no_names_to_the_end(tmp_path):
    keras.utils.set_random_seed(0)
    first, second = keras.Input((4,), name='first'), keras.Input((3,), name='second')
    x = layers.Dense(16, activation='relu', name='h')(layers.Concatenate()([first, second]))
    model = keras.Model({'z': first, 'y': second}, layers.Dense(1, name='out')(x))
    model.compile('adam', 'mse')
    data = [({'z': rng(seed).normal(size=(32, 4)).astype('float32'),
              'y': rng(seed).normal(size=(32, 3)).astype('float32')}, np.ones((32, 1)))
            for seed in range(3)]
    tfprune.train_and_prune(model, *data, run_dir=tmp_path / 'run', quantize='int8', **SHORT)
    rows = json.loads((tmp_path / 'run/report.json').read_text())['artifacts']
    keras_, saved, lite, _ = [row['metrics']['loss'] for row in rows]
    assert keras_ == pytest.approx(saved, rel=1e-4) == pytest.approx(lite, rel=1e-4)


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


@pytest.mark.slow
def test_batches_adapt_to_a_small_set(tmp_path, capsys):
    model = table(optimizer='adam', loss='mse')
    _, report = run(model, splits(counts=(20, 8, 8)), tmp_path / 'run', batch_size=64,
                    progress=True)
    assert report['epochs']['total'] == 2
    said = capsys.readouterr()
    assert 'a batch has 20 of them, not 64' in said.err
    assert '20 training, 8 held-out and 8 test examples' in said.out
    assert 'examples/s' in said.out and 'images' not in said.out


def test_what_is_said_of_a_loss_that_is_no_number_suits_a_table(tmp_path):
    with pytest.raises(NonFiniteLossError, match='--learning_rate may.* layer of its inputs'):
        run(table(optimizer='sgd', loss='mse'), splits(), tmp_path / 'run', batch_size=16,
            warmup_epochs=4, learning_rate=1000.0)


@pytest.mark.parametrize('of_pictures', [False, True])
def test_what_is_said_of_data_that_is_not_the_models_suits_the_task(of_pictures):
    judged = FirstEpoch(Scored(1, 0, 9), Scored(1, 0, 9), None, [], True, str, of_pictures)
    with pytest.raises(ValueError, match='range of pixels' if of_pictures else 'scale of inputs'):
        judged.begin_again(types.SimpleNamespace(rate_factor=1e-3), Scored(0, 0, 9), 0.1)


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


@pytest.mark.slow
def test_a_run_goes_on_with_the_task_that_it_began_with_alone(tmp_path):
    def go_on(loss='mse', metrics=('mae',), **options):
        asked = []
        model = table(optimizer='adam', loss=loss, metrics=list(metrics))
        run(model, splits('binary'), tmp_path / 'run', batch_size=16, **options,
            should_stop=lambda: asked.append(None) or len(asked) > 2)

    with pytest.raises(Interrupted):
        go_on()
    for change in ({'loss': 'mae'}, {'loss': lambda y, p: (y - p) ** 2},
                   {'metrics': ['mae', 'mse']}, {'class_weight': {0: 1.0, 1: 2.0}}):
        with pytest.raises(ValueError, match='another content of loss, metrics or cla') as found:
            go_on(**change)
        assert len(str(found.value).splitlines()) == 1
    with pytest.raises(Interrupted):
        go_on()


@pytest.mark.slow
def test_the_compiled_schedule_is_followed_across_surgery(tmp_path):
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 8)  # 4 steps before, 4 after
    model = table(optimizer=keras.optimizers.Adam(schedule), loss='mse')
    _, report = run(model, splits(), tmp_path / 'run', batch_size=16)
    assert rates(tmp_path / 'run') == pytest.approx([float(schedule(3)), float(schedule(7))],
                                                    rel=1e-4)
    assert report['training']['reasons'][0].endswith('is followed from step 0 on, across surgery')
    _, report = run(model, splits(), tmp_path / 'own', batch_size=16, learning_rate=0.02)
    assert report['training']['learning_rate'] == 0.02
    _, report = run(model, splits(), tmp_path / 'after', batch_size=16, schedule='step',
                    fine_tune_learning_rate=0.05)
    assert rates(tmp_path / 'after') == pytest.approx([float(schedule(3)), 0.05 / 100], rel=1e-4)
    assert report['training']['reasons'][0].endswith('is followed from step 0 on, until surgery')


@pytest.mark.slow
def test_a_followed_schedule_that_ruined_weights_is_lowered_after_surgery_too(
        tmp_path, monkeypatch):
    model, ruined = table(optimizer=keras.optimizers.Adam(0.02), loss='mse'), [True, False]
    model.fit(*rows(64, 0), epochs=40, verbose=0)  # given weights that know something
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 8)
    model.compile(keras.optimizers.Adam(schedule), 'mse')
    monkeypatch.setattr(FirstEpoch, 'is_ruined', lambda *_: ruined.pop(0))
    run(model, splits(), tmp_path / 'run', batch_size=16)
    assert not ruined
    assert rates(tmp_path / 'run') == pytest.approx(
        [float(schedule(3)) / 10, float(schedule(7)) / 10], rel=1e-4)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize('has_own', [True, False])
def test_losses_of_the_model_itself_are_no_part_of_a_test_loss_and_that_is_said(has_own, tmp_path):
    model = table(optimizer='adam', loss='mse')
    model.layers[1].kernel_regularizer = keras.regularizers.L2(0.1) if has_own else None
    model = keras.models.clone_model(model)
    model.compile('adam', 'mse')
    data = splits()
    _, report = run(model, data, tmp_path / 'run')
    own = float(sum(model.losses)) if has_own else 0.0
    assert report['given']['test_score'] == pytest.approx(
        model.evaluate(*data[2], verbose=0) - own, rel=1e-4)
    assert any('Test losses are without' in note for note in table_notes(report)) == has_own


@pytest.mark.slow
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
