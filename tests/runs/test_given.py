"""A model that comes with weights: measured first, trained on as its owner would, never ruined."""
import dataclasses
import json
import math

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bright_pictures import CLASSES, images, network
from light_export import light_export
from tfprune.report.table import table_notes
from tfprune.runs import first_epoch
from tfprune.runs.state import Interrupted
from tfprune.significance import Scored, fell
from tfprune.tasks.classification import Classification, knows_labels
from tfprune.training.step import Trainer

TRAIN, HELD, TEST = 192, 96, 96
SHORT = dict(method='uniform', macs=0.6, warmup_epochs=1, random_epochs=0, joint_epochs=0,
             alignment_epochs=0, fine_tune_epochs=1, progress=False)


def fitted(optimizer='adam', epochs=12):
    model = network()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(TRAIN, 0), epochs=epochs, verbose=0)
    return model


def run(model, folder, **options):
    with light_export():
        tfprune.train_and_prune(model=model, train_data=images(TRAIN, 0),
                                reward_data=images(HELD, 1), test_data=images(TEST, 2),
                                run_dir=folder, **{**SHORT, **options})
    return json.loads((folder / 'report.json').read_text())


def accuracy(model, data):
    hits = [np.argmax(model.predict_on_batch(x), -1) == y for x, y in data.as_numpy_iterator()]
    return float(np.concatenate(hits).mean())


@pytest.fixture(scope='module')
def trained():
    return fitted()


def test_the_given_model_is_measured_first_and_trained_by_its_own_optimizer(trained, tmp_path):
    found = run(trained, tmp_path / 'run')
    assert found['given']['test_accuracy'] == pytest.approx(accuracy(trained, images(TEST, 2)))
    assert found['given']['held_out_accuracy'] == pytest.approx(
        accuracy(trained, images(HELD, 1)))
    assert found['given']['is_trained'] and found['given']['images'] == HELD
    training = found['training']
    assert training['optimizer']['class_name'] == 'Adam'
    assert training['learning_rate'] == training['fine_tune_learning_rate'] == pytest.approx(1e-3)
    assert training['weight_decay'] == 0
    assert found['pruned']['test_accuracy'] > 0.8 * found['given']['test_accuracy']


@pytest.mark.parametrize('options, after', [
    pytest.param({}, 0.05, marks=pytest.mark.slow), ({'distillation': 0.0}, 0.1)])
def test_random_weights_have_nothing_given_and_the_rates_of_random_weights(
        options, after, tmp_path):
    """A teacher has come to the end of a schedule; without one it goes on across surgery."""
    found = run(network(), tmp_path / 'run', **options)
    assert not found['given']['is_trained']
    training = found['training']
    assert training['learning_rate'] == 0.1 and training['fine_tune_learning_rate'] == after
    assert training['continues'] == (after == 0.1)
    assert training['optimizer'] is None


def test_flags_come_before_what_the_model_says(trained, tmp_path):
    found = run(trained, tmp_path / 'run', learning_rate=0.002, weight_decay=1e-5,
                optimizer='sgd', fine_tune_learning_rate=0.001, distillation=0.5)['training']
    assert found['optimizer'] is None and not found['continues']
    assert ['its teacher' in reason for reason in found['reasons']] == [True]
    assert [found[name] for name in ('learning_rate', 'fine_tune_learning_rate', 'weight_decay',
                                     'distillation')] == [0.002, 0.001, 1e-5, 0.5]


@pytest.mark.parametrize('options, after', [
    pytest.param({}, 0.002, marks=pytest.mark.slow),
    ({'fine_tune_learning_rate': 0.003}, 0.003)])
def test_a_rate_that_is_said_is_that_of_all_epochs(trained, options, after, tmp_path):
    """Also where all of them are after surgery."""
    found = run(trained, tmp_path / 'run', warmup_epochs=0, fine_tune_epochs=2, learning_rate=0.002,
                **options)
    assert found['training']['fine_tune_learning_rate'] == after
    row = json.loads((tmp_path / 'run/metrics.jsonl').read_text().splitlines()[0])
    assert row['phase'] == 'fine_tune' and 0.5 * after < row['learning_rate'] < 0.6 * after


def test_a_rate_that_ruins_is_lowered_and_said(trained, tmp_path, capsys):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    model.compile(keras.optimizers.Adam(3.0))
    found = run(model, tmp_path / 'run')
    first = json.loads((tmp_path / 'run/metrics.jsonl').read_text().splitlines()[0])
    assert first['learning_rate'] <= 0.31  # of a peak of 3
    assert first['reward_accuracy'] > found['given']['held_out_accuracy'] - 0.15
    assert 'begins again at 0.3' in capsys.readouterr().err
    *reasons, teacher = found['training']['reasons']
    lowered = [reason.split()[-1] for reason in reasons if 'begins again at' in reason]
    assert lowered in (['0.3'], ['0.3', '0.03'])  # by as much again, if 0.3 ruins it, too
    assert teacher.startswith('its teacher') and reasons[-1].endswith(lowered[-1])
    after = json.loads((tmp_path / 'run/metrics.jsonl').read_text().splitlines()[1])
    assert after['learning_rate'] <= 0.31  # the same optimizer's


