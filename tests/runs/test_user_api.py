"""A user's own model and tf.data datasets: a plain model comes back; the README's lines run."""

import pathlib
import re

import tfprune
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from light_export import light_export
from tfprune.data.user_datasets import UserDatasets
from tfprune.runs.config import Config
from tfprune.structure.groups import trace_groups
from tfprune.testing import recount

README = pathlib.Path(__file__).parents[2] / 'README.md'
EPOCHS = {'warmup_epochs': 1, 'random_epochs': 0, 'joint_epochs': 0, 'alignment_epochs': 0,
          'fine_tune_epochs': 1}


def small(classes=3, activation=None):
    return keras.Sequential([
        keras.Input((6, 6, 2)), layers.Conv2D(4, 3, name='a'), layers.BatchNormalization(),
        layers.Conv2D(6, 3, activation='relu', name='b'), layers.Flatten(),
        layers.Dense(classes, activation=activation, name='logits')], name='mine')


class Unknown(layers.Layer):
    """A layer that nobody registered."""
    def call(self, x):
        return x * 2


@keras.saving.register_keras_serializable('test_user_api')
class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def between(layer, kind=keras.Model):
    """The small one with a layer between its convolutions."""
    model = small()
    x = layer(model.layers[0].output)
    for each in model.layers[1:]:
        x = each(x)
    return kind(model.inputs, x, name='mine')


def dataset(count, *, classes=3, batch=8, one_hot=False, shape=(6, 6, 2), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    labels[:classes] = np.arange(classes)
    data = tf.data.Dataset.from_tensor_slices((
        rng.normal(size=(count, *shape)).astype('float32'),
        np.eye(classes, dtype='float32')[labels] if one_hot else labels))
    return data.batch(batch) if batch else data


@pytest.mark.parametrize('activation, options', [
    pytest.param(None, {}, marks=pytest.mark.slow), ('softmax', {'batch': None}),
    pytest.param(None, {'one_hot': True}, marks=pytest.mark.slow)])
def test_a_plain_pruned_model_comes_back_and_the_own_one_stays(activation, options):
    keras.utils.set_random_seed(0)
    model = small(activation=activation)
    before = model.get_weights()
    with light_export():
        pruned = tfprune.train_and_prune(
            model=model, train_data=dataset(32, **options), reward_data=dataset(16, **options),
            test_data=dataset(16, **options), method='uniform', macs=0.5, batch_size=8,
            progress=False, **EPOCHS)
    assert recount(pruned)[0] <= 0.5 * recount(model)[0]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before))
    assert dict(trace_groups(pruned)) != dict(trace_groups(model))
    assert pruned.predict(np.zeros((1, 6, 6, 2)), verbose=0).shape == (1, 3)


def test_the_lines_of_the_readme_run_as_written(tmp_path, monkeypatch):
    code, = [block for block in re.findall(r'```python\n(.*?)```', README.read_text(), re.S)
             if 'load_digits' in block]
    # As written, but for the number of epochs.
    code = code.replace('macs=0.5,', 'macs=0.5, progress=False, warmup_epochs=2, random_epochs=1, '
                        'joint_epochs=1, alignment_epochs=1, fine_tune_epochs=2,')
    monkeypatch.chdir(tmp_path)
    with light_export():
        exec(code, found := {})
    dense, pruned = found['model'], keras.models.load_model('pruned.keras')
    assert recount(pruned)[0] <= 0.5 * recount(dense)[0]


def test_the_lines_of_any_task_run_as_written():
    code, = [block for block in re.findall(r'```python\n(.*?)```', README.read_text(), re.S)
             if 'unet' in block]
    # RLAL runs in the lines above.
    code = code.replace('macs=0.5,', 'macs=0.5, progress=False, method="uniform", warmup_epochs=1, '
                        'random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1,')
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding='same', activation='relu')(image)
    x = layers.Conv2D(16, 3, padding='same', activation='relu')(x)
    unet = keras.Model(image, layers.Conv2D(11, 1, activation='softmax')(x))
    x = np.random.default_rng(0).random((32, 8, 8, 1)).astype('float32')
    given = {name: value for end in ('', '_held_out', '_test')
             for name, value in ((f'x{end}', x), (f'y{end}', (10 * x[..., 0]).astype('int32')))}
    with light_export():
        exec(code, found := {'unet': unet, 'keras': keras, 'tfprune': tfprune, **given})
    assert recount(found['pruned'])[0] <= 0.5 * recount(unet)[0]


@pytest.mark.slow
def test_a_run_folder_is_kept_and_another_model_is_refused(tmp_path):
    def run(model):
        return tfprune.train_and_prune(
            model=model, train_data=dataset(16), reward_data=dataset(8), test_data=dataset(8),
            class_names=('ant', 'bee', 'cow'), run_dir=tmp_path / 'x', method='uniform', macs=0.5,
            progress=False, **EPOCHS)
    keras.utils.set_random_seed(1)
    model = small()
    with light_export():
        once, again = run(model), run(model)
    assert all(np.array_equal(a, b) for a, b in zip(once.get_weights(), again.get_weights()))
    assert 'bee' in (tmp_path / 'x' / 'report.json').read_text()
    with pytest.raises(ValueError, match='began with another content of --model'):
        run(small())


