"""Losses and metrics are told apart by what they do, not by when or where they were made."""
import functools
import json
import os
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest

SOURCE = '''
import functools
import tfprune
import keras
import numpy as np
import tensorflow as tf

def error(y, p):
    return keras.ops.abs(y - p) if y.ndim in {1, 2} else y

def scaled(factor):
    return lambda y, p: factor * (y - p) ** 2

class Focal(keras.losses.Loss):
    def __init__(self, gamma, table=(1.0, 2.0)):
        super().__init__()
        self.gamma, self.table = gamma, np.array(table)
    def call(self, y, p):
        return self.gamma * (y - p)

class Called:
    def __init__(self, factor):
        self.factor, self.log = factor, object()
    def __call__(self, y, p):
        return self.factor * (y - p)

losses, metrics = keras.losses, keras.metrics
MADE = {
    'name': 'mse', 'another name': 'mae', 'class': losses.Huber(), 'options': losses.Huber(2.0),
    'reduced': losses.Huber(reduction='sum'), 'keras function': losses.mean_squared_error,
    'function': error, 'lambda': lambda y, p: y - p, 'another lambda': lambda y, p: p - y,
    'another constant': lambda y, p: 2 * (y - p), 'enclosed': scaled(1.0),
    'another enclosed': scaled(2.0), 'own': Focal(1.0), 'another own': Focal(2.0),
    'own array': Focal(1.0, (1.0, 3.0)), 'called': Called(1.0), 'another called': Called(2.0),
    'partial': functools.partial(error, p=1), 'traced': tf.function(scaled(3.0)),
    'wrapped': losses.Focal(1.0) if hasattr(losses, 'Focal') else losses.LogCosh(),
    'dict': {'a': 'mse', 'b': error}, 'another dict': {'a': 'mse', 'b': 'mae'},
    'metric': metrics.MeanIoU(3), 'another metric': metrics.MeanIoU(4), 'auc': metrics.AUC(),
    'metric of function': metrics.MeanMetricWrapper(error, name='e'),
    'metric of another': metrics.MeanMetricWrapper(scaled(1.0), name='e'),
    'set': scaled({'a', 'b', 'c'}), 'tensor': scaled(tf.constant([1.0, 2.0])),
    'variable': scaled(keras.Variable(1.0)), 'model': scaled(keras.Sequential()),
}
from tfprune.tasks.fingerprint import fingerprint
FOUND = {name: fingerprint(value) for name, value in MADE.items()}
'''


def made():
    scope = {'__name__': 'made'}
    exec(SOURCE, scope)
    return scope


@functools.cache
def once():
    return made()['FOUND']


def test_each_is_told_from_the_others():
    assert len(set(once().values())) == len(once())


def test_making_all_anew_changes_nothing():
    """Other addresses, other numbers in the names that Keras gives."""
    assert made()['FOUND'] == once()


def test_use_changes_nothing():
    scope = made()
    auc, loss = scope['MADE']['auc'], scope['MADE']['own']
    auc.update_state([0.0, 1.0], [0.2, 0.8])
    loss(np.ones((1, 1)), np.zeros((1, 1)))
    assert scope['fingerprint'](auc) == once()['auc']
    assert scope['fingerprint'](loss) == once()['own']


def test_what_a_loss_caches_changes_nothing():
    class Weighted(keras.losses.Loss):
        def __init__(self, alpha):
            super().__init__()
            self._alpha, self._grid = alpha, None

        def call(self, y, p):
            if self._grid is None:
                self._grid = np.ones(3)
            return self._alpha * (y - p)

    fingerprint = made()['fingerprint']
    used, other = Weighted(0.5), Weighted(0.25)
    before = fingerprint(used)
    used(np.ones((1, 1)), np.zeros((1, 1)))
    assert fingerprint(used) == before != fingerprint(other)


def test_what_holds_itself_ends():
    def own(y, p, depth=0):
        return y - p if depth else own(y, p, 1)

    scope = made()
    holder: dict = {}
    holder['self'] = holder
    assert scope['fingerprint'](own, holder)


@pytest.mark.slow
def test_another_process_finds_the_same():
    code = SOURCE + 'import json\nprint(json.dumps(FOUND))'
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                           env={**os.environ, 'PYTHONHASHSEED': '7'})
    assert json.loads(found.stdout.splitlines()[-1]) == once()
