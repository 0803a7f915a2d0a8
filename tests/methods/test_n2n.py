"""N2N: its reward, its cache, its two stages, and a run that removes a block."""
import dataclasses
import functools
import json

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from light_export import light_export, only_the_model
from made_up_problem import started

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel, count_cost
from tfprune.methods.n2n import FACTORS, INVALID, RewardCache, ShrinkageEnv, reward
from tfprune.models.building import build_model
from tfprune.runs import run as runner
from tfprune.runs.checkpoints import restore
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.runs.state import Interrupted
from tfprune.search.problem import Problem
from tfprune.structure.groups import trace_groups
from tfprune.testing import recount
from tfprune.training.account import EpochAccount

OPTIONS = dict(removal_rounds=2, shrinkage_rounds=2, rollouts=4, student_steps=2, units=8)
BLOCK = 'stage1_block1_add'  # of resnet8 the only block without a padded shortcut
CONVS = ('stage1_block1_conv1', 'stage1_block1_conv2')
RUN = dict(model='resnet8', dataset='digits', method='n2n', macs=0.5,
           n2n=dict(removal_rounds=1, shrinkage_rounds=1, rollouts=4, student_steps=2),
           warmup_epochs=1, random_epochs=0, joint_epochs=0, alignment_epochs=0,
           fine_tune_epochs=2, batch_size=256, reward_images=100, score_images=100,
           score_batch_size=100, calibration_batches=1, lr_warmup_epochs=0.0)


def batch(seed, size=8):
    rng = np.random.default_rng(seed)
    return (tf.constant(rng.integers(0, 256, (size, 8, 8, 1)), tf.uint8),
            tf.constant(rng.integers(0, 10, size), tf.int64))


@functools.cache
def resnet8():
    keras.utils.set_random_seed(0)
    return build_model('resnet8', image_shape=(8, 8, 1), num_classes=10, mean=(0,), std=(1,))


def problem_of(limits, frozen=''):
    """Noise to be learnt from; nothing but the students trains."""
    config = Config(**RUN | dict(macs=0.0) | limits | dict(frozen=frozen))
    groups = trace_groups(resnet8()).without_residual()
    cost_model = CostModel(resnet8(), groups)
    return Problem(resnet8(), groups, cost_model, Budget(groups, cost_model, limits),
                   epochs=config.epochs, structure=config.structure, training=config.training,
                   score=lambda masks: 0.5, account=EpochAccount(1000, cost_model.dense.macs),
                   held_out=[batch(0, 50)],
                   train_batches=lambda round_: [batch(1 + round_ * 7 + i) for i in range(3)])


def n2n_on(problem, **options):
    return started('n2n', problem, **OPTIONS | options)


def play_rounds(method, first=0):
    for round_ in range(first, method.rounds()):
        keras.utils.set_random_seed(round_)
        yield method.search(round_)


def test_reward_by_hand():
    assert reward(0.9, 0.9, 0.5) == pytest.approx(0.75)
    assert reward(0.6, 0.8, 0.3) == pytest.approx(0.7 * 1.3 * 0.75)
    assert reward(1.0, 1.0, 1.0) == 0


def test_cache_knows_architectures():
    cache, removed = RewardCache(3), np.array([True, False])
    key = cache.key(removed, [3, 4])
    assert cache.get(key) is None
    cache.put(key, 0.25, 0.5)
    cache.put(cache.key(~removed, [3, 4]), 0.75, 0.9)
    assert cache.get(cache.key(removed.copy(), np.array([3, 4]))) == (0.25, 0.5)
    assert cache.get(cache.key(~removed, (3, 4))) == (0.75, 0.9)
    assert cache.get(cache.key(removed, [4, 3])) is None


@pytest.mark.slow
def test_two_stages_end_within_the_budget_and_continue_bit_for_bit(tmp_path):
    """One block: two architectures in the first stage, however often they are drawn."""
    keras.utils.set_random_seed(0)
    problem = problem_of({'macs': 0.5})
    method = n2n_on(problem)
    prefix, results = str(tmp_path / 'state'), []
    for round_, result in enumerate(play_rounds(method)):
        results.append(result)
        if round_ == 2:  # in the second stage
            tf.train.Checkpoint(method=method, account=problem.account).write(prefix)
    decision = method.decide()

    rows = [row for result in results for row in result.episodes]
    assert [row['stage'] for row in rows] == ['removal'] * 8 + ['shrinkage'] * 8
    removals = {tuple(row['removed']): row for row in rows[:8]}
    assert removals.keys() == {(), (BLOCK,)}
    assert sum(result.metrics['architectures'] for result in results[:2]) == 2
    assert removals[()]['reward'] == 0  # nothing gained
    left = problem.without([BLOCK])
    share = left.cost_model.dense.macs / problem.cost_model.dense.macs
    assert removals[(BLOCK,)]['reward'] == pytest.approx(
        reward(removals[(BLOCK,)]['accuracy'], 0.5, share))

    assert decision.removed == (BLOCK,)
    best = max(rows[8:], key=lambda row: row['reward'])
    assert decision.widths == best['widths']
    macs, limit = left.cost_model(decision.widths).macs, int(0.5 * problem.cost_model.dense.macs)
    assert 0.97 * limit < macs <= limit
    # Teacher's logits, students' steps and scores, at the least.
    assert problem.account.epochs > results[-1].metrics['architectures'] * 16 * .5 / 1000

    keras.utils.set_random_seed(77)
    problem = problem_of({'macs': 0.5})
    fresh = n2n_on(problem)
    restore(tf.train.Checkpoint(method=fresh, account=problem.account), prefix)
    assert [dataclasses.asdict(result) for result in play_rounds(fresh, 3)] == [
        dataclasses.asdict(result) for result in results[3:]]
    assert fresh.decide().to_json() == decision.to_json()


