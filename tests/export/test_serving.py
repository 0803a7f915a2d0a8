"""The SavedModel over the wire: signatures, warm-up, encoded images, errors a server survives."""
import base64
import dataclasses
import shutil
import threading

import tfprune  # noqa: F401  (before tensorflow and keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import prediction_logs
import serving_agreement
import serving_server
from tfprune import testing
from tfprune.data.loading import load_data
from tfprune.export import exporter as export, saved_model, serving, warmup

CLASS_NAMES = ['cat', 'dög', 'a fish']
RNG = np.random.default_rng(5)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


@dataclasses.dataclass
class Served:
    """A model, its export directory and the URL that serves it."""

    model: keras.Model
    export_dir: object
    url: str

    def predict(self, **request):
        """(HTTP status, answer)."""
        return serving_server.ask(self.url + ':predict', request)


def decided(model, images):
    """Random weights; logits of mean 0 and deviation 2, so that the images are of every class."""
    testing.randomize(model)
    outputs = model(images.astype(np.float32), training=False).numpy()
    scale = 2 / outputs.std(axis=0)
    last = model.layers[-1]
    last.kernel.assign(last.kernel * scale)
    last.bias.assign((last.bias - outputs.mean(axis=0)) * scale)
    return model


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """Version 10 of two; a server that took 9 for the higher would not start."""
    model = decided(testing.residual(), IMAGES)
    report = export.export_model(model, tmp_path_factory.mktemp('run') / 'export',
                                 formats=['saved_model'], class_names=CLASS_NAMES)
    base = report.out_dir.with_name('versions')
    for version in ('9', '10'):
        shutil.copytree(report.paths['saved_model'], base / version)
    (base / '9/saved_model.pb').write_bytes(b'damaged')
    with serving_server.running(base) as url:
        yield Served(model, report.out_dir, url)


def logits(served, images):
    return served.model(images.astype(np.float32), training=False).numpy()


def encoded(image):
    """PNG bytes of a uint8 image [H, W, C]."""
    return tf.io.encode_png(image).numpy()


def b64(content):
    return {'b64': base64.b64encode(content).decode()}


def test_status_and_metadata(served):
    status, answer = serving_server.ask(served.url)
    assert status == 200
    assert answer['model_version_status'][0]['version'] == '10'
    assert answer['model_version_status'][0]['state'] == 'AVAILABLE'

    status, answer = serving_server.ask(served.url + '/versions/10/metadata')
    signatures = answer['metadata']['signature_def']['signature_def']
    described = {name: [(side, key, info['dtype'], [d['size'] for d in info['tensorShape']['dim']])
                        for side in ('inputs', 'outputs')
                        for key, info in sorted(signature[side].items())]
                 for name, signature in signatures.items()}
    image, output = ['-1', '8', '8', '3'], ('outputs', 'logits', 'DT_FLOAT', ['-1', '3'])
    assert described == {
        'serving_default': [('inputs', 'images', 'DT_FLOAT', image), output],
        'serve_uint8': [('inputs', 'images', 'DT_UINT8', image), output],
        'serve_bytes': [('inputs', 'image_bytes', 'DT_STRING', ['-1']),
                        ('outputs', 'classes', 'DT_STRING', ['-1', '3']),
                        ('outputs', 'probabilities', 'DT_FLOAT', ['-1', '3']),
                        ('outputs', 'scores', 'DT_FLOAT', ['-1', '3'])]}


@pytest.mark.parametrize('signature', [None, 'serving_default', 'serve_uint8'])
@pytest.mark.parametrize('batch', [1, 6])
def test_pixels(served, signature, batch):
    request = {'signature_name': signature} if signature else {}
    images = IMAGES[:batch].tolist()
    status, rows = served.predict(**request, instances=images)
    assert status == 200
    np.testing.assert_allclose(rows['predictions'], logits(served, IMAGES[:batch]), atol=1e-5)
    for inputs in (images, {'images': images}):
        assert served.predict(**request, inputs=inputs) == (200, {'outputs': rows['predictions']})


