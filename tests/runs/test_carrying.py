"""One schedule across surgery, and the optimizer's state, which is cut as the weights are."""
import json
import os
import pathlib
import subprocess
import sys
import types

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bright_pictures import BATCH, CLASSES, images
from light_export import light_export
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.methods.base import Decision, EpochResult
from tfprune.methods.controls import Uniform
from tfprune.methods.names import METHODS
from tfprune.pruning.surgery import prune_model
from tfprune.runs import carrying
from tfprune.runs.config import Config
from tfprune.runs.recipe import Recipe
from tfprune.runs.stages import Stage, stage_after_surgery, stage_before_surgery
from tfprune.runs.state import FineTuning
from tfprune.runs.surgery import cut_values
from tfprune.search.problem import Problem
from tfprune.structure.groups import trace_groups
from tfprune.testing import branches, plain, random_masks, residual
from tfprune.training.schedule import Schedule
from tfprune.training.step import Optimization, Trainer

TRAIN = 96
SHORT = dict(method='uniform', macs=0.6, warmup_epochs=1, random_epochs=0, joint_epochs=0,
             alignment_epochs=0, fine_tune_epochs=1, distillation=0.0, lr_warmup_epochs=0.5,
             progress=False)


def network(optimizer=None):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3), name='image')
    x = layers.Conv2D(8, 3, use_bias=False, name='a')(image)
    x = layers.BatchNormalization(momentum=0.8, name='norm')(x)
    x = layers.Conv2D(8, 3, name='b')(layers.ReLU(name='relu')(x))
    x = layers.Dense(CLASSES, name='logits')(layers.GlobalMaxPooling2D(name='pool')(x))
    model = keras.Model(image, x, name='small')
    if optimizer:
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def run(folder, optimizer=None, **options):
    with light_export():
        return tfprune.train_and_prune(
            model=network(optimizer), train_data=images(TRAIN, 0), reward_data=images(48, 1),
            test_data=images(48, 2), run_dir=folder, **{**SHORT, **options})


def rates(folder):
    return [json.loads(line)['learning_rate'] for line in open(folder / 'metrics.jsonl')]


def same(one, other):
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Slots.

def surgery_on(model, masks, removed=()):
    """(state, problem) as far as the carrying needs them."""
    groups = trace_groups(model)
    costs = CostModel(model, groups)
    state = types.SimpleNamespace(strategy=tf.distribute.get_strategy(),
                                  decision=Decision(masks, removed))
    return state, Problem(model, groups, costs, Budget(groups, costs, {'macs': 1.0}))


def frozen_in_part():
    model = branches()
    for name in ('a', 'bn'):
        model.get_layer(name).trainable = False
    return model


@pytest.mark.parametrize('build', [residual, plain, branches, frozen_in_part])
def test_slots_are_cut_as_the_weights_are(build):
    model = build()
    masks = random_masks(trace_groups(model), np.random.default_rng(0))
    before = model.get_weights()
    check_cut(*surgery_on(model, masks), prune_model(model, trace_groups(model), masks))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)  # the dense model has its own again


def test_slots_of_removed_blocks_go_with_them():
    _, problem = surgery_on(residual(), {})
    left = problem.without(['s1_add'])
    assert len(left.model.trainable_variables) < len(problem.model.trainable_variables)
    masks = random_masks(left.groups, np.random.default_rng(0))
    state, problem = surgery_on(problem.model, masks, ('s1_add',))
    check_cut(state, problem, prune_model(left.model, left.groups, masks))


def check_cut(state, problem, pruned):
    """An elementwise function of the weights is, once cut, that function of the cut weights."""
    weights = [keras.ops.convert_to_numpy(v) for v in problem.model.trainable_variables]
    cut = cut_values(state, problem, {place: 2 * w + 1 for place, w in enumerate(weights)})
    assert sorted(cut) == list(range(len(pruned.trainable_variables)))
    for place, weight in enumerate(pruned.trainable_variables):
        np.testing.assert_array_equal(cut[place], 2 * keras.ops.convert_to_numpy(weight) + 1)


def by_hand(value, path, masks):
    """A value of the shape of a weight of `plain`, without what the masks close."""
    first, second, hidden = masks['conv1'], masks['conv2'], masks['hidden']
    return {'conv1/kernel': lambda: value[..., first], 'bn1/gamma': lambda: value[first],
            'bn1/beta': lambda: value[first],
            'conv2/kernel': lambda: value[:, :, first][..., second],
            'conv2/bias': lambda: value[second],
            'hidden/kernel': lambda: value[np.tile(second, 9)][:, hidden],
            'hidden/bias': lambda: value[hidden], 'logits/kernel': lambda: value[hidden],
            'logits/bias': lambda: value}[path]()


@pytest.mark.parametrize('optimizer', [
    keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(0.1, use_ema=True)])
