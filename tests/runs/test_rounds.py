"""Rounds of search on frozen weights: their account, their checkpoints, several budgets of one."""
import dataclasses
import json
import math

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from light_export import light_export, only_the_model
from small_model import small_model
from tfprune.methods.base import Decision, EpochResult, Method
from tfprune.methods.names import METHODS
from tfprune.runs import run as runner
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.runs.state import Interrupted
from tfprune.pruning.reconstruction import EXAMPLES
from tfprune.training.account import EpochAccount

ROUNDS, EPISODES, SCORED = 3, 2, 100
STEPS = (1437 - SCORED) // 256  # of an epoch of the digits
SMALL = dict(model=small_model(), dataset='digits', method='draw', macs=0.5, warmup_epochs=1,
             random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=2,
             batch_size=256, reward_images=SCORED, score_images=SCORED, score_batch_size=SCORED,
             calibration_batches=1, lr_warmup_epochs=0.0)


class Draw(Method):
    """The best of some random decisions for each of two budgets."""
    only_decides = True
    conditional = True

    @dataclasses.dataclass(frozen=True)
    class Options:
        rounds: int = ROUNDS
        both: bool = True

    def start(self, problem):
        super().start(problem)
        self._draws = tf.Variable(tf.zeros([self.options.rounds, EPISODES], tf.float64))
        self._sum = tf.Variable(tf.zeros((), tf.float64))  # of all weights that were seen

    def rounds(self):
        return self.options.rounds

    def search(self, round_):
        rows = []
        for episode in range(EPISODES):
            draw = float(tf.random.uniform(()))
            widths = self._widths(self.problem.budget, draw)
            reward = self.problem.score(self.problem.select(widths))
            rows.append({'source': 'random', 'reward': reward, 'draw': draw})
            self._draws[round_, episode].assign(draw)
        self._sum.assign_add(sum(float(np.sum(w)) for w in self.problem.model.get_weights()))
        return EpochResult({'draw_mean': float(np.mean([row['draw'] for row in rows]))},
                           tuple(rows))

    def decide(self):
        return self.decide_for(self.problem.budget)

    def ratios(self):
        return (0.3, 0.5) if self.options.both else ()

    def decide_for(self, budget):
        best = float(self._draws.numpy().max())
        return Decision(self.problem.select(self._widths(budget, best)))

    @staticmethod
    def _widths(budget, draw):
        widths = []
        for dense in budget.dense_widths:
            widths.append(budget.clip(widths, int(draw * dense)))
        return budget.as_dict(budget.fill(widths))


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(METHODS, 'draw', Draw)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, light_export():
        patch.setitem(METHODS, 'draw', Draw)
        return train_and_prune(Config(charge_search=True, **SMALL),
                               tmp_path_factory.mktemp('draw') / 'run', progress=False)


def rows_of(path):
    return [json.loads(line) for line in open(path)]


@pytest.mark.slow
def test_rounds_are_charged_and_fine_tuning_is_shorter_by_them(whole):
    rounds = rows_of(whole.run_dir / 'rounds.jsonl')
    assert [row['round'] for row in rounds] == list(range(ROUNDS))
    episodes = rows_of(whole.run_dir / 'episodes.jsonl')
    assert len(episodes) == ROUNDS * EPISODES and len({row['draw'] for row in episodes}) > 4
    data = json.loads((whole.run_dir / 'data.json').read_text())
    epochs = whole.report['epochs']
    # Of each episode close to half of the dense MACs, forward only: a third of training. Before
    # them the dense model answers some examples, whose channels are told by one another.
    told = min(EXAMPLES, STEPS * 256)
    expected = (ROUNDS * EPISODES * SCORED * 0.5 + told) / 3 / data['num_train']
    assert epochs['search_equivalents'] == pytest.approx(expected, rel=0.05)
    assert epochs['search_equivalents'] == rounds[-1]['search_equivalents']
    # Two epochs less what the search cost, in whole steps.
    steps = math.floor((2 - epochs['search_equivalents']) * STEPS)
    assert steps < 2 * STEPS
    assert (epochs['fine_tune'], epochs['total']) == (steps / STEPS, 1 + steps / STEPS)
    rates = [row['learning_rate'] for row in rows_of(whole.run_dir / 'metrics.jsonl')]
    assert len(rates) == 3 and 0 < rates[-1] < rates[1]  # the schedule ends where the steps do
    assert whole.report['seconds']['search'] >= sum(row['seconds'] for row in rounds)


