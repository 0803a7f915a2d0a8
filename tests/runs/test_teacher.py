"""Before surgery the model as given teaches, after it the better of that and the one just before.
"""
import functools
import json

import tfprune  # before keras
import keras
import numpy as np
import pytest
from keras import layers as L
from light_export import light_export
from sklearn.datasets import load_digits

from tfprune.runs import teacher

OPTIONS = dict(macs=0.5, method='uniform', warmup_epochs=4, random_epochs=0, joint_epochs=0,
               alignment_epochs=0, fine_tune_epochs=2, fine_tune_learning_rate=3e-3,
               check_first_epoch=False, batch_size=32, seed=1, progress=False)


@functools.cache
def digits():
    """Training, held-out and test digits."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype('float32')
    return [(x[part], y[part]) for part in (slice(0, 1200), slice(1200, 1500), slice(1500, None))]


@functools.cache
def given(part=0, epochs=2):
    """A model that some epochs of a part of the digits have trained, in bfloat16 but for its ends.
    """
    keras.utils.set_random_seed(0)
    half = {'activation': 'relu', 'dtype': 'mixed_bfloat16'}
    model = keras.Sequential([
        keras.Input((8, 8, 1)), L.Rescaling(1 / 16), L.Conv2D(16, 3, name='a', **half),
        L.Conv2D(24, 3, name='b', **half), L.GlobalAveragePooling2D(), L.Dense(10)])
    model.compile(keras.optimizers.Adam(3e-3), metrics=['accuracy'],
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*digits()[part], epochs=epochs, batch_size=32, verbose=0)
    return model


@functools.cache
def lagging():
    """One whose batch-norm statistics are of long ago."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 1)), L.Rescaling(1 / 16), L.Conv2D(16, 3, name='a'),
        L.BatchNormalization(momentum=0.99), L.ReLU(), L.Conv2D(24, 3, name='b'),
        L.BatchNormalization(momentum=0.99), L.ReLU(), L.GlobalAveragePooling2D(), L.Dense(10)])
    model.compile(keras.optimizers.Adam(3e-3), metrics=['accuracy'],
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*digits()[0], epochs=12, batch_size=32, verbose=0)
    return model


def taught(folder, made=given, **options):
    """(pruned model, training.json's teacher) of a run."""
    with light_export():
        pruned = tfprune.train_and_prune(made(), *digits(), run_dir=folder, **OPTIONS | options)
    return pruned, json.loads((folder / 'training.json').read_text())['teacher']


def right(model):
    """How many held-out images it answers rightly."""
    x, y = digits()[1]
    return (model.predict(x, verbose=0).argmax(-1) == y).sum()


AT_ONCE = dict(warmup_epochs=0, fine_tune_epochs=2)


