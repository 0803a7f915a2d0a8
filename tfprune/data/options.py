"""What is asked of a data set, the same for all of them."""

import dataclasses
import re

from tfprune.config import IMAGES_OR_AUTO, SEED, Part, Range, field_of

_SIZE = re.compile(r'([1-9][0-9]*)(?:x([1-9][0-9]*)(?:x([13]))?)?')
MOST_PIXELS = 16_384  # a side of an image


@dataclasses.dataclass(frozen=True)
class DataOptions(Part):
    """The examples. What a data set does not need, it leaves aside."""

    dataset: str = field_of(
        'cifar10',
        'The examples are this data set, or any other image classification set of '
        'tensorflow-datasets.')
    data_dir: str = field_of(
        '', "The data set lies here: for --dataset=folder the folder of class folders; '' is the "
        'default place of tensorflow-datasets.')
    image_size: str = field_of(
        '', "Images are resized to N, HxW or HxWxC, with C 1 (gray) or 3; '' keeps the size that "
        'all of them have.')
    test_fraction: float = field_of(
        0.2, 'This share of the images becomes the test split, where the data set has none of its '
        'own.', Range(0, 1, open_low=True, open_high=True))
    skip_unreadable: bool = field_of(
        False, 'Image files that cannot be read are left out.')
    augment: bool | None = field_of(
        None, 'Training images are shifted and mirrored at random. If left out, they are, unless '
        'given weights do not know such images.')
    mirror: bool = field_of(
        True, 'Augmentation mirrors images (never the characters of known data sets). Turn it off '
        'where a mirrored image belongs to another class.')
    cache_dir: str = field_of(
        '',
        "Decoded images are kept in files of this folder, which later runs read again; '' keeps "
        'them in memory.')
    reward_images: int = field_of(
        0, 'This many training images are held out for rewards; 0 takes a tenth, up to 5,000.',
        IMAGES_OR_AUTO, is_flag=False)
    seed: int = field_of(0, 'This seeds order and augmentation.', SEED, is_flag=False)
    split_seed: int = field_of(
        0, 'This seeds the draw of the reward split and of a test split, apart from the seed so '
        'that runs differ in training alone.', SEED, is_flag=False)

    def check(self) -> None:
        super().check()
        for name in ('data_dir', 'cache_dir'):
            self.require(name, '\0' not in getattr(self, name), 'a path')
        parse_size(self.image_size)

    @property
    def image_shape(self) -> tuple[int | None, int | None, int | None]:
        """(H, W, C) that was asked for, None where nothing was."""
        return parse_size(self.image_size)

    @property
    def augmented(self) -> bool:
        """Whether training images are augmented, as far as options say."""
        return self.augment is not False


def parse_size(text: str) -> tuple[int | None, int | None, int | None]:
    """(H, W, C) of 'N', 'HxW' or 'HxWxC', C 1 or 3; None for what it does not say."""
    if not text:
        return None, None, None
    found = _SIZE.fullmatch(str(text))
    if not found:
        raise ValueError(f"image_size: expected N, HxW or HxWxC of positive integers, C 1 or 3, "
                         f"received {str(text)[:80]!r}")
    if any(len(part or '') > 9 or int(part or 0) > MOST_PIXELS for part in found.groups()):
        raise ValueError(f'image_size: expected sides of at most {MOST_PIXELS} pixels, received '
                         f'{str(text)[:80]!r}')
    height, width, channels = (int(part) if part else None for part in found.groups())
    return height, width or height, channels
