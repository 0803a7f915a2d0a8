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
from tfprune.testing import random_masks
from tfprune.training.batch_norm import batch_norm_layers
from tfprune.training.distribution import make_strategy
from tfprune.training.step import Evaluator, Optimization, Trainer

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


def train_on(replicas):
    keras.utils.set_random_seed(0)
    strategy = make_strategy(replicas)
    with strategy.scope():
        model = shallow()
        penalty = AlignmentPenalty(model, trace_groups(model), strength=1e-2)
        teacher = shallow()
    penalty.set_masks({'c1': np.arange(7) < 3})
    trainer = Trainer(model, strategy, Optimization(global_batch_size=BATCH), penalty, teacher)
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


def in_another_process(replicas):
    here = pathlib.Path(__file__).resolve()
    path = os.pathsep.join(filter(None, [str(here.parents[2]), os.environ.get('PYTHONPATH')]))
    done = subprocess.run([sys.executable, str(here), str(replicas)], capture_output=True,
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


@pytest.mark.skipif(bool(tf.config.list_physical_devices('GPU')), reason='compares CPU with CPU')
def test_two_replicas_give_the_losses_of_one():
    one, two = train_on(1), in_another_process(2)
    check_same(one, two)


if __name__ == '__main__':
    print(json.dumps(train_on(int(sys.argv[1]))))
