"""The core needs no extra, and what needs one says so before anything is done."""
import configparser
import pathlib
import re
import subprocess
import sys

import pytest

import tfprune
from tfprune import extras
from tfprune.data.loading import load_data
from tfprune.errors import is_users
from tfprune.methods.names import METHODS
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = sorted({module for extra in extras.EXTRAS.values() for module in extra.modules})
# Every module of the core, and what an engineer does with it.
CORE = f'''
import sys
sys.modules.update(dict.fromkeys({MODULES}))
import os, pathlib, importlib
import tensorflow as tf, keras     # before tfprune: nothing of it needs Keras 2
import tfprune
assert 'TF_USE_LEGACY_KERAS' not in os.environ
root = pathlib.Path(tfprune.__file__).parent
for path in sorted(root.rglob('*.py')):
    name = '.'.join(path.relative_to(root.parent).with_suffix('').parts).removesuffix('.__init__')
    if path.parent.name not in ('benchmarks', 'commands') and path.name != '__main__.py':
        try:
            importlib.import_module(name)
        except ImportError as error:
            assert error.name.split('.')[0] == 'tf_agents', (name, error)
            print(name)
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3), keras.layers.ReLU(),
                          keras.layers.Conv2D(8, 3), keras.layers.Flatten(),
                          keras.layers.Dense(10)])
assert tfprune.prune_to_budget(model, macs=0.5).count_params() < model.count_params()
tf.keras.layers.Dense(1)           # still that of Keras 3
'''
# What cannot be imported without TF-Agents.
OF_AGENTS = ('rlal', 'amc', 'cacp', 'n2n', 'purl', 'crl', 'ppo_search')  # methods
AGENTS = {'tfprune.search.environment', 'tfprune.search.agents',
          *(f'tfprune.methods.{name}' for name in OF_AGENTS)}


@pytest.fixture
def without(monkeypatch):
    """A function that takes an extra away."""
    def remove(*names):
        for name in names:
            for module in extras.EXTRAS[name].modules:
                monkeypatch.setitem(sys.modules, module, None)
    return remove


def test_the_core_is_imported_and_used_without_the_extras():
    environment = {'PATH': '', 'PYTHONPATH': str(ROOT), 'TF_CPP_MIN_LOG_LEVEL': '3'}
    done = subprocess.run([sys.executable, '-c', CORE], env=environment, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {name for name in done.stdout.split()
            if not name.startswith('tfprune.search.agents.')} == AGENTS


@pytest.mark.parametrize('code, also', [
    ('', ('tensorflow', 'keras', 'numpy')),
    pytest.param('tfprune.train_and_prune', (), marks=pytest.mark.slow)])
def test_little_is_imported_beside_tensorflow_and_keras(code, also):
    """So that it takes no more than a fifth longer: measured, 5.1 s and 5.3 s of processor time."""
    slow = {'tf_agents', 'tensorflow_probability', 'tensorflow_datasets',
            'tensorflow_model_optimization', *also}
    done = subprocess.run(
        [sys.executable, '-c', f'import sys, tfprune; {code}\nprint(*sys.modules)'],
        env={'PATH': '', 'PYTHONPATH': str(ROOT), 'TF_CPP_MIN_LOG_LEVEL': '3'},
        capture_output=True, text=True, timeout=300, check=True)
    assert not slow & set(done.stdout.split())


@pytest.mark.parametrize('method', OF_AGENTS)
def test_a_method_names_the_extra_before_anything_is_done(without, method, tmp_path):
    without('rl')
    config = Config(method=method, macs=0.5, dataset='digits', model='resnet8')
    with pytest.raises(ImportError, match=re.escape(
            f"method {method!r} needs TF-Agents: pip install 'tfprune[rl]'")) as caught:
        train_and_prune(config, tmp_path / 'run', progress=False)
    assert is_users(caught.value) and not list(tmp_path.iterdir())
    assert str(caught.value).endswith('Without it there are autocompress, dense, uniform, random, '
                                      'magnitude, scratch, random_search, knapsack.')


def test_other_methods_do_not(without):
    without('rl')
    assert all(METHODS[name] for name in METHODS if METHODS.is_usable(name))
    with pytest.raises(extras.MissingExtraError, match=r'tfprune.PruningEnv needs TF-Agents'):
        tfprune.PruningEnv


def test_what_else_needs_an_extra(without, tmp_path):
    without('qat', 'datasets')
    with pytest.raises(extras.MissingExtraError, match=r"quantize=int8_qat needs .*'tfprune\[qat"):
        train_and_prune(Config(method='uniform', macs=0.5, quantize='int8_qat'), tmp_path / 'run')
    for name, also in (('cifar10', ''), ('mnist', ''), ('digit', "Did you mean 'digits'.*")):
        with pytest.raises(extras.MissingExtraError, match=(
                rf"dataset '{name}' needs tensorflow-datasets: pip install "
                rf"'tfprune\[datasets\]'\. {also}.*Without it there are digits, folder\.")):
            load_data(name)
        with pytest.raises(extras.MissingExtraError, match='tfprune.datasets'):
            train_and_prune(Config(method='uniform', macs=0.5, dataset=name), tmp_path / 'run')
    assert not list(tmp_path.iterdir())


def test_a_library_without_a_release_for_this_python_is_said(without, monkeypatch):
    without('rl')
    monkeypatch.setattr(sys, 'version_info', (3, 13, 0))
    with pytest.raises(ImportError, match='in Python 3.10 or 3.11: it has no release for 3.13'):
        extras.need('rl', 'it')


@pytest.mark.extra('rl')
def test_agents_after_a_tensorflow_with_keras_3_are_refused(monkeypatch):
    monkeypatch.delenv('TF_USE_LEGACY_KERAS')
    with pytest.raises(ImportError, match='import tfprune before tensorflow'):
        METHODS['rlal']


def test_extras_are_those_that_are_declared():
    parser = configparser.ConfigParser()
    parser.read(ROOT / 'setup.cfg')
    declared = parser['options.extras_require']
    assert set(extras.EXTRAS) <= set(declared)
    assert set(re.search(r'\[(.*)]', declared['all'])[1].split(',')) == set(extras.EXTRAS)
    core = parser['options']['install_requires'].replace('-', '_')
    assert not [module for module in MODULES if re.search(rf'^{module}\b', core, re.M)]


def test_errors_of_missing_libraries_are_told_from_others():
    assert extras.missing_in(ModuleNotFoundError(name='tf_agents.specs')) == 'rl'
    assert extras.missing_in(ModuleNotFoundError(name='torch')) == ''
    assert extras.missing_in(ValueError()) == extras.missing_in(None) == ''
    outer = RuntimeError()
    outer.__cause__ = extras.MissingExtraError('', 'qat')
    assert extras.missing_in(outer) == 'qat'
