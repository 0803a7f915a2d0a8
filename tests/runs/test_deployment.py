"""Files for phones and servers at the end of a run: all measured, what they lose is said."""
import json
import pathlib
import runpy
import signal
import subprocess
import sys
import time

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest

import web_page
from made_up_runs import Page, html_of, make_run
from tfprune.data.loading import load_data
from tfprune.export.base import TFLiteOptions
from tfprune.export.exporter import FORMATS, export_model
from tfprune.export.tflite import convert
from tfprune.report import model_card
from tfprune.report.artifact_table import artifact_rows, losses
from tfprune.report.reading import read_run
from tfprune.runs import run as runner
from tfprune.runs.config import Config
from tfprune.runs.deployment import (Deployment, check_convertible, deploy, measured_forms,
                                     representative_images)
from tfprune.runs.problem import OwnModel
from tfprune.runs.state import Interrupted
from tfprune.tasks.classification import Classification
from tfprune.tasks.compiled import CompiledTask
from tfprune.training.step import StopTraining

L = keras.layers
ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = Config(dataset='digits', method='uniform', macs=0.5, warmup_epochs=1,
                random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1,
                batch_size=128, reward_images=100, score_images=100, score_batch_size=100,
                calibration_batches=1, lr_warmup_epochs=0.0, quantize='int8_qat, int8, int8',
                quantize_epochs=1, representative_images=50)
ROWS = [{'form': 'keras', 'file': 'pruned.keras', 'bytes': 2000, 'accuracy': 0.95, 'lost': 0.0},
        {'form': 'tflite', 'file': 'model.tflite', 'bytes': 1234, 'accuracy': 0.95, 'lost': 0.0,
         'latency': [{'threads': 1, 'median_ms': 0.5, 'ratio': 0.5},
                     {'threads': 2, 'median_ms': 0.25, 'ratio': None}]},
        {'form': 'tflite_int8', 'file': 'model_int8.tflite', 'bytes': 400, 'accuracy': 0.919,
         'lost': 0.031, 'advice': 'do this',
         'latency': [{'threads': 1, 'median_ms': 0.125, 'ratio': 0.125},
                     {'threads': 2, 'median_ms': 0.1, 'ratio': 0.2}]}]
DENSE_LATENCY = [{'threads': 1, 'median_ms': 1.0}, {'threads': 2, 'median_ms': 0.5}]


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """CONFIG on a small network of convolutions, a depthwise one among them."""
    image = keras.Input((8, 8, 1))
    x = L.Conv2D(24, 3, padding='same', use_bias=False)(L.Rescaling(1 / 16)(image))
    x = L.DepthwiseConv2D(3, strides=2, padding='same', use_bias=False)(x)
    x = L.ReLU(6)(L.BatchNormalization()(x))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(64, 3, padding='same', use_bias=False)(x)))
    path = tmp_path_factory.mktemp('model') / 'small.keras'
    keras.Model(image, L.Dense(10)(L.GlobalAveragePooling2D()(x))).save(path)
    return CONFIG.replace(model=str(path), web=True,
                          litert_js=web_page.made_up_runtime(path.with_name('npm')))


@pytest.fixture(scope='module')
def result(config, tmp_path_factory):
    return runner.train_and_prune(config, tmp_path_factory.mktemp('run') / 'run', progress=False)


def test_the_page_has_the_dense_file_beside_the_pruned_ones(config, result):
    folder = result.run_dir / 'export/web'
    found = json.loads((folder / 'page.json').read_text())
    assert [(row['title'], row['dtype']) for row in found['models']] == [
        ('dense, float32', 'float32'), ('pruned, float32', 'float32'),
        ('pruned, int8, QAT', 'uint8')]
    assert found['labels'] == [str(digit) for digit in range(10)]
    sizes = [row['bytes'] for row in found['models']]
    assert sizes[1:] == [(result.run_dir / 'export' / name).stat().st_size
                         for name in ('model.tflite', 'model_int8_qat.tflite')]
    assert {path.name for path in folder.iterdir()} > {'index.html', 'page.js', 'node_modules'}


def test_a_page_that_cannot_be_is_refused_before_training(config, tmp_path):
    with pytest.raises(ValueError, match='^web: .*expected tflite_batch 1, received 0'):
        runner.train_and_prune(config.replace(tflite_batch=0, quantize=''), tmp_path / 'run',
                               progress=False)
    with pytest.raises(FileNotFoundError, match='^litert_js .*npm install --prefix'):
        runner.train_and_prune(config.replace(litert_js=str(tmp_path)), tmp_path / 'run',
                               progress=False)


