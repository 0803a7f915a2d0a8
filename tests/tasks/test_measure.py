"""The reward of a metric: the larger the better, near 0 … 1, and back."""
import math

import pytest

from tfprune.tasks.measure import ACCURACY, Measure


def test_a_share_is_its_own_reward():
    measure = Measure('mean_io_u', is_share=True).starting_at(0.3)
    assert measure.start is None
    for value in (0.0, 0.3, 0.95):
        assert measure.reward(value) == value == measure.value(value)
    assert ACCURACY.starting_at(0.1) == ACCURACY


def test_an_error_that_halves_is_rewarded_by_hand():
    measure = Measure('mae', larger_is_better=False).starting_at(8.0)
    assert measure.reward(8.0) == 0.5                     # d = 0
    assert measure.reward(4.0) == pytest.approx(2 / 3)    # d = 1/2: 1/2 + 1/2 / 3
    assert measure.reward(16.0) == pytest.approx(1 / 4)   # d = -1: 1/2 - 1/4
    assert measure.reward(0.0) == pytest.approx(3 / 4)


@pytest.mark.parametrize('larger', (True, False))
@pytest.mark.parametrize('start', (-3.0, 0.0, 0.7, 20.0))
def test_rewards_keep_the_order_and_come_back(larger, start):
    measure = Measure('m', larger_is_better=larger).starting_at(start)
    values = [-50.0, -3.0, -0.1, 0.0, 0.7, 2.0, 20.0, 1e4]
    rewards = [measure.reward(value) for value in values]
    assert rewards == sorted(rewards, reverse=not larger) and len(set(rewards)) == len(values)
    assert all(0 < reward < 1 for reward in rewards)
    back = [measure.value(reward) for reward in rewards]
    assert back == pytest.approx(values, rel=1e-6, abs=1e-9)


def test_no_number_is_worth_nothing_and_no_start():
    measure = Measure('loss', larger_is_better=False).starting_at(1.0)
    assert measure.reward(math.nan) == measure.reward(math.inf) == 0.0
    with pytest.raises(ValueError, match='loss of the model on held-out examples is nan'):
        Measure('loss').starting_at(math.nan)
