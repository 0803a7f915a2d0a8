"""Image files of every format and mode to pixels."""
import tfprune  # noqa: F401  (first: sets up Keras)
import numpy as np
import pytest
from PIL import Image

from tfprune.data.decoding import decode


def stripes(*colours, height=8):
    """uint8 [height, 8 per colour, C], one vertical stripe a colour."""
    return np.repeat(np.array([colours], np.uint8), 8, axis=1).repeat(height, axis=0)


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
    grey = np.asarray(image.convert('L')).astype(int)[..., None]
    np.testing.assert_allclose(decode(str(path), None, None, 1), grey, atol=tolerance)


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
        'grey and alpha': ('x.png', Image.merge('LA', (
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
