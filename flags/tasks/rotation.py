"""Regression: by how many degrees an Imagenette picture is turned.

Pictures of a folder of class folders, which IMAGENETTE_DIR names (with train/ and
val/), are turned by an angle of -45° … 45° and cropped to the circle within them, [48, 48, 3]. The
model gives the angle in units of 45°; it is judged by the mean absolute error in degrees.
"""
import os
import pathlib

import keras
import numpy as np
from keras import layers
from PIL import Image

SIZE, MOST = 48, 45.0
COUNTS = {'train': 7_500, 'reward': 1_000, 'test': 2_000}  # pictures
TURNS = 2  # of each training picture
monitor = 'val_degrees'


def degrees(y_true, y_pred):
    return MOST * keras.ops.abs(y_true - y_pred)


mode = 'min'  # Keras cannot know it of a function


def model():
    picture = keras.Input((SIZE, SIZE, 3), name='picture')
    x = layers.Rescaling(1 / 127.5, offset=-1)(picture)
    for number, (width, stride) in enumerate(((16, 2), (32, 1), (32, 2), (64, 1), (64, 2)), 1):
        x = layers.Conv2D(width, 3, strides=stride, padding='same', use_bias=False,
                          name=f'conv_{number}')(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    x = layers.Dense(64, activation='relu', name='hidden')(x)
    net = keras.Model(picture, layers.Dense(1, name='angle')(x), name='rotation')
    net.compile(keras.optimizers.AdamW(5e-4, weight_decay=1e-4), 'huber', metrics=[degrees])
    return net


def data():
    folder = os.environ.get('IMAGENETTE_DIR')
    if not folder:
        raise ValueError('the environment variable IMAGENETTE_DIR must name the folder')
    rng = np.random.default_rng(0)
    files = {split: sorted(pathlib.Path(folder, split).glob('*/*')) for split in ('train', 'val')}
    train, test = (rng.permutation(files[split]) for split in ('train', 'val'))
    held_out, train = train[:COUNTS['reward']], train[COUNTS['reward']:][:COUNTS['train']]
    return [turned(paths, rng) for paths in (
        np.tile(train, TURNS), held_out, test[:COUNTS['test']])]


def turned(paths, rng):
    """(uint8 pictures [N, 48, 48, 3], angles [N, 1] in units of 45°)."""
    angles = rng.uniform(-1, 1, len(paths)).astype('float32')
    half = np.arange(SIZE) - (SIZE - 1) / 2
    inside = half[:, None] ** 2 + half ** 2 <= (SIZE / 2) ** 2
    x = np.empty((len(paths), SIZE, SIZE, 3), 'uint8')
    for place, (path, angle) in enumerate(zip(paths, angles)):
        with Image.open(path) as image:
            small = image.convert('RGB').resize((SIZE, SIZE)).rotate(MOST * angle, Image.BILINEAR)
        x[place] = np.asarray(small) * inside[..., None]
    return x, angles[:, None]
