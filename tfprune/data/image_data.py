"""Examples that are pictures of classes, and what a model must know of them."""

import dataclasses
from typing import Any

from typing_extensions import Self

from tfprune.data.examples import Examples
from tfprune.data.pixels import BYTES, PixelRange


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random shift up to `max_shift` pixels, mirroring if `flip`, outside `fill` (C of 0..255)."""

    max_shift: int
    flip: bool
    fill: tuple[int, ...]

    @property
    def text(self) -> str:
        """'shifted and mirrored'."""
        return 'shifted and mirrored' if self.flip else 'shifted'

    def weaker(self) -> 'Augmentation | None':
        """Without mirroring; then none."""
        return dataclasses.replace(self, flip=False) if self.flip else None


@dataclasses.dataclass(frozen=True)
class ImageData(Examples):
    """Train, reward and test images of classes.

    Every batch is (images [B, H, W, C], labels int32 [B]), images as uint8 or as a user's dataset
    gives them; the consumer casts on the device.

    Attributes:
        name: key in DATASETS, or a set of tensorflow-datasets.
        image_shape: (H, W, C).
        num_classes: labels are 0 … num_classes - 1.
        class_names: of length num_classes.
        mean: per channel, of pixels in [0, 1]; constants that models are built with.
        std: per channel, of pixels in [0, 1].
        pixel_range: the lowest and the highest pixel value of all splits; (0, 255) of pictures.
        pixels: what a byte of a picture is in the images.
        augmentation: of training images; None for plain ones, and for those of a user's dataset,
            which are augmented there or not.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[float, float] = dataclasses.field(default=(0.0, 255.0), kw_only=True)
    pixels: PixelRange = dataclasses.field(default=BYTES, kw_only=True)
    augmentation: Augmentation | None = dataclasses.field(default=None, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        """What tells this data from other data: sizes, class names, range of pixels."""
        return {'name': self.name, 'image_shape': list(self.image_shape),
                'num_train': self.num_train, 'num_reward': self.num_reward,
                'num_test': self.num_test, 'class_names': list(self.class_names),
                'pixel_range': list(self.pixel_range)}

    def with_augmentation(self, augmentation: Augmentation | None) -> Self:
        """A copy whose training images are augmented so."""
        return dataclasses.replace(self, augmentation=augmentation)

    def weaker(self) -> Self:
        """A copy that does less to training images: first without mirroring, then without any."""
        return self.with_augmentation(self.augmentation and self.augmentation.weaker())


def as_pictures(data: Examples) -> ImageData:
    """Examples that are known to be pictures of classes."""
    if not isinstance(data, ImageData):
        raise TypeError(f'expected pictures of classes, received {type(data).__name__}')
    return data