def test_every_file_is_measured(result):
    rows = {row['form']: row for row in result.report['artifacts']}
    assert list(rows) == ['keras', 'saved_model', 'tflite', 'tflite_int8_qat', 'tflite_int8']
    data = load_data('digits', reward_images=100)
    (images, labels), = data.test_batches(data.num_test).as_numpy_iterator()
    for form, row in rows.items():
        path = result.run_dir / 'export' / row['file']
        assert result.report['files'][form] == f'export/{row["file"]}'
        hits = FORMATS[form].open(path)(images).argmax(-1) == labels
        assert row['accuracy'] == hits.mean()
        assert row['lost'] == rows['keras']['accuracy'] - row['accuracy']
        if form.startswith('tflite'):
            assert row['bytes'] == path.stat().st_size
            assert [seen['threads'] for seen in row['latency']] == [1, 2, 4]
            assert all(0 < seen['p10_ms'] <= seen['median_ms'] <= seen['p90_ms']
                       and seen['ratio'] > 0 for seen in row['latency'])
    assert rows['tflite']['accuracy'] == rows['keras']['accuracy']
    assert rows['tflite_int8']['bytes'] < rows['tflite']['bytes'] / 2
    assert result.report['pruned']['latency_ms'] == rows['tflite']['latency'][0]['median_ms']
    assert len(result.report['dense_latency']) == 3
    text = (result.run_dir / 'export/model_card.md').read_text()
    assert 'model_int8_qat.tflite' in text and 'images 8×8×1' in text


@pytest.mark.slow
def test_stopped_in_quantization_aware_fine_tuning_it_is_done_anew(
        config, result, tmp_path, monkeypatch):
    begun = []
    real = runner.finish

    def finish(*args):
        begun.append(True)
        return real(*args)

    monkeypatch.setattr(runner, 'finish', finish)
    with pytest.raises(Interrupted, match='before the end of the export'):
        runner.train_and_prune(config, tmp_path / 'run', progress=False,
                               should_stop=lambda: bool(begun))
    assert not (tmp_path / 'run/report.json').exists()
    monkeypatch.undo()
    again = runner.train_and_prune(config, tmp_path / 'run', progress=False)
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1))
    # The bytes hold names of tensors, which count what the process built before.
    answers = [FORMATS['tflite_int8_qat'].open(run.run_dir / 'export/model_int8_qat.tflite')(images)
               for run in (again, result)]
    np.testing.assert_array_equal(*answers)


def test_a_layer_without_int8_form_is_named_before_training(tmp_path):
    image = keras.Input((8, 8, 1))
    x = L.Conv2D(6, 3)(image)
    x = L.GlobalAveragePooling2D()(L.PReLU(name='bent')(x))
    keras.Model(image, L.Dense(10)(x)).save(tmp_path / 'mine.keras')
    config = CONFIG.replace(model=str(tmp_path / 'mine.keras'))
    with pytest.raises(ValueError, match="layer 'bent'"):
        runner.train_and_prune(config, tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run').exists()


def test_what_would_stop_the_export_is_said_before_training(tmp_path):
    image = keras.Input((8, 8, 1))
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 3)(image))
    model = keras.Model(image, L.Dense(10)(keras.ops.erfinv(x)))
    own = OwnModel(model, load_data('digits', reward_images=100))
    with pytest.raises(ValueError, match='TFLite has no operator for: Erfinv'):
        runner.train_and_prune(CONFIG.replace(quantize=''), tmp_path / 'run',
                               own=own, progress=False)
    model = keras.Model(image, L.Dense(10)(x))
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='is no export'):
        deploy(model, Classification.of(model), own.data, tmp_path / 'full',
               Deployment(('int8_qat',)), overwrite=True)
    with pytest.raises(PermissionError, match='cannot write the export'):
        deploy(model, Classification.of(model), own.data, tmp_path / 'full/thesis.txt/out',
               Deployment(('int8_qat',)))


def test_a_model_of_mixed_precision_converts_as_it_is_exported():
    """TFLite has no convolution of bfloat16; what is exported is float32."""
    image = keras.Input((8, 8, 1))
    half = keras.DTypePolicy('mixed_bfloat16')
    x = L.BatchNormalization(dtype=half)(L.Conv2D(6, 3, dtype=half)(image))
    x = L.GlobalAveragePooling2D(dtype=half)(x)
    model = keras.Model(image, L.Dense(10, dtype=half)(x))
    with pytest.raises(ValueError, match='TFLite has no operator for: .*Conv2D'):
        convert(model)
    check_convertible(model)


def test_the_loss_of_a_file_with_a_softmax_is_that_of_the_model(config, tmp_path):
    model, data = keras.models.load_model(config.models.model), load_data('digits')
    model.layers[-1].kernel.assign(9 * model.layers[-1].kernel)  # far from even
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    exported = export_model(model, tmp_path / 'out', formats=('keras', 'tflite'),
                            tflite_options=TFLiteOptions(softmax=True))
    (batch, *_) = data.test_batches(8)
    for task in (Classification.of(model), CompiledTask.of(model, batch)):
        plain, lite = measured_forms(exported, model, task, data, softmax=True)
        assert lite['form'] == 'tflite' and plain['metrics']['loss'] > 0
        assert lite['metrics'] == pytest.approx(plain['metrics'], rel=1e-4)


