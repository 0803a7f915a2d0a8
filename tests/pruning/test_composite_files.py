"""What becomes of composite layers: plain models in a file, and their residual blocks."""
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from cases import slow_but
from composite_layers import MODELS, Composite, ConvNext
from tfprune.pruning.depth import remove_blocks, removable_blocks
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, max_relative_difference, randomize, recount

ELSEWHERE = '''
import sys, keras, numpy as np, tensorflow as tf
model = keras.models.load_model('pruned.keras')
x = np.load('x.npy')
y = model(x, training=False)
model.export('saved', verbose=False)
converter = tf.lite.TFLiteConverter.from_saved_model('saved')
lite = tf.lite.Interpreter(model_content=converter.convert())
lite.allocate_tensors()
answers = []
for image in x:
    lite.set_tensor(lite.get_input_details()[0]['index'], image[None])
    lite.invoke()
    answers.append(lite.get_tensor(lite.get_output_details()[0]['index'])[0])
names = {detail['op_name'] for detail in lite._get_ops_details()}
np.savez('y.npz', keras=y, lite=answers, operators=sorted(names))
copy = keras.models.clone_model(model)
copy.set_weights(model.get_weights())
np.testing.assert_array_equal(copy(x, training=False), y)
model.compile('sgd', keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, np.arange(len(x)) % 3, verbose=0)
assert all(np.isfinite(weight).all() for weight in model.get_weights())
assert not {'tfprune', 'composite_layers'} & set(sys.modules)
'''


def pruned_to_half(model):
    groups = trace_groups(model)
    masks = {name: np.arange(width) % 2 == 0 for name, width in groups.items()}
    return prune_model(model, groups, masks)


def images(count=4):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype('float32')


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(MODELS))
def test_the_file_loads_without_the_class(name, tmp_path):
    pruned, x = pruned_to_half(randomize(MODELS[name][0]())), images()
    pruned.save(tmp_path / 'pruned.keras')
    np.save(tmp_path / 'x.npy', x)
    done = subprocess.run([sys.executable, '-c', ELSEWHERE], cwd=tmp_path, capture_output=True,
                          text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found, expected = np.load(tmp_path / 'y.npz'), pruned(x, training=False)
    assert max_relative_difference(expected, found['keras']) <= 1e-6
    assert max_relative_difference(expected, found['lite']) <= 1e-5
    # Weights are looked up at constants.
    assert not {'SUM', 'LESS', 'SELECT'} & set(found['operators'].tolist())


@pytest.mark.parametrize('name', slow_but(sorted(MODELS), sorted(MODELS)[::4]))
def test_it_can_be_pruned_again(name):
    once = pruned_to_half(randomize(MODELS[name][0]()))
    again = trace_groups(once)
    assert dict(again) == {group: (width + 1) // 2 for group, width in MODELS[name][1].items()}
    found = check_promises(once)
    assert found.hold(), found


def two_blocks():
    image = keras.Input((8, 8, 3), name='image')
    x = layers.Conv2D(5, 3, padding='same', name='stem')(image)
    x = ConvNext(5, name='second')(ConvNext(5, name='first')(x))
    x = layers.GlobalAveragePooling2D(name='pool')(x)
    return randomize(keras.Model(image, layers.Dense(3, name='logits')(x)))


def test_what_no_mask_touches_is_copied_whole():
    model = two_blocks()
    groups = trace_groups(model)
    pruned = prune_model(model, groups, {'first/up': np.arange(10) < 3})
    assert type(pruned.get_layer('second')) is ConvNext
    assert isinstance(pruned.get_layer('first'), keras.Model)
    for a, b in zip(model.get_layer('second').get_weights(),
                    pruned.get_layer('second').get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert pruned.get_layer('first').get_layer('up').units == 3
    assert max_relative_difference(model(images()), prune_model(model, groups, {})(images())) == 0


def test_a_class_that_cannot_be_copied_becomes_a_plain_model():
    class Local(Composite):
        def __init__(self, width, activation):
            super().__init__(width, name='local')
            self.conv, self.activation = layers.Conv2D(width, 1), activation

        def call(self, inputs):
            return self.activation(self.conv(inputs))

        def get_config(self):
            raise NotImplementedError

    image = keras.Input((8, 8, 3), name='image')
    x = layers.GlobalAveragePooling2D()(Local(5, keras.ops.relu)(image))
    model = randomize(keras.Model(image, layers.Dense(3)(x)))
    copy = prune_model(model, trace_groups(model), {})
    assert isinstance(copy.get_layer('local'), keras.Model)
    assert max_relative_difference(model(images()), copy(images())) == 0


def test_blocks_in_composite_layers_are_removable():
    model = two_blocks()
    blocks = removable_blocks(model)
    assert list(blocks) == ['first/add', 'second/add']
    assert blocks['first/add'].layers == tuple(f'first/{name}' for name in (
        'gamma', 'depthwise', 'norm', 'up', 'dropout', 'down', 'multiply', 'add'))
    reduced = remove_blocks(model, 'first/add')
    assert type(reduced.get_layer('second')) is ConvNext
    assert recount(reduced)[1] == model.count_params() - model.get_layer('first').count_params()
    first = model.get_layer('first')
    gamma = np.array(first.gamma)
    first.gamma.assign(0 * gamma)
    assert max_relative_difference(model(images()), reduced(images())) <= 1e-6
    first.gamma.assign(gamma)
    without = remove_blocks(model, ['first/add', 'second/add'])
    assert recount(without)[1] == 3 * 9 * 5 + 5 + 5 * 3 + 3


def test_a_block_within_a_stage():
    model = randomize(MODELS['stage'][0]())
    assert list(removable_blocks(model)) == ['stage/blocks_0/add', 'stage/blocks_1/add']
    reduced = remove_blocks(model, 'stage/blocks_1/add')
    model.get_layer('stage').blocks[1].gamma.assign(np.zeros(5))
    assert max_relative_difference(model(images()), reduced(images())) <= 1e-6
