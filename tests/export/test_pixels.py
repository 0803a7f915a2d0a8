"""From the bytes of a picture to what a model saw in training, whatever range that has."""
import io
import json
import warnings

import tfprune  # before tensorflow and keras
import keras
import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import number_types, table
from PIL import Image

import prediction_logs
from cases import slow_but
from light_export import light_export
from tfprune.data.pixels import BYTES, PixelRange, range_of
from tfprune.data.user_datasets import UserDatasets
from tfprune.export import exporter as export, metadata, saved_model, tflite, warmup
from tfprune.export.exporter import FORMATS
from tfprune.export.interpreter import open_interpreter
from tfprune.runs import deployment
from tfprune.tasks.classification import Classification
from test_tflite_forms import metadata_of

L = keras.layers
SHAPE = (8, 8, 3)
PICTURES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE)).astype(np.uint8)
PICTURES[0], PICTURES[1] = 0, 255
STANDARD = (np.array([0.5, 0.25, 0.4]), np.array([0.25, 0.5, 0.2]))  # mean and deviation
# range -> (what training makes of bytes, what byte 0 and 255 become)
RANGES = {'0…1': (lambda x: x / 255, (0, 1)), '-1…1': (lambda x: x / 127.5 - 1, (-1, 1)),
          '0…255': (lambda x: x, (0, 255))}


def values_of(name, pictures=PICTURES):
    return np.asarray(RANGES[name][0](pictures.astype(np.float32)), np.float32)


def classifier(inputs_like):
    """A small CNN whose logits have deviation 2 on these images."""
    keras.utils.set_random_seed(3)
    image = keras.Input(SHAPE)
    x = L.Conv2D(6, 3, strides=2, activation='relu')(image)
    last = L.Dense(4, name='logits')
    model = keras.Model(image, last(L.Flatten()(x)), name='small')
    outputs = model.predict(inputs_like, verbose=0)
    last.kernel.assign(last.kernel * (2 / outputs.std(axis=0)))
    last.bias.assign(-outputs.mean(axis=0) * (2 / outputs.std(axis=0)))
    return model


