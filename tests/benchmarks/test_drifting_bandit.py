"""The representation outside of pruning, on a bandit whose regret is known."""
import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest

from tfprune.benchmarks import drifting_bandit
from tfprune.benchmarks.drifting_bandit import DriftingBandit
from tfprune.search.agents import play, random_policy


def test_rewards_regret_and_what_is_known_by_hand():
    env = DriftingBandit(np.array([[.2, .8], [.8, .8]]), np.array([0., 3.]))
    assert env.reward(np.array([.2, .8])) == 0 and env.regret(-.25) == .25
    level, *better = env.known()
    assert level == pytest.approx(-.18)
    # To the left and up: (.9, .5) earns 0.40 less than the center, (.5, .9) 0.08 more.
    np.testing.assert_allclose(better, [-.4 * .4, .08 * .4], atol=1e-9)
    env.epoch = 1
    assert env.reward(np.array([.8, .8])) == 3 and env.known()[0] == pytest.approx(2.82)


def test_environments_of_a_seed_are_the_same_bandit():
    envs = [DriftingBandit.draw(0, 5, 2) for _ in range(3)]
    assert len({env.reward(np.zeros(2)) for env in envs}) == 1
    assert DriftingBandit.draw(1, 5).reward(np.zeros(2)) != envs[0].reward(np.zeros(2))
    for env in envs:
        env.set_context([.5, -.5])
    steps, rewards = play(envs, random_policy(envs[0], 0))
    assert len(steps) == 2 and steps[0].observation.tolist() == [[1, .5, -.5]] * 3
    assert rewards == pytest.approx([env.reward(env.executed[0]) for env in envs])


@pytest.mark.slow
def test_rows():
    found = list(drifting_bandit.rows(search_epochs=3, search_episodes=5, search_seeds=1))
    assert [row['variant'] for row in found] == ['ppo', 'ppo+z']
    for row in found:
        assert len(row['regret']) == 3 and min(row['regret']) >= 0


def test_table():
    made_up = [{'variant': variant, 'seed': seed, 'regret': [.4, .3, last + seed / 100]}
               for variant, last in (('ppo', .3), ('ppo+z', .1)) for seed in range(3)]
    made_up[0]['regret'][-1] += .03
    text = drifting_bandit.format_table(made_up)
    assert '| ppo+z | 0.400 ± 0.000 | 0.300 ± 0.000 | 0.110 ± 0.010 |' in text
    assert 'z saves 0.210 of regret in the last third (95%: 0.167 to 0.253, 3 seeds' in text
    with pytest.raises(ValueError, match="Unknown variant 'sac'"):
        list(drifting_bandit.rows(['sac']))
