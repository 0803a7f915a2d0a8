"""Image files to uint8 arrays, by Pillow: TensorFlow's decoders know neither EXIF orientation nor
CMYK, and drop transparency."""

import concurrent.futures
import os
import stat
import warnings
from collections.abc import Sequence

import numpy as np
import tqdm
from PIL import Image, UnidentifiedImageError

SUFFIXES = ('.bmp', '.gif', '.jfif', '.jpe', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')  # No others: some run programs to decode.
_NO_IMAGE = 'no BMP, GIF, JPEG, PNG, TIFF or WebP image'
_CHUNK = 32  # files a task
_ORIENTATION = 0x0112  # tag of EXIF
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}


class SizeError(ValueError):
    """An image that has not the size of the others, where it is not resized."""


def decode(path: str, height: int | None, width: int | None, channels: int) -> np.ndarray:
    """The image in a file, upright, uint8 [H, W, C].

    Resized by antialiased bilinear interpolation, its aspect ratio not kept. Transparency shows
    white; 16 bits a channel become 8; color becomes gray by luminance if channels is 1; of several
    pictures in one file it is the first.

    Args:
        height, width: in pixels; None keeps the image's own size.
        channels: 1 or 3.

    Raises OSError for what is no regular file, and whatever Pillow raises on a damaged one.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # A pipe would be waited for without end.
        raise OSError('not a regular file')
    with Image.open(path, formats=_FORMATS) as file:
        if height and width:
            # JPEG decodes to a fraction at little cost; twice the size leaves work to the filter.
            file.draft(None, (2 * max(height, width),) * 2)
        image = _upright(file)
    if image.mode in ('F', 'I') and file.format != 'PNG':
        raise ValueError('32 bits a pixel, expected 8 or 16 a channel')
    if image.mode.startswith('I'):  # 16 bits of gray, which Pillow's conversion would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    image = image.convert('L' if channels == 1 else 'RGB')
    if height and width and image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _upright(file: Image.Image) -> Image.Image:
    """The image, turned and mirrored as its EXIF or XMP orientation asks for, if one can be read.

    As ImageOps.exif_transpose, which fails where anything else in the EXIF data is damaged.
    """
    file.load()  # What stands behind the pixels of a PNG is known now; a TIFF is upright.
    try:
        orientation = file.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises nearly anything on damaged EXIF data.
        orientation = 1
    return file.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else file.copy()


def decode_all(paths: Sequence[str], images: np.ndarray, resize: bool) -> dict[int, str]:
    """Decodes files in parallel into images [N, H, W, C]; {index: why} of the unreadable ones.

    Raises:
        SizeError: an image of another size, if not `resize`.
    """
    height, width, channels = images.shape[1:]
    unreadable = {}

    def decode_chunk(start: int) -> int:
        chunk = paths[start:start + _CHUNK]
        for index, path in enumerate(chunk, start):
            try:
                image = decode(path, height if resize else None, width if resize else None,
                               channels)
            except Exception as error:  # Pillow raises nearly anything on a damaged file.
                unreadable[index] = reason(error)
                continue
            if image.shape != images.shape[1:]:
                raise SizeError(
                    f'{path} has {image.shape[0]}x{image.shape[1]} pixels, images before it '
                    f'{height}x{width}: images of several sizes need --image_size')
            images[index] = image
        return len(chunk)

    with (warnings.catch_warnings(),
          concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
          tqdm.tqdm(total=len(paths), desc='decoding', unit=' images', leave=False,
                    disable=None) as bar):  # None: no bar unless on a terminal
        warnings.filterwarnings('ignore', module=r'PIL\.')  # what matters is an error, of a file
        for count in pool.map(decode_chunk, range(0, len(paths), _CHUNK)):
            bar.update(count)
    return dict(sorted(unreadable.items()))


def reason(error: Exception) -> str:
    """Why a file cannot be read, on one line, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return _NO_IMAGE
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return ' '.join(str(error).split())[:100] or type(error).__name__
