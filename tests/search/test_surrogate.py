"""The decoder as a surrogate, and the search of known optimum on which it is measured."""
import itertools

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from made_up_problem import started

from tfprune.benchmarks import learning
from tfprune.benchmarks.known_optimum import DRIFTS, AdditiveAccuracy, Knapsack, resnet
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.pruning.masks import nearest_width, widths_of
from tfprune.search.context import ContextNetwork, ContextTrainer, EpisodeHistory
from tfprune.search.environment import PruningEnv
from tfprune.search.problem import Problem
from tfprune.search.surrogate import best_unscored, clip_to_budget, predict, propose
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain, residual
from tfprune.training.options import Epochs


@pytest.fixture(scope='module')
def small():
    """ResNet-8 of 8 by 8 pixels: (model, groups, cost model, budget), three groups."""
    return resnet('resnet8', 8)


@pytest.fixture(scope='module')
def chained():
    """(groups, cost model, budget of two limits) of a model whose groups' costs multiply."""
    model = residual()
    groups = trace_groups(model)
    costs = CostModel(model, groups)
    return groups, costs, Budget(groups, costs, {'macs': .5, 'params': .6}, width_multiple=2)


def every_decision(budget):
    widths = np.array(list(itertools.product(*budget.allowed)))
    return widths[budget.fits(widths)]


@pytest.mark.parametrize('drift', DRIFTS)
@pytest.mark.parametrize('seed', [0, 1])
def test_the_optimum_is_that_of_all_decisions(small, drift, seed):
    budget = small[-1]
    accuracy = AdditiveAccuracy.draw(budget.dense_widths, seed, drift, epochs=9)
    everything = every_decision(budget)
    assert len(everything) > 1000
    for epoch in (0, 8):
        best = Knapsack(budget).best(accuracy, epoch)
        assert budget.fits(best)
        assert accuracy(best, epoch) == pytest.approx(accuracy(everything, epoch).max(), abs=1e-12)


def test_the_environment_can_reach_the_optimum():
    _, groups, costs, budget = resnet()
    accuracy = AdditiveAccuracy.draw(budget.dense_widths, 0, 'static', 1)
    best = Knapsack(budget).best(accuracy, 0)
    env = PruningEnv(groups, costs, lambda widths: 1.0, budget=budget)
    env.reset()
    for width, dense in zip(best, budget.dense_widths):
        env.step(np.array([1 - width / dense], np.float32))
    assert list(env.widths.values()) == best.tolist()


def test_no_optimum_where_costs_multiply_or_limits_are_several(chained):
    groups, costs, budget = chained
    with pytest.raises(ValueError, match='expected one limit, received macs, params'):
        Knapsack(budget)
    model = plain()
    groups = trace_groups(model)
    budget = Budget(groups, CostModel(model, groups), {'macs': .5})
    with pytest.raises(ValueError, match='macs is not additive over these groups'):
        Knapsack(budget)


def test_the_accuracy_by_hand():
    accuracy = AdditiveAccuracy(np.array([10, 20]), np.array([[.25, .75], [.5, .5]]),
                                np.array([1., 2.]), 'moving', epochs=11)
    assert accuracy([10, 20], 0) == pytest.approx(.6)  # dense: the level
    half = (.25 * (1 - np.exp(-.5)) / (1 - np.exp(-1)) + .75 * (1 - np.exp(-1)) / (1 - np.exp(-2)))
    assert accuracy([5, 10], 0) == pytest.approx(.6 * half)
    # Half-way between the profiles: (.375, .625).
    assert accuracy.weights(5) == pytest.approx((1 - .4 * np.exp(-.5)) * np.array([.375, .625]))
    assert accuracy.of_group(1, [20], 5) == pytest.approx(accuracy.weights(5)[1:])
    with pytest.raises(ValueError, match="Unknown drift 'still'. Available: static, moving, osc"):
        AdditiveAccuracy.draw([10], 0, 'still', 1)


def test_many_decisions_are_clipped_as_the_environment_clips_one(chained):
    groups, costs, budget = chained
    rng = np.random.default_rng(0)
    wishes = np.concatenate([rng.uniform(size=(40, len(groups))), np.zeros((1, len(groups))),
                             np.ones((1, len(groups)))])
    for wish, widths in zip(wishes, clip_to_budget(budget, wishes)):
        expected: list[int] = []
        for g, rate in enumerate(wish):
            nearest = nearest_width(int(budget.dense_widths[g]), rate, budget.allowed[g])
            expected.append(budget.clip(expected, nearest))
        assert widths.tolist() == expected


def test_proposals_fit_differ_and_lie_near_what_is_known():
    budget = resnet()[-1]
    known = 1 - clip_to_budget(budget, np.full((1, 9), .5)) / budget.dense_widths

    def near(rates):
        widths = propose(budget, rates, 60, np.random.default_rng(0))
        assert budget.fits(widths).all() and len(np.unique(widths, axis=0)) == len(widths) > 50
        distance = np.abs(1 - widths / budget.dense_widths - known).max(axis=1)
        return (distance < .3).mean()

    assert near(known[:0]) < .1 and .35 < near(known) <= .6


