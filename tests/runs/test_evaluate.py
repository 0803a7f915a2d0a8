"""Artifacts opened and measured from their files alone; scripts/evaluate.py."""
import json
import pathlib
import re
import shutil
import subprocess
import sys

import tfprune  # noqa: F401  (before tensorflow and keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.data.loading import load_data
from tfprune.export import exporter as export
from tfprune.runs import artifacts

ROOT = pathlib.Path(__file__).resolve().parents[2]
L = keras.layers


@pytest.fixture(scope='module')
def data():
    return load_data('digits', reward_images=1, augment=False)


@pytest.fixture(scope='module')
def model(data):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([
        keras.Input(data.image_shape), L.Rescaling(1 / 64),
        L.Conv2D(6, 3, strides=2, activation='relu'), L.Flatten(), L.Dense(10, name='logits')])
    for layer in (model.layers[1], model.layers[-1]):
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))  # zeros are dropped by TFLite
    return model


@pytest.fixture(scope='module')
def run_dir(model, tmp_path_factory):
    """A run folder as evaluation needs it: a configuration and an export."""
    path = tmp_path_factory.mktemp('runs') / 'x'
    path.mkdir()
    (path / 'config.json').write_text(json.dumps({'dataset': 'digits', 'data_dir': ''}))
    export.export_model(model, path / 'export')
    return path


