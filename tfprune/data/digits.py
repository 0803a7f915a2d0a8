"""Handwritten digits that come with scikit-learn: 1,797 gray images of 8x8 pixels, no network.

The test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine
Learning Repository, 1998), licence CC BY 4.0; redistributed with scikit-learn (BSD-3-Clause).

Test split: the last 360 images in file order, not drawn at random.
Augmentation: shifts by up to one pixel; no mirroring, since a mirrored digit is another thing.
"""

import numpy as np

from tfprune.data.array_data import ArrayImageData
from tfprune.data.image_data import Augmentation
from tfprune.data.options import DataOptions

NUM_TEST = 360
# Of the 1,437 images before the test split, in [0, 1].
MEAN = (0.3054,)
STD = (0.3753,)


def load(options: DataOptions) -> ArrayImageData:
    """The digits, gray values 0..16 scaled to uint8 0..255; ValueError for another image_size."""
    if options.image_size:
        raise ValueError(f"image_size: digits are 8x8 and are not resized; received "
                         f"'{options.image_size}'")
    from sklearn.datasets import load_digits  # Slow to import.

    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = source.target.astype(np.int32)
    return ArrayImageData.from_arrays(
        name='digits',
        train=(images[:-NUM_TEST], labels[:-NUM_TEST]),
        test=(images[-NUM_TEST:], labels[-NUM_TEST:]),
        class_names=tuple(str(digit) for digit in range(10)),
        mean=MEAN, std=STD, reward_images=options.reward_images, seed=options.seed,
        split_seed=options.split_seed,
        augmentation=(Augmentation(max_shift=1, flip=False, fill=(0,)) if options.augmented
                      else None))
