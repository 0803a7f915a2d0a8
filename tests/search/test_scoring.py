"""The reward: what it counts, what it leaves alone, what it does not depend on."""
import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest
import tensorflow as tf

from tfprune.pruning.gates import insert_gates
from tfprune.pruning.surgery import prune_model
from tfprune.search.scoring import SubnetworkScorer
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.testing import random_masks, randomize, residual
from tfprune.training.distribution import make_strategy
from tfprune.tasks.classification import are_right


class Masked:
    """The reference: gates over the full network, which moves its statistics."""

    def __init__(self, model, groups):
        self.gated = insert_gates(model, groups)
        self.set_masks = self.gated.set_masks

    def __call__(self, images):
        return self.gated.model(images, training=True)


def batches(count=90, size=40):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return tf.data.Dataset.from_tensor_slices(
        (images, rng.integers(0, 3, count).astype(np.int32))).batch(size)


@pytest.fixture(scope='module')
def problem():
    model = randomize(residual())
    return model, trace_groups(model)


def test_the_score_is_the_accuracy_of_the_pruned_model(problem):
    model, groups = problem
    scorer = SubnetworkScorer(Subnetwork(model, groups), make_strategy(), batches())
    before, rng, scores = model.get_weights(), np.random.default_rng(3), []
    for _ in range(4):
        masks = random_masks(groups, rng)
        pruned = prune_model(model, groups, masks)
        hits = sum(int(np.sum(np.argmax(pruned(tf.cast(x, tf.float32), training=True), 1) == y))
                   for x, y in batches())
        scores.append(scorer(masks))
        assert scores[-1] == hits / 90
    assert len(set(scores)) > 1
    for value, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, weight)


def test_sliced_scores_are_masked_scores(problem):
    model, groups = problem
    sliced = SubnetworkScorer(Subnetwork(model, groups), make_strategy(), batches())
    masked = SubnetworkScorer(Masked(model, groups), make_strategy(), batches())
    rng = np.random.default_rng(4)
    for _ in range(4):
        masks, before = random_masks(groups, rng), model.get_weights()
        assert sliced(masks) == masked(masks)
        model.set_weights(before)


def test_without_images():
    with pytest.raises(ValueError, match='scoring needs reward examples; received none'):
        SubnetworkScorer(None, make_strategy(), batches().take(0))


def test_outputs_that_are_no_numbers_are_right_about_nothing():
    """argmax takes NaN for class 0, which a network that overflows would be paid for."""
    class Overflowing:
        value = tf.Variable(0.0)

        def set_masks(self, masks):
            self.value.assign(masks['value'])

        def __call__(self, images):
            return tf.fill([tf.shape(images)[0], 3], self.value.read_value())

    zeros = tf.data.Dataset.from_tensor_slices(
        (np.zeros((8, 2, 2, 3), np.uint8), np.zeros(8, np.int32))).batch(4)
    scorer = SubnetworkScorer(Overflowing(), make_strategy(), zeros)
    assert scorer({'value': 1.0}) == 1.0 and scorer({'value': np.nan}) == 0.0
    logits = tf.constant([[1., 0.], [np.nan, 0.], [0., np.inf], [0., np.nan], [-np.inf, 0.]])
    assert are_right(logits, tf.constant([0, 0, 1, 1, 1])).numpy().tolist() == [
        True, False, True, False, True]
