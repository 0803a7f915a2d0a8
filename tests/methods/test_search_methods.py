"""AMC, CACP and AutoCompress on a search of known optimum: what they see, learn, decide, and that
nothing but variables crosses their rounds."""
import json
import math
import types

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from made_up_problem import started

from tfprune.benchmarks.known_optimum import AdditiveAccuracy, Knapsack, resnet
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.costs.proportional import uniform_widths
from tfprune.methods.amc import AMC, FLOOR, AmcEnv, guaranteed_reward
from tfprune.methods.autocompress import accepted, rescaled
from tfprune.methods.cacp import ConditionalDDPG
from tfprune.methods.options import AmcOptions, AutoCompressOptions, CacpOptions
from tfprune.pruning.masks import widths_of
from tfprune.runs.checkpoints import restore
from tfprune.search.agents import asked_for, mean_and_error, play, random_policy
from tfprune.search.environment import PruningEnv
from tfprune.search.problem import Problem
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain
from tfprune.training.options import Epochs
from tfprune.training.seeding import set_seed

FROZEN = dict(warmup_epochs=0, random_epochs=0, joint_epochs=0, alignment_epochs=0)
FEW = dict(episodes=50, warmup_episodes=20, lockstep=10)


@pytest.fixture(scope='module')
def searched():
    """(model, groups, cost model, budget of half of the MACs), nine groups; accuracy; mean and
    standard error of random decisions."""
    model, groups, costs, budget = resnet('resnet20', 8)
    accuracy = AdditiveAccuracy.draw(budget.dense_widths, 0, 'static', 1)
    envs = [PruningEnv(groups, costs, lambda w: float(accuracy(list(w.values()), 0)),
                       budget=budget) for _ in range(100)]
    rewards = play(envs, random_policy(envs[0], 0))[1]
    return types.SimpleNamespace(model=model, groups=groups, costs=costs, budget=budget,
                                 accuracy=accuracy, random=mean_and_error(rewards))


def make(name, searched, options=None, *, seed=0, score=None, **epochs):
    """A method as a run starts it."""
    keras.utils.set_random_seed(seed)

    def known(masks):
        return float(searched.accuracy(list(widths_of(masks).values()), 0))

    return started(name, Problem(
        searched.model, searched.groups, searched.costs, searched.budget,
        epochs=Epochs(**FROZEN | epochs), score=score or known), **(options or {}))


def run(method, rounds=None):
    """All episodes of the rounds."""
    rows = []
    for round_ in range(method.rounds()) if rounds is None else rounds:
        set_seed(1000 + round_, method.problem.model)  # as the trainer does before each
        result = method.search(round_)
        assert all(math.isfinite(value) for value in result.metrics.values())
        rows += result.episodes
    return rows


def costs_of(searched, decision):
    return searched.costs(decision.widths).macs / searched.costs.dense.macs


# What AMC sees and does.

def amc_env(**options):
    model = plain()
    groups = trace_groups(model)
    costs = CostModel(model, groups)
    budget = Budget(groups, costs, {'macs': 0.5}, min_keep_ratio=0.1)
    return AmcEnv(groups, costs, lambda widths: 0.5, budget=budget, **options)


