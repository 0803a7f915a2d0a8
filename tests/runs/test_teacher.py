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
from tfprune.runs.state import Interrupted
from tfprune.training.step import StopTraining, Trainer

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
    """One whose batch-norm statistics are of long ago, and depend on what its dropout draws."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 1)), L.Rescaling(1 / 16), L.Conv2D(16, 3, name='a'),
        L.BatchNormalization(momentum=0.99), L.ReLU(), L.Dropout(0.1), L.Conv2D(24, 3, name='b'),
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


def that_teach(patch):
    """The models of which teachers are made from now on, in a list."""
    made, seen = teacher.Teacher, []
    patch.setattr(teacher, 'Teacher', lambda model, *rest: seen.append(model) or made(model, *rest))
    return seen


def check_weights_are_the_lagging_ones(model):
    for layer in lagging().layers:
        for ours, theirs in zip(model.get_layer(layer.name).trainable_variables,
                                layer.trainable_variables, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def right(model):
    """How many held-out images it answers rightly."""
    x, y = digits()[1]
    return (model.predict(x, verbose=0).argmax(-1) == y).sum()


AT_ONCE = dict(warmup_epochs=0, fine_tune_epochs=2)


@pytest.mark.slow
def test_lagging_statistics_do_not_teach(tmp_path, monkeypatch):
    seen = that_teach(monkeypatch)
    before = lagging().get_weights()
    held_out = digits()[1]
    as_given = lagging().evaluate(*held_out, verbose=0)[1]
    _, chosen = taught(tmp_path / 'run', lagging, **AT_ONCE)
    # They were re-estimated before.
    assert (chosen['is_dense'], chosen['is_settled']) == (False, False)
    training = json.loads((tmp_path / 'run/training.json').read_text())
    assert 'lag behind its weights' in training['training']['reasons'][0]
    answers = seen[0].predict(held_out[0], verbose=0).argmax(-1)
    assert (answers == held_out[1]).mean() > as_given + 0.02
    check_weights_are_the_lagging_ones(seen[0])
    for ours, theirs in zip(before, lagging().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def memorized():
    """One that was trained on the held-out digits alone, which it answers best."""
    return given(1, 60)


@pytest.mark.parametrize('build, options, is_dense', [
    pytest.param(memorized, {}, True, marks=pytest.mark.slow),
    (given, {'learning_rate': 1e-9, 'warmup_epochs': 1}, False)])  # which changes nothing
def test_the_better_one_teaches(build, options, is_dense, tmp_path, monkeypatch):
    """On training images; by the weights of then, computing as the model trains."""
    seen = that_teach(monkeypatch)
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
    return rows_of(folder)[:-OPTIONS['fine_tune_epochs']]


def rows_of(folder):
    """Those of all epochs."""
    return [json.loads(line) for line in open(folder / 'metrics.jsonl')]


class Died(BaseException):
    """A kill."""


BEFORE = dict(warmup_epochs=2, learning_rate=1e-2)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """(pruned model, folder, the models that taught) of a run of epochs before surgery, too."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        seen = that_teach(patch)
        return taught(folder, lagging, **BEFORE)[0], folder, seen


@pytest.mark.slow
def test_before_surgery_the_given_model_teaches(whole, tmp_path):
    """With statistics of its own; not where it may not."""
    _, folder, (early, _) = whole
    for row in rows_before(folder):
        assert row['distillation'] > 0 and 0 < row['distillation_share'] <= 0.9
        assert row['teacher_loss'] < row['student_loss'] == row['cross_entropy']
    check_weights_are_the_lagging_ones(early)
    chosen = json.loads((folder / 'training.json').read_text())['teacher_before']
    assert not chosen['is_settled'] and not chosen['is_dense'] and not chosen['said']
    report = json.loads((folder / 'report.json').read_text())
    assert report['epochs']['distillation'] == pytest.approx((2 + 2) / 3)

    taught(tmp_path / 'run', given, distillation_before_surgery=False, **BEFORE)
    assert not any('distillation' in row for row in rows_before(tmp_path / 'run'))
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['epochs']['distillation'] == pytest.approx(2 / 3)


def test_it_teaches_without_epochs_after_surgery_too(tmp_path):
    with light_export():
        tfprune.train_and_prune(given(), *digits(), run_dir=tmp_path / 'run', **OPTIONS | BEFORE | {
            'fine_tune_epochs': 0})
    rows = rows_of(tmp_path / 'run')
    assert len(rows) == 2 and all(row['distillation'] > 0 for row in rows)
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['epochs']['distillation'] == pytest.approx(2 / 3)
    assert report['training']['reasons'][-1].startswith('before surgery at most 90% of the loss is')
    assert not any('after surgery' in each for each in report['training']['reasons'])


@pytest.mark.slow
@pytest.mark.parametrize('how', ['killed', 'stopped'])
def test_the_same_one_teaches_in_a_run_that_goes_on(how, whole, tmp_path, monkeypatch):
    """Within its second epoch; its statistics depend on what dropout draws."""
    train, taught_steps = Trainer._train, []

    def ending(trainer, step, batch):
        if trainer._teacher is not None:
            taught_steps.append(step)
        if len(taught_steps) == 1200 // 32 + 9:
            raise Died if how == 'killed' else StopTraining
        return train(trainer, step, batch)

    with monkeypatch.context() as patch, pytest.raises((Died, Interrupted)):
        patch.setattr(Trainer, '_train', ending)
        taught(tmp_path / 'run', lagging, **BEFORE)
    compared = teacher._compared

    def only_after(state, path):
        assert path  # who teaches before surgery is not chosen again
        return compared(state, path)

    monkeypatch.setattr(teacher, '_compared', only_after)
    resumed, _ = taught(tmp_path / 'run', lagging, **BEFORE)
    assert rows_before(tmp_path / 'run')[1]['student_loss'] == rows_before(whole[1])[1][
        'student_loss']
    for one, other in zip(whole[0].get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize('made, options', [(given, {}), (lagging, AT_ONCE)])
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
