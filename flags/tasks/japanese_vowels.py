"""Time series: which of nine speakers says two vowels.

JapaneseVowels of the UCI archive, as the package aeon brings it (`pip install --no-deps aeon`): 640
recordings of 12 cepstral coefficients over 7 to 29 frames, here of equal length, as arrays
[25, 12]. 270 of them are for training, 70 of which are held out for rewards; 370 are test.
"""
import importlib.util
import pathlib

import keras
import numpy as np
from keras import layers

HELD_OUT = 70
class_names = [f'speaker {number}' for number in range(1, 10)]


def model():
    series = keras.Input((25, 12), name='frames')
    x = series
    for number, (width, stride) in enumerate(((32, 1), (64, 2), (64, 2)), 1):
        x = layers.Conv1D(width, 3, strides=stride, padding='same', use_bias=False,
                          name=f'conv_{number}')(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling1D()(x))
    net = keras.Model(series, layers.Dense(9, name='speaker')(x), name='conv1d')
    net.compile(keras.optimizers.Adam(3e-3),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=['accuracy'])
    return net


def data():
    (x, y), test = read('TRAIN'), read('TEST')
    order = np.random.default_rng(0).permutation(len(x))  # the file is sorted by speaker
    held_out, train = np.split(order, [HELD_OUT])
    mean, std = x[train].mean((0, 1)), x[train].std((0, 1))
    return [((values - mean) / std, labels) for values, labels in (
        (x[train], y[train]), (x[held_out], y[held_out]), test)]


def read(split):
    """(series [N, 29, 12], speakers [N]) of a file in the .ts format: lines of 'a,b,…:c,d,…:9'."""
    spec = importlib.util.find_spec('aeon')
    if spec is None:
        raise ImportError('the data come with the package aeon: pip install --no-deps aeon')
    folder = pathlib.Path(spec.submodule_search_locations[0]) / 'datasets/data/JapaneseVowels'
    rows = [line.strip().split(':') for line in
            (folder / f'JapaneseVowels_eq_{split}.ts').read_text().splitlines()
            if line.strip() and line[0] not in '#@']
    series = [[[float(value) for value in channel.split(',')] for channel in row[:-1]]
              for row in rows]
    return (np.array(series, 'float32').transpose(0, 2, 1),
            np.array([int(row[-1]) - 1 for row in rows], 'int32'))
