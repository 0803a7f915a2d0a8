"""The reward of a sub-network after some steps of training, which are forgotten.

Where pruning leaves little accuracy, as at a third of the multiply-adds, what is left before any
training hardly tells good decisions apart; after ten steps it does (tfprune.benchmarks, rewards).
The sub-network trains by its sliced weights, as a companion does, on the same batches each time.
"""
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune.search.scoring import Network, SubnetworkScorer
from tfprune.training.step import NonFiniteLossError, Trainer


class TunedScorer:
    """masks -> reward of the sub-network after training steps; weights are then as they were.

    One whose training diverges is scored untrained.

    Args:
        score: of the network, without training.
        network: the sub-network that is trained and scored.
        trainer: of the network; its optimizer is as new before each.
        batches: what is trained on, (x, y) or (x, y, weights) of the global batch; read once.
        rate: the learning rate of every step.
    """

    def __init__(self, score: SubnetworkScorer, network: Network, trainer: Trainer,
                 batches: tf.data.Dataset, rate: float):
        self._score, self._network, self._trainer = score, network, trainer
        self._batches, self._rate = batches.cache(), rate
        self._fresh = _values(trainer.optimizer.variables)

    def __call__(self, masks: Mapping[str, np.ndarray]) -> float:
        weights = self._trainer.model.variables
        before = _values(weights)
        self._network.set_masks(masks)
        try:
            self._trainer.train_epoch(self._batches, lambda _: self._rate)
            return self._score(masks)
        except NonFiniteLossError:
            _assign(weights, before)
            return self._score(masks)
        finally:
            _assign(weights, before)
            _assign(self._trainer.optimizer.variables, self._fresh)
            self._trainer.steps_done.assign(0)


def _values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