def encoded(picture, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize('seen, known', [
    ((0, 1), (0, 1)), ((0.01, 0.92), (0, 1)), ((-1, 1), (-1, 1)), ((-0.99, 0.85), (-1, 1)),
    ((0, 255), (0, 255)), ((3, 240.5), (0, 255)),
    # what resizing leaves of rounding
    ((-1e-6, 1.0000001), (0, 1)), ((-1.00001, 1), (-1, 1)), ((0, 255.0001), (0, 255)),
    # too far from the ends: of another map, or dull pictures
    ((0.2, 0.8), None), ((0.01, 0.7), None), ((-0.99, 0.3), None), ((3, 128.5), None),
    # x / 255 - 1 / 2; 4 bits; standardized; means of the channels subtracted; nothing to see
    ((-0.5, 0.5), None), ((0, 16), None), ((-2.1, 2.6), None), ((-123.7, 151.1), None),
    ((0, 0), None), ((-0.2, 255), None), ((0, 1.01), None), ((0, 65535), None)])
def test_a_range_is_known_where_it_is_one_of_the_usual(seen, known):
    pixels = PixelRange.seen(*seen)
    assert (pixels.low, pixels.high) == seen
    assert pixels.ends == known and pixels.is_known == (known is not None)
    if known is None:
        assert f'{seen[0]:.4g}…{seen[1]:.4g}' in pixels.text and 'not known' in pixels.text


@pytest.mark.parametrize('black, white, formula', [
    ((0.0,), (1.0,), 'b / 255'), ((-1.0,), (1.0,), 'b / 127.5 - 1'), ((0.0,), (255.0,), 'b'),
    ((-0.5,), (0.5,), 'b / 255 - 0.5'), ((0.0,), (16.0,), 'b / 15.9375'),
    ((-2.0, -0.5, -2.0), (2.0, 1.5, 3.0), '(-2, -0.5, -2) at 0 and (2, 1.5, 3) at 255')])
def test_bytes_become_values_by_mean_and_deviation(black, white, formula):
    pixels = PixelRange.stated((black, white), len(black))
    bytes_ = np.arange(256, dtype=np.float32)[:, np.newaxis]
    expected = np.array(black) + bytes_ * (np.array(white) - np.array(black)) / 255
    np.testing.assert_allclose(pixels.values(bytes_) + 0 * expected, expected, atol=1e-4)
    np.testing.assert_allclose((bytes_ - pixels.mean) / pixels.std, expected, atol=1e-4)
    assert formula in pixels.formula


def test_what_is_stated_or_seen():
    assert range_of(None, None, 3) == BYTES
    assert range_of(PICTURES // 200, None, 3) == BYTES  # bytes, if dark ones
    assert range_of(PICTURES / 255, None, 3).ends == (0, 1)
    assert range_of(PICTURES / 255, (-1, 1), 3).ends == (-1, 1)
    for bad in (5, (0,), (1, 0), (0, 0), (0, np.nan), (0, np.inf), ('a', 'b'), ((0, 0), (1, 1)),
                (0, 1, 2), ((0, 0, 0), 1), 'ab'):
        with pytest.raises(ValueError, match='^pixel_range: expected .* received') as caught:
            range_of(None, bad, 3)
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', slow_but(RANGES, ['-1…1']))
def test_from_a_pictures_bytes_to_the_probabilities_of_training(name, tmp_path):
    images = values_of(name)
    model = classifier(images)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*not known')
        report = export.export_model(
            model, tmp_path / 'export', formats=['saved_model', 'tflite', 'tflite_int8'],
            representative_data=images)
    assert report.pixels.ends == RANGES[name][1]
    expected = tf.nn.softmax(model(images)).numpy()
    directory = report.paths['saved_model']

    answer = saved_model.open_bytes(directory)([encoded(picture, 'PNG') for picture in PICTURES])
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
    files = [encoded(picture, 'JPEG', quality=90) for picture in PICTURES]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    answer = saved_model.open_bytes(directory)(files)
    np.testing.assert_allclose(
        answer.probabilities, tf.nn.softmax(model(values_of(name, decoded))), atol=1e-5)
    loaded = tf.saved_model.load(str(directory))
    logits = loaded.signatures['serve_uint8'](images=tf.constant(PICTURES))['logits']
    np.testing.assert_allclose(tf.nn.softmax(logits), expected, atol=1e-5)

    floats, integers, _ = prediction_logs.read_requests(directory / warmup.WARMUP_FILE)
    np.testing.assert_allclose(floats[2]['images'], values_of(name, np.uint8(128)), atol=1e-6)
    assert np.all(integers[2]['images'] == 128)

    # A client of the integer file gives it the bytes; -1 … 1 has no integer for 0: half a level.
    lite = open_interpreter(report.paths['tflite_int8'].read_bytes())
    lite.allocate_tensors()
    source, sink = lite.get_input_details()[0], lite.get_output_details()[0]
    scale, zero = source['quantization']
    bytes_ = np.arange(256)
    assert source['dtype'] == np.uint8
    np.testing.assert_allclose(scale * (bytes_ - zero), values_of(name, bytes_),
                               atol=scale * (0.501 if name == '-1…1' else 1e-3))
    agreed = []
    for picture, probabilities in zip(PICTURES, expected):
        lite.set_tensor(source['index'], picture[np.newaxis])
        lite.invoke()
        agreed.append(lite.get_tensor(sink['index']).argmax() == probabilities.argmax())
    assert np.mean(agreed) >= 0.9


def normalization_of(content):
    """(mean, std) that the metadata tell a client; None where they tell none."""
    def field(here, position, offset=True):
        place = here.Offset(4 + 2 * position)
        return place and here.Indirect(here.Pos + place) if offset else place

    def first(here, position):
        """The first table of a vector."""
        place = here.Offset(4 + 2 * position)
        return place and table.Table(buffer, here.Indirect(here.Vector(place)))

    def floats(here, position):
        place = here.Offset(4 + 2 * position)
        return here.GetVectorAsNumpy(number_types.Float32Flags, place).tolist()

    buffer = bytearray(metadata_of(content))
    root = table.Table(buffer, int.from_bytes(buffer[:4], 'little'))
    image = first(first(root, 3), 2)
    unit = first(image, 4)
    if not unit:
        return None
    options = table.Table(buffer, field(unit, 1))
    return floats(options, 0), floats(options, 1)


@pytest.fixture(scope='module')
def content():
    return tflite.convert(classifier(PICTURES.astype(np.float32)))


@pytest.mark.parametrize('stated, mean, std', [
    ((0, 1), [0], [255]), ((-1, 1), [127.5], [127.5]), ((0, 255), [0], [1]),
    (tuple(tuple((end - STANDARD[0]) / STANDARD[1]) for end in (0, 1)),
     (255 * STANDARD[0]).tolist(), (255 * STANDARD[1]).tolist())])
def test_the_file_tells_clients_what_becomes_of_bytes(stated, mean, std, content):
    pixels = PixelRange.stated(stated, 3)
    found = normalization_of(metadata.add_metadata(content, name='small', pixels=pixels))
    np.testing.assert_allclose(found, [mean, std], rtol=1e-5, atol=1e-5)
    bytes_ = PICTURES.astype(np.float32)
    np.testing.assert_allclose((bytes_ - found[0]) / found[1], pixels.values(bytes_), atol=1e-4)


@pytest.mark.slow
def test_a_range_of_each_channel_is_served(tmp_path):
    """As ImageNet's mean and deviation make it."""
    stated = tuple(tuple((end - STANDARD[0]) / STANDARD[1]) for end in (0, 1))
    images = ((PICTURES / 255 - STANDARD[0]) / STANDARD[1]).astype(np.float32)
    model = classifier(images)
    report = export.export_model(model, tmp_path / 'export', formats=['saved_model'],
                                 representative_data=images, pixel_range=stated)
    answer = saved_model.open_bytes(report.paths['saved_model'])(
        [encoded(picture, 'PNG') for picture in PICTURES])
    np.testing.assert_allclose(answer.probabilities, tf.nn.softmax(model(images)), atol=1e-5)


def test_without_a_known_map_no_form_takes_bytes(tmp_path):
    images = ((PICTURES / 255 - STANDARD[0]) / STANDARD[1]).astype(np.float32)
    model = classifier(images)
    with pytest.warns(UserWarning, match='small: values -2…3; what a byte .* is not known'):
        report = export.export_model(
            model, tmp_path / 'export', formats=['saved_model', 'tflite', 'tflite_int8'],
            representative_data=images, tflite_options=export.TFLiteOptions(io='float32'))
    loaded = tf.saved_model.load(str(report.paths['saved_model']))
    assert list(loaded.signatures) == ['serving_default']
    (_, name, inputs), = prediction_logs.read_requests(
        report.paths['saved_model'] / warmup.WARMUP_FILE)
    assert name == 'serving_default' and np.all(inputs['images'] == 0.5)
    content = report.paths['tflite'].read_bytes()
    assert normalization_of(content) is None and b'not known' in metadata_of(content)
    int8 = FORMATS['tflite_int8'].open(report.paths['tflite_int8'])(images)
    assert np.mean(int8.argmax(-1) == model(images).numpy().argmax(-1)) >= 0.9
    with pytest.raises(ValueError, match="'tflite_int8': tflite_io=uint8 .* values -2…3: choose"):
        export.export_model(model, tmp_path / 'other', formats=['tflite_int8'],
                            representative_data=images)
    assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize('quantization', ['int8', 'int8_qat'])
def test_integer_files_that_cannot_take_bytes_are_refused_before_training(quantization):
    images = values_of('0…1') * 3
    pairs = tf.data.Dataset.from_tensor_slices((images, np.arange(40) % 4))
    data = UserDatasets.from_datasets(pairs, pairs.take(8), pairs, num_classes=4)
    model = classifier(images)
    for io_type in ('float32', 'int8'):
        deployment.check_deployable(
            model, Classification.of(model), data,
            deployment.Deployment((quantization,), export.TFLiteOptions(io=io_type)))
    with pytest.raises(ValueError, match='tflite_io=uint8 takes the bytes of a picture'):
        deployment.check_deployable(
            model, Classification.of(model), data, deployment.Deployment((quantization,)))


def test_ranges_of_integers_are_those_of_the_data_not_of_the_few_that_calibrate():
    model = classifier(values_of('0…1'))
    content = tflite.convert(model, 'tflite_int8', images=values_of('0…1')[2:] / 4 - 3,
                             options=export.TFLiteOptions(io='int8'), pixels=PixelRange(-4, 2.375))
    source, = open_interpreter(content).get_input_details()
    assert source['quantization'] == pytest.approx((6.375 / 255, 32), rel=1e-3)


@pytest.mark.slow
def test_a_users_data_from_0_to_1_to_the_end(tmp_path):
    """Bytes of pictures, through every file of a deployment, are classified as the Keras model
    classifies what it was trained on."""
    images = values_of('0…1')
    model = classifier(images)
    labels = model(images).numpy().argmax(-1)
    pairs = tf.data.Dataset.from_tensor_slices((images, labels))
    data = UserDatasets.from_datasets(pairs.batch(8), pairs.take(8), pairs, num_classes=4)
    found = deployment.deploy(
        model, Classification.of(model), data, tmp_path / 'export', deployment.Deployment(
            ('int8', 'int8_qat'), quantization_aware=deployment.QuantizationAware(
                epochs=1, learning_rate=1e-4)))
    accuracies = {row['form']: row['accuracy'] for row in found.rows}
    assert accuracies['keras'] == accuracies['saved_model'] == accuracies['tflite'] == 1
    for form in ('tflite_int8', 'tflite_int8_qat'):
        assert accuracies[form] >= 0.9
        source, = open_interpreter(found.exported.paths[form].read_bytes()).get_input_details()
        assert source['dtype'] == np.uint8
        assert source['quantization'] == pytest.approx((1 / 255, 0), rel=1e-4)
        assert source['shape_signature'].tolist() == [1, *SHAPE]
    assert found.exported.pixels.to_json()['text'] == (
        'values 0…1; byte b of a picture is taken to be b / 255')


def dull(low=0.2, high=0.8):
    """(model, images float32, labels) of pictures whose bytes are low … high."""
    images = (values_of('0…1') * (high - low) + low).astype(np.float32)
    model = classifier(images)
    return model, images, model(images).numpy().argmax(-1)


def test_what_is_stated_of_a_users_data_is_what_its_files_take(tmp_path):
    model, images, labels = dull()
    pairs = tf.data.Dataset.from_tensor_slices((images, labels))
    data = UserDatasets.from_datasets(pairs.batch(8), pairs.take(8), pairs, num_classes=4,
                                      pixel_range=(0.2, 0.8))
    with pytest.raises(ValueError, match='0.2…0.8, 0 not among them: choose float32 or int8$'):
        deployment.check_deployable(
            model, Classification.of(model), data, deployment.Deployment(('int8',)))
    found = deployment.deploy(
        model, Classification.of(model), data, tmp_path / 'export', deployment.Deployment(
            ('int8', 'int8_qat'), export.TFLiteOptions(io='int8'),
            quantization_aware=deployment.QuantizationAware(epochs=1, learning_rate=1e-4)))
    assert found.exported.pixels == PixelRange.stated((0.2, 0.8), 3)
    served = tf.saved_model.load(str(found.exported.paths['saved_model']))
    answers = served.signatures['serve_uint8'](images=tf.constant(PICTURES))
    np.testing.assert_allclose(next(iter(answers.values())), model(images), atol=1e-3)


@pytest.mark.parametrize('pixels, pixel_range, expected', [
    ((PICTURES // 16).astype(np.uint8), (0, 16), PixelRange.stated((0, 16), 3)),
    ((PICTURES // 16).astype(np.uint8), None, PixelRange(0, 15)),   # bytes, but of what?
    ((PICTURES // 128).astype(np.uint8), None, PixelRange.seen(0, 1)),
    (PICTURES, None, BYTES), (PICTURES.astype(np.float32), None, PixelRange.seen(0, 255))])
def test_bytes_of_a_users_data_that_are_all_dark_are_judged_by_their_values(
        pixels, pixel_range, expected):
    pairs = tf.data.Dataset.from_tensor_slices((pixels, np.arange(40) % 4))
    data = UserDatasets.from_datasets(pairs, pairs, pairs, num_classes=4, pixel_range=pixel_range)
    assert data.pixels == expected


def test_augmentation_may_leave_a_stated_range():
    def read(pixel_range):
        pairs = tf.data.Dataset.from_tensor_slices((values_of('0…1'), np.arange(40) % 4))
        brighter = pairs.map(lambda x, y: (x + 0.2, y))
        return UserDatasets.from_datasets(brighter, pairs, pairs, num_classes=4,
                                          pixel_range=pixel_range)

    assert read((0, 1)).pixels.ends == (0, 1)
    with pytest.raises(ValueError, match=r'^pixel_range: expected .* 0 … 0.2; received .* 0 … 1.2'):
        read((0, 0.2))
    with pytest.raises(ValueError, match='^pixel_range: expected .* received'):
        read('ab')


@pytest.mark.slow
def test_a_run_says_what_was_stated_and_holds_to_it(tmp_path):
    model, images, labels = dull()
    pairs = tf.data.Dataset.from_tensor_slices((images, labels))

    def run(name, **stated):
        with light_export():
            tfprune.train_and_prune(
                model=model, train_data=pairs.batch(8), reward_data=pairs.take(8), test_data=pairs,
                method='uniform', macs=0.8, warmup_epochs=0, random_epochs=0, joint_epochs=0,
                alignment_epochs=0, fine_tune_epochs=1, learning_rate=1e-5,
                fine_tune_learning_rate=1e-5, progress=False, run_dir=tmp_path / name, **stated)
        return json.loads((tmp_path / name / 'report.json').read_text())['input']

    said = run('stated', pixel_range=(0.2, 0.8))
    assert (said['black'], said['white'], said['is_taken']) == ([0.2], [0.8], False)
    (tmp_path / 'stated/report.json').unlink()
    assert run('stated', pixel_range=(0.2, 0.8)) == said  # goes on
    unstated = run('unstated')
    assert unstated['black'] is None and 'pixel_range=' in unstated['text']
    for name, stated in (('stated', {}), ('unstated', {'pixel_range': (0.2, 0.8)})):
        (tmp_path / name / 'report.json').unlink()
        with pytest.raises(ValueError, match='began with another data.json: bytes'):
            run(name, **stated)
