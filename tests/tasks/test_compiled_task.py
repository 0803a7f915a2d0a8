"""What a model is compiled with, against Keras' own evaluate and fit, and by hand."""
import types

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.tasks.base import scored
from tfprune.tasks.compiled import CompiledTask, weights_of_classes
from tfprune.training.distribution import make_strategy
from tfprune.training.evaluation import Evaluator
from tfprune.training.step import Optimization, Trainer

N = 32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 8, 8, 1)).astype('float32')


def two_heads():
    """A dense map and an angle, as a dict."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name='image')
    x = layers.Conv2D(4, 3, padding='same', activation='relu')(image)
    mask = layers.Conv2D(3, 1, activation='softmax', name='mask')(x)
    return keras.Model(image, {'mask': mask, 'angle': layers.Dense(1, name='angle')(
        layers.Flatten()(x))})


def compiled_two_heads():
    model = two_heads()
    model.compile(
        'adam', loss={'mask': 'sparse_categorical_crossentropy', 'angle': 'mse'},
        loss_weights={'mask': 1.0, 'angle': 0.1},
        metrics={'mask': [keras.metrics.MeanIoU(3, sparse_y_pred=False, name='mean_io_u'),
                          'accuracy'],
                 'angle': ['mae', keras.metrics.R2Score()]},
        weighted_metrics={'angle': [keras.metrics.MeanAbsoluteError(name='weighted')]})
    return model


Y = {'mask': RNG.integers(0, 3, (N, 8, 8)), 'angle': RNG.normal(size=(N, 1)).astype('float32')}
W = {'mask': np.ones((N, 1, 1), 'float32'), 'angle': RNG.random(N).astype('float32')}


def small(outputs=1, activation=None, **compiled):
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 1))
    x = layers.Flatten()(layers.Conv2D(3, 3, strides=2, activation='relu')(image))
    model = keras.Model(image, layers.Dense(outputs, activation=activation, name='out')(x))
    model.compile(**compiled)
    return model


def batches(*parts, size=8):
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


def test_all_metrics_are_those_of_evaluate():
    model = compiled_two_heads()
    task = CompiledTask.of(model, (X, Y, W), monitor='val_angle_mae')
    assert task.measure.name == 'angle_mae' and not task.measure.larger_is_better
    ours = Evaluator(model, make_strategy(1), task=task).metrics(batches(X, Y, W, size=5))
    # In one batch: Keras weighs the losses of outputs alike in batches of other sizes.
    theirs = model.evaluate(batches(X, Y, W, size=N), verbose=0, return_dict=True)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize('optimizer', [
    pytest.param(lambda: keras.optimizers.SGD(0.05, momentum=0.9), marks=pytest.mark.slow),
    pytest.param(lambda: keras.optimizers.Adam(0.01, clipnorm=0.5), marks=pytest.mark.slow),
    pytest.param(lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1), marks=pytest.mark.slow),
    pytest.param(lambda: keras.optimizers.SGD(0.05, loss_scale_factor=64.0),
                 marks=pytest.mark.slow),
    lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)])
def test_steps_are_those_of_fit(optimizer):
    fitted, ours = compiled_two_heads(), compiled_two_heads()
    fitted.optimizer = optimizer()
    fitted.compile(optimizer(), fitted.loss, {'mask': 1.0, 'angle': 0.1})
    task = CompiledTask.of(ours, (X, Y, W))
    fitted.fit(batches(X, Y, W), epochs=2, verbose=0)
    trainer = Trainer(ours, tf.distribute.get_strategy(), Optimization(
        weight_decay=0.0, global_batch_size=8,
        optimizer=keras.optimizers.serialize(optimizer())), task=task)
    rate = float(optimizer().learning_rate)
    for _ in range(2):
        means = trainer.train_epoch(batches(X, Y, W), lambda _: rate)
    trainer.finish()
    assert means['compiled_loss'] == pytest.approx(means['loss']) and 'mask_mean_io_u' in means
    for one, other in zip(ours.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def test_scores_of_examples_by_hand():
    model = small(loss='mse')
    y, w = RNG.normal(size=(N, 1)).astype('float32'), RNG.random(N).astype('float32')
    task = CompiledTask.of(model, (X, y, w))
    expected = -w * np.square(model.predict(X, verbose=0) - y)[:, 0]
    found = task.scores(model(X), tf.constant(y), tf.constant(w)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    total = Evaluator(model, make_strategy(1), task=task).scored(batches(X, y, w, size=5))
    assert total.mean == pytest.approx(expected.mean(), rel=1e-4)
    assert total.error == pytest.approx(expected.std() / N ** 0.5, rel=1e-3)
    assert scored(np.array([6.0, 20.0, 2.0])).error == pytest.approx(1 / 2 ** 0.5)  # of 2 and 4


def scalar(y, answers):
    return keras.ops.mean(keras.ops.square(answers - y))


class Scalar(keras.losses.Loss):
    def call(self, y, answers):
        return scalar(y, answers)


@pytest.mark.parametrize('loss', ['mse', scalar, Scalar, Scalar(),
                                  Scalar(reduction='mean_with_sample_weight'),
                                  Scalar(reduction='sum')])
@pytest.mark.parametrize('weighted', [False, True])
def test_the_loss_of_a_replica_is_that_of_its_examples(loss, weighted, monkeypatch):
    """Also of a loss that is a scalar, which Keras does not divide by the replicas."""
    model = small(loss=loss)
    y, w = RNG.normal(size=(N, 1)).astype('float32'), RNG.random(N).astype('float32')
    targets = (y, w) if weighted else (y,)
    task = CompiledTask.of(model, (X, *targets))
    alone = float(task.loss(model(X), *targets))
    assert alone == pytest.approx(
        N * model.evaluate(batches(X, *targets, size=N), verbose=0), rel=1e-4)
    monkeypatch.setattr(tf.distribute, 'get_strategy',
                        lambda: types.SimpleNamespace(num_replicas_in_sync=2))
    assert float(task.loss(model(X), *targets)) == pytest.approx(alone, rel=1e-5)
    assert task.metrics(task.tally(model(X), *targets).numpy())['loss'] == pytest.approx(
        alone / N, rel=1e-5)


def knows(task, outputs, *targets):
    @tf.function
    def evidence(outputs, *targets):
        return task.evidence(task.scores(outputs, *targets), outputs, *targets)

    return task.knows(evidence(outputs, *map(tf.constant, targets)).numpy())


@pytest.mark.slow
def test_knowing_is_answering_better_than_others_targets():
    model = small(loss='mse', optimizer=keras.optimizers.Adam(0.01))
    y = X.mean((1, 2))
    task = CompiledTask.of(model, (X, y))
    assert not knows(task, model(X), y)
    model.fit(X, y, epochs=60, verbose=0)
    assert knows(task, model(X), y)
    assert not knows(task, model(X[:1]), y[:1])  # there is no other


def test_random_weights_that_see_what_targets_see_know_nothing():
    """Where there is a stroke a random network answers otherwise, and by chance a little better."""
    for seed in range(3):
        keras.utils.set_random_seed(seed)
        image = keras.Input((8, 8, 1))
        x = layers.Conv2D(4, 3, padding='same', activation='relu')(image)
        model = keras.Model(image, layers.Conv2D(3, 1, activation='softmax')(x))
        model.compile('adam', 'sparse_categorical_crossentropy')
        strokes = (np.random.default_rng(seed).random((200, 8, 8, 1)) > 0.8).astype('float32')
        y = strokes[..., 0].astype('int32')
        task = CompiledTask.of(model, (strokes, y))
        assert not knows(task, model(strokes), y)
        right = np.eye(3, dtype='float32')[y] * 0.5 + 1 / 6
        assert knows(task, tf.constant(right), y)


def test_the_first_metric_is_the_reward_and_without_any_the_loss():
    assert CompiledTask.of(small(loss='mse', metrics=['mae', 'mse']), (X, X[:, 0, 0])
                           ).measure.name == 'mae'
    found = CompiledTask.of(small(loss='mse'), (X, X[:, 0, 0])).measure
    assert (found.name, found.larger_is_better, found.is_share) == ('loss', False, False)


@pytest.mark.parametrize('metric, outputs, activation, y, is_share, is_accuracy', [
    ('accuracy', 3, 'softmax', np.arange(N) % 3, True, True),
    ('accuracy', 1, 'sigmoid', np.arange(N) % 2, True, True),
    (keras.metrics.BinaryAccuracy(), 4, 'sigmoid', np.ones((N, 4)), True, False),  # multi-label
    (keras.metrics.AUC(), 1, 'sigmoid', np.arange(N) % 2, True, False),
    ('mae', 1, None, np.ones(N), False, False)])
def test_kinds_of_metrics(metric, outputs, activation, y, is_share, is_accuracy):
    loss = 'mse' if outputs != 3 else 'sparse_categorical_crossentropy'
    model = small(outputs, activation, loss=loss, metrics=[metric])
    found = CompiledTask.of(model, (X, y)).measure
    assert (found.is_share, found.is_accuracy) == (is_share, is_accuracy)


def own_metric(y_true, y_pred):
    return keras.ops.abs(y_true - y_pred)


class Largest(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name='largest')
        self.most = self.add_weight(name='most', initializer='zeros')

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(keras.ops.maximum(self.most, keras.ops.max(keras.ops.abs(y_pred))))

    def result(self):
        return self.most


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def of_own_step():
    image = keras.Input((8, 8, 1))
    model = OwnStep(image, layers.Dense(1)(layers.Flatten()(image)))
    model.compile(loss='mse')
    return model


@pytest.mark.parametrize('make, options, said', [
    (lambda: small(loss='mse', metrics=['mae']), {'monitor': 'val_mean_io_u'},
     "no metric 'val_mean_io_u'. Available: val_loss, val_mae"),
    (lambda: small(loss='mse', metrics=['mae']), {'monitor': 'val_maee'}, "Did you mean 'mae'"),
    (lambda: small(loss='mse', metrics=[own_metric]), {}, "give mode='max' or mode='min'"),
    (lambda: small(loss='mse', metrics=['mae']), {'mode': 'up'}, "expected 'auto', 'max' or 'min'"),
    (lambda: small(loss='mse', metrics=[Largest()]), {'mode': 'min'},
     "'largest' is no sum over examples"),
    (lambda: small(loss='sparse_categorical_crossentropy', outputs=3), {}, 'data do not fit it'),
    (two_heads, {}, 'is not compiled'),
    (of_own_step, {}, 'has a train_step of its own')])
def test_what_cannot_be_a_task_is_said_in_one_line(make, options, said):
    y = X.mean((1, 2)) if 'fit' not in said else RNG.normal(size=(N, 4, 4, 2))
    with pytest.raises(ValueError, match=said) as error:
        CompiledTask.of(make(), (X, y), **options)
    assert len(str(error.value).splitlines()) == 1


def test_the_users_metrics_keep_their_state():
    metric = keras.metrics.MeanAbsoluteError(name='mae')
    model = small(loss='mse', metrics=[metric])
    y = X.mean((1, 2))
    before = model.evaluate(X, y, verbose=0, return_dict=True)['mae']
    task = CompiledTask.of(model, (X, y))
    task.metrics(task.tally(model(X) + 5.0, tf.constant(y)).numpy())
    assert float(model.evaluate(X, y, verbose=0, return_dict=True)['mae']) == pytest.approx(before)


def test_weights_of_classes():
    of = weights_of_classes({0: 1.0, 2: 5.0})
    assert of(tf.constant([0, 1, 2, 3])).numpy().tolist() == [1, 1, 5, 1]
    assert of(tf.constant([[0], [2]])).numpy().tolist() == [1, 5]
    assert of(tf.constant([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])).numpy().tolist() == [5, 1]
    assert of(tf.constant([[[0, 2], [1, 2]]])).numpy().tolist() == [[[1, 5], [1, 5]]]  # a mask
    with pytest.raises(ValueError, match='class_weight: expected'):
        weights_of_classes({0: -1.0})
