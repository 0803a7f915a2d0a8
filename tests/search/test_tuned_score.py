"""A reward after training steps that are forgotten: what it trains, that it forgets, what it costs.
"""
import json

import tfprune  # before keras
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

from light_export import light_export
from tfprune.pruning.surgery import prune_model
from tfprune.search.scoring import SubnetworkScorer
from tfprune.search.subnetwork import Subnetwork
from tfprune.search.tuned_score import TunedScorer
from tfprune.structure.groups import trace_groups
from tfprune.testing import random_masks
from tfprune.training.step import Evaluator, Optimization, Teacher, Trainer

RATE, STEPS = 0.05, 6


def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 16)(image)
    x = layers.Conv2D(12, 3, activation='relu', name='a')(x)
    x = layers.Conv2D(16, 3, activation='relu', name='b')(x)
    return keras.Model(image, layers.Dense(10, name='logits')(layers.Flatten()(x)))


def digits(first, last):
    x, y = load_digits(return_X_y=True)
    return tf.data.Dataset.from_tensor_slices((
        x.reshape(-1, 8, 8, 1).astype(np.float32)[first:last], y[first:last].astype(np.int32)))


def trained(model, batches, rate, teacher=None):
    trainer = Trainer(model, tf.distribute.get_strategy(), Optimization(global_batch_size=32),
                      teacher=teacher)
    trainer.train_epoch(batches, lambda _: rate)


@pytest.mark.parametrize('share', [0, .9])
def test_it_is_the_score_of_the_pruned_model_after_these_steps(share):
    model, strategy = network(), tf.distribute.get_strategy()
    teacher = Teacher(network(), share, 4.0) if share else None
    groups = trace_groups(model)
    batches, held_out = digits(0, 960).batch(32), digits(1000, 1500).batch(250)
    for _ in range(3):  # so that there is something to lose
        trained(model, batches, RATE)
    before = model.get_weights()
    if teacher:
        teacher.model.set_weights(before)
    sliced = Subnetwork(model, groups)
    plain = SubnetworkScorer(sliced, strategy, held_out)
    score = TunedScorer(plain, sliced, Trainer(
        model, strategy, Optimization(global_batch_size=32), teacher=teacher, network=sliced),
        batches.take(STEPS), RATE)
    found = []
    for seed in (1, 2, 1):  # of each the optimizer is new
        masks = random_masks(groups, np.random.default_rng(seed))
        pruned = prune_model(model, groups, masks)
        untrained = plain(masks)
        assert untrained == pytest.approx(Evaluator(pruned, strategy)(held_out))
        trained(pruned, batches.take(STEPS), RATE, teacher)
        found.append(score(masks))
        assert found[-1] == pytest.approx(Evaluator(pruned, strategy)(held_out), abs=.005)
        assert found[-1] > untrained + .02
        for now, then in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)
    assert found[0] == found[2] != found[1]


def test_what_diverges_is_scored_untrained():
    model, strategy = network(), tf.distribute.get_strategy()
    groups, before = trace_groups(model), model.get_weights()
    sliced = Subnetwork(model, groups)
    plain = SubnetworkScorer(sliced, strategy, digits(400, 900).batch(250))
    score = TunedScorer(plain, sliced, Trainer(
        model, strategy, Optimization(global_batch_size=32), network=sliced),
        digits(0, 320).batch(32), 1e20)
    masks = random_masks(groups, np.random.default_rng(1))
    assert score(masks) == plain(masks)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_run_searches_by_it_and_pays(tmp_path):
    """Charged for the steps, and for the answers of the given model in them."""
    spent = {}
    for steps in (0, 3):
        model = network()
        model.compile(keras.optimizers.SGD(RATE, momentum=.9), metrics=['accuracy'],
                      loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(digits(0, 1000).batch(32), epochs=2, verbose=0)
        with light_export():
            tfprune.train_and_prune(
                model, digits(0, 1000).batch(32), digits(1000, 1400).batch(100),
                digits(1400, 1797).batch(100), method='ppo_search', macs=.3, warmup_epochs=0,
                random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1,
                check_first_epoch=False, batch_size=50, score_images=400, score_batch_size=100,
                score_steps=steps, progress=False, run_dir=tmp_path / str(steps),
                ppo_search={'rounds': 1, 'episodes': 2})
        report = json.loads((tmp_path / str(steps) / 'report.json').read_text())
        spent[steps] = report['epochs']['search_equivalents']
        macs, dense = (report[side]['macs'] for side in ('pruned', 'dense'))
    # Decisions near the budget, the same one once: 400 images forward, then 150 of training and of
    # the teacher.
    epoch = 3 * 1000 * dense
    decisions = round(spent[0] / (400 * macs / epoch))
    assert decisions in (1, 2, 3)
    assert spent[0] == pytest.approx(decisions * 400 * macs / epoch, rel=.05)
    assert spent[3] - spent[0] == pytest.approx(
        decisions * (3 * 150 * macs + 150 * dense) / epoch, rel=.05)
