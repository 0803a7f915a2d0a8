"""export_model: every form of one model, compared, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfprune.data.pixels import BYTES, PixelRange, range_of
from tfprune.errors import first_line, look_up
from tfprune.export import keras_file, quantization_aware, saved_model, tflite
from tfprune.export.base import (Artifact, Format, Signature, TFLiteOptions, WriteContext,
                                 image_shape_of, num_classes_of, size_of)
from tfprune.export.examples import alone, check_examples, compared_examples
from tfprune.export.metadata import LABELS_FILE, label_lines
from tfprune.export.parity import Parity, measure_parity
from tfprune.models.model_files import check_names
from tfprune.models.outputs import outputs_probabilities
from tfprune.plain_text import labels
from tfprune.pruning.surgery import float32_copy
from tfprune.structure.keras_internals import layers_within
from tfprune.training.step import StopTraining

# To add a format: a module with a FORMAT, and a line here.
FORMATS: dict[str, Format] = {
    'keras': keras_file.FORMAT,
    'saved_model': saved_model.FORMAT,
    'tflite': tflite.FORMAT,
    'tflite_float16': tflite.FLOAT16_FORMAT,
    'tflite_dynamic': tflite.DYNAMIC_FORMAT,
    'tflite_int8': tflite.INT8_FORMAT,
    'tflite_int8_qat': quantization_aware.FORMAT,
}
MEMORY = 'model'  # the model in memory, the form that the others are written from
PARITY_FILE = 'parity.json'
PARITY_IMAGES = 32
AGREEMENT_IMAGES = 200  # where a form is quantized: top-1 agreement needs more of them


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written. paths and bytes by format; a directory's bytes are the sum of its files.

    pixels: what the forms take as an image.
    """

    out_dir: pathlib.Path
    paths: dict[str, pathlib.Path]
    bytes: dict[str, int]
    parity: Parity
    pixels: PixelRange = BYTES


def export_model(model: keras.Model, out_dir: str | os.PathLike[str], *,
                 formats: Sequence[str] | None = None,
                 representative_data: Any = None,
                 pixel_range: tuple[Any, Any] | PixelRange | None = None,
                 class_names: Sequence[str] | None = None,
                 tflite_options: TFLiteOptions = TFLiteOptions(), quantized: Any = None,
                 parity_tolerance: float | None = None, overwrite: bool = False,
                 should_stop: Callable[[], bool] = lambda: False) -> ExportReport:
    """Writes a model in each format, with parity.json, into a new directory `out_dir`.

    model: functional or Sequential, of inputs of a fixed size; one that computes in bfloat16 or
        float16 is written in float32. 'tflite_int8_qat' is for classifiers of pictures alone.
    representative_data: images [N, H, W, C] as the model was trained on, uint8 or float, or what
        else it takes: one array, a list or tuple in the order of its inputs, or a dict by their
        names. On the first PARITY_IMAGES (AGREEMENT_IMAGES with a quantized format) the forms are
        compared; None compares on seeded random numbers. All of them calibrate 'tflite_int8', which
        needs them: a few hundred training images.
    pixel_range: (what byte 0 of a picture becomes in the model's images, what byte 255 becomes), a
        number each or one a channel: (0, 1) of a model that was trained on pixels / 255. None takes
        it from representative_data (`PixelRange.seen`), without them (0, 255). Where it is not
        known, no form takes bytes, of which a UserWarning is given of a classifier. Of a model that
        takes no picture it says nothing.
    class_names: of the outputs of a classifier, in their order; if given, written to labels.txt,
        one a line, and of pictures into the metadata of the TFLite files and the answers of the
        SavedModel's serve_bytes.
    tflite_options: input and output types, and a softmax; with a softmax the parity of all forms is
        that of their probabilities.
    quantized: what `quantize_aware` made of the model, for 'tflite_int8_qat'.
    parity_tolerance: largest difference allowed between two forms, relative to the largest output;
        None takes each format's own. Quantized forms are measured, not judged.
    overwrite: whether `out_dir` may hold an earlier export, which is replaced as a whole once the
        new one is complete. Anything else that is not an empty directory is never replaced.
    should_stop: asked before each format; True raises StopTraining.

    Nothing is left behind by a failure. Raises ParityError naming two forms that disagree;
    TypeError, ValueError for a model, format or images that do not fit, or another process that
    exports into `out_dir`; FileExistsError; OSError naming `out_dir` when it cannot be written.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f'model: expected a Keras 3 model, received {type(model).__name__}')
    out_dir = checked_path(out_dir)
    formats = check_formats(base_forms() if formats is None else formats)
    model = in_float32(model)
    check_names(model, f'model {model.name!r}')
    signature = Signature.of(model)
    tflite_options = tflite_options.fitting(signature)
    check_class_names(class_names, signature.num_classes)
    tflite.check_softmax(model, tflite_options)
    by_nature = any(FORMATS[name].tolerance is None for name in formats)
    check_examples(representative_data, signature)
    if representative_data is not None:
        representative_data = alone(signature.arrays(representative_data, 'representative_data'))
    pixels = pixels_of(representative_data, pixel_range, signature)
    for name in formats:
        check_format(name, model, representative_data, pixels, tflite_options)
    if not pixels.is_known and signature.is_picture_classifier:
        warnings.warn(f'{model.name}: {pixels.text}', stacklevel=2)
    in_memory = keras_file.open_model(model, out_dir, MEMORY)
    images = compared_examples(representative_data, signature, pixels,
                               AGREEMENT_IMAGES if by_nature else PARITY_IMAGES, in_memory)
    context = WriteContext(images=images, representative=representative_data, pixels=pixels,
                           class_names=None if class_names is None else tuple(class_names),
                           tflite=tflite_options, quantized=quantized)

    with replaced_directory(out_dir, overwrite=overwrite) as partial:
        forms = {MEMORY: in_memory}
        for name in formats:
            if should_stop():
                raise StopTraining()
            path = partial / FORMATS[name].location
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                FORMATS[name].write(model, path, context)
            except tf.errors.OpError as error:  # how TensorFlow reports a full disk
                raise OSError(first_line(error)) from error
            forms[name] = FORMATS[name].open(path)
        tolerances = {name: FORMATS[name].tolerance
                      if parity_tolerance is None or FORMATS[name].tolerance is None
                      else parity_tolerance for name in formats}
        parity = measure_parity(
            as_probabilities(forms) if tflite_options.softmax and not outputs_probabilities(model)
            else forms, images, tolerances={MEMORY: 0.0, **tolerances},
            source='random' if representative_data is None else 'representative')
        sizes = {name: size_of(partial / FORMATS[name].location) for name in formats}
        (partial / PARITY_FILE).write_text(json.dumps(dataclasses.asdict(parity), indent=2) + '\n')
        if class_names is not None:
            (partial / LABELS_FILE).write_text(label_lines(class_names), encoding='utf-8')
    paths = {name: out_dir / FORMATS[name].location for name in formats}
    return ExportReport(out_dir=out_dir, paths=paths, bytes=sizes, parity=parity, pixels=pixels)


def base_forms() -> tuple[str, ...]:
    """The formats that every export has."""
    return tuple(name for name, form in FORMATS.items() if form.is_always_written)


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats without repeats; ValueError for an unknown one or none."""
    if isinstance(formats, str) or not formats:
        raise ValueError(f'formats: expected a list of: {", ".join(sorted(FORMATS))}; received '
                         f'{formats!r}')
    for name in formats:
        look_up('format', name, FORMATS)
    return tuple(dict.fromkeys(formats))


