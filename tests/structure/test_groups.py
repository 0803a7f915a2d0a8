"""Channel groups: the toys' answers by hand, reasons, bad input."""

import json

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from tfprune.structure.groups import UnsupportedLayerError, trace_groups
from tfprune.testing import TOYS, branches, plain, residual


@pytest.mark.parametrize('name', TOYS)
def test_groups_of_the_toys(name):
    toy = TOYS[name]
    groups = trace_groups(toy.build())
    assert list(groups.items()) == list(toy.groups.items())  # topological order too
    assert {n for n in groups if groups.groups[n].is_residual} == toy.residual
    assert groups.unprunable == {
        'image': "group 'image' is not prunable: it is the model's input",
        'logits': "group 'logits' is not prunable: it feeds the model's output"}


def test_roles():
    groups = trace_groups(residual()).groups
    assert groups['stem'].producers == ('stem', 's1_conv2', 's2_conv2', 's3_conv2')
    assert groups['stem'].consumers == ('s1_conv1', 's2_conv1', 's3_conv1', 'logits')
    assert set(groups['s3_conv2'].members) == {'s3_pad', 's3_conv2', 's3_conv2_bn', 's3_add',
                                               's3_relu2', 'pool', 'logits'}
    assert groups['s3_conv2'].members[-3:] == ('s3_relu2', 'pool', 'logits')
    groups = trace_groups(branches()).groups
    assert groups['a'].producers == ('a',) and groups['a'].consumers == ('c',)
    assert 'depthwise' in groups['a'].members and 'b_leaky' not in groups['a'].members


def test_the_stream_is_nested():
    layout = trace_groups(residual()).layout
    node = next(node for node in layout.nodes if node.layer == 's3_add')
    names = [layout.names[g] for g in layout.tensors[node.outputs[0]].positions.group]
    # pad 1 | (pad 2 | stem 5 | pad 4) | pad 5
    assert names == (['s3_conv2'] + ['s2_conv2'] * 2 + ['stem'] * 5 + ['s2_conv2'] * 4
                     + ['s3_conv2'] * 5)
    index = layout.tensors[node.outputs[0]].positions.index.tolist()
    assert index == [0, 0, 1, 0, 1, 2, 3, 4, 2, 3, 4, 5, 1, 2, 3, 4, 5]


def test_without_residual():
    groups = trace_groups(residual()).without_residual()
    assert dict(groups) == {'s1_conv1': 7, 's2_conv1': 13, 's3_conv1': 19}
    assert groups.unprunable['stem'] == (
        "group 'stem' is not prunable: couples several layers; --prune_residual_groups prunes it")
    assert groups.unprunable['logits'].endswith("it feeds the model's output")
    assert groups.layout is not None and 'stem' not in groups
    with pytest.raises(KeyError, match="group 'stem' is not prunable"):
        groups['stem']


def test_a_shared_producer_gives_suffixes():
    image = keras.Input((4, 4, 3), name='image')
    wide = layers.ReLU()(layers.ReLU()(layers.Conv2D(7, 1, name='wide')(image)))
    narrow = layers.ZeroPadding2D(((0, 0), (0, 2)), data_format='channels_first', name='pad')(
        layers.Conv2D(5, 1, name='narrow')(image))
    x = layers.Add(name='add')([wide, narrow])
    groups = trace_groups(keras.Model(image, layers.Dense(2, name='logits')(x)))
    assert dict(groups) == {'wide/1': 5, 'wide/2': 2}
    assert groups.groups['wide/1'].producers == ('wide', 'narrow')
    assert groups.groups['wide/2'].producers == ('wide',)


def test_frozen_by_group_and_by_layer():
    groups = trace_groups(residual(), frozen=['s1_conv1', 's2_conv1_bn'])
    assert groups.unprunable['s1_conv1'] == (
        "group 's1_conv1' is not prunable: it is frozen by request")
    assert groups.unprunable['s2_conv1'] == (
        "group 's2_conv1' is not prunable: layer 's2_conv1_bn' is frozen by request")
    # A layer keeps all channels of its output: here the stream up to the second stage.
    assert set(trace_groups(residual(), frozen=['s2_add'])) == {
        's1_conv1', 's2_conv1', 's3_conv1', 's3_conv2'}
    with pytest.raises(ValueError, match=r"Unknown layer or group 'conv9' in frozen.*conv1"):
        trace_groups(plain(), frozen=['conv9'])


