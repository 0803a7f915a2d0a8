"""Requests to serve_bytes take a bounded amount of memory, whatever they hold and however many."""
import io
import json
import subprocess
import sys

import tfprune  # noqa: F401  (before tensorflow and keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import serving_memory
from tfprune.export import exporter as export, image_bytes

MIB = 2 ** 20
SHAPE = (32, 32, 3)


def saved_model(folder):
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    return export.export_model(model, folder / 'export', formats=['saved_model']
                               ).paths['saved_model']


def jpeg(width, height, **options):
    buffer = io.BytesIO()
    Image.new('RGB', (width, height)).save(buffer, 'JPEG', **options)
    return buffer.getvalue()


def taken(model, folder, pictures, requests):
    """(MiB above rest, MiB of all requests, error) of so many requests of all pictures at once."""
    paths = [folder / f'{i}.bin' for i in range(len(pictures))]
    for path, picture in zip(paths, pictures):
        path.write_bytes(picture)
    done = subprocess.run(
        [sys.executable, serving_memory.__file__, model, f'--requests={requests}', *paths],
        capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return (found['peak'] - found['at_rest'], requests * sum(map(len, pictures)) / MIB,
            found['error'])


@pytest.mark.slow
def test_a_picture_at_a_time_whatever_the_number_of_requests(tmp_path, monkeypatch):
    """48 MB each, eight of them at a time: together they take a third of a GB."""
    monkeypatch.setattr(image_bytes, 'LARGE_BYTES', 64 * MIB)
    monkeypatch.setattr(image_bytes, 'SMALL_BYTES', MIB)
    picture = serving_memory.png(4000, 3000, color=6)
    above, sent, error = taken(saved_model(tmp_path), tmp_path, [picture], 8)
    assert not error
    assert 40 < above < 64 + 8 * (1 + 8) + 3 * sent


@pytest.mark.slow
@pytest.mark.parametrize('name, picture, count', [
    ('gray', lambda: serving_memory.png(9000, 9000), 8),
    ('16 bits', lambda: serving_memory.png(9000, 9000, color=6, depth=16), 2),
    ('narrow', lambda: serving_memory.png(3, 65535, color=6), 64),
    ('progressive', lambda: jpeg(8000, 8000, progressive=True), 3),
    ('photographs', lambda: jpeg(4000, 3000), 40),
    ('small', lambda: serving_memory.png(1, 1), 5000)])
def test_the_stated_limit_holds_under_load(name, picture, count, tmp_path):
    requests = 4
    above, sent, error = taken(saved_model(tmp_path), tmp_path, [picture()] * count, requests)
    limit = (image_bytes.LARGE_BYTES + requests * (
        image_bytes.SMALL_BYTES + image_bytes.WORK_BYTES)) / MIB + 3 * sent
    print(f'{name}: {above:.0f} MiB of at most {limit:.0f}')
    assert not error and above < limit


@pytest.mark.parametrize('color, channels', [(0, 1), (2, 3), (3, 4), (4, 2), (6, 4)])
@pytest.mark.parametrize('depth', [8, 16])
def test_what_a_png_takes_is_told_by_its_header(color, channels, depth):
    """Its pixels as they are decoded, and its rows shortened to 32 pixels of 3 times 2 bytes."""
    if (color, depth) == (3, 16):
        pytest.skip('a palette has 8 bits')
    encoded = serving_memory.png(50, 40, color=color, depth=depth)
    reason, facts = image_bytes.inspect(tf.constant(encoded), SHAPE)
    assert reason == b'' and tf.io.decode_png(encoded).shape == (
        40, 50, 3 if color == 3 else channels)  # a palette may be transparent
    assert facts.numpy().tolist() == [1, 40 * 50 * channels + 2 * 2 * 40 * 32 * 3]


@pytest.mark.parametrize('options, kept', [
    ({}, 0), ({'progressive': True}, 2 * 3 * (300 + 32) * (400 + 32))])
def test_what_a_jpeg_takes_is_told_by_its_header(options, kept):
    """300 is four times 64, not eight: a quarter, and all coefficients where it has several scans.
    """
    encoded = jpeg(400, 300, **options)
    reason, facts = image_bytes.inspect(tf.constant(encoded), SHAPE)
    assert reason == b'' and image_bytes.decode_jpeg(encoded, 64).shape == (75, 100, 3)
    assert facts.numpy().tolist() == [1, 3 * 75 * 100 + kept + 2 * 2 * 75 * 32 * 3]


def sized(encoded, width, height):
    """The same file that claims to have another size."""
    place = encoded.index(b'IHDR') + 4 if encoded[:1] == b'\x89' else encoded.index(
        b'\xff\xc2') + 5
    size = 4 if encoded[:1] == b'\x89' else 2
    sides = (width, height) if size == 4 else (height, width)
    return (encoded[:place] + b''.join(side.to_bytes(size, 'big') for side in sides)
            + encoded[place + 2 * size:])


@pytest.mark.parametrize('picture, reason', [
    (sized(serving_memory.png(8, 8), 30_000, 30_000), 'takes more than 512 MiB'),
    (sized(serving_memory.png(8, 8), 2 ** 31 - 1, 1), 'more than 65535 pixels wide or high'),
    (sized(serving_memory.png(8, 8), 1, 65_536), 'more than 65535 pixels wide or high'),
    # All of its coefficients would be kept: 25 GB of a file of under a kilobyte.
    (sized(jpeg(8, 8, progressive=True), 65_500, 65_500), 'takes more than 512 MiB')],
    ids=['large', 'wide', 'high', 'progressive'])
def test_what_takes_too_much_is_refused_unopened(picture, reason):
    assert len(picture) < 1000
    answer = tf.function(lambda x: image_bytes.answer_batch(
        x, SHAPE, 'image_bytes', lambda images: images[:, 0, 0], 3))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        answer(tf.constant([serving_memory.png(8, 8), picture]))
    assert f'[image_bytes[1]: {reason}, {len(picture)} bytes]' in caught.value.message


@pytest.mark.slow
def test_those_that_are_decoded_alone_are_decoded_alike_and_a_damaged_one_ends_no_other(
        monkeypatch):
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (90, 70, 3)).astype(
        np.uint8)) for i in range(3)]
    files = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, 'PNG')
        files.append(buffer.getvalue())
    damaged = files[0].replace(b'IDAT', b'IDAT\x01')

    def answering():
        return tf.function(lambda x: image_bytes.answer_batch(
            x, SHAPE, 'image_bytes', lambda images: images[:, 5, 5], 3))

    expected = answering()(tf.constant(files))
    monkeypatch.setattr(image_bytes, 'SMALL_BYTES', 0)
    alone = answering()
    for _ in range(2):
        np.testing.assert_array_equal(alone(tf.constant(files)), expected)
        with pytest.raises(tf.errors.InvalidArgumentError, match='PNG data, size'):
            alone(tf.constant([files[1], damaged]))


def test_more_pictures_than_a_slice_come_back_in_their_order(monkeypatch):
    monkeypatch.setattr(image_bytes, 'slice_size', lambda shape: 3)
    files = [serving_memory.png(8, 8)] * 7
    seen = []

    def answer(images):
        seen.append(images.shape)
        return tf.cast(tf.fill([tf.shape(images)[0], 1], tf.shape(images)[0]), tf.float32)

    found = tf.function(lambda x: image_bytes.answer_batch(x, SHAPE, 'x', answer, 1))(
        tf.constant(files))
    assert found[:, 0].numpy().tolist() == [3, 3, 3, 3, 3, 3, 1]
