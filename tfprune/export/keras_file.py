"""The .keras file: stock Keras layers, loads wherever Keras 3 is installed."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import tensorflow as tf

from tfprune.costs.model import CostModel
from tfprune.export.base import (Artifact, ArtifactCost, Format, WriteContext, image_shape_of,
                                 num_classes_of)
from tfprune.models.model_files import read_keras_file
from tfprune.structure.groups import trace_groups


def write(model: keras.Model, path: pathlib.Path, context: WriteContext) -> None:
    """Saves the model as a .keras file."""
    del context
    model.save(path)


def open_model(model: keras.Model, path: pathlib.Path, form: str = 'keras') -> Artifact:
    """An Artifact of a model in memory."""
    image_shape = image_shape_of(model)
    forward = tf.function(lambda images: model(images, training=False),
                          input_signature=[tf.TensorSpec([None, *image_shape], tf.float32)])

    def run(images: np.ndarray) -> np.ndarray:
        return forward(tf.constant(images)).numpy()

    def cost() -> ArtifactCost:
        counted = CostModel(model, trace_groups(model))
        return ArtifactCost(macs=counted.dense.macs, params=counted.dense.params,
                            uncounted=tuple(counted.uncounted))

    return Artifact(path=path, form=form, image_shape=image_shape,
                    num_classes=num_classes_of(model), run=run, cost=cost)


def open_file(path: pathlib.Path) -> Artifact:
    """Opens a .keras file in safe mode: code inside the file (a Lambda) is not run.

    ValueError naming the file if it takes no images of one size, or gives no classes.
    """
    model = read_keras_file(path)
    try:
        return open_model(model, path)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


FORMAT = Format(location='pruned.keras', write=write, open=open_file, tolerance=1e-4,
                family='keras', is_always_written=True)
