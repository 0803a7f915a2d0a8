"""Frozen layers keep their channels, budgets count them, and what multiplies uncounted is said."""
import dataclasses
import json
import pathlib
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from hidden_layer import Hidden
from tfprune.costs.analysis import analyze, format_analysis
from tfprune.costs.budget import Budget, InfeasibleBudgetError, check_counted
from tfprune.costs.model import CostModel, count_cost
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups

ROOT = pathlib.Path(__file__).resolve().parents[2]
register = keras.saving.register_keras_serializable('test_frozen')


class OwnEinsum(layers.EinsumDense):
    """A subclass has no rule, and for its own __call__ it is not opened."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


def chain(*frozen):
    """image 6x6x3 - a 5 - bn - b 7 - depthwise - c 11 - pool - hidden 13 - logits 2"""
    image = keras.Input((6, 6, 3))
    x = layers.BatchNormalization(name='bn')(layers.Conv2D(5, 3, name='a')(image))
    x = layers.DepthwiseConv2D(1, name='depthwise')(layers.Conv2D(7, 1, name='b')(x))
    x = layers.GlobalAveragePooling2D()(layers.SeparableConv2D(11, 3, name='c')(x))
    x = layers.Dense(13, name='hidden')(x)
    model = keras.Model(image, layers.Dense(2, name='logits')(x), name='chain')
    for name in frozen:
        model.get_layer(name).trainable = False
    return model


@pytest.mark.parametrize('frozen, kept', [
    ((), ''), (('bn', 'depthwise'), ''), (('a',), ''), (('a', 'b'), 'a'), (('b',), 'a'),
    (('c',), 'b'), (('a', 'b', 'c'), 'a b'), (('logits',), 'hidden'),
    (('a', 'bn', 'b', 'depthwise', 'c', 'hidden'), 'a b c')])
def test_a_group_that_a_frozen_kernel_reads_is_not_pruned(frozen, kept):
    groups = trace_groups(chain(*frozen))
    every = ['a', 'b', 'c', 'hidden']
    assert list(groups) == [name for name in every if name not in kept.split()]
    readers = dict(zip(every, ['b', 'c', 'hidden', 'logits']))
    for name in kept.split():
        reason = groups.unprunable[name]
        assert reason.startswith(f"group '{name}' is not prunable: the weights of layer '")
        assert f"layer '{readers[name]}', which reads it, are frozen (trainable=False)" in reason
        assert (f"layer '{name}', which writes it" in reason) == (name in frozen)
        assert reason.endswith('--prune_frozen prunes it')
    assert list(trace_groups(chain(*frozen), prune_frozen=True)) == every


def test_the_last_features_of_a_frozen_nested_backbone_can_go():
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(7, 3, name='deep')(layers.Conv2D(5, 3, name='stem')(image))
    backbone = keras.Model(image, x, name='backbone')
    backbone.trainable = False
    x = layers.GlobalAveragePooling2D()(backbone(image, training=False))
    groups = trace_groups(keras.Model(image, layers.Dense(2, name='logits')(x)))
    assert list(groups) == ['backbone/deep'] and 'backbone/stem' in groups.unprunable


def test_one_of_several_readers_that_is_frozen_keeps_the_group():
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(5, 1, name='a')(image)
    x = layers.Concatenate()([layers.Conv2D(3, 1, name='left')(x),
                              layers.Conv2D(7, 1, name='right')(x)])
    model = keras.Model(image, layers.Dense(2, name='logits')(layers.Flatten()(x)))
    model.get_layer('right').trainable = False
    assert list(trace_groups(model)) == ['left', 'right']


def test_budgets_and_reports_count_all_parameters():
    model = chain('a', 'b', 'c')
    groups = trace_groups(model)
    cost_model = CostModel(model, groups)
    assert cost_model.dense.params == model.count_params()
    assert cost_model.dense.trainable_params == sum(
        int(np.prod(v.shape)) for v in model.trainable_variables)
    budget = Budget(groups, cost_model, {'params': .7})
    widths = budget.as_dict(budget.fill(budget.min_widths))
    pruned = prune_model(model, groups, {
        name: np.arange(groups[name]) < width for name, width in widths.items()})
    assert pruned.count_params() <= .7 * model.count_params()
    assert count_cost(pruned) == cost_model(widths)
    assert [layer.trainable for layer in pruned.layers] == [
        layer.trainable for layer in model.layers]


def test_a_budget_that_frozen_layers_make_impossible_names_the_flag():
    model = chain('a', 'b', 'c')
    groups = trace_groups(model)
    with pytest.raises(InfeasibleBudgetError, match='keep the channels of a, b; --prune_frozen'):
        Budget(groups, CostModel(model, groups), {'macs': .2})
    many = keras.Sequential([keras.Input((6, 6, 3)), *(
        layers.Conv2D(4, 1, name=name, trainable=False) for name in 'abcdef')])
    groups = trace_groups(many)
    with pytest.raises(InfeasibleBudgetError, match='of a, b, c and 2 more; --prune_frozen'):
        Budget(groups, CostModel(many, groups), {'macs': .2})
    groups = trace_groups(model, prune_frozen=True)
    Budget(groups, CostModel(model, groups), {'macs': .2}, min_keep_ratio=.05)
    with pytest.raises(InfeasibleBudgetError) as caught:
        Budget(groups, CostModel(model, groups), {'macs': 1e-3})
    assert 'frozen' not in str(caught.value)


def with_uncounted():
    image = keras.Input((6, 6, 3))
    x = Hidden(name='hidden')(layers.Conv2D(5, 1, name='a')(image))
    x = layers.Conv2D(7, 1, name='b')(x)
    return keras.Model(image, layers.Dense(2, name='logits')(layers.Flatten()(x)), name='odd')


@pytest.mark.parametrize('limits, passes', [
    ({'macs': .5}, False), ({'macs': .5, 'params': .5}, False), ({'params': .5}, True),
    ({'macs': 2000}, True), ({'macs': 1.0}, True), ({'peak_memory_bytes': .9}, True)])
def test_a_share_of_macs_needs_all_of_them(limits, passes):
    model = with_uncounted()
    costs = CostModel(model, trace_groups(model))
    if passes:
        check_counted(costs, limits)
    else:
        with pytest.raises(ValueError, match=r'hidden \(Hidden\) cannot be counted: .*accept_unc'):
            check_counted(costs, limits)


def test_the_analysis_marks_what_is_not_counted():
    model = with_uncounted()
    found = analyze(model, trace_groups(model))
    text = format_analysis(found)
    macs = 36 * (3 * 5 + 5 * 7) + 36 * 7 * 2
    assert f'{macs:,}+ MACs' in text and f'of {macs:,}+)' in text
    assert text.splitlines()[-1] == '+ Not counted: hidden (Hidden)'
    assert found.to_json()['uncounted'] == ('hidden (Hidden)',)


def test_the_analysis_tells_what_it_counted_by_running():
    image = keras.Input((6, 6, 3))
    x = OwnEinsum('bhwc,cd->bhwd', (6, 6, 5), name='einsum')(image)
    model = keras.Model(image, layers.Dense(2, name='logits')(layers.Flatten()(x)), name='odd')
    model.get_layer('einsum').trainable = False
    found = analyze(model, trace_groups(model))
    text = format_analysis(found)
    assert 'einsum (OwnEinsum) 540 MACs' in text and '+' not in text
    assert text.splitlines()[-1] == 'Not counted: nothing'
    assert '377 parameters (362 trainable)' in text
    with pytest.raises(InfeasibleBudgetError, match='einsum: without a rule, keep 60.0% of the'):
        Budget(trace_groups(model), CostModel(model, trace_groups(model)), {'macs': .5})
    assert sum(row.macs for row in found.groups) == found.dense.macs == 540 + 360
    assert dataclasses.asdict(found)['dense']['trainable_params'] == 362


@pytest.mark.slow
def test_the_script_says_why_groups_stay(tmp_path):
    chain('a', 'b').save(tmp_path / 'mine.keras')

    done = subprocess.run(
        [sys.executable, ROOT / 'scripts' / 'analyze.py', f'--model={tmp_path}/mine.keras',
         f'--json={tmp_path}/groups.json'],
        capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0
    reasons = {row['name']: row['reason'] for row in json.loads(
        (tmp_path / 'groups.json').read_text())['groups']}
    assert '--prune_frozen' in reasons['a'] and reasons['b'] is None
    assert reasons['a'] in done.stdout
