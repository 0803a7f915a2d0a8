"""Image files to uint8 arrays, by Pillow: TensorFlow's decoders know neither EXIF orientation nor
CMYK, and drop transparency."""

import concurrent.futures
import os
from collections.abc import Sequence

import numpy as np
import tqdm
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')
_FORMATS = ('BMP', 'JPEG', 'PNG', 'WEBP')  # No others: some run programs to decode.
_CHUNK = 32  # files a task


class SizeError(ValueError):
    """An image that has not the size of the others, where it is not resized."""


def decode(path: str, height: int | None, width: int | None, channels: int) -> np.ndarray:
    """The image in a file, upright, uint8 [H, W, C].

    Resized by antialiased bilinear interpolation, its aspect ratio not kept. Transparency shows
    white; 16 bits a channel become 8; colour becomes grey by luminance if channels is 1.

    Args:
      height, width: in pixels; None keeps the image's own size.
      channels: 1 or 3.

    Raises whatever Pillow raises on a damaged file.
    """
    with Image.open(path, formats=_FORMATS) as file:
        if height and width:
            # JPEG decodes to a fraction at little cost; twice the size leaves work to the filter.
            file.draft(None, (2 * max(height, width),) * 2)
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith('I'):  # 16 bits of grey, which Pillow's conversion would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    image = image.convert('L' if channels == 1 else 'RGB')
    if height and width and image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


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

    with (concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
          tqdm.tqdm(total=len(paths), desc='decoding', unit=' images', leave=False,
                    disable=None) as bar):  # None: no bar unless on a terminal
        for count in pool.map(decode_chunk, range(0, len(paths), _CHUNK)):
            bar.update(count)
    return dict(sorted(unreadable.items()))


def reason(error: Exception) -> str:
    """Why a file cannot be read, on one line, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return 'no BMP, JPEG, PNG or WebP image'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return ' '.join(str(error).split())[:100] or type(error).__name__
