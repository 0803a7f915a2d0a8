"""Which test examples a model answers right, a bit each, as text that fits into a row."""
import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def packed(before: np.ndarray | None, after: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Of the models before surgery, None where there is none, and after it.

    Args:
        before, after: answers [N].
        labels: what is right [N].

    Returns:
        before, after: base64 of ⌈N/8⌉ bytes, the first example the highest bit of the first;
        labels: a checksum of the labels in their order: bits of equal ones are of equal examples.
    """
    return {'before': None if before is None else _text(before == labels),
            'after': _text(after == labels),
            'labels': f'{zlib.crc32(labels.astype("<i8").tobytes()):08x}'}


def unpacked(right: Mapping[str, Any], number: int, side: str = 'after') -> np.ndarray:
    """bool [number] of what `packed` gave; ValueError where it is of another number of examples."""
    try:
        content = base64.b64decode(right[side], validate=True)
    except binascii.Error as error:
        raise ValueError(f'right answers are not base64: {error}.') from None
    if len(content) != -(-number // 8):
        raise ValueError(f'right answers to {number} examples take {-(-number // 8)} bytes, '
                         f'received {len(content)}.')
    return np.unpackbits(np.frombuffer(content, np.uint8), count=number).astype(bool)


def _text(right: np.ndarray) -> str:
    return base64.b64encode(np.packbits(right).tobytes()).decode()
