"""TFLite files of every number format: they agree, cost the same, say what they are."""
import dataclasses
import functools
import io
import json
import zipfile

import digit_classifier
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from tfprune import testing
from tfprune.export import exporter as export, interpreter, metadata, operator_cost, tflite
from tfprune.export.parity import ParityError, measure_parity
from tfprune.models.building import build_model
from tfprune.runs import artifacts

L = keras.layers
FORMS = ('tflite', 'tflite_float16', 'tflite_dynamic', 'tflite_int8')


def random_images(shape, count=40):
    return np.random.default_rng(3).integers(0, 256, (count, *shape)).astype(np.uint8)


@pytest.fixture(scope='module')
def digits():
    train, labels, test, test_labels = digit_classifier.digits_in_color()
    return digit_classifier.trained_classifier(train, labels), train[:300], test, test_labels


@pytest.fixture(scope='module')
def report(digits, tmp_path_factory):
    return export.export_model(digits[0], tmp_path_factory.mktemp('run') / 'export', formats=FORMS,
                               representative_data=digits[1], class_names=digit_classifier.NAMES)


@pytest.fixture
def toy_model():
    return testing.randomize(testing.plain())


def test_parity_has_limits_for_floats_and_agreement_for_all(report):
    saved = json.loads((report.out_dir / 'parity.json').read_text())
    assert saved['images'] == 200
    pairs = {pair['second']: pair for pair in saved['pairs'] if pair['first'] == 'model'}
    assert pairs['tflite']['difference'] <= 1e-5 * saved['largest_output']
    assert 0 < pairs['tflite_float16']['difference'] <= 3e-3 * saved['largest_output']
    assert pairs['tflite_float16']['limit'] == pytest.approx(1e-2 * saved['largest_output'])
    assert pairs['tflite']['agreement'] == 1
    for form in ('tflite_dynamic', 'tflite_int8'):
        assert pairs[form]['limit'] is None and pairs[form]['difference'] > 0
        assert pairs[form]['agreement'] >= 0.98
    assert report.parity.largest_difference == max(
        pair['difference'] for pair in saved['pairs'] if pair['limit'] is not None)


def test_every_form_classifies_the_test_images(digits, report):
    model, _, images, labels = digits
    expected = np.mean(model(images.astype(np.float32)).numpy().argmax(axis=-1) == labels)
    assert expected > 0.85
    for form, path in report.paths.items():
        outputs = export.FORMATS[form].open(path)(images)
        assert outputs.dtype == np.float32
        assert abs(np.mean(outputs.argmax(axis=-1) == labels) - expected) <= 0.02, form


def test_a_lone_file_is_known_by_its_content(digits, report, tmp_path):
    for form, path in report.paths.items():
        copy = tmp_path / 'model.tflite'
        copy.write_bytes(path.read_bytes())
        assert artifacts.open_artifact(copy).form == form
    assert set(artifacts.find_artifacts(report.out_dir)) == set(FORMS)


@pytest.mark.parametrize('batch', [1, 0])
def test_files_of_one_image_and_of_any_number_answer_alike(digits, report, tmp_path, batch):
    images = digits[2][:5]
    paths = report.paths if batch else export.export_model(
        digits[0], tmp_path / 'export', formats=FORMS, representative_data=digits[1],
        tflite_options=export.TFLiteOptions(batch=0)).paths
    for form, path in paths.items():
        source, = interpreter.open_interpreter(path.read_bytes()).get_input_details()
        assert source['shape_signature'].tolist() == [batch or -1, 8, 8, 3]
        artifact = export.FORMATS[form].open(path)
        expected = export.FORMATS[form].open(report.paths[form])(images)
        one_by_one = np.concatenate([artifact(image[np.newaxis]) for image in images])
        for outputs in (artifact(images), one_by_one):
            np.testing.assert_allclose(outputs, expected, atol=1e-4, err_msg=form)


def test_bytes_shrink(report):
    sizes = report.bytes
    assert sizes['tflite_float16'] < 0.75 * sizes['tflite']
    assert sizes['tflite_dynamic'] < sizes['tflite_float16']


def check_costs(model, report):
    macs, _ = testing.recount(model)
    costs = {form: export.FORMATS[form].open(path).cost() for form, path in report.paths.items()}
    assert {form: cost.macs for form, cost in costs.items()} == dict.fromkeys(costs, macs)
    assert len({cost.params for cost in costs.values()}) == 1
    assert not any(cost.uncounted for cost in costs.values())


def test_costs_are_those_of_the_float_model(digits, report):
    check_costs(digits[0], report)


