"""Every entry of METHODS keeps the contract: budget, determinism, a plain Keras model."""
import contextlib
import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from cases import slow_but
from light_export import light_export, only_the_model
from made_up_problem import started
from small_model import small_model

from tfprune.config import TARGETS
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel, count_cost
from tfprune.methods.names import METHODS, make_method
from tfprune.models.building import build_model
from tfprune.pruning.options import PruningOptions
from tfprune.runs import run as runner
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.search.problem import Problem
from tfprune.structure.groups import trace_groups

# Real digits, every phase, seconds.
SMALL = dict(model=small_model(16, 24, 24), dataset='digits', macs=0.5, warmup_epochs=1,
             random_epochs=1, joint_epochs=1, alignment_epochs=1, fine_tune_epochs=1,
             batch_size=256, reward_images=100, score_images=100, score_batch_size=100,
             calibration_batches=1, lr_warmup_epochs=0.0, distillation=0.0,
             fine_tune_schedule='restart')
RESNET = SMALL | dict(model='resnet8')

# Method name -> options of its run of SMALL, whose search is then of seconds.
SMALL_OPTIONS = {
    'rlal': dict(action='rate', episodes_per_epoch=2, random_reference_episodes=1,
                 comparison_episodes=2, context_size=4, context_updates=3, agent_updates=2),
    'amc': dict(episodes=6, warmup_episodes=2, lockstep=2),
    'autocompress': dict(proposals=1, stop_temperature=80, strength=0.1),
    'cacp': dict(episodes=6, warmup_episodes=2, lockstep=2, ratios='0.5'),
    'crl': dict(rounds=2, episodes=2, updates=1),
    'n2n': dict(removal_rounds=1, shrinkage_rounds=1, rollouts=3, student_steps=1, units=4),
    'ppo_search': dict(rounds=2, episodes=2, updates=1),
    'purl': dict(rounds=2, episodes=2, updates=1),
    'random_search': dict(decisions=3),
}


# All forms of its run are exported; RLAL's are by scripts/train.py (tests/runs/test_train_script).
EXPORTED = ('uniform',)


def small(name):
    """N2N removes blocks, which a ResNet has."""
    return Config(method=name, **{name: SMALL_OPTIONS.get(name, {})},
                  **RESNET if name == 'n2n' else SMALL)


@pytest.fixture(scope='module')
def run_of(tmp_path_factory):
    """Method name -> the result of its run of SMALL, made once."""
    @functools.cache
    def run(name):
        with contextlib.nullcontext() if name in EXPORTED else light_export(page=True):
            return train_and_prune(small(name), tmp_path_factory.mktemp(name) / 'run',
                                   progress=False)

    return run


# A decision on trained weights. That between epochs is run by test_train_script, a search on them
# below; the searches of all have tests of their own.
KINDS = ('knapsack',)


def check_nothing_more_fits(report):
    """No group's next channel does."""
    dense = keras.models.load_model(SMALL['model'])
    groups = trace_groups(dense).without_residual()
    budget = Budget(groups, CostModel(dense, groups), {'macs': 0.5})
    by_name = {row['name']: row['width'] for row in report['groups']}
    widths = [by_name[name] for name in budget.names]
    np.testing.assert_array_equal(budget.fill(widths), widths)


@pytest.mark.parametrize('name', slow_but(sorted(METHODS), KINDS))
def test_method_keeps_the_contract(name, run_of):
    config, result = small(name), run_of(name)

    report = json.loads((result.run_dir / 'report.json').read_text())
    assert report == json.loads(json.dumps(result.report))
    cost = count_cost(result.model)
    budget, = report['budgets']
    assert cost.macs == budget['cost'] == report['pruned']['macs']
    if METHODS[name].prunes:
        assert cost.macs <= budget['limit'] <= 0.5 * budget['dense']
        if all(row['width'] != 0 for row in report['groups']):
            check_nothing_more_fits(report)
        else:  # whole blocks are gone
            assert cost.macs > 0.97 * budget['limit']
    else:
        assert cost.macs == budget['dense']
    assert {row['name']: row['width'] for row in report['groups'] if row['width']} == {
        layer.name: layer.filters for layer in result.model.layers
        if layer.name in {row['name'] for row in report['groups']}}
    metrics = [json.loads(line) for line in open(result.run_dir / 'metrics.jsonl')]
    assert [row['epoch'] for row in metrics] == list(range(config.epochs.total))
    assert max(row['peak_process_bytes'] for row in metrics) <= report['peak_process_bytes']
    assert metrics[0]['peak_process_bytes'] > 50e6  # TensorFlow alone
    assert (result.run_dir / 'report.html').stat().st_size > 10_000


