"""Answers by class before and after surgery, and the pictures that changed class."""
import json

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from light_export import light_export
from small_model import small_model

from tfprune.data.loading import load_data
from tfprune.report import run_row
from tfprune.report.right_answers import unpacked
from tfprune.runs.answers import compared
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune

LABELS = np.array([0, 0, 1, 1, 2, 2])


def test_answers_by_hand():
    before, after = np.array([0, 1, 1, 1, 2, 0]), np.array([0, 0, 1, 2, 0, 0])
    found = compared(before, after, LABELS, 4)
    assert found['classes'] == [
        {'images': 2, 'before': 1, 'after': 2}, {'images': 2, 'before': 2, 'after': 1},
        {'images': 2, 'before': 1, 'after': 0}, {'images': 0, 'before': 0, 'after': 0}]
    assert found['confusion'] == [[2, 0, 0, 0], [0, 1, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
    # Those that became wrong, then those that became right; wrong both times is no change.
    assert found['changed'] == [
        {'index': 3, 'label': 1, 'before': 1, 'after': 2},
        {'index': 4, 'label': 2, 'before': 2, 'after': 0},
        {'index': 1, 'label': 0, 'before': 1, 'after': 0}]
    assert unpacked(found['right'], 6, 'before').tolist() == (before == LABELS).tolist()
    assert unpacked(found['right'], 6).tolist() == (after == LABELS).tolist()


def test_no_model_before_and_many_classes():
    found = compared(None, LABELS, LABELS, 101)
    assert found['confusion'] is None and found['changed'] == []
    assert found['right']['before'] is None and unpacked(found['right'], 6).all()
    assert found['classes'][0] == {'images': 2, 'before': None, 'after': 2}


def test_changes_are_few_and_the_first():
    labels = np.zeros(100, int)
    found = compared(labels, labels + 1, labels, 2)
    assert [row['index'] for row in found['changed']] == list(range(8))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    config = Config(model=small_model(), dataset='digits', method='uniform', macs=0.3,
                    warmup_epochs=4, random_epochs=0, joint_epochs=0, alignment_epochs=0,
                    fine_tune_epochs=1, batch_size=64, reward_images=100, distillation=0.0)
    with light_export(page=True):
        return train_and_prune(config, tmp_path_factory.mktemp('run') / 'run', progress=False)


@pytest.mark.slow
def test_a_run_keeps_the_answers_of_its_two_models(run):
    data = load_data('digits', reward_images=100)
    images, labels = map(np.concatenate, zip(*(
        (x.numpy(), y.numpy()) for x, y in data.test_batches(100))))
    dense, pruned = (keras.models.load_model(run.run_dir / name)
                     for name in ('dense.keras', 'export/pruned.keras'))
    before, after = (np.argmax(model.predict(images, verbose=0), -1) for model in (dense, pruned))
    stored = json.loads((run.run_dir / 'answers.json').read_text())
    assert stored == compared(before, after, labels, 10)
    assert run.report['dense']['test_accuracy'] == np.mean(before == labels)
    assert sum(row['after'] for row in stored['classes']) / 360 == (
        run.report['pruned']['test_accuracy'])
    assert run_row(run.run_dir)['right'] == stored['right']
    changed = [row['index'] for row in stored['changed']]
    assert changed  # or the next line says nothing
    with np.load(run.run_dir / 'changed.npz') as file:
        low, high = data.pixel_range
        expected = np.rint(255 * (images[changed] - low) / (high - low))
        np.testing.assert_array_equal(file['pictures'], expected)
    page = (run.run_dir / 'report.html').read_text()
    assert 'Accuracy by class' in page and 'Pictures that changed class' in page


def test_a_report_without_them_is_made_all_the_same(run):
    for name in ('answers.json', 'changed.npz', 'report.html'):
        (run.run_dir / name).unlink()
    train_and_prune(Config.from_json(json.loads((run.run_dir / 'config.json').read_text())),
                    run.run_dir, progress=False)
    assert 'Accuracy by class' not in (run.run_dir / 'report.html').read_text()
