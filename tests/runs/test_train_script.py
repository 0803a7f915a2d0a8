"""scripts/train.py as a user runs it: interruptions, bad input."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest

from small_model import small_model
from tfprune import extras
from tfprune.errors import one_line
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = ['--dataset=digits', '--warmup_epochs=1', '--random_epochs=1',
         '--joint_epochs=2', '--alignment_epochs=1', '--fine_tune_epochs=1', '--batch_size=64',
         '--reward_images=100', '--score_images=100', '--score_batch_size=100',
         '--calibration_batches=1', '--rlal.episodes_per_epoch=3',
         '--rlal.random_reference_episodes=1',
         '--rlal.comparison_episodes=2', '--rlal.context_size=4', '--rlal.context_updates=3',
         '--rlal.agent_updates=2', '--rlal.alignment=adaptive', '--threads=1', '--macs=0.5',
         '--learning_rate=0.1']


@pytest.fixture(scope='module')
def model():
    """The flag of a network of two convolutions."""
    return f'--model={small_model()}'


def start(run_dir, model, *flags):
    extras.need('rl', "method 'rlal'")
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'scripts/train.py'), *SMALL, model, f'--run_dir={run_dir}',
         *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONFAULTHANDLER': '1'})


def finish(process, expected=0):
    """(stdout, stderr) of a process that ends with the status `expected`; None: with none."""
    try:
        out, err = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # a process that hangs says where
        pytest.fail(f'still running: {process.communicate()[1][-6000:]}')
    assert process.returncode == expected, err[-2000:]
    return out, err


def interrupt(run_dir, model, *, rows, delay, how):
    """Runs until `rows` epochs are in metrics.jsonl and `delay` seconds more; sends a signal.

    Returns its stderr.
    """
    process, metrics = start(run_dir, model), run_dir / 'metrics.jsonl'
    deadline = time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= rows):
        if process.poll() is not None or time.monotonic() > deadline:
            finish(process, expected=None)
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(how)
    return finish(process, {signal.SIGKILL: -9, signal.SIGTERM: 143}[how])[1]


def rows_of(path, *, without=()):
    return [{k: v for k, v in json.loads(line).items() if k not in without}
            for line in path.read_text().splitlines()]


def weights_of(run_dir):
    return keras.models.load_model(run_dir / 'export/pruned.keras').get_weights()


@pytest.fixture(scope='module')
def interrupted(model, tmp_path_factory):
    """(folder of a run stopped in a joint epoch, the checkpoint that it wrote as it was stopped,
    which is damaged then, stderr of the start that met it)."""
    run = tmp_path_factory.mktemp('interrupted') / 'run'
    interrupt(run, model, rows=3, delay=0.3, how=signal.SIGTERM)   # within a joint epoch
    newest = sorted((run / 'checkpoints').glob('e*'))[-1]
    with open(newest / 'state.data-00000-of-00001', 'r+b') as file:
        file.seek(1000)
        file.write(b'damage')
    return run, newest.name, finish(start(run, model))[1]


@pytest.fixture(scope='module')
def whole(model, tmp_path_factory):
    """(folder of an uninterrupted run, its stdout)."""
    run = tmp_path_factory.mktemp('whole') / 'run'
    return run, finish(start(run, model))[0]


def test_damaged_checkpoint_is_reported(interrupted):
    _, damaged, err = interrupted
    line, = [line for line in re.split('[\r\n]', err) if 'is damaged' in line]
    assert damaged in line


def test_interrupted_equals_uninterrupted(interrupted, whole):
    run, *_ = interrupted
    assert 'test accuracy' in whole[1] and 'MACs' in whole[1]
    check_same_run(run, whole[0])
    joint = [row for row in rows_of(run / 'metrics.jsonl') if row['phase'] == 'joint']
    # Of episodes whose widths had just been scored again there is nothing to score.
    assert any(row.get('scoring_seconds', 0) > 0 for row in rows_of(run / 'metrics.jsonl'))
    for row in joint:
        assert row['rescoring_seconds'] > 0 and row['agent_seconds'] > 0
        assert (row.get('scoring_seconds', 0) + row['rescoring_seconds'] + row['policy_seconds']
                + row['agent_seconds'] + row['context_seconds'] < row['method_seconds'])


@pytest.mark.slow
def test_interrupted_in_every_phase_equals_uninterrupted(whole, model, tmp_path):
    run = tmp_path / 'run'
    interrupt(run, model, rows=1, delay=0.2, how=signal.SIGTERM)   # within the random epoch
    interrupt(run, model, rows=3, delay=0.2, how=signal.SIGKILL)   # within a joint epoch
    interrupt(run, model, rows=4, delay=0, how=signal.SIGTERM)     # within the alignment epoch
    interrupt(run, model, rows=5, delay=0.2, how=signal.SIGKILL)   # after surgery
    finish(start(run, model))
    check_same_run(run, whole[0])


def check_same_run(run, whole):
    for one, other in zip(weights_of(whole), weights_of(run), strict=True):
        np.testing.assert_array_equal(one, other)
    timing = ('images_per_second', 'peak_process_bytes', *(f'{part}_seconds' for part in (
        'train', 'method', 'scoring', 'policy', 'agent', 'context', 'surrogate',
        'rescoring', 'random_reference', 'comparison')))
    for name in ('metrics.jsonl', 'episodes.jsonl'):
        assert rows_of(run / name, without=timing) == rows_of(whole / name, without=timing)


def test_bad_input_is_one_line(tmp_path):
    _, err = finish(start(tmp_path / 'run', '--model=resnet8', 'stray'), expected=2)
    line = err.strip().splitlines()[-1]
    assert line.startswith('train.py: error: stray arguments: stray')
    assert 'Traceback' not in err
    assert not list(tmp_path.iterdir())  # the same command, mended, finds no other configuration


@pytest.mark.parametrize('changes, message', [
    (dict(method='rlla'),
     "Unknown method 'rlla'. Did you mean 'rlal'? Available: amc, autocompress"),
    (dict(model='resnet21'), "Unknown model 'resnet21'. Did you mean 'resnet"),
    (dict(model='nowhere.keras'), "model 'nowhere.keras': no such file"),
    (dict(custom_layers='nowhere.py'), 'custom_layers nowhere.py: no such file'),
    (dict(dataset='cifar'), "Unknown dataset 'cifar'. Available: cifar10, cifar100, digits"),
    (dict(macs=1.5), 'macs must be a ratio in (0, 1] or a whole number above 1; received 1.5'),
    (dict(macs=0.0), "method 'rlal' needs a budget: --macs, --params, --peak_memory_bytes, --lat"),
    (dict(latency_ratio=0.5), 'latency_table must be given, the file of operator times, for --lat'),
    (dict(latency_table='nowhere.json'),
     'nowhere.json: no such latency table; tfprune benchmark'),
    (dict(quantize='int4'), "quantize must be a list of float16, dynamic, int8, int8_qat, or none"),
    (dict(criterion='l3'),
     "Unknown criterion 'l3'. Available: bn_scale, combined, geometric_median, l1"),
    (dict(reward_images=-1), 'reward_images must be in [0, 1000000000]'),
    (dict(reward_images=1437), 'reward_images'),
    (dict(params=0.01, macs=2000), 'macs=2000 allows 2,000, but the smallest reachable is'),
    (dict(initial_weights='nowhere.npz'), 'nowhere.npz'),
    (dict(frozen='layer_x'), 'layer_x'),
])
def test_bad_configurations_are_one_line_and_leave_nothing(tmp_path, changes, message):
    """What the script prints of them, without a process for each."""
    fields = dict(model='resnet8', dataset='digits', reward_images=100, score_images=100,
                  score_batch_size=100, macs=0.5)
    with pytest.raises((ValueError, OSError)) as caught:
        train_and_prune(Config(**fields | changes), tmp_path / 'run', progress=False)
    assert message in one_line(caught.value)
    assert not list(tmp_path.iterdir())  # the same command, mended, finds no other configuration


def test_folder_of_another_configuration_lists_the_flags(interrupted):
    run, *_ = interrupted
    before = os.stat(run / 'config.json').st_mtime_ns
    config = Config(**json.loads((run / 'config.json').read_text()) | {
        'seed': 3, 'learning_rate': 0.2})
    with pytest.raises((ValueError, OSError)) as caught:
        train_and_prune(config, run, progress=False)
    assert '--seed: 0 -> 3; --learning_rate: 0.1 -> 0.2' in one_line(caught.value)
    assert os.stat(run / 'config.json').st_mtime_ns == before
