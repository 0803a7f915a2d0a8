"""The optimizer that a model is compiled with, of a model in memory and of a file."""
import json
import zipfile

import tfprune  # noqa: F401  (before keras)
import keras
import pytest

from bright_pictures import network
from tfprune.models.compiled import (CompiledOptimizer, compiled_optimizer,
                                     compiled_optimizer_of_files)
from tfprune.training.step import Optimization


@pytest.mark.parametrize('optimizer, rate, scheduled', [
    (lambda: keras.optimizers.AdamW(2e-4, clipnorm=1.0), 2e-4, False),
    (lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)), 0.1, True),
    (lambda: keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay(
        [1], [.1, .2])), 0.0, True)])
def test_compiled_optimizer_in_memory_and_in_a_file(optimizer, rate, scheduled, tmp_path):
    model = network()
    model.compile(optimizer(), 'mse')
    model.save(tmp_path / 'model.keras')
    found = compiled_optimizer(model)
    assert found == compiled_optimizer_of_files(tmp_path / 'model.keras')
    assert found.learning_rate == pytest.approx(rate) and found.scheduled == scheduled
    made = Optimization(optimizer=found.config).make_optimizer()
    assert type(made) is type(model.optimizer) and made.clipnorm == model.optimizer.clipnorm


def test_models_that_are_not_compiled_have_no_optimizer(tmp_path):
    network().save(tmp_path / 'model.keras')
    assert compiled_optimizer(network()) is None
    assert compiled_optimizer_of_files(tmp_path / 'model.keras') is None


def test_weights_of_a_file_that_is_not_compiled_train_as_their_architecture_s_does(tmp_path):
    model = network()
    model.compile(keras.optimizers.Adam(2e-4), 'sparse_categorical_crossentropy')
    model.save(tmp_path / 'model.keras')
    network(seed=1).save(tmp_path / 'weights.keras')
    found = compiled_optimizer_of_files(tmp_path / 'weights.keras', tmp_path / 'model.keras')
    assert found.name == 'Adam' and found.learning_rate == pytest.approx(2e-4)
    model.compile('sgd', 'sparse_categorical_crossentropy')
    model.save(tmp_path / 'other.keras')
    assert compiled_optimizer_of_files(tmp_path / 'other.keras', tmp_path / 'model.keras'
                                       ).name == 'SGD'


def test_an_optimizer_that_is_not_known_is_named(tmp_path):
    model, path = network(), tmp_path / 'model.keras'
    model.compile('adam', 'mse')
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts['config.json'])
    config['compile_config']['optimizer'] |= {'class_name': 'Mine', 'module': 'my.package',
                                              'registered_name': 'mine>Mine'}
    parts['config.json'] = json.dumps(config).encode()
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="optimizer 'Mine'"):
        compiled_optimizer_of_files(path)


@keras.saving.register_keras_serializable('tests')
class Mine(keras.optimizers.SGD):
    """Of no default rate."""

    def __init__(self, learning_rate, **options):
        super().__init__(learning_rate, **options)


@pytest.mark.parametrize('optimizer, usual', [
    (keras.optimizers.Adam(1e-6), 1e-3), (keras.optimizers.SGD(3e-4, momentum=0.9), 1e-2),
    (keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.02)), 1e-3),
    (keras.optimizers.RMSprop(keras.optimizers.schedules.CosineDecay(0.1, 5)), 1e-3),
    (Mine(0.25), 0.25)])
def test_the_usual_rate_is_the_default_of_its_class(optimizer, usual):
    found = CompiledOptimizer.from_config(keras.optimizers.serialize(optimizer))
    assert found.usual_rate == pytest.approx(usual)
