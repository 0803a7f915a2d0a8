"""Quantization-aware fine-tuning: it trains, the file is all integers and as accurate."""
import itertools

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.data.loading import load_data
from tfprune.export import quantization_aware as qat
from tfprune.export.interpreter import open_interpreter
from tfprune.export.quantizable import quantizable
from tfprune.models.building import build_model
from tfprune.training.distribution import make_strategy
from tfprune.training.step import NonFiniteLossError, Optimization, StopTraining, Trainer

BATCH = 64


@pytest.fixture(scope='module', autouse=True)
def deterministic():
    tf.config.experimental.enable_op_determinism()


@pytest.fixture(scope='module')
def digits():
    return load_data('digits', seed=0, reward_images=200)


@pytest.fixture(scope='module')
def trained(digits):
    """A ResNet-8 after a few epochs on the digits."""
    keras.utils.set_random_seed(0)
    strategy = make_strategy()
    with strategy.scope():
        model = build_model('resnet8', image_shape=digits.image_shape, num_classes=10,
                            mean=digits.mean, std=digits.std)
    trainer = Trainer(model, strategy, Optimization(global_batch_size=BATCH))
    for epoch, rate in enumerate((.05, .1, .1, .05, .02)):
        trainer.train_epoch(digits.train_batches(epoch, BATCH), lambda step, rate=rate: rate)
    return model


@pytest.fixture(scope='module')
def tuned(trained, digits):
    """(quantized model, means of its epochs, TFLite file)."""
    rows = []
    quantized = qat.quantize_aware(
        trained, lambda epoch: digits.train_batches(epoch, BATCH),
        qat.QuantizationAware(epochs=3, learning_rate=.01),
        on_epoch=lambda epoch, means: rows.append(means))
    return quantized, rows, qat.convert_int8_qat(quantized)


def run(content, images):
    """Outputs of a TFLite file, on one thread."""
    interpreter = open_interpreter(content, threads=1)
    source, = interpreter.get_input_details()
    interpreter.resize_tensor_input(source['index'], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source['index'], images.astype(source['dtype']))
    interpreter.invoke()
    sink, = interpreter.get_output_details()
    return interpreter.get_tensor(sink['index'])


def operators(content):
    """[(type, dtypes of its inputs and outputs, dtype and scales of its weights)]."""
    interpreter = open_interpreter(content, optimized=False)
    interpreter.allocate_tensors()
    tensors = {row['index']: row for row in interpreter.get_tensor_details()}
    return [(row['op_name'], {np.dtype(tensors[index]['dtype']).name
                              for index in itertools.chain(row['inputs'], row['outputs'])
                              if index >= 0}, [tensors[index] for index in row['inputs'][1:2]])
            for row in interpreter._get_ops_details()]


def assert_integer(content, io='float32'):
    """Everything between the ends is int8 (biases int32)."""
    rows = operators(content)
    ends = [row for row in rows if 'float32' in row[1]]
    assert [kind for kind, _, _ in ends] == (['QUANTIZE', 'DEQUANTIZE'] if io == 'float32' else [])
    for kind, dtypes, weights in rows:
        if kind in ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED'):
            assert dtypes == {'int8', 'int32'} and weights[0]['dtype'] == np.int8, kind


@pytest.mark.slow
def test_it_trains(tuned):
    _, rows, _ = tuned
    losses = [row['cross_entropy'] for row in rows]
    assert losses[-1] < 0.7 * losses[0] and rows[-1]['accuracy'] > rows[0]['accuracy']


@pytest.mark.slow
def test_the_file_is_all_integers(tuned):
    _, _, content = tuned
    assert_integer(content)
    kernels = [weights[0] for kind, _, weights in operators(content) if kind == 'CONV_2D']
    assert len(kernels) == 7
    for kernel in kernels:  # one scale a channel
        assert len(kernel['quantization_parameters']['scales']) == kernel['shape'][0]


@pytest.mark.slow
def test_the_file_takes_each_pixel_as_it_is(tuned):
    interpreter = open_interpreter(tuned[2], optimized=False)
    interpreter.allocate_tensors()
    first = interpreter._get_ops_details()[0]
    pixels = [row for row in interpreter.get_tensor_details()
              if row['index'] == first['outputs'][0]]
    assert first['op_name'] == 'QUANTIZE' and pixels[0]['quantization'] == (1.0, -128)


@pytest.mark.slow
def test_accuracy_is_that_of_float(trained, tuned, digits):
    quantized, _, content = tuned
    (images, labels), = digits.test_batches(360).as_numpy_iterator()
    images = images.astype(np.float32)
    emulated = np.argmax(quantized(images, training=False), -1)
    integer = np.argmax(run(content, images), -1)
    dense = np.argmax(trained(images, training=False), -1)
    assert np.mean(integer == emulated) >= 0.99
    assert np.mean(integer == labels) >= np.mean(dense == labels) - 0.01
    assert np.mean(integer == labels) > 0.9


@pytest.mark.slow
def test_a_softmax_may_follow(tuned, digits):
    images = next(iter(digits.test_batches(50)))[0].numpy()
    content = qat.convert_int8_qat(tuned[0], softmax=True, output_name='probabilities')
    assert_integer(content)
    found = run(content, images)
    assert found.min() >= 0 and found.sum(-1) == pytest.approx(1, abs=0.03)
    assert np.mean(found.argmax(-1) == run(tuned[2], images).argmax(-1)) > 0.97


@pytest.mark.slow
def test_any_batch(tuned):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1))
    whole = run(tuned[2], images)
    np.testing.assert_array_equal(whole[2:3], run(tuned[2], images[2:3]))