def with_lambda():
    image = keras.Input((4, 4, 3), name='image')
    x = layers.Conv2D(5, 1, name='before')(image)
    x = layers.Lambda(lambda t: t * 2, name='double')(x)
    x = layers.Conv2D(7, 1, name='after')(x)
    return keras.Model(image, layers.Dense(2, name='logits')(x))


def test_unknown_layers_freeze_or_raise():
    groups = trace_groups(with_lambda())
    assert dict(groups) == {'after': 7}
    reason = "it touches layer 'double' (Lambda), which has no rule"
    assert groups.unprunable['before'] == f"group 'before' is not prunable: {reason}"
    assert groups.unprunable['double'] == f"group 'double' is not prunable: {reason}"
    with pytest.raises(UnsupportedLayerError, match=r"Layer 'double' \(Lambda\) is not supported"):
        trace_groups(with_lambda(), unknown_layers='raise')
    with pytest.raises(ValueError, match="'freeze' or 'raise', received 'skip'"):
        trace_groups(with_lambda(), unknown_layers='skip')


def test_nested_models_are_unfolded_and_operations_pass():
    inner = keras.Sequential([keras.Input((4, 4, 5)), layers.Conv2D(6, 1, name='a')], name='inner')
    image = keras.Input((4, 4, 3), name='image')
    x = inner(layers.Conv2D(5, 1, name='a')(image))
    x = layers.Conv2D(7, 1, name='b')(x) * 2.
    groups = trace_groups(keras.Model(image, layers.Dense(2, name='logits')(x)))
    assert dict(groups) == {'a': 5, 'inner/a': 6, 'b': 7}
    assert groups.groups['inner/a'].consumers == ('b',)


def test_a_nested_subclassed_model_is_opened():
    image = keras.Input((4, 4, 3), name='image')
    x = Subclassed()(layers.Conv2D(5, 1, name='a')(image))
    groups = trace_groups(keras.Model(image, layers.Dense(2, name='logits')(x)))
    assert dict(groups) == {'a': 5, 'mine/dense': 2}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name='mine')
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize('model, error, message', [
    (Subclassed, ValueError, r"model 'mine' \(Subclassed\) is a subclassed model"),
    (lambda: keras.Sequential([layers.Dense(2)], name='seq'), ValueError, "'seq' is not built"),
    (lambda: 'resnet20', TypeError, 'must be a Keras 3 model .* received builtins.str'),
])
def test_models_that_cannot_be_traced(model, error, message):
    with pytest.raises(error, match=message):
        trace_groups(model())


def changed_dense(change):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name='dense'),
                              layers.Dense(2, name='odd')])
    change(model.get_layer('odd'))
    return model


@pytest.mark.parametrize('change, message', [
    (lambda layer: layer.quantize('int8'), r"'odd' is quantized \(int8\): give the model as it wa"),
    (lambda layer: layer.enable_lora(1), r"'odd' has LoRA weights: model.save_weights\(\)")])
def test_layers_with_other_weights_than_their_class_are_refused(change, message, tmp_path):
    model = changed_dense(change)
    with pytest.raises(ValueError, match=message):
        trace_groups(model)
    if 'LoRA' in message:  # what it says to do
        model.get_layer('odd').lora_kernel_b.assign([[1., 2.]])
        model.save_weights(tmp_path / 'merged.weights.h5')
        merged = changed_dense(lambda _: None)
        merged.load_weights(tmp_path / 'merged.weights.h5')
        x = np.ones((1, 8))
        np.testing.assert_allclose(merged(x), model(x), rtol=1e-5)
        assert dict(trace_groups(merged)) == {'dense': 4}


def test_sequential_models_are_traced():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(5, 1, name='conv'),
                              layers.Flatten(), layers.Dense(2, name='logits')])
    assert dict(trace_groups(model)) == {'conv': 5}


def test_to_json_is_plain():
    groups = trace_groups(residual()).without_residual()
    text = json.loads(json.dumps(groups.to_json()))
    assert text['prunable'] == {'s1_conv1': 7, 's2_conv1': 13, 's3_conv1': 19}
    stem = next(row for row in text['groups'] if row['name'] == 'stem')
    assert stem['residual'] and stem['width'] == 5 and 'couples several' in stem['reason']


def test_the_output_is_the_reason_whatever_activation_it_has():
    image = keras.Input((4, 4, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 1, name='a')(image))
    groups = trace_groups(keras.Model(image, layers.Dense(2, 'softmax', name='scores')(x)))
    assert dict(groups) == {'a': 5}
    assert groups.unprunable['scores'].endswith("it feeds the model's output")
