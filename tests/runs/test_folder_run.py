"""A run on a user's folder, from images to report, export and evaluation."""
import json
import pathlib
import subprocess
import sys

import tfprune  # noqa: F401  (first: sets up Keras)
import numpy as np
import pytest
from PIL import Image

from small_model import small_model
from tfprune.data.loading import load_data
from tfprune.runs import artifacts
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLASSES = ['dark', 'light']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(config, folder of images, run folder): dark and light pictures of several sizes."""
    folder = tmp_path_factory.mktemp('pictures')
    generator = np.random.default_rng(0)
    for name, low in zip(CLASSES, (0, 160)):
        (folder / name).mkdir()
        for index in range(30):
            size = generator.integers(8, 20, 2)
            Image.fromarray(generator.integers(low, low + 90, (*size, 3), np.uint8)).save(
                folder / name / f'{index}.webp')
    config = Config(
        dataset='folder', data_dir=str(folder), image_size='8x12', test_fraction=0.3,
        model=small_model(shape=(8, 12, 3), classes=2), method='uniform', macs=0.5, warmup_epochs=2,
        random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1, batch_size=8,
        reward_images=8, score_images=8, score_batch_size=8, calibration_batches=1)
    run_dir = tmp_path_factory.mktemp('runs') / 'run'
    train_and_prune(config, run_dir, progress=False)
    return config, folder, run_dir


def test_class_names_are_kept_to_the_end(run):
    _, _, run_dir = run
    assert (run_dir / 'export/labels.txt').read_text().split() == CLASSES
    report = json.loads((run_dir / 'report.json').read_text())
    assert report['class_names'] == CLASSES and report['test_images'] == 18
    assert 'Classes (2)' in (run_dir / 'report.html').read_text()
    data = json.loads((run_dir / 'data.json').read_text())
    assert data == {'name': 'folder', 'image_shape': [8, 12, 3], 'num_train': 34, 'num_reward': 8,
                    'num_test': 18, 'class_names': CLASSES, 'pixel_range': [0.0, 255.0],
                    'reward_split': 'by class'}


def test_evaluation_loads_the_same_test_images(run):
    _, _, run_dir = run
    report = json.loads((run_dir / 'report.json').read_text())
    dataset, options = artifacts.data_source(run_dir)
    data = load_data(dataset, **{**options, 'reward_images': 1, 'augment': False})
    artifacts.check_classes(run_dir, dataset, data)
    row = artifacts.measure(artifacts.open_artifact(run_dir, 'keras'), data)
    assert (row.accuracy, row.images) == (report['pruned']['test_accuracy'], 18)


@pytest.mark.slow
def test_a_file_is_evaluated_on_a_folder(run):
    """The default test_fraction leaves a fifth of 60 images."""
    _, folder, run_dir = run
    done = subprocess.run(
        [sys.executable, ROOT / 'scripts/evaluate.py', f'--path={run_dir / "export/model.tflite"}',
         '--dataset=folder', f'--data_dir={folder}', '--image_size=8x12'],
        cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    form, _, images, *_ = done.stdout.splitlines()[-1].split()
    assert (form, images) == ('tflite', '12')


def test_a_folder_that_changed_is_not_resumed(run, tmp_path):
    config, folder, run_dir = run
    (run_dir / 'report.json').rename(tmp_path / 'report.json')  # as if it had not finished
    (folder / 'dark/0.webp').rename(tmp_path / '0.webp')
    try:
        with pytest.raises(ValueError, match='another data.json: num_train: 34 -> 33'):
            train_and_prune(config, run_dir, progress=False)
    finally:
        (tmp_path / '0.webp').rename(folder / 'dark/0.webp')
        (tmp_path / 'report.json').rename(run_dir / 'report.json')
