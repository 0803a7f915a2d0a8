"""A task in a Python file: the whole harness from the command line."""
import json
import pathlib
import signal
import subprocess
import sys
import time

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest

from tfprune.runs.config import Config
from tfprune.runs.own_model import own_model
from tfprune.runs.task_file import own_of_task

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASK = '''
"""The sum of two columns of a table, with weights."""
import keras
import numpy as np
from keras import layers

monitor = 'val_mae'


def model():
    row = keras.Input((6,), name='row')
    x = layers.Dense(24, activation='relu', name='hidden_1')(row)
    x = layers.Dense(24, activation='relu', name='hidden_2')(x)
    net = keras.Model(row, layers.Dense(1, name='total')(x), name='net')
    net.compile(keras.optimizers.Adam(0.01), 'mse', weighted_metrics=['mae'])
    return net


def data():
    return [rows(count, seed) for seed, count in enumerate((256, 64, 64))]


def rows(count, seed):
    x = np.random.default_rng(seed).normal(size=(count, 6)).astype('float32')
    return x, x[:, :2].sum(1, keepdims=True), np.abs(x[:, 0])
'''
FLAGS = ('--macs=0.5 --method=rlal --warmup_epochs=2 --random_epochs=1 --joint_epochs=1 '
         '--alignment_epochs=0 --fine_tune_epochs=2 --batch_size=16 --threads=1 '
         '--rlal.episodes_per_epoch=2 --rlal.comparison_episodes=2').split()


def written(folder, text=TASK):
    path = folder / 'sums.py'
    path.write_text(text)
    return path


def script(name, *arguments, **options):
    return subprocess.Popen([sys.executable, ROOT / 'scripts' / name, *arguments], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
@pytest.mark.extra('rl')
def test_the_whole_harness(tmp_path):
    """Killed and resumed, as if never stopped; measured from scratch; reported beside another."""
    task = written(tmp_path)

    def train(name):
        return script('train.py', f'--task={task}', f'--run_dir={tmp_path / name}', *FLAGS)

    whole = train('s0')
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err[-2000:]
    assert 'test mae (smaller is better)' in out and 'sums on sums' in out
    killed = train('s1')
    while not list(tmp_path.glob('s1/checkpoints/e00002_*')) and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    resumed = train('s1')
    out, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0 and 'resuming' in out, err[-2000:]
    models = [keras.models.load_model(tmp_path / name / 'export/pruned.keras')
              for name in ('s0', 's1')]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    measured = script('evaluate.py', f'--path={tmp_path / "s0"}', f'--json={tmp_path / "m.json"}')
    out, err = measured.communicate(timeout=300)
    assert measured.returncode == 0, err[-2000:]
    report = json.loads((tmp_path / 's0/report.json').read_text())
    rows = json.loads((tmp_path / 'm.json').read_text())['artifacts']
    assert {row['form'] for row in rows} == {'keras', 'saved_model', 'tflite'}
    for row in rows:
        assert row['metrics']['mae'] == pytest.approx(report['pruned']['test_score'], rel=1e-4)
    summary = script('report.py', str(tmp_path / 's*'))
    out, err = summary.communicate(timeout=300)
    assert summary.returncode == 0 and 'mae' in out, err[-2000:]
    task.write_text(TASK + '# changed')
    other = train('s0')
    _, err = other.communicate(timeout=300)
    assert other.returncode == 2 and 'another content of --task' in err


def test_what_a_file_gives_is_a_users_model_and_data(tmp_path):
    config = Config(task=str(written(tmp_path)), seed=3)
    assert (config.models.model, config.data.dataset) == ('sums', 'sums')
    assert Config.from_json(config.to_json()).to_json() == config.to_json()
    one, other = own_of_task(config), own_of_task(config)
    assert one.digest() == other.digest() != own_of_task(config.replace(seed=4)).digest()
    assert (one.monitor.name, one.data.name, one.data.num_train) == ('val_mae', 'sums', 256)
    assert own_of_task(Config()) is None


def test_a_loss_of_another_file_is_part_of_the_task(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = written(tmp_path, TASK.replace("'mse'", '__import__("task_loss").loss'))
    digests = []
    for power in (2, 2, 3):
        (tmp_path / 'task_loss.py').write_text(f'def loss(y, p):\n    return (y - p) ** {power}\n')
        sys.modules.pop('task_loss', None)
        monkeypatch.setattr(sys, 'dont_write_bytecode', True)
        digests.append(own_of_task(Config(task=str(path))).task_digest())
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize('text, said', [
    ('def model(): pass', 'found no data'),
    ('1 / 0', 'the file raises ZeroDivisionError: division by zero'),
    ('raise SystemExit', 'the file raises SystemExit: no message'),
    (TASK.replace('def data():', 'def data():\n    raise KeyError("x")\n'),
     'data.. raises KeyError'),
    (TASK.replace('(256, 64, 64)', '(256, 64)'), 'must give train_data, reward_data, test_data'),
    (TASK.replace('    return net', '    return 5'), 'model.. gives int; expected a Keras 3 model'),
    (TASK.replace("6,), name", "5,), name"), r"input 'row' of the model is \[None, 5\]"),
    (TASK.replace('    net.compile', '    (lambda *a, **b: 0)'), 'is not compiled')])
def test_what_is_wrong_with_a_file_is_one_line(text, said, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises((ValueError, TypeError), match=said) as error:
        own_of_task(Config(task=str(path)))
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_task_names_model_and_data(tmp_path):
    with pytest.raises(ValueError, match='--model=resnet8 must be left out'):
        Config(task='sums.py', model='resnet8')
    with pytest.raises(ValueError, match='no such file'):
        own_of_task(Config(task=str(tmp_path / 'none.py')))


def test_classifiers_that_are_compiled_plainly_are_pictures_of_classes():
    def kind(loss, **compiled):
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(),
                                  keras.layers.Dense(3)])
        model.compile('adam', loss, **compiled)
        data = [(np.zeros((9, 8, 8, 1), 'float32') + np.arange(9)[:, None, None, None],
                 np.arange(9) % 3)] * 3
        return own_model(model, train_data=data[0], reward_data=data[1], test_data=data[2])

    loss = keras.losses.SparseCategoricalCrossentropy
    for plain in (kind(loss(from_logits=True)), kind(loss(from_logits=True), metrics=['accuracy']),
                  kind(None)):
        assert plain.monitor is None
    for own in (kind(loss(from_logits=True, ignore_class=0)),
                kind(loss(from_logits=True), metrics=['accuracy', 'mse']), kind('mse'),
                kind(loss(from_logits=True), weighted_metrics=['accuracy'])):
        assert own.monitor is not None
