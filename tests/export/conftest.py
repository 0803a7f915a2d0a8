"""The environment of the clients, and the model that they are asked about."""
import os
import pathlib
import subprocess
import sys

import digit_classifier
import pytest

PACKAGES = ('mediapipe', 'ai-edge-litert')


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """Where the clients are installed."""
    return pathlib.Path(os.environ.get('TFPRUNE_CLIENTS') or tmp_path_factory.mktemp('clients'))


@pytest.fixture(scope='session')
def client_python(folder):
    """The interpreter of an environment with the clients."""
    python = folder / 'bin' / 'python'
    if not python.exists():
        subprocess.run([sys.executable, '-m', 'venv', folder], check=True, timeout=300)
    subprocess.run([python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check',
                    *PACKAGES], check=True, timeout=1500)
    return python


@pytest.fixture(scope='session')
def digits():
    """(model, training images, test images, their labels) of digits in color."""
    train, train_labels, test, labels = digit_classifier.digits_in_color()
    return digit_classifier.trained_classifier(train, train_labels), train[:300], test, labels