@pytest.mark.parametrize('build, forms', [
    (testing.branches, FORMS),
    pytest.param(testing.residual, ('tflite', 'tflite_int8'), marks=pytest.mark.slow),
    pytest.param(functools.partial(build_model, 'resnet8', image_shape=(8, 8, 1), num_classes=10,
                                   mean=[0.5], std=[0.5]), ('tflite', 'tflite_int8'),
                 marks=pytest.mark.slow)])
def test_costs_of_other_models(build, forms, tmp_path):
    model = testing.randomize(build())
    check_costs(model, export.export_model(
        model, tmp_path / 'export', formats=forms,
        representative_data=random_images(model.input_shape[1:])))


@pytest.mark.parametrize('io_type, quantization', [
    ('uint8', (1.0, 0)), ('int8', (1.0, -128)), ('float32', (0.0, 0))])
def test_integer_input_is_the_pixels_as_they_are(toy_model, io_type, quantization):
    """Also where the representative images are neither black nor white."""
    images = random_images((6, 6, 3)) // 2 + 60
    content = tflite.convert(toy_model, 'tflite_int8', images=images,
                             options=export.TFLiteOptions(io=io_type))
    lite = interpreter.open_interpreter(content)
    source, sink = lite.get_input_details()[0], lite.get_output_details()[0]
    assert np.dtype(source['dtype']).name == np.dtype(sink['dtype']).name == io_type
    assert source['quantization'] == pytest.approx(quantization)
    assert source['shape_signature'].tolist() == [1, 6, 6, 3]


def test_a_fixed_batch_is_filled_up(toy_model, tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([2, 6, 6, 3])])
    def serve(images):
        return toy_model(images, training=False)
    owner = tf.Module()
    owner.weights = [variable.value for variable in toy_model.variables]
    path = tmp_path / 'two.tflite'
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions(
        [serve.get_concrete_function()], owner).convert())
    images = random_images((6, 6, 3), 5)
    np.testing.assert_allclose(tflite.open_file(path)(images),
                               toy_model(images.astype(np.float32)), atol=1e-4)


def test_softmax_is_added_once(toy_model, tmp_path):
    images = random_images((6, 6, 3))
    options = export.TFLiteOptions(softmax=True)
    report = export.export_model(
        toy_model, tmp_path / 'logits', formats=['keras', 'tflite', 'tflite_int8'],
        representative_data=images, tflite_options=options)
    expected = tf.nn.softmax(toy_model(images.astype(np.float32))).numpy()
    assert report.parity.largest_output <= 1
    for form, tolerance in (('tflite', 1e-5), ('tflite_int8', 0.1)):
        outputs = export.FORMATS[form].open(report.paths[form])(images)
        np.testing.assert_allclose(outputs, expected, atol=tolerance)

    classifier = keras.Model(toy_model.inputs, L.Softmax()(toy_model.outputs[0]))
    report = export.export_model(classifier, tmp_path / 'softmax', formats=['tflite'],
                                 tflite_options=options)
    np.testing.assert_allclose(export.FORMATS['tflite'].open(report.paths['tflite'])(images),
                               expected, atol=1e-4)


