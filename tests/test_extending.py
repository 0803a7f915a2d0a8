"""A stranger's additions, each in one place, from README and docstrings alone: a method, a layer
rule, an export format."""
import dataclasses
import json
import pathlib

import tfprune  # before keras
import keras
import numpy as np
import pytest

from light_export import light_export
from tfprune.config import Range, field_of
from tfprune.costs.model import count_cost
from tfprune.export.base import Artifact, ArtifactCost, Format, Signature
from tfprune.export.exporter import FORMATS
from tfprune.methods.base import Decision, Method
from tfprune.methods.names import METHODS
from tfprune.methods.options import Options
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.structure.layer_rules import RULES
from tfprune.testing import check_promises, max_relative_difference, randomize


@dataclasses.dataclass(frozen=True)
class WidestFirstOptions(Options):
    step: int = field_of(1, 'This many channels go at a time.', Range(1, 100))


class WidestFirst(Method):
    """Takes channels of the widest group until the budget is kept."""
    only_decides = True
    Options = WidestFirstOptions

    def decide(self):
        budget = self.problem.budget
        widths = np.array(budget.dense_widths)
        while not budget.fits(widths):
            widths[widths.argmax()] -= self.options.step
        return Decision(self.problem.select(budget.as_dict(widths)))


@pytest.mark.slow
def test_a_method(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, 'widest_first', WidestFirst)
    with pytest.raises(ValueError, match=r'step must be in \[1, 100\]; received 0'):
        Config(method='widest_first', widest_first={'step': 0})
    config = Config(method='widest_first', widest_first={'step': 2}, model='resnet8',
                    dataset='digits', macs=0.5, warmup_epochs=1, random_epochs=0, joint_epochs=0,
                    alignment_epochs=0, fine_tune_epochs=1, batch_size=256, reward_images=100,
                    score_images=100)
    with light_export():
        result = train_and_prune(config, tmp_path / 'run', progress=False)
    dense, pruned = (result.report[side]['macs'] for side in ('dense', 'pruned'))
    assert count_cost(result.model).macs == pruned <= 0.5 * dense
    widths = [row['width'] for row in result.report['groups']]
    assert max(widths) - min(widths) <= 2  # of 16, 32 and 64


def test_options_from_outside_are_flags(monkeypatch):
    """Of a method under another name, of a plain dataclass, of one whose annotations are text."""
    from tfprune import command_line
    from tfprune.methods.amc import AMC

    texts = dataclasses.make_dataclass(
        'Texts', [('depth', 'int', 3), ('way', 'str', 'up')], frozen=True)
    for name, base, options in (('widest', WidestFirst, WidestFirstOptions), ('mine', AMC, None),
                                ('texts', WidestFirst, texts), ('uniform', WidestFirst, texts)):
        monkeypatch.setitem(METHODS, name, type(name, (base,), {'Options': options} if options
                                                else {}))
    for arguments, expected in (
            (['--method=widest', '--widest.step=5'], {'widest': {'step': 5}}),
            (['--method=mine', '--mine.episodes=200'], {'mine': {'episodes': 200}}),
            (['--method=texts', '--texts.depth=4'], {'texts': texts(4, 'up')}),
            (['--method=uniform', '--uniform.way=down'], {'uniform': texts(3, 'down')})):
        read = command_line.read_config(arguments)
        assert read == Config(method=arguments[0].partition('=')[2], **expected)
        assert read.replace(seed=1).options == read.options
    with pytest.raises(TypeError, match="texts.depth must be int; received str 'x'"):
        Config(method='texts', texts={'depth': 'x'})


@keras.saving.register_keras_serializable('test_extending')
class Scale(keras.layers.Layer):
    """y = x * factor, one factor for each channel."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer='ones', name='factor')

    def call(self, inputs):
        return inputs * self.factor


class ScaleRule(tfprune.LayerRule):

    def weight_axes(self, layer):
        return (tfprune.WeightAxes('factor', out_axis=0),)


@pytest.fixture
def scaled():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, name='a')(image)
    x = keras.layers.Conv2D(5, 3, name='b')(Scale(name='scale')(x))
    return randomize(keras.Model(image, keras.layers.Dense(2, name='logits')(
        keras.layers.GlobalAveragePooling2D()(x))))


def test_a_layer_rule(scaled, tmp_path):
    assert tfprune.trace_groups(scaled).groups['a'].members[1] == 'scale/input'  # it is opened
    try:
        tfprune.register_rule(Scale, ScaleRule())
        groups = tfprune.trace_groups(scaled)
        assert dict(groups) == {'a': 6, 'b': 5} and groups.groups['a'].members[1] == 'scale'
        check_promises(scaled)
        masks = {'a': np.array([True, False, True, False, False, True])}
        pruned = tfprune.prune_model(scaled, groups, masks)
        np.testing.assert_array_equal(pruned.get_layer('scale').factor,
                                      scaled.get_layer('scale').factor.numpy()[masks['a']])
        pruned.save(tmp_path / 'pruned.keras')
        images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
        again = keras.models.load_model(tmp_path / 'pruned.keras')
        assert max_relative_difference(again(images), pruned(images)) == 0
    finally:
        RULES.pop(Scale)


@pytest.mark.parametrize('arguments, message', [
    ((Scale(), ScaleRule()), 'layer_class: expected a class of Keras layers, received <Scale'),
    ((Scale, ScaleRule), 'rule: expected an instance of a LayerRule, received <class')])
def test_what_is_no_rule(arguments, message):
    with pytest.raises(TypeError, match=message):
        tfprune.register_rule(*arguments)


def write_npz(model, path, context):
    del context
    np.savez(path, config=json.dumps(model.get_config()), **{
        f'w{place}': value for place, value in enumerate(model.get_weights())})


def open_npz(path):
    with np.load(path) as stored:
        model = keras.Model.from_config(json.loads(str(stored['config'])))
        model.set_weights([stored[f'w{place}'] for place in range(len(model.weights))])
    cost = count_cost(model)
    return Artifact(pathlib.Path(path), 'npz', Signature.of(model),
                    run=lambda arrays: {'scores': np.asarray(model(*arrays.values()))},
                    cost=lambda: ArtifactCost(cost.macs, cost.params))


def test_an_export_format(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, 'npz', Format('model.npz', write_npz, open_npz, tolerance=1e-5))
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, activation='relu')(image)
    model = randomize(keras.Model(image, keras.layers.Dense(2)(
        keras.layers.GlobalAveragePooling2D()(x))))
    report = tfprune.export_model(model, tmp_path / 'out', formats=('npz', 'keras'))
    assert report.paths['npz'].name == 'model.npz' and report.bytes['npz'] > 0
    assert {(pair.first, pair.second) for pair in report.parity.pairs} == {
        ('model', 'npz'), ('model', 'keras'), ('npz', 'keras')}
