"""Steps of a TFLite file, each a file of its own: one after another the model, alone resizable."""
import tfprune  # noqa: F401  (before tensorflow and keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.export.flatbuffer import smallest_file
from tfprune.export.interpreter import open_interpreter
from tfprune.export.operator_cost import tflite_cost
from tfprune.export.operators import read_steps
from tfprune.export.tflite import convert
from tfprune.testing import randomize

L = keras.layers


def chain():
    """One operator after another: prime widths, a padded convolution, a depthwise one, a mean."""
    inputs = keras.Input((10, 8, 3), name='image')
    x = L.Conv2D(5, 3, padding='same', activation='relu', name='first')(inputs)
    x = L.Conv2D(7, 3, strides=2, name='padded')(L.ZeroPadding2D(1, name='pad')(x))
    x = L.ReLU(name='relu')(L.BatchNormalization(name='norm')(x))
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name='depthwise')(x)
    x = L.Conv2D(11, 1, activation='tanh', name='last')(x)
    x = L.GlobalAveragePooling2D(name='mean')(x)
    return randomize(keras.Model(inputs, L.Dense(2, name='logits')(x), name='chain'))


@pytest.fixture(scope='module')
def model():
    return chain()


@pytest.fixture(scope='module')
def content(model):
    return convert(model)


@pytest.fixture(scope='module')
def steps(content):
    return read_steps(content)


def run(content, *inputs):
    interpreter = open_interpreter(content)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        assert tuple(detail['shape']) == value.shape
        interpreter.set_tensor(detail['index'], value.astype(detail['dtype']))
    interpreter.invoke()
    return [interpreter.get_tensor(d['index']) for d in interpreter.get_output_details()]


def test_a_step_is_what_the_runtime_computes_at_once(steps):
    assert [(step.kind, step.in_width, step.out_width, step.scaling) for step in steps] == [
        ('CONV_2D', 3, 5, 'both'), ('PAD+CONV_2D', 5, 7, 'both'),
        ('DEPTHWISE_CONV_2D', 7, 14, 'in'), ('CONV_2D', 14, 11, 'both'), ('TANH', 11, 11, 'in'),
        ('MEAN', 11, 11, 'in'), ('FULLY_CONNECTED', 11, 2, 'both')]


def test_one_after_another_they_are_the_model(content, steps):
    image = np.random.default_rng(0).normal(size=(1, 10, 8, 3)).astype(np.float32)
    value = image
    for step in steps:
        value, = run(step.alone(), value)
    np.testing.assert_allclose(value, run(content, image)[0], rtol=1e-5, atol=1e-6)


def test_copies_compute_the_same_side_by_side(steps):
    image = np.random.default_rng(0).normal(size=(1, 10, 8, 3)).astype(np.float32)
    alone, = run(steps[0].alone(), image)
    copies = run(steps[0].alone(copies=3), image)
    assert len(copies) == 3
    for copy in copies:
        np.testing.assert_array_equal(copy, alone)


# Places · kernel · in · out: 10x8 and 5x4 padded, 3x2 depthwise of multiplier 2, 3x2.
@pytest.mark.parametrize('place, widths, macs', [
    (0, (4, 6), 80 * 9 * 4 * 6), (1, (1, 13), 20 * 9 * 13), (2, (10, None), 6 * 9 * 20),
    (3, (17, 1), 6 * 17), (6, (19, 23), 19 * 23)])
def test_at_other_widths(steps, place, widths, macs):
    file = steps[place].alone(*widths)
    assert tflite_cost(file).macs == macs
    assert tflite_cost(steps[place].alone(*widths, copies=4)).macs == 4 * macs
    shape = open_interpreter(file).get_input_details()[0]['shape']
    assert shape[-1] == widths[0]
    run(file, np.zeros(shape, np.float32))


def test_signatures_are_equal_where_only_widths_differ():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(5, 3, padding='same', name='a')(inputs)
    x = L.Conv2D(7, 3, padding='same', activation='relu', name='b')(x)
    x = L.Conv2D(7, 3, padding='same', strides=2, name='c')(x)
    x = L.Conv2D(7, 3, padding='same', name='d')(x)
    a, b, c, d = (step.signature for step in read_steps(convert(keras.Model(
        inputs, L.Conv2D(2, 1, name='e')(x)))) if '3x3' in step.signature)
    assert a == b and len({a, c, d}) == 3


def test_channels_of_a_padded_shortcut():
    """Zeros behind the channels, as many as the widths ask for."""
    module = tf.Module()
    module.call = tf.function(lambda x: tf.pad(x, [[0, 0], [0, 0], [0, 0], [1, 2]]),
                              input_signature=[tf.TensorSpec([1, 4, 4, 5])])
    step, = read_steps(tf.lite.TFLiteConverter.from_concrete_functions(
        [module.call.get_concrete_function()], module).convert())
    assert (step.kind, step.in_width, step.out_width, step.scaling) == ('PAD', 5, 8, 'both')
    made, = run(step.alone(3, 7), np.ones((1, 4, 4, 3), np.float32))
    assert made[0, 0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_what_cannot_be_resized_says_so():
    inputs = keras.Input((2, 2, 4))
    x = L.Flatten()(L.Concatenate()([L.Conv2D(3, 1)(inputs), L.Conv2D(5, 1)(inputs)]))
    steps = read_steps(convert(keras.Model(inputs, L.Dense(2)(x))))
    joined, = (step for step in steps if step.kind == 'CONCATENATION')
    assert (joined.scaling, joined.out_width) == ('linear', 8)
    assert len(run(joined.alone(), np.ones((1, 2, 2, 3)), np.ones((1, 2, 2, 5)))) == 1
    with pytest.raises(ValueError, match='CONCATENATION .*cannot be made at other widths'):
        joined.alone(3, 9)


@pytest.mark.parametrize('kind', ['float16', 'dynamic', 'int8'])
def test_quantized_files(model, kind):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == 'float16':
        converter.target_spec.supported_types = [tf.float16]
    if kind == 'int8':
        images = np.random.default_rng(0).normal(size=(4, 1, 10, 8, 3)).astype(np.float32)
        converter.representative_dataset = lambda: ([image] for image in images)
    steps = read_steps(converter.convert())
    products = [step for step in steps if step.macs_per_pair]
    assert [step.out_width for step in products if 'DEPTH' not in step.kind] == [5, 7, 11, 2]
    for step in products:
        if step.scaling == 'both':
            shape = open_interpreter(step.alone(6, 9)).get_input_details()[0]['shape']
            made, = run(step.alone(6, 9), np.zeros(shape))
            assert shape[-1] == 6 and made.shape[-1] == 9


def test_the_smallest_file_runs():
    assert run(smallest_file(), np.array([[-1.5]], np.float32))[0].tolist() == [[0]]
    with pytest.raises(ValueError, match='not a TFLite file'):
        read_steps(b'nothing', 'x.tflite')
