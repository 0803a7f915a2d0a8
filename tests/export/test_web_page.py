"""The page that classifies in the browser: its files, what it lacks, and, in a headless Chromium
without network, what it shows of real pictures that are dropped on it."""
import base64
import hashlib
import json
import re
import subprocess
import warnings

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import digit_classifier
import litert_js
import web_page
from test_clients import SCRIPT
from tfprune.data.decoding import decode
from tfprune.data.pixels import PixelRange
from tfprune.export import exporter as export
from tfprune.export.base import Signature
from tfprune.export.web import litert_js as runtime, page

L = keras.layers
RANGES = {'0…255': (0, 255), '0…1': (0, 1), '-1…1': (-1, 1), 'channels': ((0, 0, -1), (1, 2, 1))}
SIZE = (8, 8, 3)


def classifier(shape=SIZE, activation=None):
    inputs = keras.Input(shape)
    x = L.Flatten()(L.Conv2D(4, 3, activation='relu')(inputs))
    return keras.Model(inputs, L.Dense(4, activation)(x), name='few')


def exported(tmp_path, model, pixel_range=(0, 255), **options):
    """The report of an export of TFLite files, and its folder web/ with a made-up LiteRT.js."""
    low, high = (np.asarray(end, np.float32) for end in pixel_range)
    images = low + np.random.default_rng(0).random((32, *model.input_shape[1:])) * (high - low)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return export.export_model(
            model, tmp_path / 'export', formats=('tflite', 'tflite_int8'), pixel_range=pixel_range,
            representative_data=images.astype(np.float32),
            tflite_options=export.TFLiteOptions(**options))


def page_of(report, dense=None, **options):
    npm = web_page.made_up_runtime(report.out_dir.parent / 'npm')
    folder = report.out_dir / page.FOLDER
    assert page.write_page(folder, page.files_of(report, dense), title='A <title>',
                           pixels=report.pixels, runtime=npm, **options) == ''
    return folder, json.loads((folder / 'page.json').read_text())


@pytest.mark.parametrize('name', RANGES)
def test_the_page_gives_what_the_model_was_trained_on(tmp_path, name):
    report = exported(tmp_path, classifier(), RANGES[name], io='float32' if name == 'channels'
                      else 'uint8')
    folder, found = page_of(report, report.paths['tflite'].read_bytes())
    assert [model['title'] for model in found['models']] == [
        'dense, float32', 'pruned, float32', 'pruned, int8']
    assert found['shape'] == [*SIZE] and found['labels'] == [f'class {i}' for i in range(4)]
    bytes_ = np.arange(256, dtype=np.float32)[:, np.newaxis].repeat(3, axis=1)
    values = np.asarray(report.pixels.values(bytes_))
    for model in found['models'][:2]:
        np.testing.assert_allclose(np.broadcast_to(np.transpose(model['values']), (256, 3)),
                                   values, rtol=1e-6)
    if name != 'channels':  # the bytes of a picture as they are
        assert found['models'][2]['values'] == [list(range(256))]
    for model in found['models']:
        assert (folder / model['file']).stat().st_size == model['bytes']
        assert not model['probabilities']


def test_int8_inputs_are_those_that_python_gives(tmp_path):
    report = exported(tmp_path, classifier(), (0, 1), io='int8')
    _, found = page_of(report)
    values, = found['models'][1]['values']
    assert found['models'][1]['dtype'] == 'int8' and [*found['models'][1]['output']] == [
        'scale', 'zero_point']
    np.testing.assert_allclose(values, np.arange(256) - 128, atol=1)


@pytest.mark.parametrize('activation, softmax', [('softmax', False), (None, True)])
def test_a_softmax_is_not_taken_twice(tmp_path, activation, softmax):
    report = exported(tmp_path, classifier(activation=activation), softmax=softmax)
    _, found = page_of(report)
    assert [model['title'] for model in found['models']] == ['float32', 'int8']
    assert all(model['probabilities'] for model in found['models'])


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    report = exported(tmp_path, classifier())
    monkeypatch.setenv('PATH', str(tmp_path))
    files, folder = page.files_of(report, None), report.out_dir / 'web'
    said = page.write_page(folder, files, title='few', pixels=report.pixels)
    assert said == (f'{folder}: the page lacks LiteRT.js (there is no npm); this brings it: npm '
                    f'install --prefix {folder} {runtime.PACKAGE}')
    assert (folder / 'index.html').exists() and not (folder / 'node_modules').exists()
    with pytest.raises(FileNotFoundError, match='^litert_js .*: no LiteRT.js there; npm install'):
        page.write_page(folder, files, title='few', pixels=report.pixels, runtime=str(tmp_path))
    npm = tmp_path / 'npm'
    npm.write_text('#!/bin/sh\necho npm error code E1 >&2\necho npm error no network >&2\nexit 1')
    npm.chmod(0o755)
    assert '(npm: no network)' in page.write_page(folder, files, title='few',
                                                  pixels=report.pixels)
    assert sorted(path.name for path in report.out_dir.iterdir()) == [
        'model.tflite', 'model_int8.tflite', 'parity.json', 'web']


@pytest.mark.parametrize('model, pixels, batch, said', [
    (classifier((8, 8, 2)), PixelRange.stated((0, 1), 1), 1, r'1 or 3 channels, .* \[8, 8, 2\]'),
    (classifier(), PixelRange.seen(0.2, 0.3), 1, 'expected a known range of pixels'),
    (classifier(), PixelRange.stated((0, 1), 1), 0, 'expected tflite_batch 1, received 0')])