def test_amc_sees_its_ten_features():
    # image 6x6x3 - conv1 5, 3x3 - conv2 7, 3x3 /2 - flatten 63 - hidden 11 - logits 2.
    # MACs 4860, 2835, 693 (and 22 of the logits); weights 135, 315, 693.
    env = amc_env()

    def seen(time_step):
        return dict(zip(AmcEnv.features, time_step.observation.tolist()))

    first = seen(env.reset())
    assert len(first) == 10
    assert first == pytest.approx({
        'index': 0, 'type': 0, 'in_channels': 0, 'out_channels': 0, 'stride': 0, 'kernel': 1,
        'weights': 0, 'reduced': 0, 'rest': (2835 + 693) / 8410, 'previous_action': 1}, abs=1e-6)
    second = seen(env.step(np.array([0.6], np.float32)))  # conv1 keeps 3 of 5
    reduced = 1 - (972 * 3 + 81 * 3 * 7 + 693 + 22) / 8410
    assert second == pytest.approx({
        'index': 1 / 2, 'type': 0, 'in_channels': 2 / 60, 'out_channels': 2 / 6, 'stride': 1,
        'kernel': 1, 'weights': (315 - 135) / (693 - 135), 'reduced': reduced, 'rest': 693 / 8410,
        'previous_action': 0.6}, abs=1e-6)
    third = seen(env.step(np.array([0.6], np.float32)))
    assert (third['type'], third['rest'], third['kernel']) == (1, 0, 0)


def test_amcs_action_is_a_keep_ratio_with_a_floor():
    env = amc_env(bounded=False)
    for action, widths in ((1, [5, 7, 11]), (0, [1, 1, 2]), (0.5, [3, 4, 6]), (-3, [1, 1, 2])):
        env.reset()
        for _ in range(3):
            env.step(np.array([action], np.float32))
        assert list(env.widths.values()) == widths  # 0.2 of 11 is 2.2
    assert FLOOR == 0.2


def test_the_guaranteed_reward_is_amcs_equation():
    # -(1 - 0.75) ln 1000
    assert guaranteed_reward(0.75, 1000) == pytest.approx(-0.25 * 6.907755)
    assert guaranteed_reward(1.0, 1000) == 0


def test_amc_beats_random_and_decides_for_its_best_episode(searched):
    method = make('amc', searched, FEW)
    rows = run(method)
    assert [row['episode'] for row in rows] == list(range(50))
    assert [row['source'] for row in rows] == ['random'] * 20 + ['policy'] * 30
    json.dumps(rows)
    for row in rows:
        assert row['macs'] == searched.costs(row['widths']).macs <= searched.budget.limits[0]
        assert row['reward'] == row['accuracy']
    mean, error = searched.random
    assert np.mean([row['reward'] for row in rows[-10:]]) > mean + 5 * error
    best = max(rows, key=lambda row: row['reward'])
    filled = searched.budget.fill(list(best['widths'].values()))
    assert method.decide().widths == searched.budget.as_dict(filled)


@pytest.mark.slow
def test_amc_finds_a_ratio_of_its_own(searched):
    """Where nothing is lost by pruning, the narrowest there is; no bound, no filling."""
    method = make('amc', searched, FEW | dict(strategy='accuracy'), score=lambda masks: 0.9)
    assert not method.needs_budget and AMC().needs_budget
    rows = run(method)
    for row in rows:
        assert row['accuracy'] == 0.9
        assert row['reward'] == pytest.approx(-0.1 * math.log(row['macs']))
    assert min(row['macs'] for row in rows) < 0.3 * searched.costs.dense.macs
    assert max(row['macs'] for row in rows) > searched.budget.limits[0]  # nobody clipped it
    best = max(rows, key=lambda row: row['reward'])
    assert method.decide().widths == best['widths']
    rewards = [row['reward'] for row in rows]
    assert np.mean(rewards[-10:]) > np.mean(rewards[:20])


def test_amc_takes_the_cheapest_of_networks_without_errors(searched):
    method = make('amc', searched, dict(
        strategy='accuracy', episodes=12, warmup_episodes=8, lockstep=4),
                  score=lambda masks: 1.0)
    rows = run(method)
    assert {row['reward'] for row in rows} == {0.0}
    assert searched.costs(method.decide().widths).macs == min(row['macs'] for row in rows)


# CACP.

