"""Two worker processes on loopback: the result of one process, also after one of them was lost."""
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest

import test_replicas
from tfprune import extras
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.training.distribution import Cluster, make_strategy

LIMIT = 300  # seconds, most of them imports, of processes on a busy machine
pytestmark = pytest.mark.timeout(5 * LIMIT)

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = Config(
    model='resnet8', dataset='digits', macs=0.5, warmup_epochs=0, random_epochs=1, joint_epochs=1,
    alignment_epochs=0, fine_tune_epochs=1, batch_size=128, learning_rate=0.01,
    reward_images=100, score_images=100, score_batch_size=50,
    calibration_batches=1, reconstruction=False,  # several workers have none
    rlal=dict(episodes_per_epoch=2, random_reference_episodes=0, comparison_episodes=0,
              context_size=2, context_updates=2, agent_updates=1))
FLAGS = [f'--{name}={value}' for name, value in CONFIG.to_json().items() if value is not None]


def free_ports(count):
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(('localhost', 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Workers:
    """Processes of the same command, one a worker."""

    def __init__(self, script, *arguments):
        self._command = [sys.executable, str(ROOT / script), *arguments]
        self._addresses = [f'localhost:{port}' for port in free_ports(2)]
        self.start()

    def start(self):
        # Not pipes: who waits for one worker does not read from the other.
        self._logs = [[tempfile.TemporaryFile('w+') for _ in range(2)] for _ in range(2)]
        self.processes = [self._start(index) for index in range(2)]

    def _start(self, index):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        task = {'cluster': {'worker': self._addresses}, 'task': {'type': 'worker', 'index': index}}
        return subprocess.Popen(
            self._command, cwd=ROOT, stdout=self._logs[index][0], stderr=self._logs[index][1],
            env={**os.environ, 'PYTHONPATH': path, 'CUDA_VISIBLE_DEVICES': '',
                 'TF_CONFIG': json.dumps(task)})

    def lose(self, index):
        """kill -9; starts it again, as whatever keeps it running would."""
        self.processes[index].kill()
        self.processes[index].wait()
        self.processes[index] = self._start(index)

    def finish(self, expected=0):
        """(stdout, stderr) of each."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and any(p.poll() is None for p in self.processes):
            time.sleep(0.02)
        codes = [process.poll() for process in self.processes]
        for process in self.processes:
            process.kill()
            process.wait()
        found = []
        for files in self._logs:
            for file in files:
                file.seek(0)
            found.append([file.read() for file in files])
        assert codes == [expected] * 2, '\n'.join(err[-3000:] for _, err in found)
        return found

    def wait_for_rows(self, run_dir, count):
        """Until that many epochs are in metrics.jsonl."""
        metrics, deadline = run_dir / 'metrics.jsonl', time.monotonic() + LIMIT
        while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
            if time.monotonic() > deadline or any(p.poll() is not None for p in self.processes):
                self.finish(expected=None)
            time.sleep(0.02)


def train(run_dir):
    extras.need('rl', "method 'rlal'")
    return Workers('scripts/train.py', *FLAGS, '--threads=1', f'--run_dir={run_dir}')


def rows_of(path):
    measured = ('images_per_second', 'peak_process_bytes')
    return [{k: v for k, v in json.loads(line).items()
             if k not in measured and not k.endswith('_seconds')}
            for line in path.read_text().splitlines()]


def weights_of(run_dir):
    return keras.models.load_model(run_dir / 'export/pruned.keras').get_weights()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Run folder of two workers that nothing happened to."""
    run_dir = tmp_path_factory.mktemp('workers') / 'run'
    (chief, _), (other, _) = train(run_dir).finish()
    assert 'test accuracy' in chief
    assert other.splitlines()[1:] == ['done; worker 0 exports and reports.']
    return run_dir


@pytest.mark.slow
def test_steps_and_evaluation_are_those_of_one():
    workers = Workers('tests/training/test_replicas.py', '1')
    one = test_replicas.train_on(make_strategy(1))
    found = [json.loads(out.splitlines()[-1]) for out, _ in workers.finish()]
    taylor = [row.pop('taylor') for row in found]
    assert found[0] == found[1] and taylor[0] == pytest.approx(taylor[1], rel=1e-3)
    found[0]['taylor'] = taylor[0]
    test_replicas.check_same(one, found[0])


@pytest.mark.slow
def test_a_run_is_that_of_one_process(whole, tmp_path):
    one = train_and_prune(CONFIG, tmp_path / 'one', progress=False)
    ours, theirs = (rows_of(path / 'metrics.jsonl') for path in (whole, tmp_path / 'one'))
    assert [row['phase'] for row in ours] == ['random', 'joint', 'fine_tune']
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        for name in ('loss', 'cross_entropy', 'penalty'):
            assert mine[name] == pytest.approx(other[name], rel=1e-2)
        for name in ('accuracy', 'reward_accuracy', 'reward_mean'):  # float error moves an image
            assert mine[name] == pytest.approx(other[name], abs=.02)
    decisions = [(path / 'decision.json').read_text() for path in (whole, tmp_path / 'one')]
    if decisions[0] != decisions[1]:
        pytest.skip('an image more or less made another decision')
    ours = keras.models.load_model(whole / 'export/pruned.keras')
    for mine, other in zip(ours.trainable_weights, one.model.trainable_weights, strict=True):
        assert np.allclose(mine, other, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_the_loss_of_one_changes_nothing(whole, tmp_path):
    run_dir = tmp_path / 'run'
    workers = train(run_dir)
    workers.wait_for_rows(run_dir, 1)
    workers.lose(1)
    (out, err), _ = workers.finish()
    assert 'another worker is lost' in err and 'restart 1 from the last checkpoint' in err
    assert re.search(r'resuming .* after epoch [123], step \d+', out)
    for mine, other in zip(weights_of(run_dir), weights_of(whole), strict=True):
        np.testing.assert_array_equal(mine, other)
    for name in ('metrics.jsonl', 'episodes.jsonl'):
        assert rows_of(run_dir / name) == rows_of(whole / name)


@pytest.mark.parametrize('text', [
    '{', '[]', '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}'])
def test_another_tf_config_is_refused(monkeypatch, text):
    monkeypatch.setenv('TF_CONFIG', text)
    with pytest.raises(ValueError, match=r'TF_CONFIG must be \{"cluster": .*; received'):
        Cluster.of_environment()


def test_one_worker_is_no_cluster(monkeypatch):
    monkeypatch.delenv('TF_CONFIG', raising=False)
    assert Cluster.of_environment() is None
    for text in ('{}', '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}'):
        monkeypatch.setenv('TF_CONFIG', text)
        assert Cluster.of_environment() is None
