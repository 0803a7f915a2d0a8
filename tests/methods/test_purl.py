"""PuRL: DQN, its dense reward, the thresholds of both forms, and zeros that stay zero."""
import json
import math

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from light_export import light_export, only_the_model
from made_up_problem import made_up_problem, play_rounds, searched, started
from small_model import small_model
from tf_agents.trajectories import time_step as ts

from tfprune.benchmarks import dense_reward
from tfprune.methods.base import Decision
from tfprune.methods.options import PurlOptions
from tfprune.methods.purl import ALPHAS, PuRL, PuRLEnv, Weights, channel_threshold, reward_of
from tfprune.pruning.importance import score_groups
from tfprune.pruning.sparsity import kernels_of, zeroing
from tfprune.runs import run as runner
from tfprune.runs.checkpoints import restore
from tfprune.runs.checks import checked_method
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.runs.state import Interrupted
from tfprune.search.agents import play, random_policy

ROUNDS = 8
SMALL = dict(model=small_model(), dataset='digits', method='purl', warmup_epochs=1, random_epochs=0,
             joint_epochs=0, alignment_epochs=0, fine_tune_epochs=2, batch_size=256,
             reward_images=100, score_images=100, score_batch_size=100, calibration_batches=1,
             lr_warmup_epochs=0.0,
             purl=dict(form='weights', sparsity=0.7, rounds=2, episodes=2, updates=1))


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """(PuRL after ROUNDS rounds, results of the rounds, a checkpoint before the last two)."""
    keras.utils.set_random_seed(0)
    purl = started('purl', made_up_problem(), rounds=ROUNDS, episodes=8)
    results, prefix = play_rounds(purl, 0, ROUNDS - 2), str(
        tmp_path_factory.mktemp('purl') / 'state')
    tf.train.Checkpoint(method=purl).write(prefix)
    return purl, results + play_rounds(purl, ROUNDS - 2, ROUNDS), prefix


@pytest.fixture(scope='module')
def sparse_run(tmp_path_factory):
    """A run of the weight form that is stopped in fine-tuning, and resumed."""
    run_dir = tmp_path_factory.mktemp('sparse') / 'run'

    def stops():
        return (run_dir / 'decision.json').exists() and not stopped

    stopped = []
    with pytest.raises(Interrupted):
        train_and_prune(Config(**SMALL), run_dir, should_stop=stops, progress=False)
    stopped.append(True)
    with light_export(page=True):
        return train_and_prune(Config(**SMALL), run_dir, progress=False)


@pytest.mark.parametrize('accuracy, progress, expected', [
    (0.6, 0.5, -5 * (0.25 + 0.5)), (0.6, 1.3, -5 * 0.25), (0.9, 0.0, -5.0), (0.8, 1.0, 0.0)])
def test_the_reward_is_what_is_missing_of_both_targets(accuracy, progress, expected):
    assert reward_of(accuracy, progress, 0.8, 5.0) == pytest.approx(expected)


@pytest.mark.parametrize('dense', [True, False])
def test_an_episode_step_by_step(dense):
    asked = []

    def accuracy(choices):
        asked.append(list(choices))
        return 0.9 - 0.01 * sum(choices)

    env = PuRLEnv(3, accuracy, lambda choices: sum(choices) / 30,
                  lambda a, p: reward_of(a, p, 0.9, 1.0), dense=dense)
    # r_1 = -(max(1 - .8 / .9, 0) + max(1 - 10 / 30, 0)), and so on.
    rewards = [-(1 / 9 + 2 / 3), -(1 / 9 + 2 / 3), -(3.5 / 9 + 0)]
    step = env.reset()
    assert step.observation == pytest.approx([0, .9, 0])
    for t, action in enumerate((10, 0, 25)):
        step = env.step(np.int32(action))
        done = [10, 10, 35][t]
        last = t == 2
        scored = dense or last
        assert float(step.reward) == pytest.approx(rewards[t] if scored else 0)
        assert step.observation == pytest.approx(
            [(t + 1) / 3, .9 - .01 * done if scored else .9, done / 30])
        assert bool(step.is_last()) == last
    assert asked == ([[], [10], [10, 0], [10, 0, 25]] if dense else [[], [10, 0, 25]])


