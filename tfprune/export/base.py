"""What a format of an exported model is: how it is written, opened and counted."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfprune.data.pixels import BYTES, PixelRange
from tfprune.export.options import IO_TYPES


@dataclasses.dataclass(frozen=True)
class ArtifactCost:
    """Cost recounted from a file. One multiply-add is one; MACs are for one image (batch 1).

    macs: multiply-adds of convolutions and matrix products.
    params: parameters as the file stores them, moving statistics included. A TFLite file has batch
        normalization folded into the convolutions, so it stores fewer than the Keras model.
    uncounted: operators that multiply but were not counted, 'TYPE name'; empty if macs is complete.
    """

    macs: int
    params: int
    uncounted: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An opened model file: call it on images [N, H, W, C], of the values that the model was
    trained on, for outputs [N, K].

    form: the key in FORMATS of how the file was opened.
    image_shape: [H, W, C].   num_classes: K.
    run: float32 images of the right shape -> float32 outputs; use the call instead, it checks.
    cost: recounts the file's cost from its own operators.
    """

    path: pathlib.Path
    form: str
    image_shape: tuple[int, int, int]
    num_classes: int
    run: Callable[[np.ndarray], np.ndarray]
    cost: Callable[[], ArtifactCost]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Outputs [N, K] for images [N, H, W, C]; ValueError if the images have another shape."""
        if np.ndim(images) != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f'{self.path}: expected images [N, {dims(self.image_shape)}], '
                             f'received [{dims(np.shape(images))}]')
        return self.run(np.asarray(images, np.float32))


@dataclasses.dataclass(frozen=True)
class TFLiteOptions:
    """Choices of the TFLite files.

    io: type of input and output of the full-integer file. 'uint8' takes the bytes of a camera as
        they are, as MediaPipe does: its scale and zero point make of them the values that the model
        was trained on; 'int8' is for microcontrollers; 'float32' is called like the float32 file,
        and rounds inside.
    softmax: whether every TFLite file of a model that gives logits ends in a softmax, so that
        clients which show the scores as they are, such as MediaPipe, show probabilities.
    batch: images that a file takes at a time: 1, for runtimes with static shapes; 0: any number.
    """

    io: str = 'uint8'
    softmax: bool = False
    batch: int = 1

    def __post_init__(self):
        if self.io not in IO_TYPES:
            raise ValueError(f'io: expected one of {", ".join(IO_TYPES)}; received {self.io!r}')
        if self.batch not in (0, 1):
            raise ValueError(f'batch: expected 1, or 0 for any; received {self.batch!r}')


@dataclasses.dataclass(frozen=True)
class WriteContext:
    """What a format may need beside the model.

    images: images for comparisons [N, H, W, C], float32 (real, or seeded noise).
    representative: all real images [N, H, W, C], any type; None without any.
    pixels: the range of the images.
    class_names: of the outputs, in their order; None if they have none.
    tflite: options of the TFLite files.
    quantized: the tf_keras model that `quantize_aware` made of the model; None without it.
    """

    images: np.ndarray
    representative: np.ndarray | None = None
    pixels: PixelRange = BYTES
    class_names: tuple[str, ...] | None = None
    tflite: TFLiteOptions = TFLiteOptions()
    quantized: Any = None


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to store a model.

    location: file or directory, relative to the export directory.
    write: (model, path, context) -> None; creates `path`, whose parent exists.
    open: path -> Artifact; one-line ValueError or OSError if the path holds no such thing.
    tolerance: largest difference from another form, relative to the largest output, that is
        rounding and not a fault; two forms may differ by the larger of their tolerances. None for
        a form that differs by its nature: it is measured, not judged.
    needs_images: whether it cannot be written without real images.
    family: what reads it: 'keras', 'saved_model' or 'tflite'.
    has_io: whether TFLiteOptions.io is the type of its input and output.
    advice: what to try where it loses accuracy.
    is_always_written: whether every export has it, unless formats are named.
    """

    location: str
    write: Callable[[keras.Model, pathlib.Path, WriteContext], None]
    open: Callable[[pathlib.Path], Artifact]
    tolerance: float | None
    needs_images: bool = False
    family: str = ''
    has_io: bool = False
    advice: str = 'look at its parity'
    is_always_written: bool = False


def dims(shape: tuple[int, ...]) -> str:
    """'32, 32, 3' of (32, 32, 3)."""
    return ', '.join(str(d) for d in shape)


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    files = path.rglob('*') if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def image_shape_of(model: keras.Model) -> tuple[int, int, int]:
    """[H, W, C] of a model's one input; ValueError unless it takes one image of a fixed size."""
    shapes = [tuple(tensor.shape) for tensor in getattr(model, 'inputs', None) or ()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
        received = ', '.join(f'[{dims(shape)}]' for shape in shapes) or 'an unbuilt model'
        raise ValueError(f'model {model.name!r}: expected one image input [None, H, W, C] of a '
                         f'fixed size, received {received}')
    return shapes[0][1:]


def num_classes_of(model: keras.Model) -> int:
    """K of a model's one output [None, K]; ValueError for anything else."""
    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] is None:
        raise ValueError(f'model {model.name!r}: expected one output [None, classes], '
                         f'received {", ".join(f"[{dims(shape)}]" for shape in shapes)}')
    return shapes[0][1]
