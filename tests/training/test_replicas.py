"""Two replicas on logical CPU devices give the losses and weights of one.

The devices must be asked for before TensorFlow starts: two replicas run in a process of their own,
which is this file as a script.
"""
import json
import os
import pathlib
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.pruning.importance import score_groups
from tfprune.search.alignment import AlignmentPenalty
from tfprune.search.scoring import SubnetworkScorer
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.tasks.compiled import CompiledTask
from tfprune.testing import random_masks
from tfprune.training.batch_norm import batch_norm_layers
from tfprune.training.distribution import make_strategy
from tfprune.training.evaluation import Evaluator
from tfprune.training.step import Optimization, Trainer
from tfprune.training.teacher import Teacher

BATCH, STEPS = 8, 5


def images(count, seed):
    """Noise, brighter in the rows of the class: learnable."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    pixels = rng.integers(0, 60, (count, 8, 8, 3))
    for image, label in zip(pixels, labels):
        image[2 * label:2 * label + 3] += 150
    return tf.data.Dataset.from_tensor_slices((pixels.astype(np.uint8), labels)).batch(BATCH)


def shallow():
    """Two convolutions with batch normalization."""
    image = x = keras.Input((8, 8, 3))
    for name, width in (('c1', 7), ('c2', 5)):
        x = layers.Conv2D(width, 3, strides=2, use_bias=False, name=name)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(image, layers.Dense(3)(layers.GlobalMaxPooling2D()(x)))


def train_on(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = shallow()
        penalty = AlignmentPenalty(model, trace_groups(model), strength=1e-2)
        teacher = shallow()
    penalty.set_masks({'c1': np.arange(7) < 3})
    trainer = Trainer(model, strategy, Optimization(global_batch_size=BATCH), penalty,
                      Teacher(teacher, 0.5, 2.0, 'adaptive'))
    losses: list[float] = []
    for _ in range(2):
        means = trainer.train_epoch(
            images(BATCH * STEPS, seed=0), lambda step: .01,
            on_step=lambda n, means: losses.append(means['loss']))
    groups = trace_groups(model)
    with strategy.scope():
        scorer = SubnetworkScorer(Subnetwork(model, groups), strategy, images(21, seed=4))
    return {
        'scores': [scorer(random_masks(groups, np.random.default_rng(i))) for i in range(5)],
        'replicas': strategy.num_replicas_in_sync, 'losses': losses, 'penalty': means['penalty'],
        'synchronized': sorted({layer.synchronized for layer in batch_norm_layers(model)}),
        'accuracy': Evaluator(model, strategy)(images(21, seed=2)),
        'taylor': score_groups(model, groups, criterion='taylor',
                               data=images(2 * BATCH, seed=3))['c1'].tolist(),
        'weights': [keras.ops.convert_to_numpy(v).tolist() for v in model.variables]}


def compiled_on(strategy):
    """The same of a model with two outputs, compiled, of weighted examples."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        image = keras.Input((8, 8, 3), name='image')
        x = layers.Conv2D(6, 3, padding='same', name='conv')(image)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        model = keras.Model(image, {
            'mask': layers.Conv2D(3, 1, activation='softmax', name='mask')(x),
            'number': layers.Dense(1, name='number')(layers.GlobalAveragePooling2D()(x))})
    model.compile('adam', {'mask': 'sparse_categorical_crossentropy', 'number': 'mse'},
                  metrics={'mask': [keras.metrics.MeanIoU(3, sparse_y_pred=False, name='iou')]},
                  weighted_metrics={'number': ['mae']})

    def batches(count, seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(count, 8, 8, 3)).astype('float32')
        y = {'mask': (x[..., 0] > 0).astype('int32') + (x[..., 1] > 1), 'number': x[:, 0, 0, :1]}
        w = {'mask': rng.random((count, 1, 1)).astype('float32'),
             'number': rng.random(count).astype('float32')}
        return tf.data.Dataset.from_tensor_slices((x, y, w)).batch(BATCH)

    task = CompiledTask.of(model, next(iter(batches(8, 9))), monitor='val_mask_iou')
    trainer = Trainer(model, strategy, Optimization(
        weight_decay=0.0, global_batch_size=BATCH,
        optimizer=keras.optimizers.serialize(keras.optimizers.Adam(0.01))), task=task)
    rows = [trainer.train_epoch(batches(BATCH * STEPS, 0), lambda step: .01) for _ in range(1)]
    evaluate, groups = Evaluator(model, strategy, task=task), trace_groups(model)
    with strategy.scope():
        scorer = SubnetworkScorer(Subnetwork(model, groups), strategy, batches(21, 4), task)
    spread = evaluate.scored(batches(21, 2))
    return {'rows': rows, 'metrics': [evaluate.metrics(batches(n, 2)) for n in (21, BATCH + 1)],
            'spread': [spread.mean, spread.error, spread.examples],
            'scores': [scorer({'conv': np.arange(6) < n}) for n in (3, 6)]}


