"""Image files of every format and mode to pixels."""
import os
import socket
import struct
import warnings
import zlib

import tfprune  # noqa: F401  (first: sets up Keras)
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tfprune.data.decoding import decode, decode_all


def stripes(*colors, height=8):
    """uint8 [height, 8 per color, C], one vertical stripe a color."""
    return np.repeat(np.array([colors], np.uint8), 8, axis=1).repeat(height, axis=0)


RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (60, 60, 60)
RGB = Image.fromarray(stripes(RED, GREEN, BLUE, GREY))


@pytest.mark.parametrize('suffix, tolerance', [
    ('.png', 0), ('.bmp', 0), ('.webp', 0), ('.JPG', 6), ('.jpeg', 6)])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_formats(tmp_path, suffix, tolerance, mode):
    image = RGB.convert(mode)
    path = tmp_path / f'x{suffix}'
    image.save(path, **{'.webp': {'lossless': True}}.get(
        suffix, {'quality': 98, 'subsampling': 0} if tolerance else {}))
    expected = np.asarray(image.convert('RGB')).astype(int)
    np.testing.assert_allclose(decode(str(path), None, None, 3), expected, atol=tolerance)
    gray = np.asarray(image.convert('L')).astype(int)[..., None]
    np.testing.assert_allclose(decode(str(path), None, None, 1), gray, atol=tolerance)


def mode_cases():
    """name -> (image, options of save, expected RGB [H, W, 3])."""
    palette = RGB.quantize(4, dither=Image.Dither.NONE)
    red = int(np.asarray(palette)[0, 0])
    alpha = RGB.convert('RGBA')
    alpha.putalpha(Image.fromarray(stripes(255, 0, 255, 255)))
    holed = stripes(RED, (255, 255, 255), BLUE, GREY)
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    return {
        'palette': ('x.png', palette, {}, stripes(RED, GREEN, BLUE, GREY)),
        'transparent palette': ('x.png', palette, {'transparency': red},
                                stripes((255, 255, 255), GREEN, BLUE, GREY)),
        'alpha': ('x.png', alpha, {}, holed),
        'alpha, WebP': ('x.webp', alpha, {'lossless': True}, holed),
        'gray and alpha': ('x.png', Image.merge('LA', (
            Image.fromarray(stripes(10, 20)), Image.fromarray(stripes(255, 0)))), {},
            stripes((10, 10, 10), (255, 255, 255))),
        '1 bit': ('x.png', Image.fromarray(stripes(0, 255)).convert('1'), {},
                  stripes((0, 0, 0), (255, 255, 255))),
        '16 bits': ('x.png', Image.fromarray(deep), {},
                    np.array([[[v] * 3 for v in (0, 0, 1, 128, 255)]])),
        'CMYK': ('x.jpg', Image.fromarray(stripes((0, 255, 255, 0), (0, 0, 0, 195)), 'CMYK'),
                 {'quality': 100, 'subsampling': 0}, stripes(RED, GREY)),
    }


@pytest.mark.parametrize('name', mode_cases())
def test_modes(tmp_path, name):
    file, image, options, expected = mode_cases()[name]
    image.save(tmp_path / file, **options)
    np.testing.assert_allclose(decode(str(tmp_path / file), None, None, 3), expected,
                               atol=4 if file.endswith('jpg') else 0)


