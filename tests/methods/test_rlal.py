"""RLAL between its epochs: what sets lambda, what is said of the sub-network it follows."""
import dataclasses

import pytest

from made_up_problem import made_up_problem, started
from tfprune.pruning.masks import widths_of

EPOCHS = dict(warmup_epochs=0, random_epochs=1, joint_epochs=2, alignment_epochs=1)
SHORT = dict(alignment='adaptive', episodes_per_epoch=2, random_reference_episodes=0,
             comparison_episodes=0, context_size=4, context_updates=1, agent_updates=1)


def rlal(score):
    problem = made_up_problem(**EPOCHS)
    return started('rlal', dataclasses.replace(problem, score=score), **SHORT)


@pytest.mark.parametrize('full, factor', [
    (0.9, 1.5), pytest.param(0.51, 1 / 1.5, marks=pytest.mark.slow)])
def test_adaptive_lambda_follows_the_gap_of_two_scores(full, factor):
    """Not of an accuracy by moving statistics and one by those of the batch."""
    method = rlal(lambda masks: full if all(mask.all() for mask in masks.values()) else 0.5)
    strengths, found = [], []
    for epoch in range(4):
        found.append(method.after_epoch(epoch, epoch + 1).metrics)
        strengths.append(float(method.alignment.strength.numpy()))
    start = method.options.alignment_strength
    # Nothing follows the last epoch before surgery.
    assert strengths == pytest.approx([start, start * factor, start * factor ** 2, 0.0])
    assert [row['scored_full_accuracy'] for row in found] == [full] * 4
    assert [row['subnetwork_accuracy'] for row in found] == [0.5] * 4


@pytest.mark.slow
def test_the_accuracy_that_is_said_is_of_the_widths_that_are_followed():
    """An episode may leave some of the budget, which is filled."""
    def score(masks):
        return 1 / (1 + sum(widths_of(masks).values()))  # the fewer the better: filling shows

    method = rlal(score)
    for epoch in range(3):
        found = method.after_epoch(epoch, epoch + 1).metrics['subnetwork_accuracy']
        widths = method.best_widths.numpy()
        assert found == score(method.problem.select(method.problem.budget.as_dict(widths)))
        assert list(widths) == list(method.problem.budget.fill(widths))


@pytest.mark.slow
def test_epochs_that_are_left_out_leave_out_no_comparison_and_no_lambda():
    epochs = dict(warmup_epochs=0, random_epochs=3, joint_epochs=3, alignment_epochs=2)
    method = started('rlal', made_up_problem(**epochs), **SHORT | dict(
        alignment='fixed', comparison_episodes=2))
    start, found = method.options.alignment_strength, []
    for epoch, coming in ((0, 3), (3, 4), (4, 6), (6, 8)):
        compared = 'comparison_episodes' in method.after_epoch(epoch, coming).metrics
        found.append((compared, float(method.alignment.strength.numpy())))
    assert found == [(False, pytest.approx(start)), (False, pytest.approx(start)),
                     (True, pytest.approx(start)), (False, 0.0)]