def check_class_names(class_names: Sequence[str] | None, num_classes: int | None) -> None:
    """ValueError unless there is a name, and a label, for each class, or no names are given.

    num_classes: None of a model without one output [N, classes].
    """
    if class_names is None:
        return
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f'class_names: expected a list of strings, received {class_names!r:.80}')
    if num_classes is None:
        raise ValueError('class_names: expected none as the model has no one output '
                         f'[None, classes], received {len(class_names)}')
    if len(class_names) != num_classes:
        raise ValueError(f'class_names: expected {num_classes} as the model has classes, received '
                         f'{len(class_names)}')
    blank = [position for position, name in enumerate(class_names) if not name.strip()]
    if blank:
        raise ValueError(f'class_names: expected a name for each class, class {blank[0]} has '
                         f'{class_names[blank[0]]!r}')
    labels(class_names)


def pixels_of(data: Any, pixel_range: Any, signature: Signature) -> PixelRange:
    """The range of a model's pictures [N, H, W, C]; BYTES where it takes none."""
    if signature.image_shape is None:
        return BYTES
    return range_of(data, pixel_range, signature.image_shape[-1])


def check_format(name: str, model: keras.Model, data: Any, pixels: PixelRange,
                 options: TFLiteOptions) -> None:
    """ValueError unless a format is one of such a model, and has what it needs."""
    if FORMATS[name].needs_classifier:
        image_shape_of(model)
        num_classes_of(model)
    check_calibration(name, data, pixels, options)


def check_calibration(name: str, data: Any, pixels: PixelRange,
                      options: TFLiteOptions) -> None:
    """ValueError unless a format has what it needs: images to observe the activations' ranges on,
    and, for integers that are the bytes of a picture, what those become.

    options: as they fit the model."""
    if not FORMATS[name].has_io:
        return
    if FORMATS[name].needs_images and data is None:
        raise ValueError(f'format {name!r} needs representative_data: a few hundred training '
                         'images [N, H, W, C]; received None')
    if options.io == 'uint8' and not pixels.takes_bytes:
        why = ': choose float32 or int8'
        if not pixels.is_known:
            why += ', or state the pixel_range (of train_and_prune or export_model)'
        elif pixels.ends is None:
            why = f' of another range in each channel{why}'
        else:
            why = f', 0 not among them{why}'
        raise ValueError(f'format {name!r}: tflite_io=uint8 takes the bytes of a picture, which '
                         f'one scale cannot make values {pixels.low:.4g}…{pixels.high:.4g}{why}')


