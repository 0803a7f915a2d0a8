"""What a user hands over beside a model: datasets of batches, pairs for a classifier, weights."""
import contextlib

import tfprune
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from table_runs import SHORT, rng, rows, run, splits, table
from tfprune.runs.own_model import own_model
from tfprune.runs.state import Interrupted


class Told(keras.utils.PyDataset):
    """What a PyDataset is told."""
    def __init__(self, data, size=16):
        super().__init__()
        self.data, self.size, self.calls = data, size, []

    def __len__(self):
        return len(self.data[0]) // self.size

    def __getitem__(self, place):
        return keras.tree.map_structure(
            lambda array: array[place * self.size:][:self.size], self.data)

    def on_epoch_begin(self):
        self.calls.append('begin')

    def on_epoch_end(self):
        self.calls.append('end')


@pytest.mark.slow
def test_a_py_dataset_is_told_of_epochs_that_are_trained(tmp_path):
    data = [Told(part) for part in splits()]
    for stop_after in (3, 1, 1, 99):  # within the first epoch of 4 steps, at its end, after it
        asked = []
        with contextlib.suppress(Interrupted):
            run(table(optimizer='adam', loss='mse'), data, tmp_path / 'run',
                should_stop=lambda: asked.append(None) or len(asked) >= stop_after)
    assert data[0].calls == ['begin', 'begin', 'end', 'begin', 'end']
    assert data[1].calls == data[2].calls == []


def pictures(form):
    """(classifier that is not compiled, its data in a form)."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 1), name='image'), layers.Conv2D(16, 3, activation='relu'),
        layers.Flatten(), layers.Dense(3, activation='softmax')])
    return model, [form((rng(seed).random((48, 8, 8, 1)).astype('float32'), np.arange(48) * 7 % 3))
                   for seed in range(3)]


@pytest.mark.parametrize('form, epochs', [
    pytest.param(tuple, None, marks=pytest.mark.slow), (Told, ['begin', 'end'] * 2)])
def test_a_plain_classifier_is_taken_as_one(form, epochs, tmp_path):
    model, data = pictures(form)
    _, report = run(model, data, tmp_path / 'run', learning_rate=0.01,
                    fine_tune_learning_rate=0.01, batch_size=16)
    assert report['task']['metric'] == 'accuracy' and 'test_accuracy' in report['pruned']
    assert getattr(data[0], 'calls', None) == epochs


def weighed(pair):
    return Told((*pair, np.ones(48, 'float32')))


@pytest.mark.parametrize('form, change, said', [
    (weighed, {}, 'sample weights'),
    (lambda pair: (*pair, np.ones(48)), {}, 'sample weights'),
    (tuple, {'class_weight': {0: 2.0}}, 'class_weight'),
    (Told, {'class_weight': {0: 2.0}, 'monitor': 'val_auc'}, "class_weight and monitor='val_auc'"),
    (tuple, {'mode': 'min'}, "mode='min'"),
    (lambda pair: ({'image': pair[0]}, pair[1]), {}, 'inputs by name')])
def test_what_a_classifier_must_be_compiled_for(form, change, said, tmp_path):
    model, data = pictures(form)
    with pytest.raises(ValueError) as error:
        run(model, data, tmp_path / 'run', **change)
    assert str(error.value) == (f"model '{model.name}' must be compiled, with its loss and "
                                f'metrics, for {said}')
    model.compile('adam', 'sparse_categorical_crossentropy', metrics=[
        'accuracy', keras.metrics.SparseTopKCategoricalAccuracy(name='auc')])
    given = dict(zip(('train_data', 'reward_data', 'test_data'), data))
    assert own_model(model, **given, **change).monitor is not None


def test_a_mode_that_is_none_is_refused_of_every_model(tmp_path):
    model, data = pictures(tuple)
    with pytest.raises(ValueError, match="mode: expected 'auto', 'max' or 'min', received 'banan"):
        run(model, data, tmp_path / 'run', mode='banana')


@pytest.mark.parametrize('form', [tuple, Told, tf.data.Dataset.from_tensor_slices])
def test_weights_of_classes_are_for_one_output(form):
    model = table(optimizer='adam', loss='mse')
    x, y = rows(32, 0, 'binary')
    data = [form((x, {'out': y}))] * 3
    with pytest.raises(ValueError, match='class_weight is only for a model of one output') as error:
        tfprune.train_and_prune(model, *data, class_weight={0: 1.0, 1: 2.0}, **SHORT)
    assert len(str(error.value).splitlines()) == 1
