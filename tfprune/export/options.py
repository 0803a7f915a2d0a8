"""What is asked of the files for phones."""
import dataclasses

from tfprune.config import IMAGES, RATE, Part, Range, field_of, split_names

# What --quantize may list -> key of exporter.FORMATS.
QUANTIZATIONS = {name: f'tflite_{name}' for name in ('float16', 'dynamic', 'int8', 'int8_qat')}
# Of these, integers throughout.
INT8_QUANTIZATIONS = ('int8', 'int8_qat')
IO_TYPES = ('uint8', 'int8', 'float32')


@dataclasses.dataclass(frozen=True)
class ExportOptions(Part):
    """Files for phones, beside the float32 one."""
    quantize: str = field_of(
        '', 'These comma-separated further TFLite files are written: float16, dynamic (int8 '
        'weights), int8 (throughout), int8_qat (int8 after fine-tuning under rounding).')
    quantize_epochs: int = field_of(
        3, 'Quantization-aware fine-tuning (int8_qat) takes this many epochs.', Range(1, 99_999))
    quantize_learning_rate: float = field_of(
        0.001, 'The learning rate of quantization-aware fine-tuning has this peak.', RATE)
    representative_images: int = field_of(
        300, 'The ranges of int8 files are measured on this many training images.', IMAGES)
    tflite_io: str = field_of(
        'uint8',
        'Int8 files take and give numbers of this type; uint8 takes the bytes of a picture, and '
        'is float32 for models that take none.',
        choices=IO_TYPES)
    tflite_softmax: bool = field_of(
        False, 'TFLite files of a classifier end in a softmax, for clients that show scores as '
        'they are.')
    tflite_batch: int = field_of(
        1, 'A TFLite file takes this many images at a time: 1, as runtimes with static shapes '
        'need; 0 allows any number.', Range(0, 1))
    web: bool = field_of(
        False, 'Of a classifier of pictures, export/web/ is a page that classifies them in the '
        'browser, without network, with LiteRT.js (18 MB).')
    litert_js: str = field_of(
        '', 'The page takes LiteRT.js from this folder, in which npm installed it; by default npm '
        'fetches it.')

    def check(self) -> None:
        super().check()
        for name in self.quantizations:
            self.require('quantize', name in QUANTIZATIONS,
                         f'a list of {", ".join(QUANTIZATIONS)}, or none')

    @property
    def quantizations(self) -> tuple[str, ...]:
        """What `quantize` lists."""
        return tuple(name for name in dict.fromkeys(split_names(self.quantize)) if name != 'none')
