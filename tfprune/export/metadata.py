"""TFLite metadata: what an image classifier's client must know, inside the .tflite file.

MediaPipe Tasks, Android's ML Model Binding and the TFLite Task Library read it: how the bytes of a
picture become the input, (byte - mean) / std, that the output has one score a class, and the names
of the classes.

The layout is that of the public schema metadata_schema.fbs, file identifier M001, parser version
1.0.0 (github.com/tensorflow/tflite-support, tensorflow_lite_support/metadata). Only the fields that
an image classifier needs are written: a name in the tables below is the schema's, a number is the
position of the field in its table there, the type of a union taking a position of its own. The
labels are a file of a zip archive that is appended to the model.

MediaPipe's ImageClassifier (tasks/cc/vision/utils/image_tensor_specs.cc) takes files of one RGB
image [1, H, W, 3], uint8 or float32, and of uint8 or float32 scores: no gray images, no int8.
It shows the scores as the model gives them, logits too. To an input of floats it gives
(byte - mean) / std, and refuses a file without mean and std; to one of uint8 it gives the bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tfprune.data.pixels import BYTES, PixelRange
from tfprune.plain_text import labels

ENTRY = 'TFLITE_METADATA'  # the model's metadata entry whose buffer holds all this
LABELS_FILE = 'labels.txt'
MIN_PARSER_VERSION = '1.0.0'

# enums and unions of metadata_schema.fbs
TENSOR_AXIS_LABELS = 2  # AssociatedFileType
COLOR_SPACES = {3: 1, 1: 2}  # channels -> ColorSpaceType: RGB, GRAYSCALE; UNKNOWN is 0
IMAGE_PROPERTIES = 2  # ContentProperties
NORMALIZATION_OPTIONS = 1  # ProcessUnitOptions


def label_lines(class_names: Sequence[str]) -> str:
    """The content of labels.txt: a label a line."""
    return ''.join(label + '\n' for label in labels(class_names))


def add_metadata(content: bytes, *, name: str, class_names: Sequence[str] = (),
                 probabilities: bool = False, pixels: PixelRange = BYTES) -> bytes:
    """A TFLite classifier's flatbuffer with metadata, and labels if there are names.

    name: of the model.   probabilities: whether its outputs are, else they are logits.
    pixels: what it was trained on.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    image = graph.tensors[graph.inputs[0]]
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(
        metadata(name, [int(size) for size in image.shape[1:]], labeled=bool(class_names),
                 probabilities=probabilities, pixels=pixels,
                 of_bytes=image.type == schema.TensorType.UINT8), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b'TFL3')
    packed = bytes(builder.Output())
    return packed + labels_zip(class_names, len(packed)) if class_names else packed


def labels_zip(class_names: Sequence[str], offset: int) -> bytes:
    """A zip archive of labels.txt, stored as it is, that follows `offset` bytes in its file."""
    archive = io.BytesIO()
    archive.write(bytes(offset))  # 'a' counts what is there into the archive's offsets
    with zipfile.ZipFile(archive, 'a', zipfile.ZIP_STORED) as file:
        # A ZipInfo has a fixed date: the same model gives the same bytes.
        file.writestr(zipfile.ZipInfo(LABELS_FILE), label_lines(class_names))
    return archive.getvalue()[offset:]


def metadata(name: str, image_shape: Sequence[int], *, labeled: bool,
             probabilities: bool, pixels: PixelRange, of_bytes: bool) -> bytes:
    """The ModelMetadata of a classifier of images [H, W, C]; of_bytes: the input is uint8."""
    height, width, channels = image_shape
    output = 'probabilities' if probabilities else 'logits'
    write = TableWriter()
    image_properties = write.table({
        0: ('Int8', COLOR_SPACES.get(channels, 0)),  # color_space
        1: write.table({0: ('Uint32', width), 1: ('Uint32', height)})})  # default_size
    image = write.table({
        0: write.string('image'),  # name
        1: write.string(input_text(pixels, channels, of_bytes)),
        3: write.table({0: ('Uint8', IMAGE_PROPERTIES), 1: image_properties}),  # content
        **normalization(write, pixels),
        5: write.table(  # stats: max, min
            {0: write.floats(255.0), 1: write.floats(0.0)} if of_bytes else
            {0: write.floats(*(pixels.white or [pixels.high])),
             1: write.floats(*(pixels.black or [pixels.low]))})})
    files = {6: write.tables(write.table({  # associated_files
        0: write.string(LABELS_FILE), 1: write.string('Names of the classes.'),
        2: ('Int8', TENSOR_AXIS_LABELS)}))} if labeled else {}
    scores = write.table({
        0: write.string(output), 1: write.string(f'{output.capitalize()} of the classes.'),
        **files})
    graph = write.table({2: write.tables(image), 3: write.tables(scores)})  # inputs, outputs
    return write.finish(write.table({
        0: write.string(name), 1: write.string('Image classifier, pruned by tfprune.'),
        3: write.tables(graph), 7: write.string(MIN_PARSER_VERSION)}), b'M001')


def normalization(write: TableWriter, pixels: PixelRange) -> dict[int, int]:
    """The process units of an image: mean and std, where it is known what a byte becomes."""
    if not pixels.is_known:
        return {}
    options = write.table({0: write.floats(*pixels.mean), 1: write.floats(*pixels.std)})
    return {4: write.tables(write.table({0: ('Uint8', NORMALIZATION_OPTIONS), 1: options}))}


def input_text(pixels: PixelRange, channels: int, of_bytes: bool) -> str:
    """What the input is, in a sentence."""
    if of_bytes or pixels.is_identity:
        return f'Raw pixels 0..255, {channels} channels. The model normalizes them.'
    text = f'Values {pixels.low:.4g}..{pixels.high:.4g}, {channels} channels'
    if not pixels.is_known:
        return f'{text}; what a byte of a picture becomes in them is not known.'
    return f'{text}: byte b of a picture is {pixels.formula}.'


class TableWriter:
    """Writes flatbuffer tables as {position of the field: an offset, or (scalar type, value)}."""

    def __init__(self):
        self._builder = flatbuffers.Builder(1024)

    def string(self, text: str) -> int:
        """The offset of a string."""
        return self._builder.CreateString(text)

    def floats(self, *values: float) -> int:
        """The offset of a vector of floats."""
        return self._builder.CreateNumpyVector(np.array(values, np.float32))

    def tables(self, *offsets: int) -> int:
        """The offset of a vector of tables."""
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()

    def table(self, fields: dict[int, int | tuple[str, int]]) -> int:
        """The offset of a table."""
        self._builder.StartObject(max(fields) + 1)
        for position, field in fields.items():
            if isinstance(field, tuple):
                kind, value = field
                getattr(self._builder, f'Prepend{kind}Slot')(position, value, 0)
            else:
                self._builder.PrependUOffsetTRelativeSlot(position, field, 0)
        return self._builder.EndObject()

    def finish(self, root: int, identifier: bytes) -> bytes:
        """The flatbuffer with `root` as its root table."""
        self._builder.Finish(root, file_identifier=identifier)
        return bytes(self._builder.Output())