@pytest.mark.slow
def test_cacp_decides_for_every_ratio_out_of_one_search(searched):
    method = make('cacp', searched, dict(
        ratios='0.3,0.7', episodes=36, warmup_episodes=12, lockstep=2))
    assert method.conditional and method.ratios() == (0.3, 0.7)
    rows = run(method)
    assert [row['ratio'] for row in rows] == pytest.approx([0.3, 0.7, 0.5] * 12, abs=1e-4)
    decisions = {}
    for ratio in (0.3, 0.5, 0.7):
        budget = Budget(searched.groups, searched.costs, {'macs': ratio})
        decisions[ratio] = method.decide_for(budget)
        assert 0.97 * ratio < costs_of(searched, decisions[ratio]) <= ratio
        best = max((row for row in rows if abs(row['ratio'] - ratio) < 1e-3),
                   key=lambda row: row['reward'])
        filled = budget.fill(list(best['widths'].values()))
        assert decisions[ratio].widths == budget.as_dict(filled)
    assert method.decide().widths == decisions[0.5].widths
    with pytest.raises(ValueError, match='cacp.ratios: the search was for the ratios 0.3,0.7; rec'):
        method.decide_for(Budget(searched.groups, searched.costs, {'macs': 0.4}))
    # The policy does other things for other ratios.
    steps = play(method._envs[:2], method.agent.greedy_policy)[0]
    assert [float(c) for c in steps[0].observation[:, -1]] == pytest.approx([0.3, 0.7], abs=1e-4)
    assert abs(np.diff(steps[0].action[:, 0])) > 1e-4


def test_cacp_searches_for_the_runs_own_ratio_once(searched):
    method = make('cacp', searched, dict(ratios='0.3,0.5', lockstep=1))
    assert len(method.best_rewards.numpy()) == 2
    with pytest.raises(ValueError, match='need one limit, a ratio; received macs=0.5, params=0.5'):
        searched = types.SimpleNamespace(**vars(searched) | {'budget': Budget(
            searched.groups, searched.costs, {'macs': 0.5, 'params': 0.5})})
        make('cacp', searched)


def test_what_cacp_learns_from_is_its_advance_on_the_conditions_baseline(searched):
    method = make('cacp', searched, dict(ratios='0.3,0.7'))
    agent = method.agent
    assert isinstance(agent, ConditionalDDPG)
    steps, _ = play(method._envs, random_policy(method._envs[0], 0))
    agent.observe(steps, on_policy=False, actions=asked_for(steps))
    drawn, _ = agent._memory.sample(agent._generator, 4)

    def told(ratios, rewards):
        observation = np.array(drawn.observation)
        observation[..., -1] = np.array(ratios)[:, None]
        experience = drawn.replace(observation=tf.constant(observation), reward=tf.repeat(
            tf.constant(rewards, tf.float32)[:, None], 2, axis=1))
        return agent._prepared(experience).reward[:, 0].numpy()

    # First means: 0.3 and 0.8; then 0.3 + (0.5 - 0.3) / 2 = 0.4, the other stays.
    assert told([.3, .3, .7, .7], [.2, .4, .8, .8]) == pytest.approx([-.1, .1, 0, 0], abs=1e-6)
    assert told([.3, .3, .3, .3], [.4, .5, .5, .6]) == pytest.approx([0, .1, .1, .2], abs=1e-6)
    assert told([.3, .7, .7, .7], [.4, .8, .8, .9])[0] == pytest.approx(0, abs=1e-6)


# AutoCompress.

def test_the_schedule_of_temperatures():
    temperatures = AutoCompressOptions().temperatures()
    # 100 * 0.9^15 = 20.59, 100 * 0.9^16 = 18.53
    assert len(temperatures) == 16
    assert temperatures[:3] == pytest.approx([100, 90, 81])
    assert temperatures[-1] == pytest.approx(20.589113)
    assert AutoCompressOptions(temperature=80, stop_temperature=20, cooling=.5).temperatures() == [
        80, 40]