def test_lagging_statistics_do_not_teach(tmp_path, monkeypatch):
    made, seen = teacher.Teacher, []
    monkeypatch.setattr(teacher, 'Teacher', lambda model, *rest: seen.append(model) or made(
        model, *rest))
    before = lagging().get_weights()
    held_out = digits()[1]
    as_given = lagging().evaluate(*held_out, verbose=0)[1]
    _, chosen = taught(tmp_path / 'run', lagging, **AT_ONCE)
    assert (chosen['is_dense'], chosen['is_settled']) == (False, True)
    assert chosen['said'].startswith('its teacher is the model as given with re-estimated batch-'
                                     'norm statistics: on training images as they are shown ')
    answers = seen[0].predict(held_out[0], verbose=0).argmax(-1)
    assert (answers == held_out[1]).mean() > as_given + 0.02
    for layer in lagging().layers:  # its weights are those of the given one
        for ours, theirs in zip(seen[0].get_layer(layer.name).trainable_variables,
                                layer.trainable_variables, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(before, lagging().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def memorized():
    """One that was trained on the held-out digits alone, which it answers best."""
    return given(1, 60)


@pytest.mark.parametrize('build, options, is_dense', [
    (memorized, {}, True), (given, {'learning_rate': 1e-9}, False)])  # which changes nothing
def test_the_better_one_teaches(build, options, is_dense, tmp_path, monkeypatch):
    """On training images; by the weights of then, computing as the model trains."""
    made, seen = teacher.Teacher, []
    monkeypatch.setattr(teacher, 'Teacher', lambda model, *rest: seen.append(model) or made(
        model, *rest))
    _, chosen = taught(tmp_path / 'run', build, **options)
    name = 'just before surgery' if is_dense else 'as given'
    assert chosen['is_dense'] == is_dense
    assert f'its teacher is the model {name}: ' in chosen['said']
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['training']['reasons'][-1] == chosen['said']
    _, model = seen  # of the epochs after surgery
    assert [layer.compute_dtype for layer in model.layers if layer.weights] == [
        'bfloat16', 'bfloat16', 'float32']
    source = keras.models.load_model(tmp_path / 'run/dense.keras') if is_dense else build()
    if is_dense:  # held-out images would have it otherwise
        assert right(build()) > right(source)
    for ours, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def rows_before(folder):
    """Rows of metrics.jsonl of the epochs before surgery."""
    rows = [json.loads(line) for line in open(folder / 'metrics.jsonl')]
    return rows[:-OPTIONS['fine_tune_epochs']]


def test_before_surgery_the_given_model_teaches(tmp_path, monkeypatch):
    """By what it was and with statistics of its own, after a kill as without; not if it may not."""
    made, seen = teacher.Teacher, []
    monkeypatch.setattr(teacher, 'Teacher', lambda model, *rest: seen.append(model) or made(
        model, *rest))
    options = dict(warmup_epochs=2, learning_rate=1e-2)
    whole, _ = taught(tmp_path / 'whole', lagging, **options)
    for row in rows_before(tmp_path / 'whole'):
        assert row['distillation'] > 0 and 0 < row['distillation_share'] <= 0.9
        assert row['teacher_loss'] < row['student_loss'] == row['cross_entropy']
    for layer in lagging().layers:
        for ours, theirs in zip(seen[0].get_layer(layer.name).trainable_variables,
                                layer.trainable_variables, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    chosen = json.loads((tmp_path / 'whole/training.json').read_text())['teacher_before']
    assert chosen['is_settled'] and not chosen['is_dense']
    report = json.loads((tmp_path / 'whole/report.json').read_text())
    assert report['epochs']['distillation'] == pytest.approx((2 + 2) / 3)
    assert chosen['said'] in report['training']['reasons']
    assert chosen['said'].startswith('before surgery its teacher is the model as given with ')

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('tfprune.runs.pretraining.keep_state', fail)  # after its last epoch
        taught(tmp_path / 'run', lagging, **options)
    compared = teacher._compared
    monkeypatch.setattr(teacher, '_compared', lambda state, path: compared(state, path) if path
                        else fail())  # it is not chosen again
    resumed, _ = taught(tmp_path / 'run', lagging, **options)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

    taught(tmp_path / 'off', given, distillation_before_surgery=False, **options)
    assert not any('distillation' in row for row in rows_before(tmp_path / 'off'))
    report = json.loads((tmp_path / 'off/report.json').read_text())
    assert report['epochs']['distillation'] == pytest.approx(2 / 3)


@pytest.mark.parametrize('made, options', [
    pytest.param(given, {}, marks=pytest.mark.slow), (lagging, AT_ONCE)])
def test_it_is_chosen_once(made, options, tmp_path, monkeypatch):
    whole, chosen = taught(tmp_path / 'whole', made, **options)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('tfprune.runs.fine_tuning._settle_if_young', fail)  # after the last epoch
        taught(tmp_path / 'run', made, **options)
    monkeypatch.setattr(teacher, '_compared', fail)
    resumed, again = taught(tmp_path / 'run', made, **options)
    assert again == chosen
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