# Between epochs RLAL has a state, which test_train_script stops, in rounds those of
# test_rounds_resume_bit_for_bit.
@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(METHODS))
def test_a_method_is_deterministic_and_goes_on_after_a_kill(name, run_of, tmp_path, monkeypatch):
    config, result = small(name), run_of(name)
    monkeypatch.setattr(runner, 'finish', only_the_model)  # the export is the contract's
    run_dir = tmp_path / 'again'
    with pytest.raises(Killed):
        train_and_prune(config, run_dir, progress=False, should_stop=killer(run_dir, result))
    again = train_and_prune(config, run_dir, progress=False)
    for one, other in zip(result.model.get_weights(), again.model.get_weights()):
        np.testing.assert_array_equal(one, other)


class Killed(BaseException):
    """Nothing is saved on the way out."""


def killer(run_dir, whole):
    """Raises Killed in the second round of search or, where there is none, in the third epoch."""
    has_rounds = (whole.run_dir / 'rounds.jsonl').exists()
    path, count = run_dir / ('rounds.jsonl' if has_rounds else 'metrics.jsonl'), 2 - has_rounds
    asked = []

    def ask():
        if path.exists() and len(path.read_text().splitlines()) == count:
            asked.append(1)
        if len(asked) > 1:  # the first is right after the checkpoint
            raise Killed()
        return False

    return ask


@pytest.mark.parametrize('name', ['uniform', 'random', 'magnitude', 'rlal', 'amc', 'autocompress'])
def test_decisions_keep_every_limit_and_leave_no_step(name):
    """Without training: what is decided on the first weights."""
    model = build_model('resnet8', image_shape=(8, 8, 1), num_classes=10, mean=(0,), std=(1,))
    groups = trace_groups(model)
    cost_model = CostModel(model, groups)
    limits = {'macs': 0.7, 'params': 30_000, 'peak_memory_bytes': 0.9}
    budget = Budget(groups, cost_model, limits)
    problem = Problem(model, groups, cost_model, budget, score=lambda masks: 0.5,
                      pruning=PruningOptions(criterion='geometric_median'))
    widths = started(name, problem, **SMALL_OPTIONS.get(name, {})).decide().widths
    cost = cost_model(widths)
    assert cost.macs <= 0.7 * cost_model.dense.macs and cost.params <= 30_000
    assert cost.peak_memory_bytes <= 0.9 * cost_model.dense.peak_memory_bytes
    for group, width in widths.items():
        if width < groups[group]:
            assert not budget.fits(list((widths | {group: width + 1}).values()))


