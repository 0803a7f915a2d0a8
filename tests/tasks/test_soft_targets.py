"""Divergences from a teacher, by hand, and of what a model is compiled with."""
import dataclasses

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.tasks.classification import Classification
from tfprune.tasks.compiled import CompiledTask
from tfprune.tasks.soft_targets import divergence_of, of_classes, of_labels
from tfprune.training.options import TrainingOptions
from tfprune.training.step import Optimization, Trainer
from tfprune.training.teacher import SCHEDULES, Teacher, known_better

RNG = np.random.default_rng(0)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence_by_hand(student, teacher, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    each = temperature ** 2 * (p * np.log(p / q)).sum(-1)
    return each.reshape(len(each), -1).mean(1)


@pytest.mark.parametrize('shape', [(5, 3), (5, 4, 6, 3)])
def test_divergence_over_classes_by_hand(shape):
    student, teacher = RNG.normal(size=(2, *shape)).astype('float32')
    np.testing.assert_allclose(of_classes(student, teacher, 4.0),
                               divergence_by_hand(student, teacher, 4.0), rtol=1e-4)
    assert not np.any(of_classes(student, student, 4.0))


def test_a_label_is_two_classes():
    student, teacher = RNG.normal(size=(2, 5, 2)).astype('float32')
    both = [np.stack([each, np.zeros_like(each)], -1) for each in (student, teacher)]
    np.testing.assert_allclose(of_labels(student, teacher, 3.0),
                               divergence_by_hand(*both, 3.0), rtol=1e-4)


def test_the_gradient_keeps_its_size_at_a_high_temperature():
    """At a high temperature it is that of half the mean squared difference, K (s - t) / K^2."""
    teacher = tf.constant([[1.0, -2.0, 1.0]])
    student = tf.Variable([[0.5, 0.5, -1.0]])
    with tf.GradientTape() as tape:
        loss = of_classes(student, teacher, 1000.0)
    np.testing.assert_allclose(tape.gradient(loss, student), (student - teacher) / 3, rtol=1e-2)


@pytest.mark.parametrize('loss, activation', [
    ('sparse_categorical_crossentropy', softmax), ('categorical_crossentropy', softmax),
    (keras.losses.CategoricalCrossentropy(), softmax)])
def test_probabilities_and_logits_diverge_alike(loss, activation):
    student, teacher = RNG.normal(size=(2, 5, 3)).astype('float32')
    expected = divergence_by_hand(student, teacher, 4.0)
    found = divergence_of(keras.losses.get(loss) if callable(loss) else as_object(loss))
    np.testing.assert_allclose(found(activation(student), activation(teacher), 4.0), expected,
                               rtol=1e-3)
    of_logits = divergence_of(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(of_logits(student, teacher, 4.0), expected, rtol=1e-3)


def as_object(name):
    """A loss as `compile` makes it of a name."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    model.compile(loss=name)
    y = np.zeros((4, 3)) if name == 'categorical_crossentropy' else np.zeros(4, int)
    model.compute_loss(None, y, model(np.zeros((4, 2))))
    return model._compile_loss._flat_losses[0].loss


@pytest.mark.parametrize('loss', [
    keras.losses.MeanSquaredError(), keras.losses.SparseCategoricalCrossentropy(axis=1),
    keras.losses.Dice(), lambda y, p: 0.0])
def test_other_losses_have_no_teacher(loss):
    assert divergence_of(loss) is None


def two_heads(**losses):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {'kind': layers.Dense(3, name='kind')(inputs),
                                 'is_red': layers.Dense(1, 'sigmoid', name='is_red')(inputs)})
    model.compile(loss={'kind': keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                        'is_red': 'binary_crossentropy', **losses},
                  loss_weights={'kind': 1.0, 'is_red': 0.5})
    return model


X = RNG.normal(size=(8, 4)).astype('float32')
Y = {'kind': np.arange(8) % 3, 'is_red': np.arange(8)[:, None] % 2}


def test_several_outputs_diverge_by_their_weights():
    model = two_heads()
    task = CompiledTask.of(model, (X, Y))
    teacher = two_heads()
    teacher.set_weights([w + 0.5 * RNG.normal(size=w.shape) for w in teacher.get_weights()])
    answers, wanted = model(X), teacher(X)
    odds = [np.log(np.asarray(each['is_red'])) - np.log(1 - np.asarray(each['is_red']))
            for each in (answers, wanted)]
    both = [np.stack([each[:, 0], np.zeros(8)], -1) for each in odds]
    expected = (divergence_by_hand(np.asarray(answers['kind']), np.asarray(wanted['kind']), 2.0)
                + 0.5 * divergence_by_hand(*both, 2.0)).sum()
    assert task.can_distil
    assert float(task.divergence(answers, wanted, 2.0)) == pytest.approx(expected, rel=1e-3)


def test_one_output_without_a_divergence_is_a_task_without():
    assert not CompiledTask.of(two_heads(is_red='mse'), (X, Y)).can_distil


def test_maps_of_classes_are_distilled_where_asked_for_alone():
    for size, is_map in (((4,), False), ((4, 5, 4), True), ((7, 4), True)):
        inputs = keras.Input(size)
        model = keras.Model(inputs, layers.Dense(3, 'softmax')(inputs))
        model.compile(loss='sparse_categorical_crossentropy')
        task = CompiledTask.of(model, (np.zeros((2, *size)), np.zeros((2, *size[:-1]))))
        assert task.can_distil and task.is_distilled != is_map


def linear(kernel):
    """Logits [B, 3] of images of four pixels, by a kernel that broadcasts to [4, 3]."""
    model = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten(),
                              layers.Dense(3, use_bias=False)])
    model.set_weights([np.broadcast_to(kernel, (4, 3))])
    return model


def test_a_step_towards_labels_and_teacher_by_hand():
    student, teacher = linear(0.0), linear([[0.5, 0.0, -0.25]])
    data = tf.data.Dataset.from_tensors((np.ones((4, 2, 2, 1), np.uint8), np.zeros(4, np.int64)))
    trainer = Trainer(student, tf.distribute.get_strategy(), Optimization(
        momentum=0.0, weight_decay=0.0, global_batch_size=4), teacher=Teacher(teacher, 0.9, 4.0),
        task=Classification())
    means = trainer.train_epoch(data, lambda step: 0.1)
    wanted = np.array([[2.0, 0.0, -1.0]])
    divergence, = divergence_by_hand(np.zeros((1, 3)), wanted, 4.0)
    assert means['distillation'] == pytest.approx(divergence, rel=1e-4)
    assert means['cross_entropy'] == pytest.approx(np.log(3)) and means['penalty'] == 0
    assert means['loss'] == pytest.approx(0.1 * np.log(3) + 0.9 * divergence, rel=1e-4)
    np.testing.assert_array_equal(teacher.get_weights()[0][0], [0.5, 0.0, -0.25])
    # (1 - a) (p - 1[k = 0]) + a T (softmax(s / T) - softmax(t / T))
    slope = (0.1 * np.array([1 / 3 - 1, 1 / 3, 1 / 3])
             + 0.9 * 4 * (1 / 3 - softmax(wanted / 4))[0])
    np.testing.assert_allclose(student.get_weights()[0], np.tile(-0.1 * slope, (4, 1)), rtol=1e-4)


@pytest.mark.slow
def test_a_teacher_that_anneals_ends_with_the_labels():
    data = tf.data.Dataset.from_tensors((np.ones((4, 2, 2, 1), np.uint8), np.zeros(4, np.int64)))

    def trained(share, schedule, left, steps=2):
        student = linear(0.0)
        trainer = Trainer(student, tf.distribute.get_strategy(), Optimization(
            momentum=0.0, weight_decay=0.0, global_batch_size=4), task=Classification(),
            teacher=Teacher(linear([[0.5, 0.0, -0.25]]), share, 4.0, schedule))
        means = trainer.train_epoch(data.repeat(steps), lambda step: 0.1, share_left=left)
        return student.get_weights()[0], means

    def assert_same(one, other):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
        assert one[1] == pytest.approx(other[1] | {
            'distillation_share': one[1]['distillation_share']})

    none, whole = (trained(share, 'constant', None) for share in (0.0, 0.8))
    assert_same(trained(0.8, 'linear', lambda step: 0.0), none)
    assert_same(trained(0.8, 'linear', lambda step: 1.0), whole)
    assert_same(trained(0.8, 'constant', lambda step: 0.0), whole)  # it stays
    _, means = trained(0.8, 'linear', lambda step: 1 - step / 2)  # 0.8, then 0.4
    (_, first), (_, second) = (trained(0.8, 'linear', lambda step: 1 - step / 2, steps=1),
                               trained(0.8, 'linear', lambda step: 1 - step / 2, steps=2))
    assert means == second and first['loss'] == pytest.approx(
        0.2 * first['cross_entropy'] + 0.8 * first['distillation'])
    later = {name: 2 * second[name] - first[name]
             for name in ('loss', 'cross_entropy', 'distillation')}
    assert later['loss'] == pytest.approx(
        0.6 * later['cross_entropy'] + 0.4 * later['distillation'], rel=1e-4)


def test_an_adaptive_teacher_has_the_part_of_the_loss_that_it_knows_better():
    """By hand: the first step by all of a, the others by moving averages of both losses."""
    data = tf.data.Dataset.from_tensors((np.ones((4, 2, 2, 1), np.uint8), np.zeros(4, np.int64)))
    student, kernel = linear(0.0), np.array([0.25, 0.0, -0.25])
    trainer = Trainer(student, tf.distribute.get_strategy(), Optimization(
        momentum=0.0, weight_decay=0.0, global_batch_size=4), task=Classification(),
        teacher=Teacher(linear([kernel]), 0.8, 4.0, 'adaptive'))
    teachers = -np.log(softmax(4 * kernel)[0])
    rows = [trainer.train_epoch(data, lambda step: 0.1) for _ in range(20)]
    own, known, share = 0.0, 0.0, 0.8
    for row in rows:
        assert row['teacher_loss'] == pytest.approx(teachers, rel=1e-5)
        assert row['distillation_share'] == pytest.approx(share, rel=1e-5)
        assert row['loss'] == pytest.approx(
            (1 - share) * row['cross_entropy'] + share * row['distillation'], rel=1e-5)
        own, known = 0.9 * own + 0.1 * row['cross_entropy'], 0.9 * known + 0.1 * teachers
        share = 0.8 * max(0.0, 1 - known / own)
    # The student has passed its teacher, of whom nothing is left.
    assert rows[-1]['cross_entropy'] < teachers and rows[-1]['distillation_share'] == 0


def test_schedules_are_those_that_can_be_chosen():
    field, = (each for each in dataclasses.fields(TrainingOptions)
              if each.name == 'distillation_schedule')
    assert set(field.metadata['choices']) == set(SCHEDULES)


@pytest.mark.parametrize('own, teachers, expected', [
    (0.0, 0.0, 1.0),  # before the first step
    (2.0, 0.5, 0.75), (2.0, 3.0, 0.0), (2.0, -1.0, 1.0), (-1.0, -3.0, 1.0), (-1.0, 2.0, 0.0),
    (0.0, 3.0, 0.0)])
def test_a_part_of_a_distance_is_a_share(own, teachers, expected):
    assert known_better(own, teachers) == pytest.approx(expected)
