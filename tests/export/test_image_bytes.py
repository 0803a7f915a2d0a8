"""Decoding inside the graph is Pillow's of folder data; what is not whole is refused by place."""
import io

import tfprune  # noqa: F401  (first: sets up Keras)
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfprune.data import decoding
from tfprune.export import image_bytes

RNG = np.random.default_rng(3)
NOISE = Image.fromarray(RNG.integers(0, 256, (24, 17, 3)).astype(np.uint8))
SIZE = (17, 24)  # Pillow's width, height of NOISE: nothing is resized


def encode(image, form='PNG', **options):
    """bytes of a Pillow image."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photograph(width, height):
    """A smooth RGB image with some noise, as cameras make."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = np.stack([np.sin(x / 31), np.cos(y / 17), np.sin((x + y) / 23)], axis=-1)
    return Image.fromarray(np.clip(128 + 90 * waves + RNG.normal(0, 12, waves.shape), 0, 255)
                           .astype(np.uint8))


@pytest.fixture(scope='module')
def decoders():
    """{image shape: graph of the decoded images}; the first row is that of NOISE."""
    def graph(shape):
        def flat(images):
            return tf.reshape(images, [-1, int(np.prod(shape))])

        return tf.function(lambda x: tf.reshape(image_bytes.answer_batch(
            x, shape, 'image_bytes', flat, int(np.prod(shape))), [-1, *shape]), autograph=False,
                           input_signature=[tf.TensorSpec([None], tf.string)])
    return {shape: graph(shape) for shape in ((24, 17, 3), (24, 17, 1), (20, 32, 3))}


def by_pillow(tmp_path, encoded, shape):
    """As folder data are decoded."""
    path = tmp_path / 'image'
    path.write_bytes(encoded)
    return decoding.decode(str(path), *shape).astype(np.float32)


def modes():
    """name -> encoded image of NOISE's size."""
    palette = NOISE.quantize(16)
    deep = Image.fromarray(RNG.integers(0, 65536, (24, 17)).astype(np.uint16))
    alpha = NOISE.convert('RGBA')
    alpha.putalpha(Image.fromarray(RNG.integers(0, 256, (24, 17)).astype(np.uint8)))
    cmyk = Image.fromarray(RNG.integers(0, 256, (24, 17, 4)).astype(np.uint8), 'CMYK')
    return {
        'RGB': encode(NOISE), 'gray': encode(NOISE.convert('L')), '16 bits': encode(deep),
        '1 bit': encode(NOISE.convert('1')), 'palette': encode(palette), 'RGBA': encode(alpha),
        'gray and alpha': encode(alpha.convert('LA')),
        'transparent palette': encode(palette, transparency=3),
        'JPEG': encode(NOISE, 'JPEG'), 'gray JPEG': encode(NOISE.convert('L'), 'JPEG'),
        'progressive': encode(NOISE, 'JPEG', progressive=True), 'CMYK': encode(cmyk, 'JPEG')}


def test_pixels_are_those_of_folder_data_in_every_mode(decoders, tmp_path):
    encoded = modes()
    for shape in ((24, 17, 3), (24, 17, 1)):
        images = decoders[shape](list(encoded.values())).numpy()
        for (name, content), image in zip(encoded.items(), images, strict=True):
            np.testing.assert_allclose(image, by_pillow(tmp_path, content, shape), rtol=0,
                                       atol=int(name == 'CMYK'), err_msg=f'{name} {shape}')


def test_every_color_under_every_alpha_is_rounded_as_pillow_does(tmp_path):
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).astype(np.uint8)
    encoded = encode(Image.fromarray(pairs, 'LA'))
    (tmp_path / 'x.png').write_bytes(encoded)
    np.testing.assert_array_equal(image_bytes.composed(tf.io.decode_png(encoded), 3),
                                  decoding.decode(str(tmp_path / 'x.png'), None, None, 3))


@pytest.mark.parametrize('width, height', [(32, 19), (7, 5), (90, 61), (640, 480), (1, 1)])
def test_resized_as_folder_data_within_one(decoders, tmp_path, width, height):
    """640 x 480 is decoded to a fifth or so: both halve twice; 90 x 61 is not below twice 32."""
    shape = (20, 32, 3)
    image = photograph(width, height)
    for encoded in (encode(image), encode(image, 'JPEG', quality=90)):
        ours = decoders[shape]([encoded])[0].numpy()
        assert np.array_equal(ours, np.round(ours))
        assert np.abs(ours - by_pillow(tmp_path, encoded, shape)).max() <= 1


@pytest.mark.parametrize('orientation', range(1, 9))
def test_upright_by_exif(decoders, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x010f] = 'A maker whose name comes before the orientation'
    exif[0x0112] = orientation
    encoded = encode(photograph(40, 25), 'JPEG', exif=exif)
    expected = by_pillow(tmp_path, encoded, (20, 32, 3))
    ours = decoders[20, 32, 3]([encoded, swapped_exif(encoded)]).numpy()
    np.testing.assert_allclose(ours, [expected, expected], atol=1)
    others = by_pillow(tmp_path, encode(photograph(40, 25), 'JPEG'), (20, 32, 3))
    assert orientation == 1 or np.abs(others - expected).mean() > 10  # the test can tell them


@pytest.mark.parametrize('orientation, form', [
    *((value, 'tiff:Orientation="%d"') for value in range(1, 9)), (6, 'tiff:Orientation>%d<'),
    (9, 'tiff:Orientation="%d"'), (6, 'tiff:Orientation=\'%d\'')])