@pytest.mark.slow
def test_epochs_before_surgery_can_be_taken_from_another_run(run_of, tmp_path):
    dense, own = run_of('dense').run_dir, run_of('magnitude')
    taken = train_and_prune(Config(method='magnitude', before_surgery_from=str(dense), **SMALL),
                            tmp_path / 'taken', progress=False)
    for one, other in zip(own.model.get_weights(), taken.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    epochs = [json.loads(line)['epoch'] for line in open(tmp_path / 'taken/metrics.jsonl')]
    assert epochs == list(range(5))
    for options, message in ((dict(method='rlal'), "'rlal' acts before surgery"),
                             (dict(method='uniform', seed=1), '--seed: 0 -> 1')):
        with pytest.raises(ValueError, match=message):
            train_and_prune(Config(before_surgery_from=str(dense), **SMALL | options),
                            tmp_path / f'bad_{options["method"]}', progress=False)


@pytest.mark.slow
def test_scratch_starts_from_weights_of_its_own(tmp_path):
    config = Config(**RESNET | dict(method='scratch', learning_rate=0.0, weight_decay=0.0,
                                    fine_tune_learning_rate=0.0))
    result = train_and_prune(config, tmp_path / 'run', progress=False)
    kernel = keras.ops.convert_to_numpy(result.model.get_layer('stage3_block1_conv2').kernel)
    fan_in = kernel[..., 0].size
    assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
    with pytest.raises(ValueError, match="'scratch' trains from random weights"):
        train_and_prune(Config(**SMALL | dict(method='scratch', initial_weights='x.npz')),
                        tmp_path / 'other', progress=False)


@pytest.mark.slow
def test_report_that_was_not_written_is_written_when_a_finished_run_is_read(run_of):
    run_dir = run_of('dense').run_dir
    (run_dir / 'report.html').unlink()
    before = (run_dir / 'cost.json').stat().st_mtime_ns
    train_and_prune(Config(method='dense', **SMALL), run_dir, progress=False)
    assert (run_dir / 'report.html').exists()
    assert (run_dir / 'cost.json').stat().st_mtime_ns == before


@pytest.mark.parametrize('options', [
    pytest.param(dict(rlal=SMALL_OPTIONS['rlal'] | {'agent': 'sac'}, macs=0.7, params=45_000,
                      prune_residual_groups=True, peak_memory_bytes=0.9, schedule='step',
                      label_smoothing=0.1, width_multiple=4), marks=pytest.mark.slow, id='sac'),
    pytest.param(dict(mixed_precision='bfloat16', rlal=SMALL_OPTIONS['rlal'] | dict(
                          context_size=0, alignment='adaptive'),
                      criterion='taylor', criterion_examples=1,
                      frozen='stem_conv, stage1_block1_conv1'),
                 marks=pytest.mark.slow, id='bfloat16'),
])
def test_rlal_with_options(options, tmp_path):
    result = train_and_prune(Config(**RESNET | options), tmp_path / 'run', progress=False)
    report, cost = result.report, count_cost(result.model)
    assert [row['target'] for row in report['budgets']] == [
        name for name in TARGETS if name in SMALL | options]
    for row in report['budgets']:
        assert getattr(cost, row['target']) == row['cost'] <= row['limit'] < row['dense']
    widths = {row['name']: (row['width'], row['dense_width']) for row in report['groups']}
    assert not widths.keys() & set(options.get('frozen', '').split(', '))
    assert all(width == dense or width % options.get('width_multiple', 1) == 0
               for width, dense in widths.values())
    assert {layer.dtype_policy.name for layer in result.model.layers} == {'float32'}
    residual = {row['name'] for row in report['groups']} & {'stem_conv', 'stage2_block1_conv2'}
    assert bool(residual) == options.get('prune_residual_groups', False)


@pytest.mark.slow
def test_pruned_model_loads_without_tfprune(run_of, tmp_path):
    result = run_of('uniform')
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / 'images.npy', images)
    code = ('import sys, numpy as np; sys.modules["tfprune"] = None; import keras; '
            f'm = keras.models.load_model(r"{result.run_dir}/export/pruned.keras"); '
            f'np.save(r"{tmp_path}/out.npy", m(np.load(r"{tmp_path}/images.npy")))')
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path,
                   env={**os.environ, 'KERAS_BACKEND': 'tensorflow'}, timeout=300)
    np.testing.assert_allclose(np.load(tmp_path / 'out.npy'),
                               keras.ops.convert_to_numpy(result.model(images)), rtol=1e-5,
                               atol=1e-5)


def test_unknown_method_is_answered_with_the_right_ones():
    with pytest.raises(ValueError, match="Unknown method 'rlla'. .* Available: amc, autocomp"):
        make_method('rlla')