@pytest.mark.slow
def test_steps_are_charged(tmp_path, monkeypatch):
    monkeypatch.setattr(EpochAccount, 'epochs', 1.2)
    result = train_and_prune(Config(charge_search=True, draw={'both': False}, **SMALL),
                             tmp_path / 'run', progress=False)
    assert result.report['epochs']['fine_tune'] == 4 / STEPS  # of (2 - 1.2) * 5
    assert [row['epoch'] for row in rows_of(result.run_dir / 'metrics.jsonl')] == [0, 1]


@pytest.mark.slow
def test_a_run_stopped_between_rounds_ends_as_if_it_had_not_been(whole, tmp_path):
    run_dir, config = tmp_path / 'run', Config(charge_search=True, **SMALL)

    def after_round_two():
        path = run_dir / 'rounds.jsonl'
        return path.exists() and len(rows_of(path)) == 2

    with pytest.raises(Interrupted, match='stopped after 2 of 3 rounds'):
        train_and_prune(config, run_dir, progress=False, should_stop=after_round_two)
    with open(run_dir / 'episodes.jsonl', 'a') as file:  # killed in the third
        file.write(json.dumps({'round': 2, 'epoch': 0, 'source': 'random', 'reward': 0.0}) + '\n')
    result = train_and_prune(config, run_dir, progress=False)
    for name in ('decision.json', 'ratios.json', 'episodes.jsonl'):
        assert (run_dir / name).read_text() == (whole.run_dir / name).read_text()
    for one, other in zip(whole.model.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_one_search_gives_a_model_for_each_budget(whole):
    other = whole.run_dir / 'ratios' / '0.3'
    report = json.loads((other / 'report.json').read_text())
    budget, = report['budgets']
    assert budget['asked'] == 0.3 and 0.28 < budget['cost'] / budget['dense'] <= 0.3
    assert report['epochs']['search_equivalents'] == whole.report['epochs']['search_equivalents']
    assert rows_of(other / 'rounds.jsonl') == rows_of(whole.run_dir / 'rounds.jsonl')  # its time
    assert keras.models.load_model(other / 'export' / 'pruned.keras').count_params() < (
        whole.model.count_params())
    assert (report['dense']['test_accuracy'] == whole.report['dense']['test_accuracy'])
    assert not (whole.run_dir / 'ratios' / '0.5').exists()  # is the run itself


@pytest.mark.slow
def test_other_budgets_of_a_search_on_given_weights_search_no_more(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, 'finish', only_the_model)  # the export is measured above
    train_and_prune(Config(initial_weights=str(whole.run_dir / 'dense.keras'),
                           **SMALL | {'warmup_epochs': 0, 'fine_tune_epochs': 1,
                                      'learning_rate': 0.01, 'fine_tune_learning_rate': 0.01}),
                    tmp_path / 'run', progress=False)
    other = tmp_path / 'run' / 'ratios' / '0.3'
    assert rows_of(other / 'rounds.jsonl') == rows_of(tmp_path / 'run' / 'rounds.jsonl')
    assert json.loads((other / 'decision.json').read_text()) == json.loads(
        (tmp_path / 'run' / 'ratios.json').read_text())['0.3']


def test_a_search_needs_trained_weights(tmp_path):
    with pytest.raises(ValueError, match="'draw' searches on trained weights"):
        train_and_prune(Config(**SMALL | {'model': 'resnet8', 'warmup_epochs': 0}),
                        tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run').exists()  # the corrected command would be of other flags


def test_several_budgets_of_one_search_need_one_ratio(tmp_path):
    with pytest.raises(ValueError, match='need one limit, a ratio; received macs=0.5, params=0.9'):
        train_and_prune(Config(params=0.9, **SMALL), tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run').exists()


def test_account_counts_in_epochs_of_training_the_dense_model():
    account = EpochAccount(num_train=1000, dense_macs=10)
    account.train(500, 10)
    account.forward(300, 5)
    with account.uncharged():
        account.forward(10 ** 6, 10)
    assert account.epochs == pytest.approx(0.5 + 0.05)


@pytest.mark.parametrize('options, error, message', [
    ({'bth': True}, ValueError, r"method 'draw' has no option 'bth'. .*Available: rounds, both$"),
    ({'rounds': 'x'}, TypeError, "draw.rounds must be int; received str 'x'"),
    ({'both': 1}, TypeError, 'draw.both must be bool; received int 1')])
def test_options_of_a_method_from_outside(options, error, message):
    """Of a plain dataclass, too."""
    with pytest.raises(error, match=message):
        Config(draw=options, **SMALL)
    assert Config(draw={'both': False, 'rounds': 7}, **SMALL).options == Draw.Options(7, False)