@pytest.mark.parametrize('change, error, message', [
    ({'train_data': [1]}, TypeError, r'train_data: expected a tf.data.Dataset of \(images, labels\)'
     ', received list'),
    ({'reward_data': dataset(8, shape=(5, 6, 2))}, ValueError, r'reward_data: expected images '
     r'\[6, 6, 2\] as in train_data, received \[5, 6, 2\]'),
    ({'test_data': dataset(8, classes=4)}, ValueError, 'test_data: expected labels in 0 … 2, the '
     'outputs of the model; received 3 with image 3'),
    ({'train_data': dataset(8).repeat()}, ValueError, 'train_data: does not end'),
    ({'reward_data': dataset(8).take(0)}, ValueError, 'reward_data: expected images, received no'),
    ({'reward_data': dataset(8, classes=5, one_hot=True)}, ValueError, 'reward_data: expected one-'
     'hot labels of 3 classes'),
    ({'class_names': ('a', 'b')}, ValueError, 'class_names: expected 3'),
    ({'reward_data': dataset(8, classes=1)}, ValueError, "reward_data: expected images of several "
     "classes, received 8 of class '0' alone"),
    ({'train_data': dataset(8, classes=1)}, ValueError, 'train_data: expected images of several'),
    ({'model': small(1)}, ValueError, 'is not compiled: what it learns is not known'),
    ({'model': layers.Dense(3)}, TypeError, 'model: expected a Keras 3 model, received Dense'),
    ({'test_data': None}, TypeError, 'missing test_data'),
    ({'budget': 0.5}, TypeError, "Unknown option 'budget'. Available: .*macs"),
    ({'learning_rat': 0.1}, TypeError, "Unknown option 'learning_rat'. Did you mean .*learning_ra"),
    ({'should_stop': True}, TypeError, 'should_stop: expected a function .* received bool True'),
    ({'run_dir': 5}, TypeError, 'run_dir: expected the path .* received int 5'),
    ({'config': {}}, TypeError, 'config: expected a tfprune.Config, received dict'),
    ({'config': tfprune.Config()}, TypeError,
     'received a config and model, train_data, .*, macs'),
    ({'dataset': 'cifar10'}, TypeError, 'dataset: not an option'),
    ({'macs': 0.001, 'method': 'uniform'}, ValueError, 'smallest reachable'),
    # Before any training, not where its file is opened.
    ({'model': between(Unknown())}, ValueError, "model 'mine': a file of it could not be loaded: "
     "Could not locate class 'Unknown'. Make sure .*@keras.saving.register"),
    ({'model': between(layers.Lambda(lambda x: x, name='l'))}, ValueError, "layer 'l' is a Lambda"),
    ({'model': between(layers.ReLU(), OwnStep), 'method': 'uniform'}, ValueError, "'mine' has a "
     'train_step of its own, which is not followed: prune it beside your own training'),
])
def test_bad_input_is_named(change, error, message):
    given = {'model': small(), 'train_data': dataset(16), 'reward_data': dataset(8),
             'test_data': dataset(8), 'macs': 0.5, 'progress': False, **EPOCHS}
    with pytest.raises(error, match=message):
        tfprune.train_and_prune(**{**given, **change})


@pytest.mark.parametrize('given, message', [
    ({'config': {}, 'run_dir': 'x'}, 'config: expected a tfprune.Config, received dict'),
    ({'config': Config()}, 'run_dir: expected the path .* received None'),
    ({'config': Config(), 'run_dir': ''}, "run_dir: expected the path .* received str ''"),
    ({'config': Config(), 'run_dir': 'x', 'test_data': dataset(8)}, 'a config and test_data'),
    ({'config': Config(), 'run_dir': 'x', 'class_names': ('a', 'b')}, 'a config and class_names'),
    ({'config': Config(), 'run_dir': 'x', 'pixel_range': (0, 1)}, 'a config and pixel_range'),
])
def test_a_configuration_stands_alone(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=message):
        tfprune.train_and_prune(**given)
    assert not list(tmp_path.iterdir())


def test_every_image_is_seen_once_and_counted():
    data = UserDatasets.from_datasets(dataset(21), dataset(10), dataset(9), num_classes=3)
    assert (data.num_train, data.num_reward, data.num_test) == (21, 10, 9)
    assert [len(labels) for _, labels in data.train_batches(0, 8)] == [8, 8]
    assert [len(labels) for _, labels in data.reward_batches(8)] == [8, 2]
    assert [len(labels) for _, labels in data.calibration_batches(8, 5)] == [8] * 5
    assert data.class_names == ('0', '1', '2') and data.image_shape == (6, 6, 2)
