"""Segmentation: which pixels of a canvas belong to the strokes of which digit.

Canvases [24, 24, 1] with one to three of scikit-learn's handwritten digits (8×8, real strokes), and
for every pixel one of 11 classes: nothing, or the digit whose stroke it is. Pixels have weights in
the loss. Digits of the three splits are of different pictures. A U-Net of five blocks, judged by
the mean IoU of the classes.
"""
import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

SIZE, CLASSES = 24, 11
NOTHING = 0.1  # weight of a pixel of no digit in the loss; nine of ten are such
# Canvases, and the pictures that they are made of.
SPLITS = ((4096, slice(0, 1200)), (512, slice(1200, 1497)), (1000, slice(1497, None)))

monitor = 'val_mean_io_u'


def model():
    image = keras.Input((SIZE, SIZE, 1), name='canvas')
    one = block(image, 8, 'one')
    two = block(layers.MaxPooling2D()(one), 16, 'two')
    deep = block(layers.MaxPooling2D()(two), 32, 'deep')
    x = block(layers.Concatenate()([layers.UpSampling2D()(deep), two]), 16, 'up_two')
    x = block(layers.Concatenate()([layers.UpSampling2D()(x), one]), 8, 'up_one')
    unet = keras.Model(image, layers.Conv2D(CLASSES, 1, activation='softmax', name='mask')(x),
                       name='unet')
    unet.compile(keras.optimizers.Adam(3e-3), 'sparse_categorical_crossentropy', metrics=[
        keras.metrics.MeanIoU(CLASSES, sparse_y_pred=False, name='mean_io_u'), 'accuracy'])
    return unet


def block(x, width, name):
    for number in (1, 2):
        x = layers.Conv2D(width, 3, padding='same', use_bias=False, name=f'{name}_{number}')(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return x


def data():
    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, 8, 8).astype('float32') / 16
    rng = np.random.default_rng(0)  # the same canvases for every seed
    return [canvases(pictures[part], labels[part], count, rng) for count, part in SPLITS]


def canvases(pictures, labels, count, rng):
    x = np.zeros((count, SIZE, SIZE, 1), 'float32')
    y = np.zeros((count, SIZE, SIZE), 'int32')
    for canvas, mask in zip(x, y):
        for place in rng.integers(len(pictures), size=rng.integers(1, 4)):
            top, left = rng.integers(SIZE - 8, size=2)
            here = slice(top, top + 8), slice(left, left + 8)
            stroke = pictures[place] > 0.3
            canvas[here][..., 0][stroke] = pictures[place][stroke]
            mask[here][stroke] = labels[place] + 1
    return x, y, np.where(y > 0, 1.0, NOTHING).astype('float32')