@pytest.mark.slow
def test_dqn_beats_random_actions_and_itself(found):
    purl, results, _ = found
    returns = []
    for seed in range(4):
        played, _ = play(purl._envs, random_policy(purl._envs[0], seed))
        returns += np.sum([step.reward for step in played[:-1]], axis=0).tolist()
    error = np.std(returns, ddof=1) / math.sqrt(len(returns))
    late = np.mean([result.metrics['return_mean'] for result in results[-3:]])
    assert late > np.mean(returns) + 5 * error
    assert late > np.mean([result.metrics['return_mean'] for result in results[:2]])
    greedy, _ = play(purl._envs[:1], purl.agent.greedy_policy)
    assert np.sum([step.reward for step in greedy[:-1]]) > np.mean(returns) + 5 * error


@pytest.mark.slow
def test_dqn_explores_less_with_each_episode(found):
    purl, results, _ = found
    assert [result.metrics['epsilon'] for result in results] == pytest.approx(
        [.95 ** (8 * n) for n in range(1, ROUNDS + 1)])
    keras.utils.set_random_seed(0)
    agent = started('purl', made_up_problem(), rounds=1, episodes=8, updates=1).agent
    drawn = np.array([step.action for _ in range(6)
                      for step in play(purl._envs, agent.collect_policy)[0][:-1]])
    assert set(drawn.ravel()) == set(range(len(ALPHAS)))
    agent.epsilon.assign(0.0)  # the least is a twentieth
    other = greedy = 0
    for _ in range(5):
        for step in play(purl._envs, agent.collect_policy)[0][:-1]:
            chosen = agent.greedy_policy.action(ts.TimeStep(
                step.step_type, step.reward, step.discount, step.observation)).action
            other += np.count_nonzero(chosen != step.action)
            greedy += np.count_nonzero(chosen == step.action)
    assert other / (other + greedy) == pytest.approx(.05 * 22 / 23, abs=.04)


def test_rows_say_what_was_done(found):
    purl, results, _ = found
    *_, budget, accuracy, _ = searched()
    dense = accuracy(budget.dense_widths)
    for row in results[-1].episodes:
        widths = list(row['widths'].values())
        saved = 1 - budget.costs(widths)[0] / budget.dense_costs[0]
        assert row['accuracy'] == pytest.approx(accuracy(widths))
        asked = 1 - budget.limits[0] / budget.dense_costs[0]
        assert row['progress'] == pytest.approx(saved / asked)
        assert row['reward'] == pytest.approx(
            reward_of(accuracy(widths), saved / asked, dense, 1.0))
        assert len(row['alphas']) == 9 and row['return'] < row['reward']


def test_a_fresh_method_goes_on_bit_for_bit(found):
    purl, results, prefix = found
    keras.utils.set_random_seed(77)
    fresh = PuRL(purl.options)
    fresh.start(purl.problem)
    restore(tf.train.Checkpoint(method=fresh), prefix)
    again = play_rounds(fresh, ROUNDS - 2, ROUNDS)
    assert [result.episodes for result in again] == [
        result.episodes for result in results[ROUNDS - 2:]]
    ours, theirs = purl.decide().masks, fresh.decide().masks
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_decision_is_the_most_accurate_inside_filled(found):
    purl, results, _ = found
    *_, budget, accuracy, optimum = searched()
    inside = [row['accuracy'] for result in results for row in result.episodes
              if row['progress'] >= 1]
    assert float(purl.best.value.numpy()) == max(inside)
    widths = list(purl.decide().widths.values())
    assert budget.fits(widths) and np.array_equal(budget.fill(widths), widths)
    assert max(inside) <= accuracy(widths) <= optimum + 1e-9