def test_an_optimizer_of_the_pruned_model_takes_over_what_the_dense_ones_had(optimizer, tmp_path):
    model = plain()
    masks = random_masks(trace_groups(model), np.random.default_rng(1))
    state, problem = surgery_on(model, masks)
    state.is_chief, state.folder = True, types.SimpleNamespace(path=tmp_path)
    state.recipe = Recipe(None, 0.1, 0.1, 0.0, continues=True)
    pruned = prune_model(model, problem.groups, masks)
    dense, cut = (Trainer(each, state.strategy, Optimization(
        global_batch_size=BATCH, optimizer=keras.optimizers.serialize(optimizer)))
        for each in (model, pruned))
    dense.train_epoch(images(48, 0).map(lambda x, y: (x, y % 2)), lambda step: 0.1)
    carrying.keep_state(state, dense)
    carrying.take_over(state, problem, cut)
    assert cut.steps_in_all == 3
    values, ours = dense.state.values, cut.state.values
    assert ours.slots.keys() == values.slots.keys()
    for name, slots in values.slots.items():
        for place, weight in enumerate(model.trainable_variables):
            np.testing.assert_array_equal(
                ours.slots[name][place], by_hand(slots[place], weight.path, masks))
    (tmp_path / carrying.FILE).unlink()
    with pytest.raises(ValueError, match='lost, and with it the state of the optimizer'):
        carrying.take_over(state, problem, cut)


def test_what_cannot_be_cut_begins_anew_and_is_said(tmp_path):
    said = []
    trainer = Trainer(plain(), tf.distribute.get_strategy(), Optimization(
        optimizer=keras.optimizers.serialize(keras.optimizers.Adafactor(0.1))))
    state = types.SimpleNamespace(
        recipe=Recipe(None, 0.1, 0.1, 0.0, continues=True), is_chief=True,
        folder=types.SimpleNamespace(path=tmp_path), progress=types.SimpleNamespace(
            warn=said.append))
    carrying.keep_state(state, trainer)
    assert 'begins anew, at the learning rate where it was' in said[0]
    carrying.take_over(state, None, trainer)  # without a file
    assert not list(tmp_path.iterdir()) and trainer.steps_in_all == 0


# Rates.

class Examples:
    """As many as a data set has, of which `held` are trained on after surgery."""
    def __init__(self, num_train, held=0):
        self.num_train, self.held = num_train, held

    def with_released(self, score_images):
        return Examples(self.num_train + self.held)


def state_of(equivalents=0.0, decides_first=False, continues=True, compiled=None, stated=(),
             **flags):
    """4 epochs of 10 steps before surgery, 2 of 12 after it."""
    config = Config(**{**dict(warmup_epochs=4, random_epochs=0, joint_epochs=0, alignment_epochs=0,
                              fine_tune_epochs=2, batch_size=10, lr_warmup_epochs=1.0), **flags})
    recipe = Recipe(None, 0.4, 0.3, 0.0, continues=continues, follows=bool(compiled),
                    stated=stated)
    return types.SimpleNamespace(
        config=config, recipe=recipe, compiled=compiled, data=Examples(100, 20),
        steps_per_epoch=10, decision=types.SimpleNamespace(search_equivalents=equivalents),
        method=types.SimpleNamespace(decides_first=decides_first))


def rates_of(stage):
    return [stage.learning_rate(epoch, step) for epoch in range(stage.begin, stage.end)
            for step in range(stage.steps_in(epoch))]


@pytest.mark.parametrize('kind', ['cosine', 'step'])
@pytest.mark.parametrize('decides_first', [False, True])
def test_one_schedule_spans_both_stages(kind, decides_first):
    state = state_of(decides_first=decides_first, schedule=kind)
    plan = FineTuning.after(state)
    first = stage_before_surgery(state, plan.data if decides_first else state.data)
    per_epoch = 12 if decides_first else 10
    whole = Schedule(kind, 0.4, 4 * per_epoch + 24, warmup_steps=per_epoch)
    found = rates_of(first) + rates_of(stage_after_surgery(state, plan))
    assert found == [whole(step) for step in range(whole.steps)]
    # The share of a step among those to surgery is of the first stage alone.
    assert first.rate_share(3, per_epoch - 1) == 1.0


def test_steps_without_a_rate_share_what_is_left():
    stage = Stage.of(0, 6, 3, None, lambda step: [.2, .1, .1, 0, 0, 0][step])
    assert [stage.rate_share(epoch, step) for epoch in (0, 1) for step in range(3)] == (
        pytest.approx([1 / 2, 1 / 2, 1, 1 / 3, 1 / 2, 1]))


@pytest.mark.parametrize('kind', ['cosine', 'step'])
def test_a_charged_search_brings_the_end_forward_and_no_jump(kind):
    state = state_of(equivalents=0.9, charge_search=True, schedule=kind)
    before = rates_of(stage_before_surgery(state, state.data))
    after = rates_of(stage_after_surgery(state, FineTuning.after(state)))
    assert len(after) == 15  # floor(2 * 12 - 0.9 * 10)
    whole = Schedule(kind, 0.4, 64, warmup_steps=10)
    assert before == [whole(step) for step in range(40)]
    assert after == [whole(40 + step * 24 / 15) for step in range(15)]
    assert after[0] == whole(40) and whole(64 - 2) >= after[-1] > 0
    state = state_of(equivalents=9.0, charge_search=True, schedule=kind)
    assert rates_of(stage_after_surgery(state, FineTuning.after(state))) == []


