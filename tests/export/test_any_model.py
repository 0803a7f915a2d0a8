"""Models that are no picture classifiers: every form answers as the model does, by its names."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.export import exporter as export, interpreter, tflite, warmup
from tfprune.export.base import Signature, TFLiteOptions
from tfprune.export.latency import tflite_latency_ms
from tfprune.export.operator_cost import tflite_cost
from tfprune.export.parity import ParityError, measure_parity

import prediction_logs
from cases import fast_but

L = keras.layers
FLOATS = ('keras', 'saved_model', 'tflite', 'tflite_float16', 'tflite_dynamic')
N = 6


def segmentation():
    """[8, 8, 3] -> a map [8, 8, 4], coarse and fine features joined."""
    image = keras.Input((8, 8, 3), name='photo')
    fine = L.Conv2D(5, 3, padding='same', activation='relu')(L.Rescaling(1 / 255)(image))
    coarse = L.Conv2D(7, 3, padding='same', activation='relu')(L.MaxPooling2D()(fine))
    both = L.Concatenate()([fine, L.UpSampling2D()(coarse)])
    return keras.Model(image, L.Conv2D(4, 1, name='mask')(both), name='unet')


def two_inputs(struct):
    """zeta - alpha and its half-wave: swapped inputs change the sign. Not in alphabetical order."""
    zeta, alpha = keras.Input((5,), name='zeta'), keras.Input((5,), name='alpha')
    difference = L.Subtract(name='later')([zeta, alpha])
    sums = L.Dense(1, name='early', kernel_initializer='ones')(L.ReLU()(difference))
    if struct is dict:
        return keras.Model({'zeta': zeta, 'alpha': alpha}, {'b': difference, 'a': sums}, name='two')
    return keras.Model(struct([zeta, alpha]), struct([difference, sums]), name='two')


def sequence():
    x = keras.Input((12, 3), name='signal')
    y = L.Conv1D(6, 3, padding='same', activation='relu')(x)
    return keras.Model(x, L.Conv1D(4, 3, name='steps')(y), name='sequence')


def table():
    return keras.Sequential([keras.Input((9,), name='row'), L.Dense(7, activation='relu'),
                             L.Dense(1, name='price')], name='table')


def tokens():
    x = keras.Input((10,), dtype='int32', name='tokens')
    y = L.GlobalAveragePooling1D()(L.Embedding(20, 6)(x))
    return keras.Model(x, L.Dense(3, name='topic')(y), name='text')


def tokens_and_numbers():
    """Inputs of two types."""
    words, row = keras.Input((4,), dtype='int32', name='words'), keras.Input((5,), name='row')
    y = L.Concatenate()([L.Flatten()(L.Embedding(8, 3)(words)), L.Dense(4)(row)])
    return keras.Model([words, row], L.Dense(2, name='out')(y), name='mixed')


def unnamed():
    """Inputs without names, one of truth values: x where it holds, else -y."""
    holds, x, y = keras.Input((5,), dtype='bool'), keras.Input((5,)), keras.Input((5,))
    return keras.Model([holds, x, y], keras.ops.where(holds, x, -y), name='unnamed')


def recurrent(layer):
    x = keras.Input((5, 3), name='signal')
    return keras.Model(x, L.Dense(2, name='out')(layer(x)), name='recurrent')


MODELS = {
    'segmentation': segmentation, 'list': lambda: two_inputs(list),
    'tuple': lambda: two_inputs(tuple), 'dict': lambda: two_inputs(dict), 'sequence': sequence,
    'table': table, 'tokens': tokens, 'mixed': tokens_and_numbers, 'unnamed': unnamed,
    'lstm': lambda: recurrent(L.LSTM(4)), 'gru': lambda: recurrent(L.GRU(4)),
    'bidirectional': lambda: recurrent(L.Bidirectional(L.LSTM(3)))}
# Of layers and structures that others have.
ALIKE = ('gru', 'bidirectional', 'list', 'tuple')


def built(name):
    keras.utils.set_random_seed(3)
    return MODELS[name]()


def data_of(model, count=N):
    """Examples by name: bytes of pictures, normal floats, integers 0 … 7, truth values."""
    random, found = np.random.default_rng(5), {}
    for name, (shape, dtype) in Signature.of(model).inputs.items():
        found[name] = (random.integers(0, 256, (count, *shape)).astype(np.float32)
                       if len(shape) == 3 else random.integers(0, 8, (count, *shape)).astype(dtype)
                       if 'int' in dtype else random.integers(0, 2, (count, *shape)).astype(dtype)
                       if dtype == 'bool' else random.normal(size=(count, *shape)).astype(dtype))
    return found


def expected(model, data):
    """{output: array} of the Keras model, called as its structure is."""
    inputs = list(data.values())
    outputs = model(inputs[0] if len(inputs) == 1 else
                    keras.tree.pack_sequence_as(model.input, inputs))
    return dict(zip(Signature.of(model).outputs, map(np.asarray, keras.tree.flatten(outputs))))


def by_name(model, answer):
    return answer if isinstance(answer, dict) else dict(zip(Signature.of(model).outputs, [answer]))


def check_close(found, wanted, tolerance):
    """Relative to the largest value of each output."""
    assert set(found) == set(wanted)
    for name, output in wanted.items():
        assert found[name].shape == output.shape and found[name].dtype == np.float32
        assert np.all(np.isfinite(found[name]))
        np.testing.assert_allclose(found[name], output, atol=tolerance * np.abs(output).max(),
                                   err_msg=name)


@pytest.mark.parametrize('name', fast_but(MODELS, ALIKE))
def test_every_form_answers_as_the_model(name, tmp_path):
    model = built(name)
    data = data_of(model)
    report = export.export_model(model, tmp_path / 'export', formats=FLOATS,
                                 representative_data=data)
    wanted = expected(model, data)
    signature = Signature.of(model)
    for form, path in report.paths.items():
        artifact = export.FORMATS[form].open(path)
        assert list(artifact.signature.inputs) == list(signature.inputs), form
        assert artifact.signature == signature, form
        for examples in (data, dict(reversed(data.items())), list(data.values()),
                         tuple(data.values())):
            check_close(by_name(model, artifact(examples)), wanted,
                        0.02 if form in ('tflite_float16', 'tflite_dynamic') else 1e-5)
    classes = name in ('segmentation', 'tokens', 'mixed', 'lstm', 'gru', 'bidirectional')
    assert all((pair.agreement is not None) == (classes or len(data) > 1)
               for pair in report.parity.pairs)


@pytest.mark.parametrize('name', fast_but(MODELS, ALIKE))
def test_int8_is_close_and_takes_what_the_float_file_takes(name, tmp_path):
    model = built(name)
    data = data_of(model, 40)
    report = export.export_model(model, tmp_path / 'export', formats=['tflite_int8'],
                                 representative_data=data)
    artifact = export.FORMATS['tflite_int8'].open(report.paths['tflite_int8'])
    assert artifact.signature == Signature.of(model)
    check_close(by_name(model, artifact(data)), expected(model, data), 0.1)
    types = {np.dtype(detail['dtype']).name for detail in interpreter.open_interpreter(
        report.paths['tflite_int8'].read_bytes()).get_output_details()}
    assert types == ({'uint8'} if name == 'segmentation' else {'float32'})


@pytest.mark.parametrize('name', ['list', 'table', 'mixed', 'lstm'])
def test_int8_of_integers_outside(name, tmp_path):
    """Real numbers become int8; tokens stay what they are."""
    model = built(name)
    data = data_of(model, 40)
    content = tflite.convert(model, 'tflite_int8', images=data, options=TFLiteOptions(io='int8'))
    details = interpreter.open_interpreter(content).get_input_details()
    assert [np.dtype(detail['dtype']).name for detail in details] == [
        'int32' if array.dtype == np.int32 else 'int8' for array in data.values()]
    (tmp_path / 'm.tflite').write_bytes(content)
    artifact = tflite.open_file(tmp_path / 'm.tflite')
    assert artifact.signature == Signature.of(model)
    check_close(by_name(model, artifact(list(data.values()))), expected(model, data), 0.1)


@pytest.mark.parametrize('name', ['list', 'dict', 'mixed', 'lstm'])
def test_tflite_of_any_batch(name, tmp_path):
    model = built(name)
    data = data_of(model)
    (tmp_path / 'm.tflite').write_bytes(tflite.convert(model, options=TFLiteOptions(batch=0)))
    artifact = tflite.open_file(tmp_path / 'm.tflite')
    check_close(by_name(model, artifact(data)), expected(model, data), 1e-5)
    assert not any(getattr(layer, 'unroll', False) for layer in model.layers)  # as it was


@pytest.mark.parametrize('struct', [list, tuple, pytest.param(dict, marks=pytest.mark.slow)])
def test_two_inputs_in_files_opened_without_tfprune(struct, tmp_path):
    """later = zeta - alpha = 3, early = 5 · 3; swapped it would be -3 and 0."""
    report = export.export_model(two_inputs(struct), tmp_path / 'export')
    inputs = {'zeta': np.full((1, 5), 4, np.float32), 'alpha': np.ones((1, 5), np.float32)}
    wanted = {'later': [[3] * 5], 'early': [[15]]}
    served = tf.saved_model.load(str(report.paths['saved_model'])).signatures
    assert list(served) == ['serving_default']
    answer = served['serving_default'](**{name: tf.constant(x) for name, x in inputs.items()})
    lite = interpreter.open_interpreter(report.paths['tflite'].read_bytes())
    order = [tensor.name for tensor in two_inputs(struct).inputs]
    assert all(name in detail['name'] for name, detail in zip(order, lite.get_input_details()))
    for found in (answer, lite.get_signature_runner()(**inputs)):
        assert {name: np.asarray(x).tolist() for name, x in found.items()} == wanted
    (name, signature, request), = prediction_logs.read_requests(
        report.paths['saved_model'] / warmup.WARMUP_FILE)
    assert (name, signature) == ('two', 'serving_default') and set(request) == set(inputs)
    assert all(not np.any(array) and array.shape == (1, 5) for array in request.values())


def test_a_map_is_served_of_bytes_too(tmp_path):
    model = built('segmentation')
    data = data_of(model)
    report = export.export_model(model, tmp_path / 'export', formats=['saved_model'])
    served = tf.saved_model.load(str(report.paths['saved_model'])).signatures
    assert sorted(served) == ['serve_uint8', 'serving_default']
    answer = served['serve_uint8'](photo=tf.constant(data['photo'].astype(np.uint8)))
    check_close({'mask': answer['mask'].numpy()}, expected(model, data), 1e-5)
    requests = prediction_logs.read_requests(report.paths['saved_model'] / warmup.WARMUP_FILE)
    assert [signature for _, signature, _ in requests] == ['serving_default', 'serve_uint8']


@pytest.mark.parametrize('name', ['dict', 'mixed', 'lstm'])
def test_without_examples_random_ones_are_compared(name, tmp_path):
    report = export.export_model(built(name), tmp_path / 'export')
    assert (report.parity.source, report.parity.images) == ('random', export.PARITY_IMAGES)
    assert tflite_latency_ms(report.paths['tflite'], repetitions=2).median > 0


def test_floats_that_are_indices_are_valid_ones(tmp_path):
    """An Embedding of a float input refuses what is drawn from a normal distribution."""
    x = keras.Input((10,))
    model = keras.Model(x, L.Dense(1)(L.Flatten()(L.Embedding(3, 2)(x))))
    report = export.export_model(model, tmp_path / 'export')
    assert tflite_latency_ms(report.paths['tflite'], repetitions=2).median > 0


def test_costs_of_a_recurrent_file():
    """Step by step all is counted: 5 steps of 3·16 + 4·16, and 4·2; a loop is listed."""
    model = built('lstm')
    data = data_of(model)
    unrolled = tflite_cost(tflite.convert(model, 'tflite_int8', images=data))
    assert unrolled.macs == 5 * (3 * 16 + 4 * 16) + 4 * 2 - 4 * 16  # the first state is 0
    assert [kind.split()[0] for kind in tflite_cost(tflite.convert(model)).uncounted] == ['WHILE']


def test_names_are_unique_and_fit_signatures():
    image = keras.Input((4,), name='my row')
    same = L.Dense(2, name='score')(image)
    signature = Signature.of(keras.Model(image, [same, same]))
    assert signature == Signature({'my_row': ((4,), 'float32')}, {'score': (2,), 'score_1': (2,)})
    assert signature.num_classes is None and signature.image_shape is None


def test_properties_of_a_signature():
    picture = ((8, 6, 3), 'float32')
    assert Signature({'x': picture}, {'y': (4,)}).is_picture_classifier
    assert Signature({'x': picture}, {'y': (4,)}).image_shape == (8, 6, 3)
    for other in (Signature({'x': ((8, 6, 3), 'int32')}, {'y': (4,)}),
                  Signature({'x': picture, 'z': picture}, {'y': (4,)}),
                  Signature({'x': picture}, {'y': (1,)}), Signature({'x': picture}, {'y': (4, 2)}),
                  Signature({'x': picture}, {'y': (4,), 'z': (4,)})):
        assert not other.is_picture_classifier


def test_parity_is_judged_by_each_output():
    """a differs by 1 of 100, b by 0.5 of 2: b is the worst, of which 0.1 · 2 are allowed."""
    forms = {'first': lambda x: {'a': np.full((len(x), 1), 100.), 'b': np.full((len(x), 3), 2.)},
             'second': lambda x: {'b': np.full((len(x), 3), 1.5), 'a': np.full((len(x), 1), 99.)}}
    arguments = {'images': np.zeros((4, 1)), 'source': 'x'}
    parity = measure_parity(forms, **arguments, tolerances={'first': 0, 'second': .25})
    pair, = parity.pairs
    assert (parity.largest_output, pair.difference, pair.limit, pair.agreement) == (100, .5, .5, 1)
    with pytest.raises(ParityError, match='differ by 0.5, allowed 0.2,'):
        measure_parity(forms, **arguments, tolerances={'first': 0, 'second': .1})
    with pytest.raises(ParityError, match='differ by inf'):
        measure_parity({**forms, 'second': lambda x: {'a': np.zeros((len(x), 1))}}, **arguments,
                       tolerances={'first': 0, 'second': None})


@pytest.mark.parametrize('examples, match', [
    ({'zeta': np.zeros((2, 5))}, 'expected inputs zeta, alpha; received zeta$'),
    ([np.zeros((2, 5))], r'expected 2 inputs \(zeta, alpha\), received 1$'),
    (np.zeros((2, 5)), r'expected 2 inputs \(zeta, alpha\), received 1$'),
    ([np.zeros((2, 5)), np.zeros((2, 4))], r"expected 'alpha' \[N, 5\], received \[2, 4\]$"),
    ([np.zeros((2, 5)), np.zeros((3, 5))],
     "expected as many examples of each input, received 2 of 'zeta', 3 of 'alpha'$")])
def test_wrong_inputs_are_one_line_errors(examples, match, tmp_path):
    model = two_inputs(list)
    model.save(tmp_path / 'm.keras')
    with pytest.raises(ValueError, match=f'^{tmp_path}/m.keras: {match}'):
        export.FORMATS['keras'].open(tmp_path / 'm.keras')(examples)
    with pytest.raises(ValueError, match=f'^representative_data: {match}'):
        export.export_model(model, tmp_path / 'export', representative_data=examples)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    loop = keras.Model(x := keras.Input((5, 3)), L.Dense(1)(tf_loop()(x)), name='loop')
    for model, arguments, match in (
            (keras.Model(x := keras.Input((None, 3), name='x'), L.LSTM(2)(x), name='open'), {},
             r"^model 'open': .* received 'x' \[None, None, 3\]: give it a fixed length$"),
            (segmentation(), {'class_names': list('abcd')}, '^class_names: expected none '),
            (segmentation(), {'formats': ['tflite_int8_qat']}, r'expected one output \[None, cla'),
            (table(), {'formats': ['tflite_int8_qat']}, 'expected one image input'),
            (table(), {'tflite_options': TFLiteOptions(softmax=True)},
             r"^tflite_softmax: model 'table' is no classifier: .* received \[None, 1\]$"),
            (table(), {'representative_data': np.full((2, 9), np.nan)}, "finite values of 'row'"),
            (table(), {'representative_data': np.zeros((0, 9))}, r"'row' \[N, 9\], rec.* \[0, 9\]"),
            (table(), {'formats': ['tflite_int8']}, "'tflite_int8' needs representative_data"),
            (loop, {'formats': ['tflite_int8'], 'representative_data': np.zeros((2, 5, 3))},
             "^model 'loop' does not convert to TFLite: it has no int8 form of: ")):
        with pytest.raises(ValueError, match=match) as caught:
            export.export_model(model, tmp_path / 'export', **arguments)
        assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


def tf_loop():
    """A layer of a loop that cannot be written step by step."""
    class Halves(L.Layer):
        def call(self, x):
            return tf.while_loop(lambda y: tf.reduce_max(y) > 1, lambda y: [y / 2], [x])[0][:, 0]
    return Halves()


def test_a_classifier_of_rows_has_labels_and_a_softmax(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name='scores')])
    data = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    report = export.export_model(model, tmp_path / 'export', representative_data=data,
                                 class_names=['a', 'b', 'c'],
                                 tflite_options=TFLiteOptions(softmax=True))
    assert (tmp_path / 'export/labels.txt').read_text() == 'a\nb\nc\n'
    np.testing.assert_allclose(export.FORMATS['tflite'].open(report.paths['tflite'])(data),
                               tf.nn.softmax(model(data)), atol=1e-5)


@pytest.mark.parametrize('layer', [L.LSTM, L.GRU])
@pytest.mark.parametrize('form', ['tflite', 'tflite_dynamic'])
def test_a_recurrent_classifier_of_pictures_through_litert(layer, form):
    """Columns of features, read one after the other. A second call does not go on from the first:
    TFLite's own LSTM would."""
    keras.utils.set_random_seed(4)
    image = keras.Input((8, 6, 3))
    x = L.Conv2D(5, 3, padding='same', activation='relu')(L.Rescaling(1 / 255)(image))
    x = L.Reshape((6, 20))(L.Permute((2, 1, 3))(L.MaxPooling2D((2, 1))(x)))
    model = keras.Model(image, L.Dense(3, name='logits')(layer(12)(x)))
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 6, 3)).astype(np.float32)
    lite = interpreter.open_interpreter(tflite.convert(model, form))
    details = lite.get_input_details()[0]
    assert details['shape'].tolist() == [1, 8, 6, 3]
    lite.allocate_tensors()
    found = []
    for one in (*images, images[0]):
        lite.set_tensor(details['index'], one[None])
        lite.invoke()
        found.append(lite.get_tensor(lite.get_output_details()[0]['index'])[0])
    wanted = model(images).numpy()
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found[:4], wanted, atol=1e-5 if form == 'tflite' else 2e-2)
    np.testing.assert_array_equal(found[4], found[0])


def test_activations_as_layers_and_functions_are_exported(tmp_path):
    image = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, activation=L.LeakyReLU(.3), name='a')(L.Rescaling(1 / 255)(image))
    x = L.Conv2D(4, 3, activation=keras.ops.silu, name='b')(x)
    x = L.Conv2D(4, 3, activation=tf.nn.relu6, name='c')(x)
    model = keras.Model(image, L.Dense(3, name='logits')(L.GlobalAveragePooling2D()(x)))
    images, = data_of(model).values()
    report = export.export_model(model, tmp_path / 'export', representative_data=images)
    assert {'keras', 'saved_model', 'tflite'} <= set(report.paths)
    for form, path in report.paths.items():
        np.testing.assert_allclose(export.FORMATS[form].open(path)(images), model(images),
                                   atol=1e-5, err_msg=form)