def script(*arguments):
    return subprocess.run([sys.executable, ROOT / 'scripts' / 'evaluate.py', *arguments],
                          cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_every_form_has_the_accuracy_of_the_model(data, model, run_dir):
    """conv: 3·3 places · 6 · 9; dense: 54 · 10. Accuracy against a count of our own."""
    correct = sum(int((np.argmax(model(images), -1) == labels).sum())
                  for images, labels in data.test_batches(100).as_numpy_iterator())
    assert 0 < correct < data.num_test
    found = artifacts.find_artifacts(run_dir)
    assert list(found) == ['keras', 'saved_model', 'tflite']
    for form, path in found.items():
        seen = []
        row = artifacts.measure(artifacts.open_artifact(path), data, batch_size=97,
                                on_batch=seen.append)
        assert (row.form, row.correct, row.images) == (form, correct, data.num_test)
        assert row.accuracy == correct / data.num_test and sum(seen) == data.num_test
        assert (row.cost.macs, row.cost.params) == (9 * 6 * 9 + 540, 60 + 550)


def test_script_measures_every_form_of_a_run_folder(run_dir, tmp_path):
    result = script(f'--path={run_dir}', f'--json={tmp_path / "rows.json"}')
    assert result.returncode == 0, result.stderr
    assert 'Traceback' not in result.stderr
    rows = json.loads((tmp_path / 'rows.json').read_text())['artifacts']
    assert [row['form'] for row in rows] == ['keras', 'saved_model', 'tflite']
    assert len({row['correct'] for row in rows}) == 1
    assert 'folded' not in result.stdout  # it has no batch normalization
    for row in rows:
        assert re.search(f'{row["form"]} +{row["accuracy"]:.2%} ', result.stdout)
        assert row['macs'] == 1026 and '1,026 ' in result.stdout


@pytest.mark.slow
def test_script_answers_bad_input_in_one_line():
    result = script('--path=x', 'stray')
    assert result.returncode == 2 and not result.stdout
    errors = [line for line in result.stderr.splitlines() if line.startswith('evaluate.py')]
    assert errors == ['evaluate.py: error: stray arguments: stray; write flags as --name=value.']
    assert 'Traceback' not in result.stderr


def test_a_missing_path_is_named():
    with pytest.raises(FileNotFoundError, match='no/such.keras: no such file or directory'):
        artifacts.open_artifact('no/such.keras')


def test_a_directory_of_several_forms_needs_a_choice(run_dir):
    with pytest.raises(ValueError, match='choose one: keras, saved_model, tflite'):
        artifacts.open_artifact(run_dir)
    with pytest.raises(ValueError, match="no form 'onnx'. Available: keras, saved_model, tflite"):
        artifacts.open_artifact(run_dir / 'export', 'onnx')
    assert artifacts.open_artifact(run_dir, 'tflite').form == 'tflite'


def test_the_highest_version_of_a_saved_model_is_opened(run_dir, tmp_path):
    for version in ('9', '10'):
        shutil.copytree(run_dir / 'export/saved_model/1', tmp_path / version)
    (tmp_path / '9' / 'saved_model.pb').write_bytes(b'damaged')
    assert artifacts.open_artifact(tmp_path).num_classes == 10
    (tmp_path / '10' / 'saved_model.pb').write_bytes(b'damaged')
    with pytest.raises(ValueError, match='10: cannot be loaded'):
        artifacts.open_artifact(tmp_path)


def test_data_source_prefers_what_is_given(tmp_path):
    (tmp_path / 'config.json').write_text('{"dataset": "cifar10", "data_dir": "/d", "seed": 3, '
                                          '"image_size": "8", "method": "rlal"}')
    ours = {'data_dir': '/d', 'seed': 3, 'image_size': '8'}
    assert artifacts.data_source(tmp_path) == ('cifar10', ours)
    assert artifacts.data_source(tmp_path, 'cifar10', data_dir='/e', image_size=None) == (
        'cifar10', {**ours, 'data_dir': '/e'})
    assert artifacts.data_source(tmp_path, 'digits', data_dir=None) == ('digits', {})
    with pytest.raises(ValueError, match='dataset: needed'):
        artifacts.data_source(tmp_path / 'model.keras')
    (tmp_path / 'config.json').write_text('{"dataset"')
    with pytest.raises(ValueError, match='config.json is damaged: not JSON'):
        artifacts.data_source(tmp_path)


def test_other_class_names_are_refused(data, tmp_path):
    artifacts.check_classes(tmp_path, 'digits', data)  # Nothing is known of what was learnt.
    (tmp_path / 'data.json').write_text(json.dumps(
        {'name': 'digits', 'class_names': ['0', '1', 'x', *'3456789']}))
    artifacts.check_classes(tmp_path, 'other', data)
    with pytest.raises(ValueError, match="knows 10 classes, the data 10, .* are 'x' and '2'"):
        artifacts.check_classes(tmp_path, 'digits', data)


def write_bad(folder, run_dir, kind):
    """A damaged or foreign artifact."""
    good = run_dir / 'export'
    if kind == 'unknown suffix':
        (folder / 'model.h5').write_bytes(b'x')
        return folder / 'model.h5'
    if kind.startswith(('junk ', 'empty ', 'half ')) and '.' in kind:
        damage, name = kind.split(' ')
        content = {'junk': b'not a model', 'empty': b'',
                   'half': (good / name).read_bytes()[:-(good / name).stat().st_size // 2]}[damage]
        (folder / name).write_bytes(content)
        return folder / name
    if kind == 'damaged weights.keras':
        content = bytearray((good / 'pruned.keras').read_bytes())
        content[len(content) // 2:len(content) // 2 + 200] = bytes(200)
        (folder / 'model.keras').write_bytes(content)
        return folder / 'model.keras'
    if kind == 'lambda.keras':
        keras.Sequential([keras.Input((2, 2, 1)), L.Lambda(lambda x: x)]).save(folder / 'l.keras')
        return folder / 'l.keras'
    if kind == 'no signature':
        tf.saved_model.save(tf.Module(), str(folder / 'm'))
        return folder / 'm'
    if kind == 'missing weights':
        shutil.copytree(good / 'saved_model/1', folder / 'm')
        shutil.rmtree(folder / 'm' / 'variables')
        return folder / 'm'
    return folder  # 'empty directory'


@pytest.mark.parametrize('kind', [
    'unknown suffix', 'junk pruned.keras', 'empty pruned.keras', 'half pruned.keras',
    'damaged weights.keras', 'lambda.keras', 'junk model.tflite', 'empty model.tflite',
    'half model.tflite', 'no signature', 'missing weights', 'empty directory'])
def test_bad_artifacts_are_one_line_errors_naming_the_path(kind, run_dir, tmp_path):
    path = write_bad(tmp_path, run_dir, kind)
    with pytest.raises(ValueError) as caught:
        artifacts.open_artifact(path)
    message = str(caught.value)
    assert str(path) in message and '\n' not in message and len(message) < 500


def test_what_is_no_classifier_of_images_is_named_by_its_file(data, tmp_path):
    image, vector = keras.Input((4, 4, 1)), keras.Input((5,))
    two = keras.Model(image, [L.Flatten()(image), L.GlobalMaxPooling2D()(image)])
    for name, model, reason in (
            ('two', two, r'gives \[None, 16\], \[None, 1\]$'),
            ('vectors', keras.Model(vector, L.Dense(2)(vector)), r'takes \[None, 5\]')):
        model.save(tmp_path / f'{name}.keras')
        artifact = artifacts.open_artifact(tmp_path / f'{name}.keras')
        with pytest.raises(ValueError, match=f'^{tmp_path}/{name}.keras: expected .*{reason}'):
            artifacts.measure(artifact, data)


def test_images_and_classes_must_fit(data, tmp_path):
    def exported(name, image_shape, classes):
        model = keras.Sequential(
            [keras.Input(image_shape), L.GlobalAveragePooling2D(), L.Dense(classes)])
        model.save(tmp_path / name)
        return artifacts.open_artifact(tmp_path / name)
    with pytest.raises(ValueError, match=r'takes images \[9, 8, 1\], those of digits are \[8, 8'):
        artifacts.measure(exported('a.keras', (9, 8, 1), 10), data)
    with pytest.raises(ValueError, match='knows 11 classes, digits has 10'):
        artifacts.measure(exported('b.keras', (8, 8, 1), 11), data)
    with pytest.raises(ValueError, match=r'expected images \[N, 8, 8, 1\], received \[2, 8, 8\]'):
        exported('c.keras', (8, 8, 1), 10)(np.zeros((2, 8, 8)))
