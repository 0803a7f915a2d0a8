"""Multi-label: which of ten things are on a picture [32, 64, 3] of two CIFAR-10 pictures.

tensorflow-datasets brings CIFAR-10; TFDS_DATA_DIR says where it is. Targets are ten numbers, 1 for
each class that is there. Pairs of one class are worth less: their one label is easier to see, and
their sample weight is 1/2. Judged by the area under the precision-recall curve of all labels.
"""
import keras
import numpy as np
import tensorflow_datasets as tfds
from keras import layers

COUNTS = {'train': 16_000, 'reward': 2_000, 'test': 5_000}  # pairs
monitor = 'val_auc_pr'


def model():
    pair = keras.Input((32, 64, 3), name='pair')
    x = layers.Rescaling(1 / 127.5, offset=-1)(pair)
    for number, (width, stride) in enumerate(((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)), 1):
        x = layers.Conv2D(width, 3, strides=stride, padding='same', use_bias=False,
                          name=f'conv_{number}')(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    # Where a thing is does not matter, only that it is somewhere.
    x = layers.GlobalMaxPooling2D()(x)
    net = keras.Model(pair, layers.Dense(10, activation='sigmoid', name='things')(x), name='pairs')
    net.compile(keras.optimizers.Adam(2e-3, clipnorm=1.0), 'binary_crossentropy', metrics=[
        keras.metrics.AUC(curve='PR', name='auc_pr')],
        weighted_metrics=[keras.metrics.BinaryAccuracy(name='accuracy')])
    return net


def data():
    train, test = tfds.load('cifar10', split=['train', 'test'], batch_size=-1, download=False)
    images, labels = (np.asarray(train[name]) for name in ('image', 'label'))
    rng = np.random.default_rng(0)
    held_out = slice(45_000, None)
    return [pairs(images[:45_000], labels[:45_000], COUNTS['train'], rng),
            pairs(images[held_out], labels[held_out], COUNTS['reward'], rng),
            pairs(np.asarray(test['image']), np.asarray(test['label']), COUNTS['test'], rng)]


def pairs(images, labels, count, rng):
    left, right = rng.integers(len(images), size=(2, count))
    there = np.eye(10, dtype='float32')
    y = np.maximum(there[labels[left]], there[labels[right]])
    weights = np.where(labels[left] == labels[right], 0.5, 1.0).astype('float32')
    return np.concatenate([images[left], images[right]], axis=2), y, weights
