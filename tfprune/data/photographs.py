"""What sets of photographs share: the colors of ImageNet and the usual augmentation.

Augmentation shifts by up to an eighth of the shorter side (4 pixels of 32, as is usual for CIFAR)
and mirrors. The padding is the mean color (to the nearest gray level), so that it is zero after
normalization.
"""

import numpy as np

from tfprune.data.array_data import ArrayImageData
from tfprune.data.image_data import Augmentation
from tfprune.data.options import DataOptions

# Of ImageNet; the constants of the public CIFAR ResNet code and weights.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SHIFT = 1 / 8  # of the shorter side

Split = tuple[np.ndarray, np.ndarray]  # images uint8 [N, H, W, C], labels [N]


def photographs(
    name: str, train: Split, test: Split, class_names: tuple[str, ...], options: DataOptions,
) -> ArrayImageData:
    """ArrayImageData of photographs, [N, H, W, C] with C 1 or 3; raises as from_arrays does."""
    height, width, channels = train[0].shape[1:]
    # Gray: the average of the three.
    mean, std = (values if channels == 3 else (round(sum(values) / 3, 3),)
                 for values in (MEAN, STD))
    augmentation = Augmentation(
        max_shift=int(SHIFT * min(height, width)), flip=options.mirror,
        fill=tuple(round(255 * value) for value in mean))
    return ArrayImageData.from_arrays(
        name=name, train=train, test=test, class_names=class_names, mean=mean, std=std,
        reward_images=options.reward_images, seed=options.seed, split_seed=options.split_seed,
        augmentation=augmentation if options.augmented else None)