def test_thresholds_remove_the_share_that_alpha_removes_of_normal_weights():
    norms = np.random.default_rng(0).normal(10, 2, 20_000)
    for alpha in (0.1, 0.7, 1.3, 2.2):
        share = np.mean(norms < channel_threshold(norms, alpha))
        assert share == pytest.approx(math.erf(alpha / math.sqrt(2)), abs=.01)
    assert channel_threshold(norms, 0.0) == -np.inf
    assert not np.any(np.ones(5) < channel_threshold(np.ones(5), 2.2))


def test_channels_keep_those_of_large_norm():
    purl = started('purl', made_up_problem(), rounds=1, episodes=1, norm='l2')
    purl._form.read()
    model, groups, _, budget, *_ = searched()
    norms = score_groups(model, groups, criterion='l2')
    assert np.array_equal(purl._form.widths([0, 0]), budget.dense_widths)
    widths = purl._form.widths([13])
    name = budget.names[0]
    kept = norms[name] >= channel_threshold(norms[name], 1.3)
    assert widths[0] == kept.sum() < budget.dense_widths[0]
    assert np.array_equal(widths[1:], budget.dense_widths[1:])
    assert np.array_equal(purl._form._select(widths)[name], kept)


def test_weights_below_their_layers_threshold_are_zero_while_scored():
    problem = made_up_problem()
    kernels = kernels_of(problem.model)
    before = [kernel.numpy() for kernel in kernels]
    seen = []
    object.__setattr__(problem, 'score', lambda masks: seen.append(
        [kernel.numpy() for kernel in kernels]) or 0.5)
    form = Weights(problem, PurlOptions(form='weights', sparsity=0.5))
    form.read()
    assert form.accuracy([0, 12]) == 0.5
    (first, second, *others), = seen
    assert np.array_equal(first, before[0])
    size = 1.2 * before[1].std()
    assert np.array_equal(second, np.where(np.abs(before[1]) < size, 0, before[1]))
    assert all(np.array_equal(one, other) for one, other in zip(others, before[2:]))
    assert all(np.array_equal(kernel.numpy(), value) for kernel, value in zip(kernels, before))
    gone = np.count_nonzero(second == 0)
    assert form.progress([0, 12]) == pytest.approx(gone / sum(v.size for v in before) / 0.5)


@pytest.mark.parametrize('alpha', [4, 22])
def test_weights_are_decided_exactly_at_the_sparsity(alpha):
    problem = made_up_problem()
    form = Weights(problem, PurlOptions(form='weights', sparsity=0.6))
    form.read()
    choices = [alpha] * form.steps
    zeros = form.decide(choices).zeros
    total = sum(zero.size for zero in zeros.values())
    assert sum(np.count_nonzero(z) for z in zeros.values()) == math.ceil(0.6 * total)
    for kernel, mask in zip(kernels_of(problem.model), form.masks(choices)):
        gone = zeros[kernel.path]
        # Too few went, and more go; or too many did, and some come back: never both.
        assert not np.any(~mask & ~gone) if alpha == 4 else not np.any(mask & gone)


@pytest.mark.slow
def test_zeros_stay_zero_through_fine_tuning_and_a_stop(sparse_run):
    with np.load(sparse_run.run_dir / 'zeros.npz') as file:
        zeros = {name: file[name] for name in file.files}
    dense = keras.models.load_model(sparse_run.run_dir / 'dense.keras')
    tuned = {v.path: v.numpy() for v in kernels_of(sparse_run.model)}
    assert tuned.keys() == zeros.keys() == {v.path for v in kernels_of(dense)}
    moved = 0
    for kernel in kernels_of(dense):
        zero, value = zeros[kernel.path], tuned[kernel.path]
        assert not value[zero].any() and kernel.numpy()[zero].any()
        moved += np.count_nonzero(value[~zero] != kernel.numpy()[~zero])
    total = sum(zero.size for zero in zeros.values())
    count = sum(np.count_nonzero(zero) for zero in zeros.values())
    assert count == math.ceil(0.7 * total) and moved > 0.9 * (total - count)


