"""Epochs of another run are taken only where that run is the same."""
import tfprune  # noqa: F401  (before keras)
import keras
import pytest

from tfprune.runs.config import Config
from tfprune.runs.folder import RunFolder
from tfprune.runs.recipe import FILE, Recipe
from tfprune.runs.reuse import take_epochs
from tfprune.runs.teacher import said_of_teacher


def test_a_run_of_another_file_is_refused(tmp_path):
    weights, source = tmp_path / 'weights.npz', tmp_path / 'dense'
    weights.write_bytes(b'one')
    RunFolder(source, Config(method='dense', initial_weights=str(weights))).close()
    config = Config(method='magnitude', initial_weights=str(weights),
                    before_surgery_from=str(source))
    with pytest.raises(FileNotFoundError, match='is no run that came to surgery'):
        take_epochs(config, RunFolder(tmp_path / 'early', config), None)
    (source / 'dense.keras').touch()
    weights.write_bytes(b'two')
    with pytest.raises(ValueError, match='began with another content of --initial_weights.$'):
        take_epochs(config, RunFolder(tmp_path / 'other', config), None)


def test_who_taught_before_surgery_is_taken_with_these_epochs(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    source = RunFolder(tmp_path / 'dense', Config(method='dense'))
    config = Config(method='magnitude', before_surgery_from=str(source.path))
    ours = RunFolder(tmp_path / 'magnitude', config)
    model.save(source.path / 'dense.keras')
    recipe = {'training': Recipe(None, 0.1, 0.1, 0.0).to_json(), 'given': None}
    ours.write_json(FILE, recipe)
    said = {'is_dense': False, 'is_settled': True, 'said': 'its teacher is the model as given'}
    source.write_json(FILE, recipe | {'teacher_before': said, 'teacher': said | {'said': ''}})
    take_epochs(config, ours, model)
    assert said_of_teacher(ours.path) == ['its teacher is the model as given']
