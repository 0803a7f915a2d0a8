"""Whether given weights know the training images as they are augmented here.

Weights that were trained without augmentation answer augmented images somewhat worse, and gain by
it. But where a mirrored or shifted picture is another thing to them (characters, small pictures),
training begins by unlearning:

    a_1 - c < KEPT (a_0 - c),   a_0 accuracy on plain images, a_1 on augmented ones,
                                c the share of the commonest class

takes mirroring away; and if that is not enough, all of it. Weights that know little of plain images
(a_0 - c < LITTLE) have little to lose.
"""
import math

import keras
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.data.image_data import ImageData
from tfprune.significance import fell
from tfprune.training.evaluation import Evaluator

KEPT = 0.6    # of what weights know, on images as they are augmented
LITTLE = 0.25  # of the accuracy beyond the commonest class
_EPOCH = 2 ** 19  # of augmentation; no run has so many


def sample(data: Examples, images: int) -> tf.data.Dataset:
    """Batches of at least so many examples that are trained on, not augmented, as far as there are
    such."""
    images = min(images, data.num_train)
    size = min(250, images)
    return data.calibration_batches(size, -(-images // size))


def known_augmentation(model: keras.Model, data: ImageData, images: int) -> tuple[ImageData, str]:
    """`data`, its augmentation weakened until the model knows the images; with the reason, ''
    where it is as it was.

    Args:
        model: with its weights; float32.
        images: number of training images that are looked at, plain and augmented, at least.
    """
    if data.augmentation is None:
        return data, ''
    evaluate = Evaluator(model, tf.distribute.get_strategy())
    plain = sample(data, images)
    known, chance = evaluate(plain), _commonest(plain)
    size = min(250, data.num_train)
    said = ''
    while data.augmentation is not None and known - chance >= LITTLE:
        seen = evaluate(data.train_batches(_EPOCH, size).take(math.ceil(images / size)))
        if not fell(known, seen, images) or seen - chance >= KEPT * (known - chance):
            break
        said = said or (f'the given model answers {known:.2%} of training images right, '
                        f'{seen:.2%} of them {data.augmented}')
        data = data.weaker()
    return data, said and f'{said}: here they are {data.augmented} (--augment asks for all of it)'


def as_chosen(data: Examples, augmented: str) -> Examples:
    """`data` with the augmentation that was chosen before, in words; '' for its own."""
    while isinstance(data, ImageData) and augmented and data.augmentation is not None and (
            data.augmented != augmented):
        data = data.weaker()
    return data


def _commonest(batches: tf.data.Dataset) -> float:
    labels = tf.concat([labels for _, labels in batches], 0)
    return float(tf.reduce_max(tf.math.bincount(labels)) / len(labels))