def test_representative_images_are_of_the_training_set():
    data = load_data('digits', reward_images=100)
    images = representative_images(data, 50)
    assert images.shape == (50, 8, 8, 1) and images.dtype == np.uint8
    test = {image.tobytes() for batch, _ in data.test_batches(100) for image in batch.numpy()}
    assert not test & {image.tobytes() for image in images}
    assert len(representative_images(data, 10 ** 6)) == data.num_train


def test_the_table_of_files():
    header, dense, plain, lite, int8 = artifact_rows(ROWS, DENSE_LATENCY)
    assert header == ('file', 'bytes', 'test accuracy', '1 thread, ms', '2 threads, ms')
    assert dense[3:] == ('1', '0.5') and plain[3:] == ('–', '–')
    assert lite == ('model.tflite', '1,234', '95.00%', '0.5 (50%)', '0.25')
    assert int8[3:] == ('0.125 (12%)', '0.1 (20%)')


def test_what_a_file_loses_is_said_with_what_to_do():
    assert losses(ROWS) == ['model_int8.tflite loses 3.1 points of accuracy against the Keras '
                            'model; do this.']
    assert not losses([{**ROWS[2], 'lost': 0.01}])


def test_report_and_card(tmp_path):
    run = make_run(tmp_path / 'run', artifacts=ROWS, dense_latency=DENSE_LATENCY,
                   class_names=['cat', 'dog<2>'])
    text = html_of(run)
    assert 'href="export/model_int8.tflite"' in text and 'loses 3.1 points' in text
    assert 'Model card' in Page(text).headings and 'dog&lt;2&gt;' in text
    card = model_card(read_run(run))
    assert card.startswith('# resnet8 on digits, pruned by rlal\n')
    assert 'one of 2 classes: cat, dog&lt;2&gt;' in card and 'loses 3.1 points' in card
    assert '|model.tflite|1,234|95.00%|0.5(50%)|0.25|' in card.replace(' ', '')
    assert 'standard error of one accuracy' in card


@pytest.mark.slow
def test_asked_to_stop_nothing_more_is_written_or_tested(config, tmp_path):
    """Asked before each of three files, each of three tests, each of three numbers of threads."""
    model = keras.models.load_model(config.models.model)
    data = load_data('digits', reward_images=100)
    for asked in (1, 7):
        times = iter(range(10))
        with pytest.raises(StopTraining):
            deploy(model, Classification.of(model), data, tmp_path / 'out', Deployment(),
                   overwrite=True,
                   should_stop=lambda: next(times) == asked)
        assert next(times) == asked + 1
        assert (tmp_path / 'out/parity.json').exists() == (asked > 3)


@pytest.mark.slow
def test_a_signal_ends_the_script_and_leaves_nothing(result, tmp_path):
    process = subprocess.Popen(
        [sys.executable, ROOT / 'scripts/export.py', f'--out={tmp_path}/out', '--dataset=digits',
         f'--model={result.run_dir}/dense.keras', '--quantize=int8,float16,dynamic'],
        stderr=subprocess.PIPE, text=True)
    while not (tmp_path / '.out.partial').exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 128 + signal.SIGTERM
    assert process.stderr.read().splitlines()[-1].startswith('stopped before the end')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_script_exports_what_any_task_has_trained(tmp_path):
    path, task = tmp_path / 'unet.keras', ROOT / 'flags/tasks/digit_masks.py'
    unet = runpy.run_path(str(task))['model']()
    unet.save(path)
    command = [sys.executable, ROOT / 'scripts/export.py', f'--model={path}',
               f'--out={tmp_path}/out', f'--json={tmp_path}/rows.json']
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2 and 'is no classifier of pictures: give the --task' in done.stderr
    done = subprocess.run([*command, f'--task={task}'], capture_output=True, text=True, check=False,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert 'test mean_io_u' in done.stdout
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert rows['dataset'] == 'digit_masks'
    scores = {row['form']: row['metrics']['mean_io_u'] for row in rows['artifacts']}
    assert scores['tflite'] == pytest.approx(scores['keras'], abs=1e-3)


@pytest.mark.slow
def test_script_refuses_an_empty_out(tmp_path):
    command = [sys.executable, ROOT / 'scripts/export.py', '--out=', f'--model={tmp_path}/x.keras']
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith('export.py: error: out must be')


@pytest.mark.slow
def test_script_exports_any_model(tmp_path, result):
    command = [sys.executable, ROOT / 'scripts/export.py', f'--out={tmp_path}/out',
               f'--model={result.run_dir}/dense.keras', '--dataset=digits', '--quantize=dynamic',
               '--reward_images=100', f'--json={tmp_path}/rows.json']
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / 'rows.json').read_text())['artifacts']
    assert [row['form'] for row in rows] == ['keras', 'saved_model', 'tflite', 'tflite_dynamic']
    assert all((tmp_path / 'out' / row['file']).exists() for row in rows)
    assert rows[0]['accuracy'] == result.report['dense']['test_accuracy']
    assert 'model_dynamic.tflite' in done.stdout
    assert keras.models.load_model(tmp_path / 'out/pruned.keras').count_params() > 0
