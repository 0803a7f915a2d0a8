"""The `tfprune` command as a user types it: help, mistakes, and `tfprune prune`."""
import pathlib
import subprocess
import sys

import tfprune
import keras
import numpy as np
import pytest

from tfprune.commands import COMMANDS
from tfprune.costs.model import count_cost

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What takes seconds to import.
SLOW = ('tensorflow', 'keras', 'tf_keras', 'tf_agents', 'scipy', 'matplotlib')
RUN = ('import runpy, sys; sys.modules.update(dict.fromkeys(%r)); sys.argv[0] = "tfprune";'
       'runpy.run_module("tfprune", run_name="__main__")')


def command(*arguments, slow=False, cwd=ROOT):
    """`tfprune …`, by default where TensorFlow cannot be imported."""
    start = ['-m', 'tfprune'] if slow else ['-c', RUN % (SLOW,)]
    return subprocess.run([sys.executable, *start, *map(str, arguments)], capture_output=True,
                          text=True, cwd=cwd, timeout=300,
                          env={'PYTHONPATH': str(ROOT), 'PATH': ''})


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    made = keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(12, 3), layers.BatchNormalization(), layers.ReLU(),
        layers.Conv2D(20, 3), layers.ReLU(), layers.Flatten(), layers.Dense(10)])
    path = tmp_path_factory.mktemp('given') / 'model.keras'
    made.save(path)
    return path


def test_every_command_is_a_script_with_a_file():
    assert {path.stem for path in (ROOT / 'tfprune/commands').glob('[a-z]*.py')} == set(COMMANDS)
    assert {path.stem for path in (ROOT / 'scripts').glob('*.py')} == set(COMMANDS)
    for name in COMMANDS:
        assert f"run('{name}')" in (ROOT / f'scripts/{name}.py').read_text()


def test_help_lists_the_commands():
    done = command('--help')
    assert done.returncode == 0 and all(f'\n  {name} ' in done.stdout for name in COMMANDS)
    assert command().returncode == 2 and command().stdout == done.stdout
    assert command('--version').stdout == f'tfprune {tfprune.__version__}\n'


def test_help_into_head_is_no_error():
    start = [sys.executable, '-c', RUN % (SLOW,), 'train', '--help']
    process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=ROOT, env={'PYTHONPATH': str(ROOT), 'PATH': ''})
    process.stdout.close()  # before anything is written
    assert (process.stderr.read(), process.wait(60)) == ('', 0)
    process.stderr.close()


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_each_needs_no_tensorflow(name):
    done = command(name, '--help')
    assert done.returncode == 0, done.stderr
    assert f'tfprune {name}' in done.stdout and '--flagfile=FILE' in done.stdout


@pytest.mark.parametrize('arguments, said', [
    ('train --epochs=5', "tfprune train: error: Unknown flag --epochs. Did you mean 'alignment_epo"
     "chs' or 'fine_tune_epochs' or 'joint_epochs'"),
    ('trian', "tfprune: error: Unknown command 'trian'. Did you mean 'train'? Available: "),
    ('train --run_dir=x --learnig_rate=1', 'tfprune train: error: Unknown flag --learnig_rate.'),
    ('train --run_dir=x --model=no.keras', 'tfprune train: error: model no.keras: no such file.'),
    ('train --run_dir=x --model=resnet9', "tfprune train: error: Unknown model 'resnet9'. Did you"),
    ('train --run_dir=x --task=no.py', 'tfprune train: error: task no.py: no such file.'),
    ('train --run_dir=x --dataset=folder --data_dir=no',
     'tfprune train: error: data_dir no: no such folder.'),
    ('train --flagfile=quickstrat.flags', 'tfprune train: error: flagfile quickstrat.flags: no '
     "such file. Did you mean 'quickstart.flags'?"),
    ('analyze --model=no.keras', 'tfprune analyze: error: model no.keras: no such file.'),
    ('evaluate --path=no', 'tfprune evaluate: error: no: no such file or directory'),
    ('export --out=x --model=no.keras', 'tfprune export: error: model no.keras: no such file.'),
    ('prune no.keras --macs=0.5', 'tfprune prune: error: model no.keras: no such file.'),
    ('prune --macs=0.5', 'tfprune prune: error: expected one model file, received none.'),
    ('prune setup.cfg', 'tfprune prune: error: a budget is needed, such as --macs=0.5: one of --'),
    ('prune setup.cfg --macs=0.5 --out=x.h5', 'tfprune prune: error: --out must end in .keras;'),
])
def test_mistakes_are_answered_without_tensorflow(arguments, said):
    done = command(*arguments.split())
    assert done.returncode == 2 and done.stdout == '', done.stdout
    assert done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1


def test_prune_keeps_the_budget_and_is_a_plain_model(model, tmp_path):
    done = command('prune', model, '--macs=0.5', f'--out={tmp_path}/small.keras', slow=True)
    assert done.returncode == 0 and done.stderr == '', done.stderr
    small = keras.models.load_model(tmp_path / 'small.keras')
    before, after = count_cost(keras.models.load_model(model)), count_cost(small)
    # 36 · 9 · 12 + 16 · 9 · 12 · 20 + 320 · 10 multiply-adds.
    assert before.macs == 41_648 and after.macs <= 20_824
    macs, = (line for line in done.stdout.splitlines() if line.startswith('MACs'))
    assert macs.split()[1:] == ['41,648', f'{after.macs:,}', f'{after.macs / 41_648:.2%}']
    expected = tfprune.prune_to_budget(keras.models.load_model(model), macs=0.5)
    for ours, theirs in zip(expected.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_prune_does_not_write_over_the_model(model):
    before = model.read_bytes()
    done = command('prune', model, '--macs=0.5', f'--out={model}')
    assert done.returncode == 2 and 'must be another file' in done.stderr
    assert model.read_bytes() == before