def metadata_of(content):
    """The buffer of the metadata entry, which MediaPipe reads in tests/export/test_clients.py."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    entry, = (entry for entry in model.metadata if entry.name.decode() == 'TFLITE_METADATA')
    return bytes(model.buffers[entry.buffer].data)


def test_metadata_and_labels_are_in_every_file(report, digits, tmp_path):
    for path in report.paths.values():
        content = path.read_bytes()
        buffer = metadata_of(content)
        assert buffer[4:8] == b'M001' and b'logits' in buffer and b'labels.txt' in buffer
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.namelist() == ['labels.txt']
            labels = archive.read('labels.txt').decode()
        assert labels.splitlines() == list(digit_classifier.NAMES)
        assert labels == (report.out_dir / 'labels.txt').read_text(encoding='utf-8')

    unnamed = metadata.add_metadata(tflite.convert(digits[0]), name='digits', probabilities=True)
    assert b'labels.txt' not in unnamed and b'probabilities' in metadata_of(unnamed)


def test_the_same_model_gives_the_same_bytes(toy_model):
    content = tflite.convert(toy_model)
    first, second = (metadata.add_metadata(content, name='x', class_names=['a', 'wild\nb'])
                     for _ in range(2))
    assert first == second
    assert b'a\nwild b\n' in first


def test_quantized_forms_may_differ_but_must_answer():
    images = np.zeros((4, 1, 1, 1))
    answers = {'a': [2.0, 1.0], 'b': [1.0, 2.0]}
    forms = {name: (lambda x, row=row: np.tile(row, (len(x), 1))) for name, row in answers.items()}
    pair, = measure_parity(forms, images, tolerances={'a': 0.0, 'b': None}, source='x').pairs
    assert (pair.difference, pair.limit, pair.agreement) == (1.0, None, 0.0)
    for other in (lambda x: np.full((len(x), 2), np.nan), lambda x: np.zeros((len(x), 3))):
        with pytest.raises(ParityError, match="'a' and 'b' differ by .* allowed no NaN"):
            measure_parity({**forms, 'b': other}, images, tolerances={'a': 0.0, 'b': None},
                           source='x')


def test_operators_that_stay_in_float_are_named(tmp_path):
    inputs = keras.Input((6, 6, 3))
    x = keras.ops.cos(L.Conv2D(5, 3)(L.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)), name='wave')
    with pytest.warns(UserWarning, match="model 'wave': TFLite has no int8 kernel for COS: ") as w:
        report = export.export_model(model, tmp_path / 'export', formats=['tflite_int8'],
                                     representative_data=random_images((6, 6, 3)))
    assert not any('\n' in str(warning.message) for warning in w)
    assert 'CONV_2D' not in operator_cost.float_operators(
        report.paths['tflite_int8'].read_bytes())


def refused(model, tmp_path, match, *, formats=('tflite_int8',), **arguments):
    with pytest.raises(ValueError, match=match) as caught:
        export.export_model(model, tmp_path / 'export', formats=formats, **arguments)
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('data, match', [
    (None, "'tflite_int8' needs representative_data: .* received None"),
    (np.zeros((4, 8, 8, 3)), r'expected images \[N, 6, 6, 3\], received \[4, 8, 8, 3\]'),
    (np.zeros((0, 6, 6, 3)), r'expected images \[N, 6, 6, 3\], received \[0, 6, 6, 3\]'),
    (np.full((4, 6, 6, 3), np.nan), 'expected finite pixels'),
    (np.linspace(-1, 255, 108).reshape(1, 6, 6, 3), 'takes the bytes .* values -1…255')])
def test_int8_refuses_unfit_images(toy_model, tmp_path, data, match):
    refused(toy_model, tmp_path, match, representative_data=data)


@pytest.mark.parametrize('names, match', [
    (['cat'], 'class_names: expected 2 as the model has classes, received 1'),
    ('no', "class_names: expected a list of strings, received 'no'"),
    ([0, 1], 'class_names: expected a list of strings'),
    (['cat', ' '], "class_names: expected a name for each class, class 1 has ' '")])
def test_class_names_must_fit(toy_model, tmp_path, names, match):
    refused(toy_model, tmp_path, match, formats=['tflite'], class_names=names)


def test_other_bad_input(toy_model, tmp_path):
    with pytest.raises(ValueError, match="io: expected one of uint8, int8, float32; received 'x'"):
        export.TFLiteOptions(io='x')
    with pytest.raises(ValueError, match='batch: expected 1, or 0 for any; received 4'):
        export.TFLiteOptions(batch=4)

    class Lacking(L.Layer):
        def call(self, x):
            return tf.raw_ops.Betainc(a=x + 1, b=x + 2, x=x * 0)
    inputs = keras.Input((6, 6, 3))
    odd = keras.Model(inputs, L.GlobalAveragePooling2D()(Lacking()(inputs)), name='odd')
    refused(odd, tmp_path, "'odd' does not convert to TFLite: .*Betainc",
            representative_data=random_images((6, 6, 3)))

    scalar = tmp_path / 'scalar.tflite'
    scalar.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([tf.function(
        lambda a, b: a + b, input_signature=[tf.TensorSpec([])] * 2
    ).get_concrete_function()]).convert())
    with pytest.raises(ValueError, match='expected inputs .* the file has .*float32') as caught:
        tflite.open_file(scalar)
    assert '\n' not in str(caught.value)


def test_nan_in_a_quantized_file_is_an_error(toy_model, tmp_path, monkeypatch):
    opened = export.FORMATS['tflite_dynamic'].open

    def open_broken(path):
        return dataclasses.replace(opened(path), run=lambda x: np.full((len(x), 2), np.nan))
    monkeypatch.setitem(export.FORMATS, 'tflite_dynamic', dataclasses.replace(
        export.FORMATS['tflite_dynamic'], open=open_broken))
    with pytest.raises(ParityError, match="'model' and 'tflite_dynamic'"):
        export.export_model(toy_model, tmp_path / 'export', formats=['tflite_dynamic'])