def is_tflite(form: str) -> bool:
    """Whether a form is a TFLite file; the model in memory is none."""
    return form in FORMATS and FORMATS[form].family == 'tflite'


def as_probabilities(forms: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Forms of a model of logits whose TFLite files alone end in a softmax: with one, all do."""
    def with_softmax(form: Artifact) -> Artifact:
        return dataclasses.replace(form, run=lambda arrays: {
            name: tf.nn.softmax(logits).numpy() for name, logits in form.run(arrays).items()})

    return {name: form if is_tflite(form.form) else with_softmax(form)
            for name, form in forms.items()}


def in_float32(model: keras.Model) -> keras.Model:
    """The model, or where a layer in it computes in other numbers, a copy that does not."""
    others = any(layer.compute_dtype != 'float32' for layer in layers_within(model, itself=False)
                 if not isinstance(layer, (keras.layers.InputLayer, keras.Model)))
    return float32_copy(model) if others else model


def checked_path(out_dir: str | os.PathLike[str]) -> pathlib.Path:
    """The whole path of an export's directory; TypeError, ValueError for what is none."""
    if not isinstance(out_dir, (str, os.PathLike)):
        raise TypeError(f'out_dir: expected the path of a directory, received '
                        f'{type(out_dir).__name__}')
    if not os.fspath(out_dir):
        raise ValueError("out_dir: expected the path of a directory, received ''")
    return pathlib.Path(out_dir).resolve()


def check_out_dir(out_dir: str | os.PathLike[str], *, overwrite: bool) -> None:
    """TypeError, ValueError, FileExistsError or PermissionError if no export can be put there."""
    path = checked_path(out_dir)
    occupied = why_occupied(path, overwrite=overwrite)
    if occupied:
        raise FileExistsError(occupied)
    parent = next(parent for parent in path.parents if parent.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise PermissionError(errno.EACCES, 'cannot write the export: not writable', str(parent))


@contextlib.contextmanager
def replaced_directory(out_dir: pathlib.Path, *, overwrite: bool) -> Iterator[pathlib.Path]:
    """A temporary sibling that becomes `out_dir` when the block ends well, and vanishes if not.

    The sibling names are fixed, so what a killed process left is found and removed by the next.
    ValueError while another process writes there, which is told by its lock.
    """
    partial = out_dir.with_name(f'.{out_dir.name}.partial')
    replaced = out_dir.with_name(f'.{out_dir.name}.replaced')
    with errors_naming(out_dir):
        if replaced.exists():
            if out_dir.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(out_dir)  # killed between the two renames below
        occupied = why_occupied(out_dir, overwrite=overwrite)
    if occupied:
        raise FileExistsError(occupied)
    with errors_naming(out_dir):
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        lock = locked_directory(partial)
    if lock is None:
        raise ValueError(f'another process exports into {out_dir}')
    with errors_naming(out_dir):
        try:
            yield partial
            if out_dir.exists():
                out_dir.rename(replaced)
            partial.rename(out_dir)
        except BaseException:
            if replaced.exists() and not out_dir.exists():
                replaced.rename(out_dir)
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)
        shutil.rmtree(replaced, ignore_errors=True)


def locked_directory(path: pathlib.Path) -> int | None:
    """Makes an empty directory: its descriptor, locked; None if another process has locked it."""
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # moved away meanwhile
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                for child in path.iterdir():
                    shutil.rmtree(child) if child.is_dir() else child.unlink()
                return lock
        os.close(lock)


@contextlib.contextmanager
def errors_naming(out_dir: pathlib.Path) -> Iterator[None]:
    """Turns an OSError of the block into one that names `out_dir`, not a file inside."""
    try:
        yield
    except OSError as error:
        reason = f'cannot write the export: {error.strerror or first_line(error)}'
        if error.errno is None:
            raise OSError(f'{reason}: {str(out_dir)!r}') from error
        raise OSError(error.errno, reason, str(out_dir)) from error  # PermissionError and so on


def why_occupied(out_dir: pathlib.Path, *, overwrite: bool) -> str | None:
    """None if out_dir is absent, empty, or an earlier export to overwrite; else the refusal."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return None
    if not (out_dir / PARITY_FILE).is_file():
        return (f'{out_dir} exists and is no export (it has no {PARITY_FILE}): it is never '
                'replaced, choose another directory')
    if not overwrite:
        return (f'{out_dir} holds an export already: choose another directory or pass '
                'overwrite=True')
    return None