def test_a_restart_has_a_schedule_of_its_own_and_no_warm_up():
    state = state_of(continues=False)
    assert rates_of(stage_before_surgery(state, state.data)) == [
        Schedule('cosine', 0.4, 40, warmup_steps=10)(step) for step in range(40)]
    assert rates_of(stage_after_surgery(state, FineTuning.after(state))) == [
        Schedule('cosine', 0.3, 24)(step) for step in range(24)]


def test_a_warm_up_may_last_beyond_surgery():
    state = state_of(equivalents=0.9, charge_search=True, lr_warmup_epochs=5.0)
    found = rates_of(stage_before_surgery(state, state.data)) + rates_of(
        stage_after_surgery(state, FineTuning.after(state)))
    peak = max(found)
    assert found[39] == pytest.approx(0.4 * 40 / 50) and found[39] < peak <= 0.4
    assert found[:46] == sorted(found[:46]) and found[-1] < 0.05


@pytest.mark.parametrize('stated', [(), ('fine_tune_learning_rate',)])
def test_a_compiled_schedule_is_followed_in_place_of_ours(stated):
    state = state_of(compiled=types.SimpleNamespace(scheduled_rate=lambda step: 1 / (1 + step)),
                     continues=not stated, stated=stated)
    assert rates_of(stage_before_surgery(state, state.data))[:2] == [1, 1 / 2]
    first = rates_of(stage_after_surgery(state, FineTuning.after(state)))[0]
    assert first == (0.3 if stated else 1 / 41)


# Runs.

@pytest.mark.slow
@pytest.mark.parametrize('optimizer', ['adam', None])
def test_surgery_that_removes_nothing_is_not_noticed(optimizer, tmp_path):
    """Two epochs without surgery, and the same with surgery between them."""
    one = run(tmp_path / 'one', optimizer, method='dense', warmup_epochs=2, fine_tune_epochs=0)
    other = run(tmp_path / 'other', optimizer, method='dense')
    assert rates(tmp_path / 'one') == rates(tmp_path / 'other')
    same(one, other)


@pytest.mark.slow
def test_a_restart_that_is_asked_for(tmp_path):
    run(tmp_path, fine_tune_schedule='restart')
    assert rates(tmp_path) == pytest.approx([
        Schedule('cosine', 0.1, 6, warmup_steps=3)(5), Schedule('cosine', 0.05, 6)(5)])
    assert not (tmp_path / carrying.FILE).exists()


class Died(BaseException):
    """As sudden as a signal: nobody catches it."""


class Rounds(Uniform):
    """Uniform, after rounds whose checkpoints push out those of the last epoch."""
    has_rounds = True

    def rounds(self):
        return 3

    def search(self, round_):
        return EpochResult()


@pytest.mark.parametrize('method, optimizer', [
    ('rounds', None), pytest.param('uniform', keras.optimizers.Adam(0.01, use_ema=True),
                                   marks=pytest.mark.slow)])
def test_a_run_killed_between_surgery_and_its_next_checkpoint_ends_as_if_it_had_not(
        method, optimizer, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, 'rounds', Rounds)
    replace = os.replace

    def die(source, target):
        if pathlib.Path(target).name == 'e00001_s00000006':  # all steps of the second epoch
            raise Died
        replace(source, target)

    whole = run(tmp_path / 'whole', optimizer, method=method)
    schedule = Schedule('cosine', 0.01 if optimizer else 0.1, 12, warmup_steps=3)
    assert rates(tmp_path / 'whole') == pytest.approx([schedule(5), schedule(11)])
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(os, 'replace', die)
        run(tmp_path / 'run', optimizer, method=method)
    assert (tmp_path / 'run/decision.json').exists()
    same(whole, run(tmp_path / 'run', optimizer, method=method))


REPLICAS = '''
import sys
from light_export import light_export
from tfprune import Config
from tfprune.runs.run import train_and_prune
with light_export():
    train_and_prune(Config(
        model='resnet8', dataset='digits', method='uniform', macs=0.5, warmup_epochs=1,
        random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1, batch_size=256,
        distillation=0.0, learning_rate=0.001, reward_images=100, score_images=100,
        score_batch_size=100, lr_warmup_epochs=0.0, replicas=int(sys.argv[2])), sys.argv[1],
        progress=False)
'''


@pytest.mark.slow
def test_two_replicas_go_on_as_one_does(tmp_path):
    found = []
    for count in ('1', '2'):
        subprocess.run([sys.executable, '-c', REPLICAS, str(tmp_path / count), count], check=True,
                       env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
        found.append([json.loads(line) for line in open(tmp_path / count / 'metrics.jsonl')])
    for one, two in zip(*found, strict=True):
        assert one['learning_rate'] == two['learning_rate']
        assert one['loss'] == pytest.approx(two['loss'], rel=1e-4)
    with np.load(tmp_path / '1' / carrying.FILE) as one, np.load(
            tmp_path / '2' / carrying.FILE) as two:
        assert one.files == two.files
        for name in one.files:
            np.testing.assert_allclose(one[name], two[name], atol=1e-4)
