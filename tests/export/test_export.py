"""export_model: forms agree, load elsewhere, cost what the sums say, and are whole or absent."""
import dataclasses
import json
import os
import subprocess
import sys

import tfprune  # noqa: F401  (before tensorflow and keras)
import keras
import numpy as np
import pytest
import tensorflow as tf

from tensorflow_log import heard
from tfprune.export import exporter, exporter as export, interpreter, keras_file, tflite
from tfprune.export.parity import ParityError, measure_parity
from tfprune.training.step import StopTraining

L = keras.layers
IMAGE_SHAPE = (12, 10, 3)
RNG = np.random.default_rng(7)
IMAGES = RNG.integers(0, 256, (9, *IMAGE_SHAPE)).astype(np.uint8)


def small_cnn(channels=5, image_shape=IMAGE_SHAPE):
    """Convolution, batch norm with statistics of its own, residual sum, dense 'logits'."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(image_shape)
    x = L.Rescaling(1 / 255, offset=-0.5, name='normalize')(inputs)
    x = L.Conv2D(channels, 3, strides=2, padding='same', use_bias=False, name='conv1')(x)
    x = L.ReLU()(L.BatchNormalization(name='norm1')(x))
    y = L.Conv2D(channels, 3, padding='same', use_bias=False, name='conv2')(x)
    x = L.GlobalAveragePooling2D()(L.Add()([x, y]))
    return with_biases(keras.Model(inputs, L.Dense(7, name='logits')(x), name='small'))


def with_biases(model):
    """Vectors, biases and statistics, drawn from 0.5 … 2: TFLite drops biases of zeros."""
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(RNG.uniform(0.5, 2, weight.shape))
    return model


@pytest.fixture(scope='module')
def model():
    return small_cnn()


@pytest.fixture(scope='module')
def exported(model, tmp_path_factory):
    """(report, what TensorFlow's logger says at the level it has in a notebook)."""
    with heard('INFO') as said:
        return export.export_model(model, tmp_path_factory.mktemp('run') / 'export',
                                   representative_data=IMAGES), said


@pytest.fixture(scope='module')
def report(exported):
    return exported[0]


@pytest.fixture
def fast_formats(monkeypatch):
    """The .keras format under two names: failures are staged without conversions."""
    formats = {'first': dataclasses.replace(keras_file.FORMAT, location='first.keras'),
               'second': dataclasses.replace(keras_file.FORMAT, location='second.keras')}
    monkeypatch.setattr(exporter, 'FORMATS', formats)
    return formats


def test_nothing_is_said_of_files_that_a_converter_writes_for_itself(exported):
    assert not [line for line in exported[1] if 'Assets' in line]


def test_report_and_files(report):
    names = ['keras', 'saved_model', 'tflite']
    assert sorted(os.listdir(report.out_dir)) == [
        'model.tflite', 'parity.json', 'pruned.keras', 'saved_model']
    assert list(report.paths) == names
    assert report.bytes['keras'] == report.paths['keras'].stat().st_size
    assert report.bytes['saved_model'] > (
        report.paths['saved_model'] / 'saved_model.pb').stat().st_size

    saved = json.loads((report.out_dir / 'parity.json').read_text())
    assert (saved['images'], saved['source']) == (len(IMAGES), 'representative')
    assert [(pair['first'], pair['second']) for pair in saved['pairs']] == [
        ('model', 'keras'), ('model', 'saved_model'), ('model', 'tflite'),
        ('keras', 'saved_model'), ('keras', 'tflite'), ('saved_model', 'tflite')]
    assert report.parity.largest_difference <= 1e-5 * report.parity.largest_output


ELSEWHERE = '''
import os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL='3')
sys.modules.update(tfprune=None, keras=None, tf_keras=None)
import numpy as np, tensorflow as tf
folder, images = sys.argv[1], np.load(sys.argv[2]).astype('float32')
answers = {}
served = tf.saved_model.load(folder + '/saved_model/1').signatures['serving_default']
answers['saved_model'] = served(images=tf.constant(images))['logits'].numpy()
lite = tf.lite.Interpreter(folder + '/model.tflite')
answers['tflite'] = lite.get_signature_runner()(images=images)['logits']
assert not any(name.split('.')[0] in ('keras', 'tf_keras') and module
               for name, module in sys.modules.items())
del sys.modules['keras']
import keras
answers['keras'] = keras.models.load_model(folder + '/pruned.keras')(images).numpy()
assert sys.modules['tfprune'] is None
np.savez(sys.argv[3], **answers)
'''


def test_every_form_loads_without_tfprune(model, report, tmp_path):
    np.save(tmp_path / 'images.npy', IMAGES)
    script = tmp_path / 'elsewhere.py'
    script.write_text(ELSEWHERE)
    result = subprocess.run(
        [sys.executable, '-I', script, report.out_dir, tmp_path / 'images.npy',
         tmp_path / 'out.npz'], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    answers = np.load(tmp_path / 'out.npz')
    expected = model(IMAGES.astype(np.float32), training=False).numpy()
    for name in report.paths:
        np.testing.assert_allclose(answers[name], expected, atol=1e-5, err_msg=name)


def test_serving_default_takes_any_batch_of_raw_float_pixels(model, report):
    loaded = tf.saved_model.load(str(report.paths['saved_model']))
    serve = loaded.signatures['serving_default']
    spec = serve.structured_input_signature[1]['images']
    assert spec.shape.as_list() == [None, *IMAGE_SHAPE] and spec.dtype == tf.float32
    for batch in (1, 2, 9):
        images = IMAGES[:batch].astype(np.float32)
        np.testing.assert_allclose(
            serve(images=tf.constant(images))['logits'], model(images), atol=1e-5)


def test_tflite_of_any_batch_has_one_and_resizes(model):
    lite = interpreter.open_interpreter(tflite.convert(
        model, options=export.TFLiteOptions(batch=0)))
    source, sink = lite.get_input_details()[0], lite.get_output_details()[0]
    assert source['shape'].tolist() == [1, *IMAGE_SHAPE]
    assert source['shape_signature'].tolist() == [-1, *IMAGE_SHAPE]
    for batch in (1, 4, 1):
        images = IMAGES[:batch].astype(np.float32)
        lite.resize_tensor_input(source['index'], images.shape)
        lite.allocate_tensors()
        lite.set_tensor(source['index'], images)
        lite.invoke()
        np.testing.assert_allclose(lite.get_tensor(sink['index']), model(images), atol=1e-5)


def test_tflite_folds_batch_norm_and_keeps_no_variables(report):
    lite = interpreter.open_interpreter(report.paths['tflite'].read_bytes(), optimized=False)
    kinds = {op['op_name'] for op in lite._get_ops_details()}
    assert not kinds & {'VAR_HANDLE', 'READ_VARIABLE', 'RSQRT', 'SUB', 'DIV'}


def test_a_model_made_under_a_strategy_exports(tmp_path):
    with tf.distribute.MirroredStrategy(['CPU:0']).scope():
        model = small_cnn()
    report = export.export_model(model, tmp_path / 'export')
    assert report.parity.source == 'random'
    assert report.parity.images == exporter.PARITY_IMAGES


def test_parity_error_names_the_altered_form(model, tmp_path, monkeypatch):
    def write_altered(model, path, context):
        other = keras.models.clone_model(model)
        other.set_weights(model.get_weights())
        bias = other.get_layer('logits').bias
        bias.assign(bias + np.eye(7, dtype=np.float32)[3] * 0.25)
        tflite.write(other, path, context)

    monkeypatch.setitem(
        exporter.FORMATS, 'tflite', dataclasses.replace(tflite.FORMAT, write=write_altered))
    with pytest.raises(ParityError, match="'model' and 'tflite' differ by 0.25") as caught:
        export.export_model(model, tmp_path / 'export', formats=['keras', 'tflite'])
    assert caught.value.difference == pytest.approx(0.25, abs=1e-5)
    assert not os.listdir(tmp_path)
    relaxed = export.export_model(
        model, tmp_path / 'export', formats=['keras', 'tflite'], parity_tolerance=10.0)
    assert relaxed.parity.largest_difference == pytest.approx(0.25, abs=1e-5)


def test_measure_parity_sums():
    """Largest output 4; a and b differ by 0.5, c doubles b; tolerances in units of 4."""
    images = np.zeros((3, 1, 1, 1))
    a = lambda x: np.tile([1.5, -1.0], (len(x), 1))  # noqa: E731
    b = lambda x: np.tile([2.0, -1.0], (len(x), 1))  # noqa: E731
    c = lambda x: np.tile([4.0, -2.0], (len(x), 1))  # noqa: E731
    tolerances = {'a': 0.0, 'b': 0.125, 'c': 0.625}
    parity = measure_parity({'a': a, 'b': b, 'c': c}, images, tolerances=tolerances, source='x')
    assert parity.largest_output == 4
    assert [(p.difference, p.limit) for p in parity.pairs] == [(0.5, 0.5), (2.5, 2.5), (2.0, 2.5)]
    with pytest.raises(ParityError, match="'a' and 'b' differ by 0.5, allowed 0.496"):
        measure_parity({'a': a, 'b': b, 'c': c}, images, source='x',
                       tolerances={**tolerances, 'b': 0.124})


@pytest.mark.parametrize('other', [
    lambda x: np.full((len(x), 2), np.nan), lambda x: np.zeros((len(x), 3)),
    lambda x: np.full((len(x), 2), np.inf)])
def test_measure_parity_refuses_what_cannot_be_compared(other):
    with pytest.raises(ParityError):
        measure_parity({'a': lambda x: np.zeros((len(x), 2)), 'b': other}, np.zeros((2, 1, 1, 1)),
                       tolerances={'a': 1, 'b': 1}, source='x')


def test_parity_asks_for_batches_of_one_and_of_many():
    sizes = []

    def form(x):
        sizes.append(len(x))
        return np.zeros((len(x), 2))
    measure_parity({'a': form}, np.zeros((5, 1, 1, 1)), tolerances={'a': 0}, source='x')
    assert sizes == [1, 4]


@pytest.mark.parametrize('error, expected', [
    (OSError(28, 'No space left on device'), OSError),
    (tf.errors.ResourceExhaustedError(None, None, 'No space left on device'), OSError),
    (RuntimeError('bug'), RuntimeError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_failing_format_leaves_nothing(fast_formats, model, tmp_path, error, expected):
    def write(model, path, context):
        path.write_bytes(b'half')
        raise error
    fast_formats['second'] = dataclasses.replace(fast_formats['second'], write=write)
    with pytest.raises(expected) as caught:
        export.export_model(model, tmp_path / 'export', formats=['first', 'second'])
    assert not os.listdir(tmp_path)
    if expected is OSError:
        message = str(caught.value)
        assert 'No space left' in message and '\n' not in message
        assert str(tmp_path / 'export') in message and 'partial' not in message


def test_overwrite_replaces_whole_exports_only(fast_formats, model, tmp_path):
    out_dir = tmp_path / 'export'
    export.export_model(model, out_dir, formats=['first', 'second'])
    with pytest.raises(FileExistsError, match='overwrite=True'):
        export.export_model(model, out_dir, formats=['first'])

    fast_formats['broken'] = dataclasses.replace(fast_formats['first'], write=lambda *_: 1 / 0)
    before = (out_dir / 'first.keras').read_bytes()
    with pytest.raises(ZeroDivisionError):
        export.export_model(model, out_dir, formats=['first', 'broken'], overwrite=True)
    assert (out_dir / 'first.keras').read_bytes() == before

    export.export_model(model, out_dir, formats=['first'], overwrite=True)
    assert sorted(os.listdir(out_dir)) == ['first.keras', 'parity.json']
    assert os.listdir(tmp_path) == ['export']

    precious = tmp_path / 'precious'
    precious.mkdir()
    (precious / 'thesis.tex').write_text('years')
    with pytest.raises(FileExistsError, match='is no export'):
        export.export_model(model, precious, formats=['first'], overwrite=True)
    assert os.listdir(precious) == ['thesis.tex']


def test_what_a_killed_export_left_is_cleared(fast_formats, model, tmp_path):
    """Killed while writing, and killed between moving the old export away and the new one in."""
    (tmp_path / '.export.partial').mkdir()
    (tmp_path / '.export.partial' / 'first.keras').write_bytes(b'half')
    old = tmp_path / '.export.replaced'
    old.mkdir()
    (old / 'parity.json').write_text('{}')
    with pytest.raises(FileExistsError):  # the old one is back
        export.export_model(model, tmp_path / 'export', formats=['first'])
    assert (tmp_path / 'export' / 'parity.json').read_text() == '{}'
    export.export_model(model, tmp_path / 'export', formats=['first'], overwrite=True)
    assert os.listdir(tmp_path) == ['export']


def test_two_exports_into_one_directory(fast_formats, model, tmp_path):
    """The second is told so, the first is whole."""
    with exporter.replaced_directory(tmp_path / 'export', overwrite=True) as partial:
        (partial / 'parity.json').write_text('{"first": true}')
        with pytest.raises(ValueError, match='another process exports into .*/export$'):
            export.export_model(model, tmp_path / 'export', formats=['first'], overwrite=True)
    assert json.loads((tmp_path / 'export/parity.json').read_text()) == {'first': True}
    assert os.listdir(tmp_path) == ['export']
    export.export_model(model, tmp_path / 'export', formats=['first'], overwrite=True)
    assert os.listdir(tmp_path) == ['export']


def test_asked_to_stop_an_export_leaves_what_was_there(fast_formats, model, tmp_path):
    export.export_model(model, tmp_path / 'export', formats=['first'])
    asked = iter([False, True])
    with pytest.raises(StopTraining):
        export.export_model(model, tmp_path / 'export', formats=['first', 'second'],
                            overwrite=True, should_stop=lambda: next(asked))
    assert os.listdir(tmp_path) == ['export']
    assert sorted(os.listdir(tmp_path / 'export')) == ['first.keras', 'parity.json']


def test_unwritable_directories_are_one_line_os_errors(fast_formats, model, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError) as caught:
        export.export_model(model, tmp_path / 'file' / 'export', formats=['first'])
    assert str(tmp_path / 'file' / 'export') in str(caught.value)
    assert '\n' not in str(caught.value)

    def read_only(path, *args, **kwargs):  # permissions do not stop root
        raise PermissionError(13, 'Permission denied', os.fspath(path))
    monkeypatch.setattr(os, 'mkdir', read_only)
    with pytest.raises(PermissionError, match='cannot write the export') as caught:
        export.export_model(model, tmp_path / 'export', formats=['first'])
    assert caught.value.filename == str(tmp_path / 'export')


def test_class_names_are_written_one_a_line(model, tmp_path, fast_formats):
    names = ['cat', 'wild\ndog', 'Élan', *'0123456789'][:model.output_shape[-1]]
    export.export_model(model, tmp_path / 'export', formats=['first'], class_names=names)
    text = (tmp_path / 'export/labels.txt').read_text(encoding='utf-8')
    assert text.split('\n') == [name.replace('\n', ' ') for name in names] + ['']
    with pytest.raises(ValueError, match=f'class_names: expected {len(names)} .* received 1$'):
        export.export_model(model, tmp_path / 'other', formats=['first'], class_names=['cat'])
    assert os.listdir(tmp_path) == ['export']


def test_bad_input_is_refused_before_anything_is_written(model, tmp_path):
    out_dir = tmp_path / 'export'
    with pytest.raises(TypeError, match='^model: expected a Keras 3 model, received NoneType$'):
        export.export_model(None, out_dir)
    with pytest.raises(TypeError, match='^out_dir: expected the path .* received int$'):
        export.export_model(model, 5)
    with pytest.raises(ValueError, match="^out_dir: .* received ''$"):
        export.export_model(model, '')
    with pytest.raises(ValueError, match="Unknown format 'onnx'. Available: keras, saved_model, "):
        export.export_model(model, out_dir, formats=['onnx'])
    with pytest.raises(ValueError, match='formats: expected a list'):
        export.export_model(model, out_dir, formats='keras')
    with pytest.raises(ValueError, match=r'expected images \[N, 12, 10, 3\], received \[4, 9, 9'):
        export.export_model(model, out_dir, representative_data=np.zeros((4, 9, 9, 3)))
    with pytest.raises(ValueError, match='finite'):
        export.export_model(model, out_dir,
                            representative_data=np.full((1, *IMAGE_SHAPE), np.nan))
    any_size = keras.Sequential([keras.Input((None, None, 3)), L.GlobalAveragePooling2D()])
    with pytest.raises(ValueError, match='of a fixed size'):
        export.export_model(any_size, out_dir)
    no_classes = keras.Sequential([keras.Input(IMAGE_SHAPE), L.Conv2D(2, 1)])
    with pytest.raises(ValueError, match=r'class_names: expected none .* output \[None, classes\]'):
        export.export_model(no_classes, out_dir, class_names=['cat', 'dog'])
    assert not os.listdir(tmp_path)


def test_a_model_of_mixed_precision_is_written_in_float32(tmp_path):
    half = keras.Sequential([keras.Input(IMAGE_SHAPE), keras.Sequential(
        [L.GlobalAveragePooling2D(), L.Dense(2, name='low', dtype='mixed_bfloat16')])])
    report = export.export_model(half, tmp_path / 'out', formats=['keras', 'tflite'])
    written = keras.models.load_model(report.paths['keras'])
    assert {layer.compute_dtype for layer in written._flatten_layers()} == {'float32'}
    images = np.ones((2, *IMAGE_SHAPE), 'float32')
    np.testing.assert_allclose(written(images), half(images), atol=0.05)
    assert half.layers[0].layers[1].compute_dtype == 'bfloat16'  # it stays as it is


def test_an_operator_that_tflite_lacks_is_named(tmp_path):
    class Bucketize(L.Layer):
        def call(self, x):
            return tf.cast(tf.raw_ops.Betainc(a=x + 1, b=x + 2, x=x * 0), tf.float32)
    inputs = keras.Input(IMAGE_SHAPE)
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(Bucketize()(inputs)), name='odd')
    with pytest.raises(ValueError, match="'odd' does not convert to TFLite: .*Betainc") as caught:
        export.export_model(model, tmp_path / 'export', formats=['tflite'])
    assert '\n' not in str(caught.value)
    assert not os.listdir(tmp_path)


def test_small_cnn_costs_the_same_in_every_form(report):
    """conv1 6·5·5·27, conv2 6·5·5·45, dense 5·7; params add four a channel of batch norm."""
    macs = 30 * 5 * 27 + 30 * 5 * 45 + 35
    costs = {name: export.FORMATS[name].open(path).cost() for name, path in report.paths.items()}
    assert {cost.macs for cost in costs.values()} == {macs}
    assert not any(cost.uncounted for cost in costs.values())
    params = 5 * 27 + 5 * 45 + 20 + 42
    assert costs['keras'].params == costs['saved_model'].params == params
    assert costs['tflite'].params == params - 20 + 2 * 5  # a bias, and one of zeros, for norm1