def test_upright_by_xmp(decoders, tmp_path, orientation, form):
    """As Pillow: an attribute or an element, where EXIF says nothing."""
    xmp = ('tiff:Orientation="x' + ' ' * 40 + form % orientation + ' tiff:Orientation="3"').encode()
    plain, exif = encode(NOISE, 'JPEG', quality=95), Image.Exif()
    exif[0x0112] = 8
    for options in ({}, {'exif': exif}):
        encoded = encode(NOISE, 'JPEG', quality=95, xmp=xmp, **options)
        shape = (24, 17, 3)
        expected = by_pillow(tmp_path, encoded, shape)
        pixels = decoders[shape](tf.constant([encoded, plain])).numpy()
        assert np.abs(pixels[0] - expected).max() <= 1
    assert np.abs(pixels[0] - pixels[1]).mean() > 10  # by EXIF, whatever XMP says


def swapped_exif(encoded):
    """The same JPEG with EXIF data of the other byte order, orientation alone."""
    orientation = Image.open(io.BytesIO(encoded)).getexif()[0x0112]
    little = encoded[encoded.index(b'Exif\0\0') + 6:][:2] == b'II'
    order = 'big' if little else 'little'
    parts = [(42, 2), (8, 4), (1, 2), (0x0112, 2), (3, 2), (1, 4), (orientation, 2), (0, 2), (0, 4)]
    exif = b'Exif\0\0' + (b'MM' if little else b'II') + b''.join(
        value.to_bytes(size, order) for value, size in parts)
    start = encoded.index(b'\xff\xe1')
    end = start + 2 + int.from_bytes(encoded[start + 2:start + 4], 'big')
    return (encoded[:start] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
            + encoded[end:])


def test_nonsense_in_exif_leaves_the_image_as_it_is(decoders):
    plain = encode(NOISE, 'JPEG', quality=95)

    def with_segment(content):
        return plain[:2] + b'\xff\xe1' + (len(content) + 2).to_bytes(2, 'big') + content + plain[2:]
    broken = [with_segment(content) for content in (
        b'Exif\0\0', b'Exif\0\0II*\0\xff\xff\xff\xff', b'Exif\0\0MM\0*\0\0\0\x08\xff\xff',
        b'Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0', b'http://ns.adobe.com/')]
    images = decoders[24, 17, 3]([plain, *broken]).numpy()
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])


GOOD = [encode(NOISE), encode(NOISE, 'JPEG')]
WITH_THUMBNAIL = (GOOD[1][:2] + b'\xff\xe1' + (len(GOOD[1]) + 8).to_bytes(2, 'big') + b'Exif\0\0'
                  + GOOD[1] + GOOD[1][2:])
HUGE = GOOD[0][:16] + (20_000).to_bytes(4, 'big') * 2 + GOOD[0][24:]


@pytest.mark.parametrize('bad, reason', [
    (b'', 'no JPEG or PNG image, 0 bytes'), (b'\xff\xd8', 'no JPEG or PNG image, 2 bytes'),
    (b'GIF89a and more', 'no JPEG or PNG image, 15 bytes'),
    (b'{"not": "an image"}', 'no JPEG or PNG image, 19 bytes'),
    # A byte a step of a loop: this many took minutes.
    (b'\xff\xd8' + b'\xff' * 400_000, 'a truncated image, 400002 bytes'),
    (GOOD[0][:-20], f'a truncated image, {len(GOOD[0]) - 20} bytes'),
    (GOOD[0][:8], 'a truncated image, 8 bytes'), (GOOD[1][:3], 'a truncated image, 3 bytes'),
    (GOOD[1][:-30], f'a truncated image, {len(GOOD[1]) - 30} bytes'),
    (GOOD[1][:50], 'a truncated image, 50 bytes'),
    (WITH_THUMBNAIL[:-30], f'a truncated image, {len(WITH_THUMBNAIL) - 30} bytes'),
    (HUGE, f'takes more than 512 MiB, {len(HUGE)} bytes')])
def test_what_is_no_whole_image_is_named_by_its_place(decoders, bad, reason):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decoders[24, 17, 3]([GOOD[0], bad, GOOD[1]])
    assert f'[image_bytes[1]: {reason}]' in caught.value.message


def test_several_bad_images_and_none_at_all(decoders):
    with pytest.raises(tf.errors.InvalidArgumentError, match=(
            r'\[image_bytes\[0\]: no .* 1 bytes; image_bytes\[2\]: no .* 2 bytes\]')):
        decoders[24, 17, 3]([b'x', GOOD[0], b'yy'])
    with pytest.raises(tf.errors.InvalidArgumentError, match='at least one image, received none'):
        decoders[24, 17, 3](tf.zeros([0], tf.string))


def test_damage_inside_an_image_is_an_error_too(decoders):
    """A flipped bit among the pixels of a PNG: its checksum fails."""
    place = GOOD[0].index(b'IDAT') + 40
    damaged = GOOD[0][:place] + bytes([GOOD[0][place] ^ 4]) + GOOD[0][place + 1:]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f'PNG data, size {len(damaged)}'):
        decoders[24, 17, 3]([GOOD[1], damaged])


def test_thumbnails_and_data_behind_the_end_are_passed_over(decoders):
    whole = [GOOD[1], WITH_THUMBNAIL, GOOD[1] + b'\xff\xda a film of the moment', GOOD[0] + b'tail']
    images = decoders[24, 17, 3](whole).numpy()
    for image, same in ((1, 0), (2, 0)):
        np.testing.assert_array_equal(images[image], images[same])
    np.testing.assert_array_equal(images[3], np.asarray(NOISE))


def test_channels_that_no_file_has():
    with pytest.raises(ValueError, match=r'expected 1 or 3 channels, received \[8, 8, 4\]'):
        image_bytes.check(tf.constant(GOOD), (8, 8, 4), 'x')