def in_another_process(replicas, *what):
    here = pathlib.Path(__file__).resolve()
    path = os.pathsep.join(filter(None, [str(here.parents[2]), os.environ.get('PYTHONPATH')]))
    done = subprocess.run([sys.executable, str(here), str(replicas), *what], capture_output=True,
                          text=True, check=False,
                          env={**os.environ, 'PYTHONPATH': path, 'CUDA_VISIBLE_DEVICES': ''},
                          timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_same(one, two):
    """One replica and two gave the same, up to float error."""
    assert (one['replicas'], two['replicas']) == (1, 2)
    assert one['synchronized'] == [False] and two['synchronized'] == [True]
    assert two['losses'] == pytest.approx(one['losses'], rel=1e-4)
    assert len(one['losses']) == 2 * STEPS and one['losses'][-1] < one['losses'][0]
    assert two['penalty'] == pytest.approx(one['penalty'], rel=1e-4) and one['penalty'] > 0
    for ours, theirs in zip(one['weights'], two['weights'], strict=True):
        assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert two['taylor'] == pytest.approx(one['taylor'], rel=1e-2) and max(one['taylor']) > 0
    # 21 images in batches of 8: the second replica has no batch of its own in the last round.
    assert two['scores'] == pytest.approx(one['scores'], abs=1.1 / 21)
    assert len(set(one['scores'])) > 1
    # Here the replicas share the last batch unequally.
    assert one['accuracy'] == pytest.approx(two['accuracy'], abs=1.1 / 21)
    assert 0 < one['accuracy'] <= 1


@pytest.mark.slow
@pytest.mark.skipif(bool(tf.config.list_physical_devices('GPU')), reason='compares CPU with CPU')
def test_two_replicas_give_the_losses_of_one():
    check_same(train_on(make_strategy(1)), in_another_process(2))


@pytest.mark.slow
@pytest.mark.skipif(bool(tf.config.list_physical_devices('GPU')), reason='compares CPU with CPU')
def test_two_replicas_give_the_losses_of_one_that_is_compiled():
    ours, theirs = compiled_on(make_strategy(1)), in_another_process(2, 'compiled')
    for name in ('rows', 'metrics'):
        for mine, other in zip(ours[name], theirs[name], strict=True):
            assert other == pytest.approx(mine, rel=1e-2, abs=1e-5)  # answers on an edge flip
    assert theirs['spread'] == pytest.approx(ours['spread'], rel=1e-2)
    assert theirs['scores'] == pytest.approx(ours['scores'], rel=1e-3)
    assert len(set(ours['scores'])) == 2


if __name__ == '__main__':
    asked = make_strategy(int(sys.argv[1]))  # one a process: another begins with the same keys
    print(json.dumps((compiled_on if 'compiled' in sys.argv else train_on)(asked)))
