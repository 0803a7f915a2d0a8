"""Epochs of another run are taken only where that run is the same."""
import tfprune  # noqa: F401  (before keras)
import pytest

from tfprune.runs.config import Config
from tfprune.runs.folder import RunFolder
from tfprune.runs.reuse import take_epochs


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
