"""The code of the deploy pages, as it stands there: run on pictures, it names the classes that the
Keras model names. A page whose package is not installed is skipped."""
import re
import shutil
import sys

import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest
from PIL import Image

import deploy_pages
import digit_classifier
from tfprune.data.decoding import decode
from tfprune.export import exporter as export

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1800)]  # it may install packages
COUNT = 60


@pytest.fixture(scope='module')
def export_dir(digits, tmp_path_factory):
    return export.export_model(
        digits[0], tmp_path_factory.mktemp('deployed') / 'export',
        formats=('saved_model', 'tflite_int8'), representative_data=digits[1],
        class_names=digit_classifier.NAMES).out_dir


def pictures_of(digits, folder):
    """(picture files of twice the model's size, the names that Keras gives them)."""
    model, _, images, _ = digits
    paths = [folder / f'{i}.{["png", "jpg"][i % 2]}' for i in range(COUNT)]
    for path, image in zip(paths, images):
        Image.fromarray(image).resize((16, 16), Image.Resampling.NEAREST).save(path, quality=95)
    pixels = np.array([decode(str(path), 8, 8, 3) for path in paths])
    top = model(pixels.astype(np.float32)).numpy().argmax(-1)
    return paths, [digit_classifier.NAMES[index] for index in top]


@pytest.mark.parametrize('page', deploy_pages.PACKAGES)
def test_the_code_of_a_page_names_the_classes_that_keras_names(page, digits, export_dir,
                                                               client_python, tmp_path):
    package = deploy_pages.PACKAGES[page]
    if page == 'server' and not shutil.which('curl'):
        pytest.skip('no curl')
    if package and not deploy_pages.has(client_python, f'{package}, PIL'):
        pytest.skip(f'{client_python} has no {package}, or no Pillow')
    if page == 'onnx' and not deploy_pages.has(sys.executable, 'tf2onnx'):
        pytest.skip('no tf2onnx')
    paths, expected = pictures_of(digits, tmp_path)
    deploy_pages.prepare(tmp_path, export_dir, paths, (8, 8))
    found = deploy_pages.answers(page, tmp_path, client_python)
    assert len(set(expected)) == 10
    assert np.mean(np.array(found) == expected) >= 0.95


def test_every_page_is_known_and_every_block_run_or_said_not_to_be():
    pages = {path.stem for path in deploy_pages.PAGES.glob('*.md')}
    assert pages == {*deploy_pages.PACKAGES, 'browser', 'README'}
    for page in pages:
        text = (deploy_pages.PAGES / f'{page}.md').read_text()
        assert {kind for kind, _ in deploy_pages.BLOCK.findall(text)} <= {
            'python', 'sh', 'json', 'kotlin', 'text'}
        assert text.count('```') == 2 * len(deploy_pages.BLOCK.findall(text))
        assert ('```kotlin' in text) == bool(re.search('Kotlin above was not run', text))
