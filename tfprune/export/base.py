"""What a format of an exported model is: how it is written, opened and counted."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.data.pixels import BYTES, PixelRange
from tfprune.export.options import IO_TYPES
from tfprune.structure.keras_internals import origin


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
class Signature:
    """What a model takes and gives, without the batch.

    inputs: name -> (shape, name of the type), in the order of `model.inputs`.
    outputs: name -> shape, in the order of `model.outputs`; -1 is a size that a file leaves open.
    """

    inputs: dict[str, tuple[tuple[int, ...], str]]
    outputs: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: keras.Model) -> Signature:
        """The signature of a functional or Sequential model.

        Names are those of the layers, of a repeated one the second gets '_1'; what a signature of
        TensorFlow cannot hold, such as a space, becomes '_'. ValueError names the model, and the
        input or output, where a size is not fixed.
        """
        tensors = list(getattr(model, 'inputs', None) or ())
        if not tensors:
            raise ValueError(f'model {model.name!r}: expected a functional or Sequential model of '
                             'inputs of a fixed size, received an unbuilt model')
        for tensor in (*tensors, *model.outputs):
            if None in tuple(tensor.shape)[1:] or not len(tensor.shape):
                kind = 'output' if any(tensor is output for output in model.outputs) else 'input'
                raise ValueError(
                    f'model {model.name!r}: expected every {kind} of a fixed size, received '
                    f'{tensor.name!r} [{dims(tensor.shape)}]: give it a fixed length')
        # A tensor that nobody named is called otherwise once the model is saved; its layer is not.
        inputs = unique_names([origin(tensor)[0].name for tensor in tensors])
        # A Sequential has no output_names.
        outputs = unique_names(getattr(model, 'output_names', None) or [model.layers[-1].name])
        return cls({name: (tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))
                    for name, tensor in zip(inputs, tensors)},
                   {name: tuple(tensor.shape[1:])
                    for name, tensor in zip(outputs, model.outputs)})

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """[H, W, C] of a model of one input of pictures; None of any other."""
        (shape, dtype), *more = self.inputs.values()
        if more or len(shape) != 3 or not is_float(dtype):
            return None
        height, width, channels = shape
        return height, width, channels

    @property
    def num_classes(self) -> int | None:
        """K of a model of one output [N, K], K at least 2; None of any other."""
        shape, *more = self.outputs.values()
        return None if more or len(shape) != 1 or shape[0] < 2 else shape[0]

    @property
    def is_picture_classifier(self) -> bool:
        """Whether it takes pictures and gives classes."""
        return self.image_shape is not None and self.num_classes is not None

    def arrays(self, examples: Any, source: str) -> dict[str, np.ndarray]:
        """Examples by the name of their input, each [N, …]; any type, as they are given.

        examples: one array, a list or tuple in the order of the inputs, or a dict by their names.
        ValueError, which `source` begins, for another number, other names or shapes.
        """
        arrays = {name: np.asarray(array) for name, array in self._named(examples, source).items()}
        for name, array in arrays.items():
            shape = self.inputs[name][0]
            if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
                what = 'images' if self.image_shape else f'{name!r}'
                raise ValueError(f'{source}: expected {what} [{dims(("N", *shape))}], '
                                 f'received [{dims(array.shape)}]')
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f'{source}: expected as many examples of each input, received '
                             + ', '.join(f'{count} of {name!r}' for name, count in counts.items()))
        return arrays

    def _named(self, examples: Any, source: str) -> Mapping[str, Any]:
        names = list(self.inputs)
        if isinstance(examples, Mapping):
            if set(examples) != set(names):
                raise ValueError(f'{source}: expected inputs {", ".join(names)}; received '
                                 f'{", ".join(map(str, examples)) or "none"}')
            return {name: examples[name] for name in names}
        if not isinstance(examples, (list, tuple)):
            examples = [examples]
        elif len(names) == 1 and not (len(examples) == 1 and np.ndim(examples[0]) > len(
                self.inputs[names[0]][0])):
            examples = [examples]  # rows of the one input
        if len(examples) != len(names):
            raise ValueError(f'{source}: expected {len(names)} inputs ({", ".join(names)}), '
                             f'received {len(examples)}')
        return dict(zip(names, examples))


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An opened model file: call it on what the model takes, of the values that it was trained on.

    form: the key in FORMATS of how the file was opened.
    signature: what the file takes and gives, by its own names, in the order of the model.
    run: {input: array of its type and shape} -> {output: float array}; use the call instead, it
        checks.
    cost: recounts the file's cost from its own operators.
    """

    path: pathlib.Path
    form: str
    signature: Signature
    run: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]
    cost: Callable[[], ArtifactCost]

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """See Signature."""
        return self.signature.image_shape

    @property
    def num_classes(self) -> int | None:
        """See Signature."""
        return self.signature.num_classes

    def __call__(self, examples: Any) -> Any:
        """The one output [N, …], or {output: [N, …]} of several, for N examples.

        examples: one array, a list or tuple in the order of the inputs, or a dict by their names.
        ValueError if they are of another number, name or shape.
        """
        arrays = self.signature.arrays(examples, str(self.path))
        answers = self.run({name: array.astype(self.signature.inputs[name][1], copy=False)
                            for name, array in arrays.items()})
        if isinstance(answers, Mapping) and len(self.signature.outputs) == 1:
            return next(iter(answers.values()))
        return answers


