"""RLAL's agent on frozen weights: it learns, keeps what was best, begins with uniform widths."""
import dataclasses

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from made_up_problem import made_up_problem, play_rounds, searched, started

from tfprune.costs.proportional import uniform_widths
from tfprune.methods.knapsack import worth_most
from tfprune.pruning.masks import widths_of
from tfprune.runs.checkpoints import restore

ROUNDS, E = 6, 12


@pytest.fixture(scope='module')
def method(tmp_path_factory):
    """(method after ROUNDS rounds, their results, its checkpoint before the last)."""
    keras.utils.set_random_seed(0)
    method = started('ppo_search', made_up_problem(), rounds=ROUNDS, episodes=E)
    results = play_rounds(method, 0, ROUNDS - 1)
    prefix = str(tmp_path_factory.mktemp('ppo_search') / 'state')
    tf.train.Checkpoint(method=method).write(prefix)
    return method, results + play_rounds(method, ROUNDS - 1, ROUNDS), prefix


def test_it_learns_and_decides_for_its_best_episode(method):
    _, _, _, budget, accuracy, optimum = searched()
    search, results, _ = method
    uniform = accuracy(uniform_widths(budget))
    rewards = [[row['reward'] for row in result.episodes] for result in results]
    assert search.rounds() == ROUNDS and {len(row) for row in rewards} == {E}
    assert np.mean(rewards[-1]) > max(uniform, np.mean(rewards[0]))
    widths = np.array(list(widths_of(search.decide().masks).values()))
    assert budget.fits(widths)
    # Filled to the budget, which adds channels.
    best = max(map(max, rewards))
    assert optimum >= accuracy(widths) >= best - 1e-6 and best > uniform
    assert results[-1].metrics['best_reward'] == pytest.approx(best)


def test_a_fresh_method_goes_on_bit_for_bit(method):
    _, results, prefix = method
    keras.utils.set_random_seed(7)
    fresh = started('ppo_search', made_up_problem(), rounds=ROUNDS, episodes=E)
    restore(tf.train.Checkpoint(method=fresh), prefix)
    again, = play_rounds(fresh, ROUNDS - 1, ROUNDS)
    assert again.episodes == results[-1].episodes
    np.testing.assert_array_equal(fresh.best.choices, method[0].best.choices)


@pytest.mark.parametrize('around', ['knapsack', 'best'])
@pytest.mark.parametrize('is_better', [True, False])
def test_it_begins_at_the_widths_of_the_knapsack(around, is_better, monkeypatch):
    """'best' where these are better than uniform ones."""
    problem = made_up_problem()
    budget = problem.budget
    scores = {name: np.arange(1., width + 1) for name, width in zip(
        budget.names, budget.dense_widths)}
    widths = worth_most(budget, list(scores.values()))
    monkeypatch.setattr(type(problem), 'channel_scores', lambda *_: scores)
    monkeypatch.setattr('tfprune.methods.ppo_search.PPO', lambda *_, **__: Halves())

    def score(masks):
        found = list(widths_of(masks).values())
        if found == list(widths):
            return 0.9 if is_better else 0.1
        return 0.5 if found == list(uniform_widths(budget)) else 0.4

    method = started('ppo_search', dataclasses.replace(problem, score=score), rounds=1, episodes=2,
                     around=around)
    monkeypatch.setattr('tfprune.methods.ppo_search.play', played_at_a_half)
    result, = play_rounds(method, 0, 1)
    taken = widths if is_better or around == 'knapsack' else uniform_widths(budget)
    for row in result.episodes:
        # To the rounding of shares.
        assert np.abs(np.array(list(row['widths'].values())) - taken).max() <= 2
    best = 0.9 if is_better else 0.5 if around == 'best' else 0.1
    assert float(method.best.value) == pytest.approx(best)


class Halves(tf.Module):
    """An agent that learns nothing."""
    collect_policy = None

    def observe(self, *_, **__):
        pass

    def update(self):
        return 0.0


def played_at_a_half(envs, _):
    rewards = []
    for env in envs:
        step = env.reset()
        while not step.is_last():
            step = env.step(np.array([0.5], np.float32))
        rewards.append(float(step.reward))
    return [], rewards


def test_where_no_episode_is_better_the_decision_is_the_uniform_one():
    problem = made_up_problem()
    uniform = problem.budget.as_dict(uniform_widths(problem.budget))

    def score(masks):
        return float(widths_of(masks) == uniform)

    method = started('ppo_search', dataclasses.replace(problem, score=score), rounds=1, episodes=3)
    play_rounds(method, 0, 1)
    filled = problem.budget.fill(list(uniform.values()))
    np.testing.assert_array_equal(list(widths_of(method.decide().masks).values()), filled)