def test_encoded_images(served):
    """PNG keeps the pixels; rows of probabilities, and names from likeliest to least likely."""
    instances = [b64(encoded(image)) for image in IMAGES]
    status, answer = served.predict(signature_name='serve_bytes', instances=instances)
    assert status == 200
    expected = tf.nn.softmax(logits(served, IMAGES)).numpy()
    for row, probabilities in zip(answer['predictions'], expected, strict=True):
        np.testing.assert_allclose(row['probabilities'], probabilities, atol=1e-5)
        order = np.argsort(-probabilities)
        assert row['classes'] == [CLASS_NAMES[index] for index in order]
        np.testing.assert_allclose(row['scores'], probabilities[order], atol=1e-5)

    named = [{'image_bytes': instance} for instance in instances]
    assert served.predict(signature_name='serve_bytes', instances=named) == (status, answer)
    status, columns = served.predict(signature_name='serve_bytes', inputs=instances)
    assert columns['outputs'] == {name: [row[name] for row in answer['predictions']]
                                  for name in ('classes', 'probabilities', 'scores')}


def test_a_picture_of_another_size_is_stretched_as_folder_data_are(served):
    quarters = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 0]]], np.uint8)
    picture = quarters.repeat(50, 0).repeat(20, 1)
    small = Image.fromarray(picture).resize((8, 8), Image.Resampling.BILINEAR)
    expected = tf.nn.softmax(logits(served, np.asarray(small)[None])).numpy()[0]
    _, answer = served.predict(signature_name='serve_bytes', instances=[b64(encoded(picture))])
    np.testing.assert_allclose(answer['predictions'][0]['probabilities'], expected, atol=0.02)


def test_bad_images_are_refused_by_place_and_the_server_lives(served):
    good = encoded(IMAGES[0])
    for bad, reason in ((good[:-15], 'a truncated image'), (b'<html>', 'no JPEG or PNG image'),
                        (b'', 'no JPEG or PNG image')):
        status, answer = served.predict(signature_name='serve_bytes',
                                        instances=[b64(good), b64(bad), b64(good)])
        assert status == 400
        assert f'image_bytes[1]: {reason}, {len(bad)} bytes' in answer['error']
    damaged = good.replace(b'IDAT', b'IDAT\x01')
    status, answer = served.predict(signature_name='serve_bytes', inputs=[b64(damaged)])
    assert status == 400 and f'PNG data, size {len(damaged)}' in answer['error']
    assert served.predict(signature_name='serve_bytes', instances=[b64(good)])[0] == 200


def test_good_requests_are_answered_beside_bad_ones(served):
    """Eight at a time, every second one bad."""
    statuses = {}

    def send(i):
        content = encoded(IMAGES[i % 6]) if i % 2 else b'bad'
        statuses[i] = served.predict(signature_name='serve_bytes', instances=[b64(content)])[0]
    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {i: 200 if i % 2 else 400 for i in range(8)}


@pytest.mark.parametrize('path, request_, expected, message', [
    (':predict', {'signature_name': 'nope', 'instances': [1]}, 400, 'name: "nope" not found'),
    (':predict', {'instances': [[[1, 2]]]}, 400, "shape"),
    (':predict', {'instances': ['text']}, 400, "'text' is not of expected type: float32"),
    (':predict', {'instances': []}, 400, "No values in 'instances'"),
    (':predict', {'signature_name': 'serve_bytes', 'inputs': []}, 400,
     'image_bytes: expected at least one image, received none'),
    (':predict', {'signature_name': 'serve_bytes', 'instances': [{'b64': '?'}]}, 400, 'tensor'),
    (':predict', {'signature_name': 'serve_bytes', 'instances': [[[1]]]}, 400,
     '1 is not of expected type: string'),
    (':predict', {'signature_name': 'serve_uint8', 'instances': [[[[256] * 3] * 8] * 8]}, 400,
     '256'),
    (':predict', {'wrong': []}, 400, 'Missing'), (':predict', b'{', 400, 'JSON Parse error'),
    ('/versions/2:predict', {'instances': []}, 404, r'Specific(m, 2)'),
    ('x:predict', {'instances': []}, 404, 'Latest(mx)'), (':explain', {}, 400, 'Malformed')])
def test_other_errors(served, path, request_, expected, message):
    status, answer = serving_server.ask(served.url + path, request_)
    assert (status, list(answer)) == (expected, ['error'])
    assert message in answer['error']


def test_warm_up_requests_are_one_of_each_signature(served):
    path = served.export_dir / 'saved_model/1' / warmup.WARMUP_FILE
    assert path.stat().st_size < 2000  # whatever the size of the images
    requests = prediction_logs.read_requests(path)
    assert [(model, signature, list(inputs)) for model, signature, inputs in requests] == [
        ('residual', 'serving_default', ['images']), ('residual', 'serve_uint8', ['images']),
        ('residual', 'serve_bytes', ['image_bytes'])]
    floats, integers, contents = (next(iter(inputs.values())) for _, _, inputs in requests)
    assert (floats.dtype, integers.dtype) == (np.float32, np.uint8)
    assert floats.shape == integers.shape == (1, 8, 8, 3)
    assert np.all(floats == 128) and np.all(integers == 128)
    assert [bytes(content[:4]) for content in contents] == [b'\xff\xd8\xff\xe0', b'\x89PNG']
    loaded = tf.saved_model.load(str(served.export_dir / 'saved_model/1'))
    for _, signature, inputs in requests:
        assert loaded.signatures[signature](
            **{name: tf.constant(value) for name, value in inputs.items()})


