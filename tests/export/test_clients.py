"""MediaPipe Tasks, LiteRT and LiteRT.js, as apps and pages use them, name the classes that the
Keras model names.

They are installed into an environment of their own, for MediaPipe wants absl-py 2: TFPRUNE_CLIENTS
names a folder to keep it in, else it goes with the test. LiteRT.js needs npm and a Chromium.
"""
import json
import pathlib
import subprocess

import digit_classifier
import litert_js
import keras
import numpy as np
import pytest

from tfprune.export import exporter as export

L = keras.layers
pytestmark = [pytest.mark.clients, pytest.mark.timeout(1800)]  # it may install packages
SCRIPT = pathlib.Path(__file__).parents[1] / 'clients' / 'classify.py'
FORMS = ('tflite', 'tflite_float16', 'tflite_dynamic', 'tflite_int8')


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
    artifact = export.FORMATS[form].open(paths[form])(images).max(axis=-1)
    for client in ('mediapipe', 'litert'):
        np.testing.assert_allclose(answers[client]['scores'], artifact, rtol=0.02, atol=0.2)


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


def test_mediapipe_takes_color_alone(ask, tmp_path):
    """Gray models run under LiteRT; should MediaPipe take them one day, the docs are to say so."""
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    path = export.export_model(model, tmp_path / 'export', formats=['tflite']).paths['tflite']
    assert 'Only RGB color space' in ask(path)['mediapipe']['error']


RANGES = {'0…1': (lambda x: x / 255, L.Rescaling(255.0)),
          '-1…1': (lambda x: x / 127.5 - 1, L.Rescaling(127.5, offset=127.5))}


def of_range(digits, name):
    """(the model of the digits for images of another range, what makes such of bytes)."""
    to_range, back = RANGES[name]
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, digits[0](back(inputs))), to_range


@pytest.mark.parametrize('name', RANGES)
def test_mediapipe_makes_of_a_picture_what_the_model_was_trained_on(digits, ask, tmp_path, name):
    model, to_range = of_range(digits, name)
    _, representative, images, _ = digits
    expected = digits[0](images.astype(np.float32)).numpy()
    paths = export.export_model(
        model, tmp_path / 'export', formats=['tflite', 'tflite_int8'],
        representative_data=to_range(representative.astype(np.float32))).paths
    answers = ask(paths['tflite'])['mediapipe']
    np.testing.assert_array_equal(answers['top1'], expected.argmax(-1))
    np.testing.assert_allclose(answers['scores'], expected.max(-1), rtol=1e-3)
    answers = ask(paths['tflite_int8'])['mediapipe']
    assert np.mean(np.array(answers['top1']) == expected.argmax(-1)) >= 0.97


@pytest.fixture(scope='module')
def in_browser(folder, tmp_path_factory):
    """[(path, images)] -> what LiteRT.js gives for each."""
    try:
        browser, modules = litert_js.find(folder)
    except litert_js.Missing as missing:
        pytest.skip(f'LiteRT.js: {missing}')
    return lambda files: litert_js.classify(browser, modules, files,
                                            tmp_path_factory.mktemp('browser'))


def test_litert_js_answers_as_keras_does(digits, paths, in_browser, tmp_path):
    """Every form, of bytes as of 0…1; a file of any batch it cannot open."""
    model, representative, images, _ = digits
    expected = model(images.astype(np.float32)).numpy()
    other, to_range = of_range(digits, '0…1')
    of_floats = export.export_model(
        other, tmp_path / 'floats', formats=['tflite'],
        representative_data=to_range(representative.astype(np.float32))).paths['tflite']
    any_batch = export_digits(digits, tmp_path / 'any', ['tflite'], batch=0)['tflite']
    files = [(paths[form], images if form == 'tflite_int8' else images.astype(np.float32))
             for form in FORMS]
    *answers, floats, refused = in_browser([
        *files, (of_floats, to_range(images.astype(np.float32))),
        (any_batch, images.astype(np.float32))])
    for form, answer in zip(FORMS, answers):
        assert answer.get('shape') == [1, 8, 8, 3], answer
        outputs = np.array(answer['outputs'])
        assert np.mean(outputs.argmax(-1) == expected.argmax(-1)) >= 0.97, form
        if form != 'tflite_int8':
            artifact = export.FORMATS[form].open(paths[form])(images)
            np.testing.assert_allclose(outputs, artifact, rtol=0.02, atol=0.2)
    np.testing.assert_allclose(floats['outputs'], expected, atol=1e-2)
    assert '-1, 8, 8, 3' in refused['error']
