"""Which learning rate is taken, from what a few steps at each have done."""
import numpy as np
import pytest

import tfprune  # noqa: F401  (before keras)
from tfprune.significance import paired
from tfprune.training.rate_test import at_least, best_recovering, largest_harmless


class FakeTest:
    """Hits of 100 images by rate."""
    on = 'on held-out images'

    def __init__(self, **right):
        self._right = {float(rate.strip('_').replace('_', '.')): n for rate, n in right.items()}

    def scores(self, rate):
        return np.arange(100) < self._right[rate]

    @staticmethod
    def shown(scores):
        return f'{scores.mean():.2%}'


def test_which_rate_is_taken():
    rates = (1.0, 0.1, 0.01)
    harmless = FakeTest(_0=80, _1=10, _0_1=79, _0_01=80)
    # One image of a hundred less: gain -0.01, its error sqrt(.01 * .99) / 10 = 0.00995.
    before, after = harmless.scores(0.0), harmless.scores(0.1)
    assert paired(before, after) == pytest.approx((-0.01, 0.00995), 1e-3)
    assert largest_harmless(harmless, rates)[0] == 0.01
    assert largest_harmless(FakeTest(_0=80, _1=10, _0_1=80, _0_01=80), rates)[0] == 0.1
    assert largest_harmless(FakeTest(_0=80, _1=10, _0_1=20, _0_01=30), rates)[0] == 0.01
    assert best_recovering(FakeTest(_0=10, _1=20, _0_1=70, _0_01=60), rates)[0] == 0.1
    assert best_recovering(FakeTest(_0=10, _1=70, _0_1=70, _0_01=60), rates)[0] == 1.0


@pytest.mark.parametrize('right, steps, expected', [
    # 0.01 cannot, in 40 steps as in the test; 0.3 can, 1 is too large.
    (dict(_0=10, _0_01=12, _0_03=20, _0_1=40, _0_3=80, _1_0=9), 40, 0.3),
    (dict(_0=10, _0_01=10, _0_03=10, _0_1=10, _0_3=80, _1_0=81, _3_0=9), 40, 1.0),
    (dict(_0=10, _0_01=12, _0_03=20, _0_1=40, _0_3=80, _1_0=9), 1300, 0.01),  # goes as far as 0.3
    (dict(_0=10, _0_01=50, _0_03=80, _0_1=80), 40, 0.01),  # more than half of what 0.03 recovers
    (dict(_0=10, _0_01=80, _0_03=80), 40, 0.01),  # as good as a larger one, which ends it
    # A fall before anything has been recovered is chance.
    (dict(_0=20, _0_01=20, _0_03=12, _0_1=40, _0_3=90, _1_0=80), 40, 0.3),
])
def test_a_rate_that_has_decayed_is_raised(right, steps, expected):
    rate, why = at_least(FakeTest(**right), 0.01, steps, highest=10.0)
    assert rate == pytest.approx(expected) and bool(why) == (expected != 0.01)
    if why and right['_0'] == 10:
        assert f'{expected:g} brings a copy' in why and ' from 10.00% to 8' in why


def test_a_rate_is_not_raised_above_the_highest():
    test = FakeTest(_0=10, _0_01=12, _0_03=20, _0_1=40, _0_3=80)
    assert at_least(test, 0.01, 40, highest=0.1)[0] == pytest.approx(0.1)
    assert at_least(test, 0.01, 40, highest=0.01)[0] == 0.01


def test_a_rate_is_not_raised_for_what_may_be_chance():
    # 14 more of 100 than by 0.01, and more than twice as many recovered, but others are lost.
    class Test(FakeTest):
        def scores(self, rate):
            right = {0.0: set(range(40)), 0.01: set(range(50))}
            return np.isin(np.arange(100), list(right.get(rate, set(range(20, 84)))))

    assert paired(Test().scores(0.01), Test().scores(0.03))[0] == pytest.approx(0.14)
    assert at_least(Test(), 0.01, 40, highest=10.0) == (0.01, '')


def test_a_rate_that_nothing_recovers_with_is_kept_and_said():
    test = FakeTest(_0=30, _0_01=30, _0_03=29, _0_1=9, _0_3=8)
    rate, why = at_least(test, 0.01, 200, highest=10.0)
    assert rate == 0.01 and 'neither it nor a larger one' in why and '30.00%' in why
