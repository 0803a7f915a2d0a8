"""Folders of class folders, written and loaded; for tests of them."""
import numpy as np
from PIL import Image

from tfprune.data.loading import load_data


def write(root, first=0, shape=(6, 4), **classes):
    """Class folders of PNGs, each image filled with its own number, from `first` on."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(np.full((*shape, 3), first, np.uint8)).save(
                root / name / f'{index:03d}.png')
            first += 1
    return root


def load(root, reward_images=1, **options):
    return load_data('folder', data_dir=str(root), reward_images=reward_images, **options)


def numbers(images):
    return np.asarray(images)[:, 0, 0, 0].tolist()