@pytest.mark.slow
def test_removing_more_than_the_budget_asks_for_is_invalid():
    keras.utils.set_random_seed(0)
    method = started('n2n', problem_of({'macs': 0.9}), removal_rounds=2, shrinkage_rounds=0)
    rows = [row for result in play_rounds(method) for row in result.episodes]
    assert {(tuple(row['removed']), row['reward']) for row in rows} == {
        ((), 0.0), ((BLOCK,), INVALID)}
    decision = method.decide()
    assert decision.removed == () and set(decision.widths) == set(method.problem.groups)


def test_frozen_blocks_stay_and_latency_is_refused(monkeypatch):
    method = n2n_on(problem_of({'macs': 0.5}, frozen=CONVS[0]))
    assert method.remover is None and method.rounds() == 2
    problem = problem_of({'macs': 0.5})
    monkeypatch.setattr(problem.budget, 'targets', ('latency_ms',))
    with pytest.raises(ValueError, match='limit macs, params or peak_memory_bytes instead'):
        n2n_on(problem)
    with pytest.raises(ValueError, match=r'n2n.rollouts must be in \[1, 1000\]'):
        n2n_on(problem_of({'macs': 0.5}), rollouts=0)


def test_factors_are_rates_within_the_budget():
    problem, got = problem_of({'macs': 0.5}), []
    env = ShrinkageEnv(problem.groups, problem.cost_model,
                       lambda widths: got.append(widths) or 1.0, budget=problem.budget)
    first, *_ = problem.budget.names
    for factor, width in ((0.5, 8), (0.7, 11)):
        env.reset()
        env.step(np.int32(FACTORS.index(factor)))
        assert env.widths[first] == width  # of 16
    env.reset()
    while not env.current_time_step().is_last():
        env.step(np.int32(FACTORS.index(1.0)))
    assert problem.budget.fits(list(got[0].values()))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    with light_export():
        return train_and_prune(Config(**RUN), tmp_path_factory.mktemp('n2n') / 'run',
                               progress=False)


@pytest.mark.slow
def test_a_run_that_removes_a_block_ends_in_a_plain_smaller_model(whole):
    report = whole.report
    assert report['removed_blocks'] == [BLOCK]
    assert not {BLOCK, *CONVS} & {layer.name for layer in whole.model.layers}
    cost = count_cost(whole.model)
    assert (cost.macs, cost.params) == recount(whole.model) == (
        report['pruned']['macs'], report['pruned']['params'])
    budget, = report['budgets']
    assert budget['cost'] == cost.macs <= budget['limit'] < budget['dense']
    widths = {row['name']: row['width'] for row in report['groups']}
    assert widths == {name: 0 if name in CONVS else whole.model.get_layer(name).filters
                      for name in widths}
    assert widths[CONVS[0]] == 0
    loaded = keras.models.load_model(whole.run_dir / 'export' / 'pruned.keras')
    images = batch(0)[0]
    np.testing.assert_allclose(loaded(images), whole.model(images), rtol=1e-4, atol=1e-4)
    metrics = [json.loads(line) for line in open(whole.run_dir / 'metrics.jsonl')]
    assert 'distillation' not in metrics[0] and metrics[1]['distillation'] > 0  # the teacher's
    rounds = [json.loads(line) for line in open(whole.run_dir / 'rounds.jsonl')]
    assert report['epochs']['search_equivalents'] == pytest.approx(
        rounds[-1]['search_equivalents'])
    # A third of an epoch for each epoch of distillation.
    assert report['epochs']['distillation'] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_a_run_stopped_after_surgery_ends_as_if_it_had_not_been(whole, tmp_path, monkeypatch):
    run_dir = tmp_path / 'run'

    def in_fine_tuning():
        path = run_dir / 'metrics.jsonl'
        return path.exists() and len(path.read_text().splitlines()) == 2

    with pytest.raises(Interrupted):
        train_and_prune(Config(**RUN), run_dir, progress=False, should_stop=in_fine_tuning)
    monkeypatch.setattr(runner, 'finish', only_the_model)
    result = train_and_prune(Config(**RUN), run_dir, progress=False)
    for one, other in zip(whole.model.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