def test_metropolis():
    # exp(-3000 * 0.01 / 50) = exp(-0.6) = 0.5488
    assert accepted(.80, .79, 50, 3000, .548) and not accepted(.80, .79, 50, 3000, .549)
    assert accepted(.80, .80, 50, 3000, .999999) and accepted(.80, .81, 50, 3000, .999999)


def test_rescaled_rates_fit_and_keep_their_order(searched):
    budget, rng = searched.budget, np.random.default_rng(0)
    for _ in range(20):
        rates = rng.uniform(size=len(budget.names))
        widths = rescaled(rates, budget)
        assert budget.fits(widths)
        assert budget.costs(widths)[0] > 0.97 * budget.limits[0]
        carried = 1 - widths / budget.dense_widths
        for g in range(len(rates)):  # a step of a group of 16 is 1 / 16; filling is another
            larger = rates > rates[g] + 0.01
            assert (carried[larger] >= carried[g] - 2 / 16).all()
    # Already narrow enough: widened; nothing asked for: pruned evenly.
    assert budget.costs(rescaled(np.full(9, .9), budget))[0] > 0.97 * budget.limits[0]
    assert rescaled(np.zeros(9), budget).tolist() == uniform_widths(budget).tolist()


def test_annealing_beats_random_and_uniform(searched):
    method = make('autocompress', searched, dict(proposals=6))
    rows = run(method)
    assert len(rows) == 1 + 16 * 6 and [row['episode'] for row in rows] == list(range(97))
    json.dumps(rows)
    mean, error = searched.random
    assert np.mean([row['reward'] for row in rows[-12:]]) > mean + 5 * error
    best = max(rows, key=lambda row: row['reward'])
    assert rows[0]['widths'] == searched.budget.as_dict(uniform_widths(searched.budget))
    assert best['reward'] > rows[0]['reward']
    assert method.decide().widths == best['widths']
    optimum = searched.accuracy(Knapsack(searched.budget).best(searched.accuracy, 0), 0)
    assert best['reward'] <= optimum


def test_progressive_rounds_pull_towards_narrower_and_narrower(searched):
    options = dict(proposals=2, stop_temperature=70, progressive_rounds=2, strength=0.25)
    method = make('autocompress', searched, options, warmup_epochs=2, alignment_epochs=5)
    assert method.rounds() == 0
    assert [method.phase(epoch) for epoch in range(7)] == ['train'] * 2 + ['group_lasso'] * 5
    reached, rows = [], []
    for epoch in range(7):
        result = method.after_epoch(epoch, epoch + 1)
        rows += result.episodes
        reached.append(costs_of(searched, types.SimpleNamespace(
            widths=widths_of(method.alignment.get_masks()))))
        assert float(method.alignment.strength.numpy()) == (0.25 if epoch else 0)
        assert ('subnetwork_accuracy' in result.metrics) == (epoch >= 2)
    # sqrt(0.5) from the second epoch on, 0.5 from the fourth.
    assert [round(r, 1) for r in reached[1:]] == [0.7] * 2 + [0.5] * 4
    assert .97 * .5 ** .5 < reached[1] <= .5 ** .5 and .97 * .5 < reached[-1] <= .5
    assert {row['epoch']: row['stage'] for row in rows} == {1: 0, 3: 1}
    assert len(rows) == 2 * (1 + 4 * 2)
    last = [row for row in rows if row['stage'] == 1]
    assert method.decide().widths == max(last, key=lambda row: row['reward'])['widths']


def test_rounds_whose_epochs_are_left_out_still_search(searched):
    options = dict(proposals=2, stop_temperature=90, progressive_rounds=3)
    method = make('autocompress', searched, options, warmup_epochs=3, alignment_epochs=6)
    rows = []
    for epoch, coming in ((0, 3), (3, 4), (4, 9)):
        rows += method.after_epoch(epoch, coming).episodes
    assert {row['stage']: row['epoch'] for row in rows} == {0: 0, 1: 4, 2: 4}
    last = [row for row in rows if row['stage'] == 2]
    assert method.decide().widths == max(last, key=lambda row: row['reward'])['widths']
    assert searched.budget.fits(list(method.decide().widths.values()))


