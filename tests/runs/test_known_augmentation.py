"""Training images are augmented no more than the given weights bear."""
import json
import math

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from sklearn.datasets import load_digits

from light_export import light_export
from tfprune.data.loading import load_data
from tfprune.runs.config import Config
from tfprune.runs.known_augmentation import as_chosen, known_augmentation
from tfprune.runs.run import train_and_prune


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """A folder of class folders: real handwritten digits, of which a mirrored or a shifted one is
    another thing."""
    folder = tmp_path_factory.mktemp('digits')
    source = load_digits()
    for index, (image, label) in enumerate(zip(source.images, source.target)):
        place = folder / str(label)
        place.mkdir(exist_ok=True)
        Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).save(place / f'{index}.png')
    return folder


@pytest.fixture(scope='module')
def data(digits):
    return load_data('folder', data_dir=str(digits), image_size='8x8x1')


def fitted(data, path, epochs=20):
    """A .keras file: a CNN that Keras trained with Adam on `data` as it is augmented."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 1)), layers.Rescaling(1 / 255),
        layers.Conv2D(16, 3, padding='same', activation='relu'), layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding='same', activation='relu'), layers.Flatten(),
        layers.Dense(10)])
    model.compile(keras.optimizers.Adam(3e-3),
                  keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for epoch in range(epochs):
        model.fit(data.train_batches(epoch, 32), verbose=0)
    model.save(path)
    return path


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    return fitted(data.with_augmentation(None), tmp_path_factory.mktemp('model') / 'digits.keras')


def test_weights_that_do_not_know_mirrored_images_see_none(trained, data):
    chosen, why = known_augmentation(keras.models.load_model(trained), data, 500)
    assert data.augmented == 'shifted and mirrored'
    assert chosen.augmented == 'not augmented' and 'not augmented' in why
    assert as_chosen(data, chosen.augmented).augmentation == chosen.augmentation
    assert as_chosen(data, '') is data


@pytest.mark.slow
def test_images_that_the_weights_know_are_augmented_as_ever(data, tmp_path):
    path = fitted(data, tmp_path / 'augmented.keras')
    chosen, why = known_augmentation(keras.models.load_model(path), data, 500)
    assert chosen is data and not why


@pytest.mark.slow
def test_a_run_respects_what_the_weights_know(trained, digits, tmp_path):
    options = dict(model=str(trained), dataset='folder', data_dir=str(digits), image_size='8x8x1',
                   method='uniform', macs=0.6, warmup_epochs=1, random_epochs=0, joint_epochs=0,
                   alignment_epochs=0, fine_tune_epochs=3, batch_size=32)
    reports = {}
    with light_export():
        for name, more in {'left': {}, 'asked': {'augment': True}, 'none': {'augment': False}
                           }.items():
            train_and_prune(Config(**options, **more), tmp_path / name, progress=False)
            reports[name] = json.loads((tmp_path / name / 'report.json').read_text())
    left, asked, none = (reports[name]['training'] for name in ('left', 'asked', 'none'))
    assert left['augmentation'] == 'not augmented'
    assert '--augment' in left['reasons'][0]
    assert asked['augmentation'] == none['augmentation'] == ''
    scores = {name: report['pruned']['test_accuracy'] for name, report in reports.items()}
    assert scores['left'] == scores['none'] >= scores['asked']
    given = reports['left']['given']['test_accuracy']
    assert given - scores['left'] < math.sqrt(given * (1 - given) / reports['left']['test_images'])
    assert reports['asked']['dense']['test_accuracy'] < given - 0.02
