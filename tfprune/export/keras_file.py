"""The .keras file: stock Keras layers, loads wherever Keras 3 is installed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfprune.costs.model import CostModel
from tfprune.export.base import Artifact, ArtifactCost, Format, Signature, WriteContext
from tfprune.models.model_files import read_keras_file
from tfprune.structure.copies import storable
from tfprune.structure.groups import trace_groups


def write(model: keras.Model, path: pathlib.Path, context: WriteContext) -> None:
    """Saves the model as a .keras file; ValueError naming a layer that none can hold."""
    del context
    storable(model).save(path)


def open_model(model: keras.Model, path: pathlib.Path, form: str = 'keras') -> Artifact:
    """An Artifact of a model in memory."""
    signature = Signature.of(model)
    forward = tf.function(
        lambda *tensors: named_answers(model, signature, tensors), autograph=False,
        input_signature=[tf.TensorSpec([None, *shape], dtype)
                         for shape, dtype in signature.inputs.values()])

    def run(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = forward(*(tf.constant(arrays[name]) for name in signature.inputs))
        return {name: answers[name].numpy() for name in signature.outputs}

    def cost() -> ArtifactCost:
        counted = CostModel(model, trace_groups(model))
        return ArtifactCost(macs=counted.dense.macs, params=counted.dense.params,
                            uncounted=tuple(counted.uncounted))

    return Artifact(path=path, form=form, signature=signature, run=run, cost=cost)


def named_answers(model: keras.Model, signature: Signature, tensors: Sequence[tf.Tensor]
                  ) -> dict[str, tf.Tensor]:
    """A model's outputs by name, of its inputs in the order of `model.inputs`, in inference."""
    inputs = (tensors[0] if isinstance(model, keras.Sequential)
              else keras.tree.pack_sequence_as(model.input, list(tensors)))
    return dict(zip(signature.outputs, keras.tree.flatten(model(inputs, training=False))))


def open_file(path: pathlib.Path) -> Artifact:
    """Opens a .keras file in safe mode: code inside the file (a Lambda) is not run.

    ValueError naming the file if its inputs are of no fixed size.
    """
    model = read_keras_file(path)
    try:
        return open_model(model, path)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


FORMAT = Format(location='pruned.keras', write=write, open=open_file, tolerance=1e-4,
                family='keras', is_always_written=True)