def test_models_without_a_page(model, pixels, batch, said):
    with pytest.raises(ValueError, match=f'^web: .*{said}'):
        page.check_page(Signature.of(model), pixels, batch)


def test_the_policy_of_the_page_allows_its_import_map():
    text = (page.pathlib.Path(page.__file__).parent / 'index.html').read_text()
    map_ = re.search(r'<script type="importmap">(.*?)</script>', text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(map_.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in text


# In the browser.

@pytest.fixture(scope='module')
def browser(folder):
    try:
        return litert_js.find(folder)
    except litert_js.Missing as missing:
        pytest.skip(f'LiteRT.js: {missing}')


def pictures_of(images, folder):
    """Files of the digits, of other sizes than the model's, as PNG and JPEG."""
    paths = []
    for i, image in enumerate(images):
        size = [(150, 200), (97, 61), (8, 8)][i % 3]
        path = folder / f'digit{i}.{["png", "jpg"][i % 2]}'
        Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
        paths.append(path)
    return paths


@pytest.mark.clients
@pytest.mark.timeout(1800)
def test_the_page_names_the_classes_that_litert_names(digits, browser, client_python, tmp_path):
    model, representative, images, _ = digits
    report = export.export_model(
        model, tmp_path / 'export', formats=('tflite', 'tflite_int8'),
        representative_data=representative, class_names=digit_classifier.NAMES)
    folder = report.out_dir / page.FOLDER
    assert page.write_page(
        folder, page.files_of(report, report.paths['tflite'].read_bytes()), title='digits',
        pixels=report.pixels, class_names=digit_classifier.NAMES,
        runtime=str(browser[1].parent)) == ''
    paths = pictures_of(images[:30], tmp_path)
    for name, photo in zip(('china', 'flower'), load_sample_images().images):
        for mode in ('RGB', 'L', 'RGBA'):  # a gray one, one that is half transparent
            picture = Image.fromarray(photo).convert(mode)
            if mode == 'RGBA':
                picture.putalpha(128)
            paths.append(tmp_path / f'{name}_{mode}.png')
            picture.save(paths[-1])
        turned = Image.Exif()  # of sides in whole blocks of 8, as cameras have them
        turned[0x0112] = 6
        paths.append(tmp_path / f'{name}_turned.jpg')
        Image.fromarray(photo[:424]).save(paths[-1], quality=90, exif=turned)
    found = web_page.drop(browser[0], folder, paths, tmp_path, width=420)
    assert 'error' not in found, found
    assert found['overflow'] <= 0 and found['title'] == 'digits'
    assert all(re.fullmatch(r'[\d.]+', row['ms']) for row in found['models'])
    served = {url.split('/')[2] for url in found['requests']}
    assert len(served) == 1 and served.pop().startswith('127.0.0.1')  # nothing else was asked

    seen = np.array([np.reshape(answer['pixels'], SIZE) for answer in found['answers']])
    pixels = np.array([decode(str(path), *SIZE) for path in paths])
    most = np.abs(seen - pixels.astype(int)).max(axis=(1, 2, 3))
    for path, difference in zip(paths, most):  # decoders of JPEG and transparency round once more
        assert difference <= (2 if path.suffix == '.jpg' or 'RGBA' in path.name else 0), path
    np.save(tmp_path / 'images.npy', pixels)
    for form, place in (('tflite', 0), ('tflite', 1), ('tflite_int8', 2)):
        done = subprocess.run(
            [client_python, '-I', SCRIPT, report.paths[form], tmp_path / 'images.npy',
             '--clients=litert'], capture_output=True, text=True, timeout=300)
        expected = json.loads(done.stdout.splitlines()[-1])['litert']['top1']
        same = [answer['classes'][place] == top
                for answer, top in zip(found['answers'], expected)]
        assert np.mean(same) >= 0.97, (form, same)
        assert len(set(expected)) == 10
    logits = model(pixels.astype(np.float32)).numpy()
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for answer, share in zip(found['answers'][:30], shares):
        for label, dense, *_ in answer['probabilities']:
            assert dense / 100 == pytest.approx(
                share[digit_classifier.NAMES.index(label)], abs=0.05)


@pytest.mark.clients
def test_the_page_says_what_it_cannot_do(digits, browser, tmp_path, monkeypatch):
    report = export.export_model(
        digits[0], tmp_path / 'export', formats=('tflite',), representative_data=digits[1])
    folder = report.out_dir / page.FOLDER
    (tmp_path / 'text.png').write_text('no picture')
    options = {'title': 'digits', 'pixels': report.pixels}
    page.write_page(folder, page.files_of(report, None), runtime=str(browser[1].parent), **options)
    said = web_page.drop(browser[0], folder, [tmp_path / 'text.png'], tmp_path)
    assert said == {'error': 'Error: text.png: no picture that this browser reads'}
    monkeypatch.setattr(page.litert_js, 'bring', lambda *_: 'there is no npm')
    page.write_page(folder, page.files_of(report, None), **options)
    said = web_page.drop(browser[0], folder, [tmp_path / 'text.png'], tmp_path)
    assert f'npm install --prefix . {runtime.PACKAGE}' in said['error']