def test_long_fields_have_their_length_in_several_bytes(tmp_path):
    """The wire format's own example, 150 = 0x96 0x01; 300 bytes read back."""
    assert warmup.varint(150) == b'\x96\x01' and warmup.varint(0) == b'\0'
    tensor = tf.make_tensor_proto(np.arange(75, dtype=np.float32))
    warmup.write_warmup(tmp_path, [warmup.prediction_log('m' * 200, 's', {'x': tensor})])
    (model, signature, inputs), = prediction_logs.read_requests(tmp_path / warmup.WARMUP_FILE)
    assert (model, signature) == ('m' * 200, 's')
    np.testing.assert_array_equal(inputs['x'], np.arange(75))


def test_top1_is_that_of_keras(served):
    images = RNG.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    assert len(set(np.argmax(logits(served, images), -1))) == 3
    same = serving_agreement.same_top1(served.url, served.model, images, CLASS_NAMES)
    assert same == {'serve_uint8': 60, 'serve_bytes': 60}


def test_opened_by_serve_bytes(served):
    opened = saved_model.open_bytes(str(served.export_dir / 'saved_model'))
    answer = opened([encoded(image) for image in IMAGES])
    expected = tf.nn.softmax(logits(served, IMAGES)).numpy()
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
    assert answer.classes[:, 0].tolist() == [CLASS_NAMES[i] for i in expected.argmax(-1)]
    with pytest.raises(ValueError) as caught:
        opened([encoded(IMAGES[0]), b'?'])
    assert str(caught.value) == (f'{served.export_dir}/saved_model/1: '
                                 'image_bytes[1]: no JPEG or PNG image, 1 bytes')


def gray_with_softmax():
    """A model of digits, one channel, 12 classes of which it names 5, that ends in a softmax."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, keras.layers.Dense(12, 'softmax', name='probability')(x))


@pytest.mark.slow
def test_a_model_of_one_channel_that_ends_in_a_softmax(tmp_path):
    model = gray_with_softmax()
    report = export.export_model(model, tmp_path / 'export', formats=['saved_model'])
    answer = saved_model.open_bytes(report.paths['saved_model'])(
        [encoded(image[..., :1]) for image in IMAGES])
    expected = model(IMAGES[..., :1].astype(np.float32)).numpy()
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-6)
    order = np.argsort(-expected)[:, :5]
    assert answer.classes.tolist() == [[str(index) for index in row] for row in order]


def test_other_channels_have_no_serve_bytes(tmp_path):
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)), name='two')
    report = export.export_model(model, tmp_path / 'export', formats=['saved_model'])
    with pytest.raises(ValueError, match="expected a signature 'serve_bytes', found: serve_uint8, "
                                         'serving_default$'):
        saved_model.open_bytes(report.paths['saved_model'])
    path = report.paths['saved_model'] / warmup.WARMUP_FILE
    assert [request[1] for request in prediction_logs.read_requests(path)] == [
        serving.DEFAULT, serving.UINT8]


def test_digits_sent_as_files_are_classified_as_by_keras(tmp_path):
    """A model of the digits' three channels, all 200 images of the test split's first batch."""
    data = load_data('digits', reward_images=1, augment=False)
    images = next(data.test_batches(200).as_numpy_iterator())[0].astype(np.uint8)
    inputs = keras.Input(tuple(data.image_shape))
    x = keras.layers.Conv2D(7, 3, strides=2)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dense(data.num_classes)(keras.layers.Flatten()(x))
    model = decided(keras.Model(inputs, x), images)
    report = export.export_model(model, tmp_path / 'export', formats=['saved_model'],
                                 class_names=data.class_names)
    answer = saved_model.open_bytes(report.paths['saved_model'])(
        [base64.b64decode(serving_agreement.base64_png(image)['b64']) for image in images])
    expected = np.argmax(model(images.astype(np.float32)), axis=-1)
    assert len(set(expected)) > 3
    assert answer.classes[:, 0].tolist() == [data.class_names[i] for i in expected]
