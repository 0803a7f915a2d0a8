"""What a search costs: every forward and backward pass that it makes, no other; in steps."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from made_up_problem import started

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.models.building import build_model
from tfprune.pruning.masks import widths_of
from tfprune.pruning.options import PruningOptions
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.search.problem import Problem
from tfprune.structure.groups import trace_groups
from tfprune.training.account import EpochAccount, steps_left
from tfprune.training.options import Epochs

TRAIN, SCORED, SEEN = 1000, 50, 24  # images


@pytest.mark.parametrize('epochs, steps, spent, left', [
    (8, 100, 0, 800),
    (8, 100, 2.0, 600),
    (8, 100, 2.4, 560),  # not 600, as whole epochs had it
    (8, 100, 2.6, 540),
    (8, 100, 0.004, 799),  # of a step a part
    (8, 100, 0.1 + 0.2, 770),  # 0.30000000000000004
    (8, 100, 7.999, 0),
    (8, 100, 9.5, 0),
    (0, 100, 1.0, 0),
    (3, 1, 1.2, 1),
])
def test_search_is_charged_in_steps(epochs, steps, spent, left):
    assert steps_left(epochs, steps, spent) == left
    assert isinstance(steps_left(epochs, steps, spent), int)


def test_steps_that_are_left_and_steps_that_are_charged_are_those_that_were_asked_for():
    for spent in np.random.default_rng(0).uniform(0, 8, 200):
        left = steps_left(8, 117, spent)
        assert 0 <= 8 * 117 - left - spent * 117 < 1 + 1e-5  # charged: less than a step more


@pytest.mark.parametrize('arguments, message', [
    ((8, 100, float('nan')), 'search_equivalents must be finite and at least 0; received nan'),
    ((8, 100, float('inf')), 'search_equivalents must be finite'),
    ((8, 100, -1.0), 'search_equivalents must be finite and at least 0; received -1.0'),
    ((8, 0, 1.0), 'steps_per_epoch must be finite and at least 1; received 0'),
    ((-1, 100, 1.0), 'fine_tune_epochs must be'),
])
def test_what_cannot_be_charged_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        steps_left(*arguments)


def test_a_charge_is_a_finite_number():
    account = EpochAccount(TRAIN, 10)
    for epochs in (float('nan'), -0.5, float('inf')):
        with pytest.raises(ValueError, match='a charge must be finite and at least 0; received'):
            account.charge(epochs)
    assert account.epochs == 0


class Counted:
    """A problem whose score charges as a run's does, and what was scored, in epochs."""

    def __init__(self, name, options=None, *, criterion='l1', **epochs):
        keras.utils.set_random_seed(0)
        model = build_model('resnet8', image_shape=(8, 8, 1), num_classes=10, mean=(0,), std=(1,))
        groups = trace_groups(model).without_residual()
        costs = CostModel(model, groups)
        self.account = EpochAccount(TRAIN, costs.dense.macs)
        self.scored = 0.0

        def score(masks):
            before = self.account.epochs
            self.account.forward(SCORED, costs(widths_of(masks)).macs)
            self.scored += self.account.epochs - before
            return 0.5

        rng = np.random.default_rng(0)
        batches = [(tf.constant(rng.integers(0, 256, (SEEN // 2, 8, 8, 1)), tf.float32),
                    tf.constant(rng.integers(0, 10, SEEN // 2))) for _ in range(2)]
        self.method = started(name, Problem(
            model, groups, costs, Budget(groups, costs, {'macs': 0.5}), epochs=Epochs(**epochs),
            pruning=PruningOptions(criterion=criterion), score=score, account=self.account,
            criterion_batches=batches, reconstruction=Reconstruction(model, groups, batches)),
            **(options or {}))


# Forward and backward passes of the images that taylor looks at, through the dense model.
TAYLOR = SEEN / TRAIN


@pytest.mark.parametrize('criterion, charged', [('taylor', TAYLOR), ('l1', 0), ('bn_scale', 0)])
def test_a_criterion_that_needs_data_is_charged(criterion, charged):
    run = Counted('uniform', criterion=criterion)
    run.method.decide()
    assert run.account.epochs == pytest.approx(charged)


def test_rounds_are_charged_scores_and_criterion():
    run = Counted('amc', dict(episodes=6, warmup_episodes=2, lockstep=2), criterion='taylor')
    for round_ in range(3):
        run.method.search(round_)
    # Channels are ranked once, for the decision, too.
    assert run.scored > 0 and run.account.epochs == pytest.approx(run.scored + TAYLOR)
    run.method.decide()
    assert run.account.epochs == pytest.approx(run.scored + TAYLOR)


def test_what_is_observed_to_rank_channels_is_charged_once():
    run = Counted('amc', dict(episodes=6, warmup_episodes=2, lockstep=2),
                  criterion='reconstruction')
    for round_ in range(3):
        run.method.search(round_)
    assert run.scored > 0
    assert run.account.epochs == pytest.approx(run.scored + SEEN / TRAIN / 3)  # forward alone


def test_a_search_that_goes_on_ranks_no_channel_anew():
    options = dict(episodes=6, warmup_episodes=2, lockstep=2)
    run, other = (Counted('amc', options, criterion='taylor') for _ in range(2))
    run.method.search(0)
    saved = tf.train.Checkpoint(method=run.method).write('ram://ranked')
    tf.train.Checkpoint(method=other.method).restore(saved)
    other.method.search(1)
    assert other.scored > 0 and other.account.epochs == pytest.approx(other.scored)


@pytest.mark.parametrize('alignment', ['fixed', 'adaptive'])
def test_rlal_is_charged_with_what_it_learns_from(alignment):
    options = dict(alignment=alignment, context_size=0, context_updates=0, agent='random',
                   random_reference_episodes=2, comparison_episodes=2, episodes_per_epoch=3)
    run = Counted('rlal', options, criterion='taylor', warmup_epochs=0, random_epochs=1,
                  joint_epochs=2, alignment_epochs=1)
    after = [run.account.epochs]  # the first v
    for epoch in range(4):
        run.method.after_epoch(epoch, epoch + 1)
        after.append(run.account.epochs)
    # Measurements for the report alone are not: references, the comparison, v while it is fixed.
    assert after[0] == pytest.approx(TAYLOR)
    assert after[3] == pytest.approx(run.scored - (after[4] - after[3]) + 4 * TAYLOR)
    if alignment == 'fixed':
        assert after[4] == after[3]
    else:  # v and the full model are scored
        share = run.method.problem.cost_model(widths_of(run.method.alignment.get_masks())).macs / (
            run.method.problem.cost_model.dense.macs)
        assert after[4] - after[3] == pytest.approx(SCORED * (1 + share) / (3 * TRAIN))