def fitted(budget, accuracy, decisions=60):
    size = len(budget.names)
    context = ContextTrainer(ContextNetwork(4, size, context_size=4), EpisodeHistory(100, size),
                             learning_rate=1e-2)
    for widths in propose(budget, np.zeros((0, size)), decisions, np.random.default_rng(1)):
        context.history.append(1, 1 - widths / budget.dense_widths, accuracy(widths, 1))
    context.fit(200)
    return context


def test_the_best_by_the_decoder_are_better_than_chance_and_new(small):
    budget = small[-1]
    accuracy = AdditiveAccuracy.draw(budget.dense_widths, 0, 'static', 4)
    context = fitted(budget, accuracy)
    options = dict(candidates=80, count=5)
    best = best_unscored(context, budget, 1, rewards={}, rng=np.random.default_rng(3), **options)
    assert best.shape == (5, len(budget.names))
    expected = predict(context, budget, best, 1)
    assert (np.diff(expected) <= 0).all()
    everything = accuracy(every_decision(budget), 1)
    unseen = accuracy(propose(budget, np.zeros((0, 3)), 80, np.random.default_rng(5)), 1)
    assert accuracy(best, 1).mean() > np.quantile(unseen, .9)
    assert accuracy(best, 1).max() <= everything.max()
    # What was scored in this epoch is not chosen again; what is near the best of it is.
    rewards = {tuple(row): reward for row, reward in zip(best.tolist(), accuracy(best, 1).tolist())}
    again = best_unscored(context, budget, 1, rewards=rewards, rng=np.random.default_rng(3),
                          **options)
    assert not {tuple(row) for row in again.tolist()} & set(rewards)
    assert accuracy(again, 1).mean() > np.quantile(unseen, .9)


def rlal(small, **options):
    model, groups, costs, budget = small
    accuracy = AdditiveAccuracy.draw(budget.dense_widths, 0, 'static', 9)
    planned = Epochs(warmup_epochs=0, random_epochs=1, joint_epochs=2, alignment_epochs=0)
    keras.utils.set_random_seed(0)
    return started('rlal', Problem(
        model, groups, costs, budget, epochs=planned,
        score=lambda masks: float(accuracy(list(widths_of(masks).values()), 0))),
        alignment='none', episodes_per_epoch=6, random_reference_episodes=0,
        comparison_episodes=0, context_size=4, **options)


@pytest.mark.slow
def test_the_history_learns_of_what_was_ranked_and_the_agent_does_not(small):
    method = rlal(small, surrogate_candidates=40, surrogate_scored=3)
    seen = []
    observe = method.agent.observe
    method.agent.observe = lambda steps, **options: (
        seen.append(len(steps[0].reward)), observe(steps, **options))
    rows = [method.after_epoch(epoch, epoch + 1).episodes for epoch in range(3)]
    assert [[row['source'] for row in epoch].count('surrogate') for epoch in rows] == [0, 3, 3]
    assert seen == [6, 6, 6] and int(method.history.count) == 3 * 6 + 2 * 3
    budget = small[-1]
    _, rewards, epochs = method.history.arrays()
    for epoch, played in enumerate(rows):
        assert rewards[epochs == epoch] == pytest.approx([row['reward'] for row in played])
    assert all(budget.fits(list(row['widths'].values())) for epoch in rows for row in epoch)
    # What is followed is the best of all that was scored in this epoch.
    best = max(row['reward'] for row in rows[-1])
    assert method._reward(budget.as_dict(method.best_widths.numpy())) > best - 1e-6


@pytest.mark.slow
def test_without_candidates_nothing_is_ranked(small):
    method = rlal(small, surrogate_candidates=0)
    assert method.history.rewards.shape == (18,)
    method._score_ranked = None
    sources = [{row['source'] for row in method.after_epoch(epoch, epoch + 1).episodes}
               for epoch in (0, 1)]
    assert sources == [{'policy'}, {'policy'}]  # around the uniform decision, from the first on


@pytest.mark.slow
def test_rows_and_table_of_the_benchmark(small, monkeypatch):
    monkeypatch.setattr(learning, 'resnet', lambda: small)
    found = list(learning.rows(['static', 'random', 'ppo+z+decoder'], search_epochs=3,
                               search_episodes=6, search_seeds=1))
    assert [row['variant'] for row in found] == ['random', 'ppo+z+decoder']
    for row in found:
        assert len(row['mean']) == 3 and row['best'] == sorted(row['best'])
        assert max(row['best'] + row['decision']) <= 1
    assert abs(np.mean(found[0]['mean'])) < .5  # chance is 0
    assert len(found[1]['spearman']) == 3 and 'spearman' not in found[0]
    table = learning.format_table(found).splitlines()
    assert len(table) == 5 and table[2].startswith('| static | random |')
    assert len({line.count('|') for line in table}) == 1
    with pytest.raises(ValueError, match="Unknown drift or variant 'pqo'. Available: static, mov"):
        next(learning.rows(['pqo']))