def test_exif_orientation_is_obeyed(tmp_path):
    """Orientation 6: the camera's left column is the top row of the upright image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stripes(RED, BLUE)).save(tmp_path / 'x.png', exif=exif)
    upright = decode(str(tmp_path / 'x.png'), None, None, 3)
    assert upright.shape == (16, 8, 3)
    assert upright[0].tolist() == [list(RED)] * 8 and upright[-1].tolist() == [list(BLUE)] * 8


def test_resizing_averages_and_keeps_height_and_width_apart(tmp_path):
    checks = np.indices((64, 96)).sum(0) % 2 * 255
    Image.fromarray(checks.astype(np.uint8)).save(tmp_path / 'x.png')
    small = decode(str(tmp_path / 'x.png'), 8, 12, 3)
    assert small.shape == (8, 12, 3)
    assert np.abs(small.astype(int) - 127.5).max() < 8  # Without averaging: 0 or 255.


def test_large_jpegs_decode_to_a_fraction_without_loss(tmp_path):
    y, x = np.mgrid[:700, :900]
    image = Image.fromarray(np.stack([y / 3, x / 4, (y + x) / 7], -1).astype(np.uint8))
    image.save(tmp_path / 'x.jpg', quality=95)
    whole = Image.open(tmp_path / 'x.jpg').resize((30, 20), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(decode(str(tmp_path / 'x.jpg'), 20, 30, 3).astype(int),
                               np.asarray(whole).astype(int), atol=3)


def tilted(path, orientation, form):
    """Saves RED | BLUE, 8 x 16, with an orientation said in one of the forms that Pillow knows."""
    image, exif = Image.fromarray(stripes(RED, BLUE)), Image.Exif()
    exif[0x0112] = orientation
    xmp = (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{orientation}"'
           '/></x:xmpmeta>')
    text = PngInfo()
    text.add_itxt('XML:com.adobe.xmp', xmp)
    raw = PngInfo()
    data = exif.tobytes()
    raw.add_text('Raw profile type exif', f'\nexif\n{len(data):8}\n{data.hex()}\n')
    options = {'EXIF': {'exif': exif}, 'XMP': {'xmp': xmp.encode()}, 'XMP of a PNG':
               {'pnginfo': text}, 'profile': {'pnginfo': raw}, 'tag': {'tiffinfo': {
                   0x0112: orientation}}, 'both': {'exif': exif, 'xmp': xmp.replace(
                       str(orientation), '3').encode()}}[form]
    lossless = {'.webp': {'lossless': True}, '.jpg': {'quality': 100, 'subsampling': 0}}
    image.save(path, **options, **lossless.get(path.suffix, {}))


TURNS = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1],
         4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2),
         6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
         8: lambda a: np.rot90(a)}  # EXIF 2.32, 4.6.4


@pytest.mark.parametrize('suffix, form', [
    ('.jpg', 'EXIF'), ('.jpg', 'XMP'), ('.jpg', 'both'), ('.png', 'EXIF'), ('.png', 'profile'),
    ('.png', 'XMP of a PNG'), ('.webp', 'EXIF'), ('.webp', 'XMP'), ('.tif', 'tag')])
def test_orientation_in_every_form(tmp_path, suffix, form):
    """What ImageOps.exif_transpose gives, at full size and resized from a fraction of a JPEG."""
    path = tmp_path / f'x{suffix}'
    for orientation, turn in TURNS.items():
        tilted(path, orientation, form)
        expected = turn(stripes(RED, BLUE))
        with Image.open(path) as file:
            theirs = np.asarray(ImageOps.exif_transpose(file).convert('RGB')).astype(int)
        ours = decode(str(path), None, None, 3)
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(ours.astype(int), expected, atol=4)
        small = decode(str(path), expected.shape[0] // 4, expected.shape[1] // 4, 3)
        np.testing.assert_allclose(small[[0, -1], [0, -1]].astype(int),
                                   expected[[0, -1], [0, -1]], atol=4)


def test_damaged_exif_data_do_not_damage_the_image(tmp_path):
    image = Image.fromarray(stripes(RED, BLUE))
    for number, exif in enumerate((b'Exif\0\0nothing', b'Exif\0\0II*\0\xff\xff\xff\xff', b'',
                                   b'Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12')):
        path = tmp_path / f'{number}.png'
        image.save(path, exif=exif)
        images = np.zeros((1, 8, 16, 3), np.uint8)
        assert not decode_all([str(path)], images, resize=False)
        np.testing.assert_array_equal(images[0], stripes(RED, BLUE))


@pytest.mark.parametrize('suffix', ['.gif', '.tif', '.tiff', '.png', '.webp'])
def test_of_several_pictures_the_first_is_read(tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    options = {'.webp': {'lossless': True}}.get(suffix, {})
    RGB.save(path, save_all=True, append_images=[RGB.rotate(180)], **options)
    np.testing.assert_array_equal(decode(str(path), None, None, 3), np.asarray(RGB))


@pytest.mark.parametrize('compression', ['raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK', '1'])
def test_tiff(tmp_path, compression, mode):
    image = RGB.convert(mode)
    image.save(tmp_path / 'x.tif', compression=compression)
    np.testing.assert_array_equal(decode(str(tmp_path / 'x.tif'), None, None, 3),
                                  np.asarray(image.convert('RGB')))


def test_sixteen_bits_of_gray_in_tiff(tmp_path):
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for order in '<>':
        Image.fromarray(deep.astype(f'{order}u2')).save(tmp_path / 'x.tif')
        assert decode(str(tmp_path / 'x.tif'), None, None, 1).ravel().tolist() == [
            0, 0, 1, 128, 255]


UNREADABLE = {
    'pipe.png': (os.mkfifo, 'not a regular file'),
    'device.png': (lambda path: os.symlink('/dev/zero', path), 'not a regular file'),
    'socket.png': (lambda path: bind(path), 'not a regular file'),
    'folder.png': (lambda path: path.mkdir(), 'not a regular file'),
    'gone.png': (lambda path: os.symlink('nowhere', path), 'No such file'),
    'loop.png': (lambda path: os.symlink(path, path), 'Too many levels'),
    'empty.png': (lambda path: path.write_bytes(b''), 'no BMP, GIF, JPEG, PNG, TIFF or WebP image'),
    'bomb.png': (lambda path: bomb(path), 'exceeds limit'),
    'float.tif': (lambda path: Image.fromarray(np.ones((2, 2), np.float32)).save(path), '32 bits'),
    'wide.tif': (lambda path: Image.fromarray(np.ones((2, 2), np.int32)).save(path), '32 bits'),
    'cut.jpg': (lambda path: cut(path), 'truncated'), 'cut.png': (lambda path: cut(path), ''),
    'cut.tif': (lambda path: cut(path), ''), 'cut.webp': (lambda path: cut(path), ''),
    'cut.bmp': (lambda path: cut(path), 'truncated'), 'cut.gif': (lambda path: cut(path), ''),
}


def bind(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def bomb(path):
    """A small PNG that says to have 20,000 x 20,000 pixels."""
    RGB.save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack('>II', 20_000, 20_000)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    path.write_bytes(data)


def cut(path):
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2500])


@pytest.mark.parametrize('name', UNREADABLE)
def test_what_cannot_be_read_has_a_reason(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    UNREADABLE[name][0](path)
    images = np.full((2, 8, 8, 3), 7, np.uint8)
    RGB.save(tmp_path / 'whole.png')
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # a warning of Pillow names no file
        found = decode_all([str(path), str(tmp_path / 'whole.png')], images, resize=True)
    assert list(found) == [0] and UNREADABLE[name][1] in found[0] and found[0]
    assert '\n' not in found[0] and not np.all(images[1] == 7)