@pytest.mark.slow
def test_a_run_killed_while_its_first_epoch_begins_again_ends_as_if_it_had_not(
        trained, tmp_path, monkeypatch):
    class Died(BaseException):
        pass

    def model():
        copy = network()
        copy.set_weights(trained.get_weights())
        copy.compile(keras.optimizers.Adam(3.0))
        return copy

    def weights(folder):
        return keras.models.load_model(folder / 'export/pruned.keras').get_weights()

    restart, calls = Trainer.restart, []
    with monkeypatch.context() as patch, pytest.raises(Died):
        def die(self, *arguments):
            calls.append(1)
            restart(self, *arguments)
            patch.setattr('tfprune.runs.epochs.EpochLoop._train_from', fail)

        def fail(*_):
            raise Died

        patch.setattr(Trainer, 'restart', die)
        run(model(), tmp_path / 'run')
    assert calls and not list((tmp_path / 'run/checkpoints').glob('e*'))
    once, again = run(model(), tmp_path / 'whole'), run(model(), tmp_path / 'run')
    assert once['training'] == again['training']
    for one, other in zip(weights(tmp_path / 'whole'), weights(tmp_path / 'run'), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_rate_that_was_asked_for_and_ruins_stops_the_run(trained, tmp_path):
    with pytest.raises(ValueError) as caught:
        run(trained, tmp_path / 'run', learning_rate=3.0)
    assert '--learning_rate=3' in str(caught.value) and '--nocheck_first_epoch' in str(caught.value)
    assert '\n' not in str(caught.value)
    run(trained, tmp_path / 'run', learning_rate=3.0, check_first_epoch=False)  # the same folder


@pytest.mark.slow
def test_a_run_that_is_stopped_while_rates_are_tested_begins_anew(trained, tmp_path):
    calls = []

    def should_stop():
        calls.append(1)
        return len(calls) == 30  # of 40 steps of the first rate

    model = network()
    model.set_weights(trained.get_weights())
    with pytest.raises(Interrupted, match='before the first epoch; the same command begins'):
        run(model, tmp_path / 'run', should_stop=should_stop)
    assert len(calls) == 30 and not (tmp_path / 'run/training.json').exists()
    assert run(model, tmp_path / 'run')['training']['reasons']


def test_resuming_measures_and_chooses_nothing_anew(trained, tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    def fail(*_, **__):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr('tfprune.runs.run.prune', fail)
        run(trained, tmp_path / 'run')
    monkeypatch.setattr('tfprune.runs.given.measure', fail)
    monkeypatch.setattr('tfprune.runs.given.choose_recipe', fail)
    assert run(trained, tmp_path / 'run')['given']['is_trained']


def normalized(lags):
    """Trained, but with statistics of the beginning where it `lags`."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((6, 6, 3)), layers.Conv2D(8, 3, name='a'),
        layers.BatchNormalization(momentum=0.8, name='n'), layers.ReLU(),
        layers.Conv2D(8, 3, name='b'), layers.BatchNormalization(momentum=0.8), layers.ReLU(),
        layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, name='logits')])
    model.compile('adam', keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(TRAIN, 0), epochs=12, verbose=0)
    for layer in model.layers:
        if lags and isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros_like(layer.moving_mean) + 5)
    return model


def test_statistics_that_lag_behind_are_reestimated_and_said(tmp_path):
    """A model is not to be told from chance, nor a gain shown, for statistics that no pruned model
    would have."""
    model = normalized(lags=True)
    found = run(model, tmp_path / 'run', warmup_epochs=0, fine_tune_epochs=1)
    given, came_with = found['given'], accuracy(model, images(TEST, 2))
    assert given['found']['test_accuracy'] == pytest.approx(came_with) and came_with < 0.6
    assert given['is_trained'] and given['test_accuracy'] > 0.9
    assert 'batch-norm statistics of the given model lag' in found['training']['reasons'][0]
    assert f'with those that it came with it scores {came_with:.2%};' in table_notes(found)[0]
    assert np.all(model.get_layer('n').moving_mean == 5)  # the user's own stays as it is


@pytest.mark.slow
def test_reestimated_statistics_are_those_of_a_run_that_goes_on(tmp_path):
    model, options, steps = normalized(lags=True), dict(warmup_epochs=0, fine_tune_epochs=2), []
    run(model, tmp_path / 'run', **options)

    def should_stop():
        if (tmp_path / 'stopped/training.json').exists():
            steps.append(1)
        return len(steps) > 5

    with pytest.raises(Interrupted):
        run(model, tmp_path / 'stopped', **options, should_stop=should_stop)
    run(model, tmp_path / 'stopped', **options)
    one, other = (keras.models.load_model(tmp_path / name / 'export/pruned.keras').get_weights()
                  for name in ('run', 'stopped'))
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.slow
def test_statistics_that_do_not_lag_stay(tmp_path):
    found = run(normalized(lags=False), tmp_path / 'run', warmup_epochs=0)
    assert found['given']['found'] is None
    assert not any(' lag ' in reason for reason in found['training']['reasons'])


@pytest.mark.parametrize('before, after, images_, is_lower', [
    (0.9, 0.9, 100, False), (0.9, 0.85, 100, False),  # 0.05 of 3 sqrt((.09 + .1275) / 100) = .14
    (0.9, 0.7, 100, True), (0.9, 0.85, 10_000, True), (1.0, 0.99, 100, False),
    (0.5, 0.9, 100, False)])
def test_fall_in_standard_errors(before, after, images_, is_lower):
    error = 3 * math.sqrt((before * (1 - before) + after * (1 - after)) / images_)
    assert (before - after > error) == is_lower
    assert fell(before, after, images_) == is_lower


def test_images_learnt_by_heart_are_no_ruin():
    def of(accuracy):
        return Scored(accuracy, math.sqrt(accuracy * (1 - accuracy) / 1000), 1000)

    judged = first_epoch.FirstEpoch(
        held_out=of(0.99), trained_on=of(0.99), sample=tf.data.Dataset.range(1), weights=[],
        may_lower=True, shown=str, of_pictures=True)
    assert not judged.is_ruined(of(0.8), lambda _: of(0.985))
    assert judged.is_ruined(of(0.8), lambda _: of(0.8))
    assert not judged.is_ruined(of(0.985), lambda _: of(0.8))


@pytest.mark.slow
def test_a_model_saved_after_its_rate_had_decayed_is_brought_back(trained, tmp_path, capsys):
    def decayed():
        model = network()
        model.set_weights(trained.get_weights())
        model.compile(keras.optimizers.Adam(1e-7))
        return model

    # Reconstruction leaves so small a network nothing to recover.
    options = dict(macs=0.3, fine_tune_epochs=6, reconstruction=False)
    found = run(decayed(), tmp_path / 'run', **options)
    training = found['training']
    assert training['learning_rate'] == pytest.approx(1e-7)
    assert training['fine_tune_learning_rate'] >= 1e-5
    assert 'as it is compiled it would be too low' in training['reasons'][1]
    stated = run(decayed(), tmp_path / 'stated', fine_tune_learning_rate=1e-7, **options)
    assert stated['training']['fine_tune_learning_rate'] == 1e-7
    assert found['pruned']['test_accuracy'] > stated['pruned']['test_accuracy'] + 0.1
    assert 'warning: The pruned model is' in capsys.readouterr().err


@pytest.mark.slow
def test_rates_are_tested_where_the_model_is_not_compiled(trained, tmp_path):
    model = network()
    model.set_weights(trained.get_weights())
    found = run(model, tmp_path / 'run')
    before, after, *_ = found['training']['reasons']
    assert 'before surgery' in before and 'after surgery' in after
    assert found['training']['learning_rate'] <= 0.1 and found['training']['optimizer'] is None
    assert found['pruned']['test_accuracy'] > 0.8 * found['given']['test_accuracy']


def test_recipes_survive_their_file():
    recipe = tfprune.runs.recipe.FROM_RANDOM
    changed = dataclasses.replace(recipe, reasons=('because',), stated=('weight_decay',))
    for each in (recipe, changed):
        assert type(each).from_json(json.loads(json.dumps(each.to_json()))) == each


def test_knowing_labels_is_more_than_the_commonest_class():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [80, 20])
    good = labels ^ (rng.uniform(size=100) < 0.1)     # right for nine of ten
    for answers, known in ((good, True), (np.zeros(100, int), False),
                           (rng.permutation(labels), False)):
        assert knows_labels(answers, labels) == known
    broken = tf.constant([[0.0, np.nan], [0.0, 1.0], [0.0, np.inf]])
    task, labels = Classification(), tf.constant([0, 1, 1])
    found = task.evidence(task.scores(broken, labels), broken, labels).numpy()
    np.testing.assert_array_equal(found, [[np.nan, 0], [1, 1], [np.nan, 1]])
    with pytest.raises(ValueError, match='NaN'):
        task.knows(found)


@pytest.mark.slow
def test_a_model_compiled_with_averages_of_its_weights_runs_and_what_is_not_followed_is_named(
        trained, tmp_path):
    model = network()
    model.set_weights(trained.get_weights())
    model.compile(keras.optimizers.Adam(1e-3, use_ema=True))
    found = run(model, tmp_path / 'run')
    assert found['pruned']['test_accuracy'] > 0.7 * found['given']['test_accuracy']
    model.compile(keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match='gradient_accumulation_steps.*--optimizer=sgd'):
        run(model, tmp_path / 'other')