@pytest.mark.slow
def test_sparsity_is_reported_beside_dense_macs(sparse_run):
    report = sparse_run.report
    params = sparse_run.model.count_params()
    zeros = sum(np.count_nonzero(v.numpy() == 0) for v in kernels_of(sparse_run.model))
    weights = sum(v.numpy().size for v in kernels_of(sparse_run.model))
    assert report['sparsity'] == {'kernel_weights': weights, 'zeros': zeros,
                                  'nonzero_params': params - zeros}
    assert zeros / weights == pytest.approx(0.7, abs=1e-3)
    assert report['pruned']['macs'] == report['dense']['macs']
    assert 'kernel weights are zero' in (sparse_run.run_dir / 'report.html').read_text()
    rounds = [json.loads(line) for line in open(sparse_run.run_dir / 'rounds.jsonl')]
    # Each scoring is a forward pass of all images through the dense model.
    images = json.loads((sparse_run.run_dir / 'data.json').read_text())['num_train']
    spent = sum(row['scored'] for row in rounds) * SMALL['score_images'] / (3 * images)
    assert report['epochs']['search_equivalents'] == pytest.approx(spent)


@pytest.mark.slow
def test_an_uninterrupted_run_is_the_same(sparse_run, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, 'finish', only_the_model)
    again = train_and_prune(Config(**SMALL), tmp_path / 'run', progress=False)
    for one, other in zip(sparse_run.model.get_weights(), again.model.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_a_terminal_reward_is_that_of_every_step():
    purl = started('purl', made_up_problem(), reward='terminal', rounds=1, episodes=4, updates=1)
    result = purl.search(0)
    drawn = purl.agent._memory.sample(tf.random.Generator.from_seed(0), 200)[0].reward.numpy()
    assert set(drawn[:, 0]) == {np.float32(row['reward']) for row in result.episodes}
    assert result.metrics['scored'] <= 5  # each episode, and the dense model


def test_the_benchmark_counts_episodes_until_the_level_of_the_terminal_reward():
    made = [{'reward': 'terminal', 'seed': 0, 'episodes_per_round': 5, 'scorings': [6, 12, 18, 24],
             'last_reward': [-.9, -.6, -.3, -.3]},
            {'reward': 'dense', 'seed': 0, 'episodes_per_round': 5, 'scorings': [40, 80, 120, 160],
             'last_reward': [-.6, -.3, -.3, -.1]}]
    assert dense_reward.reached(made[1], -.4) == 3 and dense_reward.reached(made[0], -.3) is None
    # The level is -0.4, the mean of the last three rounds.
    assert dense_reward.format_table(made).splitlines()[-1] == (
        '| 0 | -0.400 | -0.233 | 20 | 15 | 24 | 120 |')
    row, = dense_reward.rows(['terminal'], search_epochs=2, search_episodes=5, search_seeds=1)
    # An episode is scored once, and the dense model once a round.
    assert row['scorings'] == [6, 12] and max(row['last_reward']) <= 0
    with pytest.raises(ValueError, match="Unknown reward 'sparse'. Available: dense, terminal"):
        next(dense_reward.rows(['sparse']))


def test_zeros_of_another_model_are_refused():
    model = searched()[0]
    with pytest.raises(ValueError, match=r"received 'other/kernel' of shape \(3,\)"):
        zeroing(model, {'other/kernel': np.zeros(3, bool)})
    assert Decision({}).zeros == {}


def test_options_are_checked():
    with pytest.raises(ValueError, match="'purl' makes weights zero: .* must not have int8_qat"):
        checked_method(Config(method='purl', quantize='int8_qat', purl={'form': 'weights'}))
