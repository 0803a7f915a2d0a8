"""Runs of small compiled models of tables."""
import json

import tfprune
import keras
import numpy as np
from keras import layers

from light_export import light_export

SHORT = {'method': 'uniform', 'macs': 0.5, 'warmup_epochs': 1, 'random_epochs': 0,
         'joint_epochs': 0, 'alignment_epochs': 0, 'fine_tune_epochs': 1, 'progress': False}


def rng(seed=0):
    return np.random.default_rng(seed)


def run(model, data, folder, *, page=False, **options):
    """(pruned model, report.json)."""
    with light_export(page=page):
        pruned = tfprune.train_and_prune(model, *data, run_dir=folder, **{**SHORT, **options})
    return pruned, json.loads((folder / 'report.json').read_text())


def table(outputs=1, activation=None, **compiled):
    """[B, 6] to [B, outputs]."""
    keras.utils.set_random_seed(0)
    row = keras.Input((6,), name='row')
    x = layers.Dense(24, activation='relu', name='hidden_1')(row)
    x = layers.Dense(24, activation='relu', name='hidden_2')(x)
    model = keras.Model(row, layers.Dense(outputs, activation=activation, name='out')(x),
                        name='table')
    model.compile(**compiled)
    return model


def rows(count, seed, kind='number'):
    x = rng(seed).normal(size=(count, 6)).astype('float32')
    total = x[:, :2].sum(1, keepdims=True)
    return x, {'number': total, 'binary': (total > 0).astype('int32'),
               'labels': (x[:, :3] > 0).astype('float32'),
               'class': (x[:, 0] > 0).astype('int32') + (x[:, 1] > 0)}[kind]


def splits(kind='number', counts=(64, 32, 48)):
    return [rows(count, seed, kind) for seed, count in enumerate(counts)]


def logged(folder):
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def rates(folder):
    return [row['learning_rate'] for row in logged(folder)]