def various(image):
    """What needs a recipe beside convolution, batch norm and ReLU; logits as a softmax."""
    x = layers.Rescaling([1 / 60, 1 / 64, 1 / 68], -2.)(image)
    x = layers.Conv2D(6, 3, padding='same', activation='swish')(x)
    y = layers.Conv2D(6, 1)(layers.ReLU()(layers.BatchNormalization()(x)))
    s = layers.GlobalAveragePooling2D(keepdims=True)(y)
    s = layers.Conv2D(6, 1, activation='sigmoid')(layers.Conv2D(3, 1, activation='relu')(s))
    x = layers.Add()([x, layers.Multiply()([y, s])])
    x = layers.LeakyReLU()(layers.SeparableConv2D(5, 3, name='separable')(x))
    x = layers.Concatenate()([x, layers.ReLU(6.)(layers.DepthwiseConv2D(3, padding='same')(x))])
    x = layers.Flatten()(layers.Dropout(.2)(layers.AveragePooling2D(2)(x)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(8)(x)))
    return layers.Dense(4, activation='softmax')(x)


@pytest.fixture(scope='module')
def examples():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (96, 8, 8, 3)).astype(np.uint8)
    labels = (images.mean((1, 2)).argmax(-1) + (images[:, 4, 4, 0] > 250)).astype(np.int32)
    return images, labels


@pytest.fixture(scope='module')
def various_model():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    return keras.Model(image, various(image))


def batches(examples, epoch):
    return tf.data.Dataset.from_tensor_slices(examples).shuffle(96, seed=epoch).batch(32)


@pytest.mark.slow
def test_every_recipe_becomes_integers(various_model, examples):
    quantized = qat.quantize_aware(various_model, lambda epoch: batches(examples, epoch),
                                   qat.QuantizationAware(epochs=1, learning_rate=1e-4))
    content = qat.convert_int8_qat(quantized, io='uint8')
    assert_integer(content, 'uint8')
    source, = open_interpreter(content).get_input_details()
    assert source['dtype'] == np.uint8 and source['quantization'] == (1.0, 0)
    images = examples[0].astype(np.float32)
    emulated = quantized(images, training=False).numpy()
    np.testing.assert_allclose(run(content, images) / 256, emulated, atol=0.02)
    # The rounding of a calibrated model moves probabilities little.
    np.testing.assert_allclose(emulated, various_model(images, training=False), atol=0.05)


def small():
    keras.utils.set_random_seed(3)
    return keras.Sequential([
        keras.Input((8, 8, 3)), layers.Rescaling(1 / 127.5, -1.), layers.Conv2D(4, 3),
        layers.BatchNormalization(), layers.ReLU(), layers.Dropout(.3), layers.Flatten(),
        layers.Dense(4)])


@pytest.mark.slow
def test_a_function_of_its_arguments_alone(examples):
    settings = qat.QuantizationAware(epochs=2, learning_rate=.01, seed=5)
    model = small()
    before = [value.copy() for value in model.get_weights()]
    first, second = (qat.quantize_aware(model, lambda epoch: batches(examples, epoch), settings)
                     for _ in range(2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_layers_of_tf_keras_heed_the_global_seed_afterwards(tuned):
    """Agents of later runs in this process: tf_keras's own set_random_seed would end that."""
    import tf_keras
    kernels = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        layer = tf_keras.layers.Dense(3)
        layer.build((None, 4))
        kernels.append(layer.kernel.numpy())
    np.testing.assert_array_equal(*kernels)


def test_stops_when_asked(examples):
    asked = itertools.count()
    with pytest.raises(StopTraining):
        qat.quantize_aware(small(), lambda epoch: batches(examples, epoch),
                           should_stop=lambda: next(asked) == 4)
    assert next(asked) == 5


def test_a_loss_that_is_not_finite_is_named(examples):
    with pytest.raises(NonFiniteLossError, match=r'^quantization-aware epoch 1: .* (step|finite)'):
        qat.quantize_aware(small(), lambda epoch: batches(examples, epoch),
                           qat.QuantizationAware(epochs=1, learning_rate=1e30))


def twice(x):
    layer = layers.Conv2D(3, 3, padding='same', name='culprit')
    return layer(layer(x))


@pytest.mark.parametrize('function, message', [
    (layers.LayerNormalization(name='culprit'), r'\(LayerNormalization\) has no form'),
    (layers.Conv2D(3, 1, activation='elu', name='culprit'), r"\(Conv2D\) has activation 'elu'"),
    (twice, r'\(Conv2D\) is called 2 times'),
    (lambda x: layers.BatchNormalization(name='culprit')(layers.GlobalMaxPooling2D()(x)),
     r'\(BatchNormalization\) works on no image'),
    (layers.Resizing(4, 4, name='culprit'), r'\(Resizing\) has no counterpart in tf_keras'),
])
def test_a_layer_without_integer_form_is_named(function, message):
    image = keras.Input((8, 8, 3))
    x = function(image)
    x = layers.Flatten()(x) if len(x.shape) == 4 else x
    with pytest.raises(ValueError, match=f"^layer 'culprit' {message}[^\n]*$"):
        quantizable(keras.Model(image, layers.Dense(2)(x)))


def test_bad_settings():
    with pytest.raises(ValueError, match='epochs must be at least 1; received 0'):
        qat.QuantizationAware(epochs=0)
    with pytest.raises(ValueError, match="Unknown io 'int4'. .* Available: float32, int8, uint8"):
        qat.convert_int8_qat(None, io='int4')
