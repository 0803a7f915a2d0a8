"""MediaPipe Tasks and LiteRT, as apps use them, name the classes that the Keras model names.

They are installed into a virtual environment of their own, for MediaPipe wants absl-py 2:
TFPRUNE_CLIENTS names a folder to keep it in, else it goes with the test.
"""
import json
import os
import pathlib
import subprocess
import sys

import digit_classifier
import keras
import numpy as np
import pytest

from tfprune import export

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1800)]  # it may install packages
SCRIPT = pathlib.Path(__file__).parent / 'clients' / 'classify.py'
PACKAGES = ('mediapipe', 'ai-edge-litert')
FORMS = ('tflite', 'tflite_float16', 'tflite_dynamic', 'tflite_int8')


@pytest.fixture(scope='module')
def client_python(tmp_path_factory):
    """The interpreter of an environment with the clients."""
    folder = pathlib.Path(os.environ.get('TFPRUNE_CLIENTS') or tmp_path_factory.mktemp('clients'))
    python = folder / 'bin' / 'python'
    if not python.exists():
        subprocess.run([sys.executable, '-m', 'venv', folder], check=True, timeout=300)
    subprocess.run([python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check',
                    *PACKAGES], check=True, timeout=1500)
    return python


@pytest.fixture(scope='module')
def digits():
    train, train_labels, test, labels = digit_classifier.digits_in_colour()
    return digit_classifier.trained_classifier(train, train_labels), train[:300], test, labels


@pytest.fixture(scope='module')
def ask(client_python, digits, tmp_path_factory):
    """path -> the clients' answers on the test images."""
    images = tmp_path_factory.mktemp('images') / 'images.npy'
    np.save(images, digits[2])

    def answers(path):
        result = subprocess.run([client_python, '-I', SCRIPT, path, images],
                                capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])
    return answers


def export_digits(digits, out_dir, formats=FORMS, **options):
    model, representative, _, _ = digits
    return export.export_model(
        model, out_dir, formats=formats, representative_data=representative,
        class_names=digit_classifier.NAMES, tflite_options=export.TFLiteOptions(**options)).paths


@pytest.fixture(scope='module')
def paths(digits, tmp_path_factory):
    return export_digits(digits, tmp_path_factory.mktemp('run') / 'export')


@pytest.mark.parametrize('form', FORMS)
def test_clients_name_the_class_that_keras_names(digits, paths, ask, form):
    model, _, images, labels = digits
    expected = model(images.astype(np.float32)).numpy().argmax(axis=-1)
    assert np.mean(expected == labels) > 0.85  # names of pictures, not of noise
    answers = ask(paths[form])
    needed = 1.0 if form in ('tflite', 'tflite_float16') else 0.98
    for client in ('mediapipe', 'litert'):
        assert np.mean(np.array(answers[client]['top1']) == expected) >= needed, client
    seen = answers['mediapipe']
    assert seen['names'] == [digit_classifier.NAMES[index] for index in seen['top1']]
    artefact = export.FORMATS[form].open(paths[form])(images).max(axis=-1)
    for client in ('mediapipe', 'litert'):
        np.testing.assert_allclose(answers[client]['scores'], artefact, rtol=0.02, atol=0.2)


@pytest.mark.parametrize('io', ['float32', 'int8'])
def test_types_of_input_and_output(digits, ask, tmp_path, io):
    model, _, images, _ = digits
    expected = model(images.astype(np.float32)).numpy().argmax(axis=-1)
    path = export_digits(digits, tmp_path / 'export', ['tflite_int8'], io=io)['tflite_int8']
    answers = ask(path)
    assert np.mean(np.array(answers['litert']['top1']) == expected) >= 0.98
    if io == 'float32':
        assert np.mean(np.array(answers['mediapipe']['top1']) == expected) >= 0.98
    else:
        assert 'uint8/float32, got INT8' in answers['mediapipe']['error']


def test_a_softmax_makes_the_scores_probabilities(digits, ask, tmp_path):
    model, _, images, _ = digits
    logits = model(images.astype(np.float32)).numpy()
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    paths = export_digits(digits, tmp_path / 'export', ['tflite', 'tflite_int8'], softmax=True)
    for form, tolerance in (('tflite', 1e-4), ('tflite_int8', 0.15)):
        answers = ask(paths[form])
        for client in ('mediapipe', 'litert'):
            np.testing.assert_allclose(
                answers[client]['scores'], 1 / weights.sum(axis=-1), atol=tolerance)


def test_mediapipe_takes_colour_alone(ask, tmp_path):
    """Grey models run under LiteRT; should MediaPipe take them one day, the docs are to say so."""
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    path = export.export_model(model, tmp_path / 'export', formats=['tflite']).paths['tflite']
    assert 'Only RGB color space' in ask(path)['mediapipe']['error']