@dataclasses.dataclass(frozen=True)
class TFLiteOptions:
    """Choices of the TFLite files.

    io: type of input and output of the full-integer file. 'uint8' takes the bytes of a camera as
        they are, as MediaPipe does: its scale and zero point make of them the values that the model
        was trained on, and stands for 'float32' where a model takes no picture; 'int8' is for
        microcontrollers; 'float32' is called like the float32 file, and rounds inside. Inputs of
        integers, such as tokens, keep their type.
    softmax: whether every TFLite file of a classifier that gives logits ends in a softmax, so that
        clients which show the scores as they are, such as MediaPipe, show probabilities.
    batch: examples that a file takes at a time: 1, for runtimes with static shapes; 0: any number.
    """

    io: str = 'uint8'
    softmax: bool = False
    batch: int = 1

    def __post_init__(self):
        if self.io not in IO_TYPES:
            raise ValueError(f'io: expected one of {", ".join(IO_TYPES)}; received {self.io!r}')
        if self.batch not in (0, 1):
            raise ValueError(f'batch: expected 1, or 0 for any; received {self.batch!r}')

    def fitting(self, signature: Signature) -> TFLiteOptions:
        """These options, io as it is of a model of such a signature."""
        if self.io == 'uint8' and signature.image_shape is None:
            return dataclasses.replace(self, io='float32')
        return self


@dataclasses.dataclass(frozen=True)
class WriteContext:
    """What a format may need beside the model.

    images: what forms are compared on (real, or seeded noise), float32 images [N, H, W, C] or
        whatever else the model takes: an array, or of several inputs arrays by name.
    representative: all real examples, the same but of any type; None without any.
    pixels: the range of the images; BYTES of a model that takes none.
    class_names: of the outputs, in their order; None if they have none.
    tflite: options of the TFLite files.
    quantized: the tf_keras model that `quantize_aware` made of the model; None without it.
    """

    images: Any
    representative: Any = None
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
    needs_images: whether it cannot be written without real images, or other examples.
    family: what reads it: 'keras', 'saved_model' or 'tflite'.
    has_io: whether TFLiteOptions.io is the type of its input and output.
    needs_classifier: whether it is for classifiers of pictures alone.
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
    needs_classifier: bool = False
    advice: str = 'look at its parity'
    is_always_written: bool = False


def unique_names(names: Sequence[str]) -> list[str]:
    """The names as TensorFlow's signatures take them, ASCII words, repeated ones with _1, _2, …"""
    found: list[str] = []
    for name in names:
        word = re.sub(r'\W', '_', name, flags=re.ASCII)
        word = word if word[:1].isalpha() else f'arg_{word}'
        number, unique = 0, word
        while unique in found:
            number += 1
            unique = f'{word}_{number}'
        found.append(unique)
    return found


def is_float(dtype: str) -> bool:
    """Whether a type of this name is one of real numbers."""
    return 'float' in dtype


def dims(shape: Sequence[Any]) -> str:
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
