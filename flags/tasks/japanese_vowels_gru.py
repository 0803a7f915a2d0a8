"""Time series of unequal lengths, by a recurrent network: which of nine speakers says two vowels.

JapaneseVowels of the UCI archive, as the package aeon brings it (`pip install --no-deps aeon`): 640
recordings of 12 cepstral coefficients over 7 to 29 frames. Here [29, 12] with zeros behind a
recording, which a mask takes out. 270 are for training, 70 of which are held out for rewards; 370
are test.
"""
import importlib.util
import pathlib

import keras
import numpy as np
from keras import layers

HELD_OUT, FRAMES, COEFFICIENTS = 70, 29, 12
class_names = [f'speaker {number}' for number in range(1, 10)]


def model():
    series = keras.Input((FRAMES, COEFFICIENTS), name='frames')
    x = layers.Masking(name='recorded')(series)
    x = layers.Bidirectional(layers.GRU(32, return_sequences=True), name='frames_in_context')(x)
    x = layers.Dropout(0.3)(layers.GRU(48, name='recording')(x))
    net = keras.Model(series, layers.Dense(9, name='speaker')(x), name='gru')
    net.compile(keras.optimizers.Adam(3e-3),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=['accuracy'])
    return net


def data():
    (x, y), test = read('TRAIN'), read('TEST')
    order = np.random.default_rng(0).permutation(len(x))  # the file is sorted by speaker
    held_out, train = np.split(order, [HELD_OUT])
    frames = np.concatenate([series for series in (x[place] for place in train)])
    mean, std = frames.mean(0), frames.std(0)

    def padded(recordings):
        made = np.zeros((len(recordings), FRAMES, COEFFICIENTS), 'float32')
        for row, series in zip(made, recordings):
            row[:len(series)] = (series - mean) / std
        return made

    return [(padded([x[place] for place in train]), y[train]),
            (padded([x[place] for place in held_out]), y[held_out]), (padded(test[0]), test[1])]


def read(split):
    """(series [frames, 12] each, speakers [N]) of a .ts file: lines of 'a,b,…:c,d,…:9'."""
    spec = importlib.util.find_spec('aeon')
    if spec is None:
        raise ImportError('the data come with the package aeon: pip install --no-deps aeon')
    folder = pathlib.Path(spec.submodule_search_locations[0]) / 'datasets/data/JapaneseVowels'
    rows = [line.strip().split(':') for line in
            (folder / f'JapaneseVowels_{split}.ts').read_text().splitlines()
            if line.strip() and line[0] not in '#@']
    series = [np.array([[float(value) for value in channel.split(',')] for channel in row[:-1]],
                       'float32').T for row in rows]
    return series, np.array([int(row[-1]) - 1 for row in rows], 'int32')
