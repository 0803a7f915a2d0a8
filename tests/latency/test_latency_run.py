"""A run whose budget is latency: the limit holds, and the report has prediction and measurement."""
import json

import tfprune
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.export.operators import read_steps
from tfprune.export.tflite import INT8
from tfprune.latency.build import build, file_of
from tfprune.report.table import format_table
from tfprune.testing import recount

EPOCHS = {'warmup_epochs': 1, 'random_epochs': 0, 'joint_epochs': 0, 'alignment_epochs': 0,
          'fine_tune_epochs': 1}


def small(name='mine', image_size=12, width=24):
    image = keras.Input((image_size, image_size, 2))
    x = layers.Conv2D(width, 3, activation='relu', name='a')(image)
    x = layers.Conv2D(width + 8, 3, activation='relu', name='b')(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, name='logits')(x), name=name)


def dataset(count):
    rng = np.random.default_rng(0)
    return tf.data.Dataset.from_tensor_slices((
        rng.normal(size=(count, 12, 12, 2)).astype('float32'), np.arange(count) % 3)).batch(8)


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp('table') / 'table.json'
    build(small('other_name'), path, passes=1)
    return path


def run(model, **options):
    return tfprune.train_and_prune(
        model=model, train_data=dataset(32), reward_data=dataset(16), test_data=dataset(16),
        method='uniform', batch_size=8, progress=False, **EPOCHS, **options)


def test_a_run_under_a_latency_budget(table, tmp_path):
    keras.utils.set_random_seed(0)
    model = small()
    pruned = run(model, latency_ratio=.6, latency_table=str(table), run_dir=tmp_path / 'run')
    assert recount(pruned)[0] < recount(model)[0]
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    budget, = report['budgets']
    assert budget['target'] == 'latency_ms' and budget['is_ratio']
    assert .3 * budget['dense'] < budget['cost'] <= budget['limit'] < .6001 * budget['dense']
    found = report['latency_prediction']
    assert found['pruned_ms'] == budget['cost'] and found['dense_ms'] == budget['dense']
    assert found['pruned_error'] == pytest.approx(
        budget['cost'] / report['pruned']['latency_ms'] - 1)
    assert np.isfinite(found['ratio_error'])
    text = ' '.join(format_table(report).split())
    assert 'Budget: latency_ms at most 0.' in text and '(0.6 of dense 0.' in text
    assert 'error against the files measured here: pruned ' in text
    assert 'Latency table (' in (tmp_path / 'run' / 'report.html').read_text()


@pytest.mark.slow
def test_a_run_under_a_budget_of_the_latency_of_int8_files(tmp_path, capsys):
    """Prediction and measurement are of the int8 files, dense and pruned; a run that writes none is
    told."""
    # Wide enough that time is not that of the first operator, which stays.
    model = small(width=120)
    table = build(model, tmp_path / 'table.json', passes=1, form=INT8)
    assert {step.signature.split()[0] for _, rows in table.models.values() for step in rows} > {
        'QUANTIZE'}
    found = read_steps(file_of(model, INT8))
    assert {step.signature for step in found} == set(table.surfaces)
    run(model, latency_ratio=.8, latency_table=str(tmp_path / 'table.json'), quantize='int8',
        tflite_io='float32', run_dir=tmp_path / 'run')
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    row = report['latency_prediction']
    assert row['form'] == INT8 and np.isfinite([row['pruned_error'], row['ratio_error']]).all()
    measured, = (kind['latency'][0]['median_ms'] for kind in report['artifacts']
                 if kind['form'] == INT8)
    assert 'has the times of int8 files' not in capsys.readouterr().err
    with pytest.raises(ValueError, match='the smallest reachable is'):
        run(model, latency_ratio=.001, latency_table=str(tmp_path / 'table.json'),
            run_dir=tmp_path / 'other')
    assert 'this run writes none: --quantize=int8 does' in capsys.readouterr().err
    # Measured twice, apart, of the same file.
    assert .2 < row['pruned_ms'] / (1 + row['pruned_error']) / measured < 5
    assert 'Latency table (int8 files, ' in format_table(report)


def test_a_table_of_another_model_ends_the_run_before_training(table, tmp_path):
    with pytest.raises(ValueError, match="a table of another model: .* not those of 'mine'"):
        run(keras.Sequential([small(), layers.ReLU()], name='mine'), latency_ms=.1,
            latency_table=str(table), run_dir=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
