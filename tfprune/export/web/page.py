"""write_page: the folder web/ of an export, a page that classifies pictures without network.

It is served as it is, `python -m http.server` in the folder: no build step, no request but for its
own files. page.json tells page.js all that it must know of the files: for each the number that it
takes for each byte of a picture, and what its outputs are.
"""
from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfprune.data.pixels import PixelRange
from tfprune.export.base import Signature, dims
from tfprune.export.exporter import ExportReport
from tfprune.export.flatbuffer import Graph
from tfprune.export.interpreter import named_details, open_interpreter, quantized
from tfprune.export.web import litert_js
from tfprune.plain_text import labels

FOLDER = 'web'
PARTS = ('index.html', 'page.css', 'page.js', 'pixels.js')
# Of the quantized files the page has one beside float32: the first of these that there is.
QUANTIZED = {'tflite_int8_qat': 'int8, QAT', 'tflite_int8': 'int8',
             'tflite_dynamic': 'int8 weights', 'tflite_float16': 'float16'}
_PASSING = ('DEQUANTIZE', 'QUANTIZE', 'RESHAPE')


def check_page(signature: Signature, pixels: PixelRange, batch: int) -> None:
    """ValueError, in one line, for a model that has no page.

    batch: that of its files, see TFLiteOptions.
    """
    shape = signature.image_shape
    if shape is None or shape[-1] not in (1, 3) or signature.num_classes is None:
        takes = '; '.join(f'[{dims(shape)}]' for shape, _ in signature.inputs.values())
        raise ValueError('web: expected a classifier of pictures of 1 or 3 channels, received a '
                         f'model of {takes}')
    if not pixels.is_known:
        raise ValueError(f'web: expected a known range of pixels; {pixels.text}')
    if batch != 1:
        raise ValueError('web: LiteRT.js opens files of one image at a time alone; expected '
                         f'tflite_batch 1, received {batch}')


def files_of(exported: ExportReport, dense: bytes | None) -> dict[str, bytes]:
    """{title: content} of the files of a page: dense, float32 and the first of QUANTIZED.

    dense: the float32 file of the model before pruning; None without one.
    """
    prefix = 'pruned, ' if dense else ''
    titles = {'tflite': 'float32', **dict([(form, title) for form, title in QUANTIZED.items()
                                           if form in exported.paths][:1])}
    found = {f'{prefix}{title}': exported.paths[form].read_bytes()
             for form, title in titles.items()}
    return {'dense, float32': dense, **found} if dense else found


def write_page(out_dir: str | os.PathLike[str], files: Mapping[str, bytes], *, title: str,
               pixels: PixelRange, class_names: Sequence[str] | None = None,
               runtime: str = '') -> str:
    """Writes a page that shows a picture to TFLite classifiers, whole or not at all.

    out_dir: the folder of the page; one that is there is replaced.
    files: {title: content} of TFLite files of one image [1, H, W, C] of one size and of the same K
        classes; the last is the one that orders the classes.
    title: heading of the page.
    pixels: what a byte of a picture is in the images that the models were trained on.
    class_names: K names; None shows indices.
    runtime: folder in which npm installed LiteRT.js (litert_js.PACKAGE); '' has npm fetch it.

    Returns '', or in one line what the page lacks and what brings it: LiteRT.js, where there is no
    npm or no network. FileNotFoundError for a `runtime` without LiteRT.js.
    """
    litert_js.check_folder(runtime)
    out_dir = pathlib.Path(out_dir)
    partial = out_dir.with_name(f'.{out_dir.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        described, sizes = [], set()
        for number, (name, content) in enumerate(files.items()):
            file = f'model{number}.tflite'
            (partial / file).write_bytes(content)
            row, shape, classes = _described(content, name, pixels)
            described.append({'title': name, 'file': file, 'bytes': len(content), **row})
            sizes.add((shape, classes))
        if len(sizes) != 1:
            raise ValueError(f'web: expected files of one size of image and number of classes, '
                             f'received {sorted(sizes)}')
        (shape, classes), = sizes
        names = labels(class_names) if class_names else [f'class {i}' for i in range(classes)]
        (partial / 'page.json').write_text(json.dumps(
            {'title': title, 'shape': shape, 'labels': names, 'runtime': litert_js.PACKAGE,
             'models': described}, ensure_ascii=False) + '\n', encoding='utf-8')
        for part in PARTS:
            shutil.copyfile(pathlib.Path(__file__).with_name(part), partial / part)
        missing = litert_js.bring(partial, runtime)
        shutil.rmtree(out_dir, ignore_errors=True)
        partial.rename(out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if missing:
        return (f'{out_dir}: the page lacks LiteRT.js ({missing}); this brings it: '
                f'{litert_js.install_command(out_dir)}')
    return ''


def _described(content: bytes, name: str, pixels: PixelRange
               ) -> tuple[dict[str, Any], tuple[int, ...], int]:
    """(what page.js must know of a file, its image's shape [H, W, C], its number of classes)."""
    inputs, outputs = named_details(open_interpreter(content, name=name, optimized=False))
    (source,), (sink,) = inputs.values(), outputs.values()
    scale, zero_point = sink['quantization']
    bytes_ = np.arange(256, dtype=np.float32)
    if source['dtype'] == np.uint8:  # the bytes as they are
        values = bytes_[np.newaxis]
    else:
        by_channel = np.broadcast_to(pixels.values(bytes_[:, np.newaxis]),
                                     (256, max(1, len(pixels.black or ()))))
        values = quantized(by_channel, source).T
    return ({'dtype': np.dtype(source['dtype']).name,
             'values': [[_plain(value) for value in channel] for channel in values],
             'output': {'scale': float(scale) or 1.0, 'zero_point': int(zero_point)},
             'probabilities': ends_in_softmax(content, name)},
            tuple(int(size) for size in source['shape'][1:]), int(sink['shape'][-1]))


def _plain(value: np.generic) -> int | float:
    """The number, as short as it is that float32."""
    return int(value) if float(value).is_integer() else float(str(value))


def ends_in_softmax(content: bytes, name: str = 'model') -> bool:
    """Whether the one output of a TFLite file is that of a softmax."""
    graph = Graph.read(content, name)
    tensor, = graph.outputs
    while tensor in graph.producer:
        position = graph.producer[tensor]
        if graph.kind(position) not in _PASSING:
            return graph.kind(position) == 'SOFTMAX'
        tensor = graph.inputs(position)[0]
    return False
