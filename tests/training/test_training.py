"""Training: schedules and losses by hand, resumption."""
import functools
import math

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from cases import slow_but
from tfprune.runs.checkpoints import Checkpoints, Position, restore
from tfprune.runs.statistics import settle
from tfprune.search.alignment import AlignmentPenalty
from tfprune.structure.groups import trace_groups
from tfprune.tasks.classification import Classification, cross_entropy
from tfprune.testing import residual
from tfprune.training.distribution import make_strategy
from tfprune.training.schedule import Rest, Schedule
from tfprune.training.evaluation import Evaluator
from tfprune.training.step import NonFiniteLossError, Optimization, StopTraining, Trainer
from tfprune.training.teacher import Teacher

BATCH, STEPS = 8, 5


@pytest.fixture(scope='module')
def strategy():
    return make_strategy(1)


def images_and_labels(count=BATCH * STEPS, seed=0):
    """Noise with a brighter third of the rows per class: learnable."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 60, (count, 8, 8, 3))
    for image, label in zip(images, labels):
        image[2 * label:2 * label + 3] += 150
    return images.astype(np.uint8), labels.astype(np.int32)


def dataset(count=BATCH * STEPS, seed=0, batch=BATCH):
    return tf.data.Dataset.from_tensor_slices(images_and_labels(count, seed)).batch(
        batch, drop_remainder=True)


def toy(seed=0):
    keras.utils.set_random_seed(seed)
    model = residual()
    # As the package's models: normalized pixels.
    image = keras.Input((8, 8, 3))
    return keras.Model(image, model(layers.Rescaling(1 / 64, offset=-1)(image)))


def flat(seed=0):
    """As `toy`, without nesting, so that groups can be traced and layers found."""
    keras.utils.set_random_seed(seed)
    return residual()


def linear(kernel=((0., 0.), (0., 0.))):
    """Pixels [B, 1, 1, 2] -> logits [B, 2], by a kernel only."""
    image = keras.Input((1, 1, 2))
    model = keras.Model(image, layers.Dense(2, use_bias=False, name='d')(layers.Flatten()(image)))
    model.get_layer('d').kernel.assign(kernel)
    return model


def under(strategy, build, *args):
    with strategy.scope():
        return build(*args)


def make(model, strategy, penalty=None, teacher=None, **kwargs):
    return Trainer(model, strategy, Optimization(global_batch_size=BATCH, **kwargs), penalty,
                   teacher)


def weights(model):
    return [keras.ops.convert_to_numpy(v) for v in model.variables]


def equal(ours, theirs):
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


# Schedules and the loss.

def test_cosine_by_hand():
    schedule = Schedule('cosine', 0.4, steps=8)
    cos = math.cos(math.pi / 4)
    assert [schedule(s) for s in (0, 2, 4, 6)] == pytest.approx(
        [.4, .2 * (1 + cos), .2, .2 * (1 - cos)])
    assert 0 < schedule(7) < schedule(6)


def test_step_by_hand():
    schedule = Schedule('step', 0.4, steps=8)
    assert [schedule(s) for s in range(8)] == pytest.approx([.4] * 4 + [.04] * 2 + [.004] * 2)


@pytest.mark.parametrize('kind', ['cosine', 'step'])
def test_warm_up_rises_to_the_peak_and_goes_on_from_there(kind):
    schedule = Schedule(kind, 0.4, steps=12, warmup_steps=4)
    assert [schedule(s) for s in range(5)] == pytest.approx([.1, .2, .3, .4, .4])
    rest = Schedule(kind, 0.4, steps=8)
    assert [schedule(4 + s) for s in range(8)] == pytest.approx([rest(s) for s in range(8)])


def test_a_schedule_may_be_all_warm_up():
    assert Schedule('cosine', 1.0, steps=4, warmup_steps=4)(3) == 1


@pytest.mark.parametrize('kind', ['cosine', 'step'])
def test_the_rest_of_a_schedule_by_hand(kind):
    whole = Schedule(kind, 0.4, steps=12, warmup_steps=4)
    assert [Rest(whole, 6, 6)(s) for s in range(6)] == [whole(6 + s) for s in range(6)]
    assert [Rest(whole, 6, 2)(s) for s in range(2)] == [whole(6), whole(9)]  # in a third of them
    assert [Rest(whole, 2, 5)(s) for s in (0, 1)] == [whole(2), 0.4]  # a warm-up to its peak
    assert Rest(whole, 6, 2).peak == whole(6)


def test_unknown_schedule():
    with pytest.raises(ValueError, match="Unknown schedule 'linear'. Available: cosine, step"):
        Schedule('linear', 0.1, steps=4)(0)


def test_cross_entropy_by_hand():
    logits = tf.math.log([[.2, .3, .5], [.6, .3, .1]])
    labels = tf.constant([2, 0])
    assert cross_entropy(labels, logits).numpy() == pytest.approx([-math.log(.5), -math.log(.6)])
    # 0.3 of the mass goes to all three classes alike: targets .1, .1, .8.
    first = -(.1 * math.log(.2) + .1 * math.log(.3) + .8 * math.log(.5))
    second = -(.8 * math.log(.6) + .1 * math.log(.3) + .1 * math.log(.1))
    assert cross_entropy(labels, logits, .3).numpy() == pytest.approx([first, second])


def test_cross_entropy_of_half_precision_logits_is_float32():
    loss = cross_entropy(tf.constant([0]), tf.constant([[2., 1.]], tf.bfloat16), .1)
    assert loss.dtype == tf.float32


# One step by hand.

def one_step(strategy, penalty=None, **kwargs):
    """Two images [1, 0] of class 0 and two [0, 1] of class 1, kernel 0, rate 0.5."""
    pixels = np.array([[1, 0], [0, 1], [1, 0], [0, 1]] * 2, np.uint8).reshape(8, 1, 1, 2)
    labels = np.array([0, 1] * 4, np.int32)
    model = under(strategy, linear)
    trainer = Trainer(model, strategy, Optimization(global_batch_size=8, momentum=.9, **kwargs),
                      penalty and penalty(model))
    data = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(8)
    return model, trainer, data


def test_two_steps_of_momentum_by_hand(strategy):
    model, trainer, data = one_step(strategy, weight_decay=0.0)
    means = trainer.train_epoch(data, lambda step: .5)
    assert means['cross_entropy'] == means['loss'] == pytest.approx(math.log(2))
    assert means['accuracy'] == .5 and means['penalty'] == 0
    # Mean over 8 images of x (p - y): half of them are [1, 0] with p - y = (-.5, .5).
    gradient = np.array([[-.25, .25], [.25, -.25]])
    assert weights(model)[0] == pytest.approx(-.5 * gradient)
    w = -.5 * gradient
    p = 1 / (1 + math.exp(-2 * w[0, 0]))
    again = (p - 1) / 2 * np.array([[1, -1], [-1, 1]])
    trainer.train_epoch(data, lambda step: .5)
    # Keras: velocity = momentum * velocity - rate * gradient.
    assert weights(model)[0] == pytest.approx(w + .9 * w - .5 * again, rel=1e-5)


def test_weight_decay_and_penalty_are_in_the_gradients(strategy):
    def penalty(model):
        return lambda: 3 * tf.reduce_sum(tf.convert_to_tensor(model.get_layer('d').kernel))

    moved = []
    for decay, term in ((0.0, None), (0.2, None), (0.0, penalty)):
        model, trainer, data = one_step(strategy, term, weight_decay=decay)
        model.get_layer('d').kernel.assign([[1., 2.], [3., 4.]])
        means = trainer.train_epoch(data, lambda step: .5)
        moved.append(weights(model)[0])
        assert means['penalty'] == (30 if term else 0)
        assert means['loss'] == pytest.approx(means['cross_entropy'] + means['penalty'])
    # d(decay / 2 |w|^2) = decay w; d(3 sum w) = 3.
    assert moved[1] - moved[0] == pytest.approx(-.5 * .2 * np.array([[1, 2], [3, 4]]), rel=1e-4)
    assert moved[2] - moved[0] == pytest.approx(-.5 * 3 * np.ones((2, 2)), rel=1e-4)


def test_a_penalty_of_none_adds_nothing(strategy):
    model, trainer, data = one_step(strategy, lambda model: lambda: None)
    assert trainer.train_epoch(data, lambda step: .5)['penalty'] == 0


def test_only_kernels_decay(strategy):
    model = under(strategy, flat)
    assert {v.path.split('/')[-1] for v in make(model, strategy)._kernels} == {'kernel'}
    assert len(make(model, strategy)._kernels) == 8


# Epochs.

def test_the_end_is_the_moving_average_of_weights(strategy):
    """By hand: the first average is that of the first weights."""
    model, trainer, data = one_step(strategy, average=0.75)
    seen: list[np.ndarray] = []
    trainer.train_epoch(data.repeat(4), lambda step: .5,
                        on_step=lambda *_: seen.append(weights(model)[0].copy()))
    trainer.finish()
    expected = seen[0]
    for each in seen[1:]:
        expected = .75 * expected + .25 * each
    assert trainer.averages and not np.allclose(expected, seen[-1])
    assert weights(model)[0] == pytest.approx(expected, rel=1e-5)


def test_what_holds_of_weights_holds_of_their_average(strategy):
    model = under(strategy, linear)
    kernel = model.trainable_variables[0]
    trainer = Trainer(model, strategy, Optimization(global_batch_size=BATCH, average=.5),
                      constrain=lambda share: kernel.assign(kernel * [[0., 1.]]))
    trainer.train_epoch(one_step(strategy)[2].repeat(4), lambda step: .5)
    trainer.finish()
    assert not np.any(weights(model)[0][:, 0]) and np.all(weights(model)[0][:, 1])


def test_loss_falls_on_a_learnable_toy(strategy):
    model = under(strategy, toy)
    trainer = make(model, strategy)
    losses = [trainer.train_epoch(dataset(seed=0), lambda step: .05)['loss'] for _ in range(8)]
    assert losses[-1] < .3 * losses[0]
    held_out = dataset(60, seed=1, batch=20)
    assert Evaluator(model, strategy)(held_out) > .8


def test_on_step_sees_running_means_and_the_schedule_the_step(strategy):
    trainer = make(under(strategy, toy), strategy)
    seen, rates = [], []

    def rate(step):
        rates.append(step)
        return .01

    final = trainer.train_epoch(dataset(), rate, on_step=lambda n, means: seen.append((n, means)))
    assert rates == list(range(STEPS)) and [n for n, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[-1][1] == final and seen[0][1] != final
    assert int(trainer.steps_done) == 0
    assert trainer._train_step.experimental_get_tracing_count() == 1
    # A new epoch starts its sums anew.
    trainer.train_epoch(dataset(), rate, on_step=lambda n, means: seen.append((n, means)))
    assert seen[STEPS][0] == 1 and seen[STEPS][1]['loss'] < 1.5 * final['loss']


def test_a_model_of_another_scope_is_refused(strategy):
    with pytest.raises(ValueError, match=r"created under the strategy's scope\(\)"):
        make(linear(), strategy)


def test_no_whole_batch(strategy):
    with pytest.raises(ValueError, match='hold no whole batch'):
        make(under(strategy, linear), strategy).train_epoch(dataset(3), lambda step: .1)


class Stop:
    def __init__(self, at):
        self.at = at

    def __call__(self, step, means):
        if step == self.at:
            raise StopTraining()


@functools.cache
def schooled(strategy):
    """A trained model, which teaches."""
    model = under(strategy, flat, 1)
    trainer = make(model, strategy)
    for epoch in range(8):
        trainer.train_epoch(dataset(seed=epoch), lambda step: .05)
    settle(model, Classification(), dataset(), strategy)
    return model


def aligned(strategy, seed):
    """A trainer with all that a run has, and its state."""
    with strategy.scope():
        model = flat(seed)
        penalty = AlignmentPenalty(model, trace_groups(model), strength=1e-3)
    penalty.set_masks({'s1_conv1': np.arange(7) < 3})
    trainer = make(model, strategy, penalty, Teacher(schooled(strategy), .9, 4.0, 'adaptive'),
                   label_smoothing=.1)
    return trainer, tf.train.Checkpoint(model=model, trainer=trainer, penalty=penalty)


def falling(step):
    return .02 / (1 + step)


@pytest.fixture(scope='module')
def whole(strategy):
    """The trainer after two uninterrupted epochs, and their means."""
    trainer, _ = aligned(strategy, 0)
    return trainer, [trainer.train_epoch(dataset(seed=seed), falling) for seed in (0, 1)]


@pytest.mark.parametrize('stop', slow_but([3, STEPS], [3]))
def test_a_run_stopped_within_an_epoch_continues_bit_for_bit(strategy, tmp_path, whole, stop):
    expected, (first, second) = whole
    stopped, state = aligned(strategy, 0)
    assert stopped.train_epoch(dataset(seed=0), falling) == first
    assert 0 < second['distillation_share'] < .9
    with pytest.raises(StopTraining):
        stopped.train_epoch(dataset(seed=1), falling, on_step=Stop(stop))
    assert int(stopped.steps_done) == stop
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Position(1, stop), state)

    resumed, state = aligned(strategy, 9)
    position, prefix = checkpoints.newest()
    restore(state, prefix)
    assert position == Position(1, stop)
    steps = []
    means = resumed.train_epoch(dataset(seed=1), falling, on_step=lambda n, _: steps.append(n))
    assert steps == list(range(stop + 1, STEPS + 1))
    assert means == second
    assert equal(weights(resumed.model), weights(expected.model))
    momentum, ours = ([v.numpy() for v in t.optimizer.variables] for t in (expected, resumed))
    assert equal(ours, momentum) and max(np.abs(m).max() for m in ours[2:]) > 0
    assert int(resumed.steps_done) == 0


def test_dropout_continues_its_stream(strategy, tmp_path):
    def build(seed):
        keras.utils.set_random_seed(seed)
        image = x = keras.Input((8, 8, 3))
        with strategy.scope():
            x = layers.Dropout(.5)(layers.GlobalAveragePooling2D()(x))
            model = keras.Model(image, layers.Dense(3)(layers.Dropout(.3)(x)))
        trainer = make(model, strategy)
        return trainer, tf.train.Checkpoint(model=model, trainer=trainer)

    expected, state = build(0)
    expected.train_epoch(dataset(), falling)
    prefix = state.write(str(tmp_path / 'state'))
    resumed, state = build(9)
    restore(state, prefix)
    assert expected.train_epoch(dataset(), falling) == resumed.train_epoch(dataset(), falling)
    assert equal(weights(expected.model), weights(resumed.model))


# Losses that are not finite.

def test_a_cross_entropy_that_is_no_number_is_named(strategy):
    images, labels = images_and_labels()
    images = images.astype(np.float32)
    images[2 * BATCH] = np.nan  # in the third batch
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)
    seen = []
    with pytest.raises(NonFiniteLossError, match='cross-entropy is nan at step 3 of this epoch'):
        make(under(strategy, toy), strategy).train_epoch(
            data, lambda step: .01, on_step=lambda n, _: seen.append(n))
    assert seen == [1, 2]


def test_a_penalty_that_is_infinite_is_named(strategy):
    scale = tf.Variable(1.0, trainable=False)
    trainer = make(under(strategy, toy), strategy, lambda: scale / (2.0 - scale))

    def grow(step, means):
        scale.assign_add(.5)

    with pytest.raises(NonFiniteLossError, match='penalty is inf at step 3 of this epoch'):
        trainer.train_epoch(dataset(), lambda step: .01, on_step=grow)


def test_weights_that_the_last_step_ruins_are_noticed(strategy):
    """Their loss would only show in the next epoch, after the checkpoint."""
    trainer = make(under(strategy, toy), strategy)
    with pytest.raises(NonFiniteLossError, match=r'is not finite after step 5 of this epoch'):
        trainer.train_epoch(dataset(), lambda step: .01 if step < STEPS - 1 else math.inf)


# Evaluation and statistics.

def test_accuracy_by_hand(strategy):
    model = linear(((1., 0.), (0., 1.)))  # the brighter pixel
    pixels = np.array([[9, 1], [1, 9], [9, 1], [9, 1], [1, 9]], np.uint8).reshape(5, 1, 1, 2)
    labels = np.array([0, 1, 1, 0, 0], np.int32)
    data = tf.data.Dataset.from_tensor_slices((pixels, labels))
    evaluate = Evaluator(model, strategy)
    assert evaluate(data.batch(5)) == evaluate(data.batch(2)) == 3 / 5
    with pytest.raises(ValueError, match='no images to evaluate'):
        evaluate(data.take(0).batch(2))


def test_too_late_for_more_replicas(strategy):
    tf.zeros(1)  # initializes TensorFlow
    with pytest.raises((RuntimeError, ValueError), match='4096'):
        make_strategy(4096)