# All of them.

@pytest.mark.parametrize('name, options', [
    ('amc', dict(episodes=9, warmup_episodes=4, lockstep=2)),
    pytest.param('cacp', dict(ratios='0.3,0.7', episodes=15, warmup_episodes=6, lockstep=1),
                 marks=pytest.mark.slow),
    ('autocompress', dict(proposals=3, stop_temperature=60)),
])
def test_rounds_resume_bit_for_bit(name, options, searched, tmp_path):
    whole = make(name, searched, options)
    rounds, middle = whole.rounds(), 3
    assert rounds == 5
    run(whole, range(middle))
    tf.train.Checkpoint(method=whole).write(str(tmp_path / 'state'))
    resumed = make(name, searched, options, seed=77)
    restore(tf.train.Checkpoint(method=resumed), str(tmp_path / 'state'))
    rest = run(whole, range(middle, rounds))
    assert run(resumed, range(middle, rounds)) == rest
    assert all(np.array_equal(a.numpy(), b.numpy(), equal_nan=True)
               for a, b in zip(whole.variables, resumed.variables, strict=True))
    for one, other in zip(whole.decide().masks.values(), resumed.decide().masks.values()):
        assert np.array_equal(one, other)


def test_progressive_rounds_resume_bit_for_bit(searched, tmp_path):
    def fresh():
        return make('autocompress', searched, dict(proposals=2, stop_temperature=70),
                    warmup_epochs=1, alignment_epochs=4)

    whole, resumed = fresh(), fresh()
    for epoch in (0, 1):
        whole.after_epoch(epoch, epoch + 1)
    tf.train.Checkpoint(method=whole).write(str(tmp_path / 'state'))
    restore(tf.train.Checkpoint(method=resumed), str(tmp_path / 'state'))
    rest = [[method.after_epoch(epoch, epoch + 1).episodes for epoch in (2, 3, 4)]
            for method in (whole, resumed)]
    assert rest[0] == rest[1] and any(rest[0])
    assert float(resumed.penalty().numpy()) == float(whole.penalty().numpy()) > 0
    for one, other in zip(whole.decide().masks.values(), resumed.decide().masks.values()):
        assert np.array_equal(one, other)


@pytest.mark.slow
def test_another_seed_searches_elsewhere(searched):
    options = dict(episodes=6, warmup_episodes=4, lockstep=2)
    played = []
    for seed in (0, 1):
        method = make('amc', searched, options)
        object.__setattr__(method.problem, 'seed', seed)
        played.append([row['widths'] for row in run(method)])
    assert played[0] != played[1]


@pytest.mark.parametrize('options, values, message', [
    (AmcOptions, dict(episodes=20),
     r'amc.warmup_episodes must be below episodes=20.* received 100'),
    (AmcOptions, dict(episodes=20, warmup_episodes=20), 'amc.warmup_episodes must'),
    (CacpOptions, dict(ratios='0.5,0.5'), r"cacp.ratios must be different .* received '0.5,0.5'"),
    (CacpOptions, dict(ratios='0.5,1.5'), 'cacp.ratios must be different numbers'),
    (CacpOptions, dict(ratios='half'), 'cacp.ratios must be different numbers'),
    (AutoCompressOptions, dict(stop_temperature=100.0),
     r'autocompress.stop_temperature must be in \(0, temp'),
    (AutoCompressOptions, dict(cooling=1 - 1e-9),
     'autocompress.cooling must be such that 1 to 10000 temp'),
])
def test_options_are_checked(options, values, message):
    with pytest.raises(ValueError, match='^' + message) as error:
        options(**values)
    assert '\n' not in str(error.value)
    assert CacpOptions(ratios='0.3,0.5').targets == (0.3, 0.5)
