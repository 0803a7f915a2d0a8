"""Removes what the decision removes."""
from collections.abc import Mapping

import keras
import numpy as np

from tfprune.pruning.surgery import prune_model
from tfprune.runs.state import State
from tfprune.search.problem import Problem
from tfprune.structure.copies import copied
from tfprune.structure.keras_internals import clone_model
from tfprune.training.seeding import derived_seed, set_seed

_SURGERY = 2 ** 21  # of a seed; no run has so many rounds


def prune(state: State, problem: Problem) -> None:
    """Adds to the state the problem without the removed blocks, and the model without the removed
    channels, too."""
    # Copies of dropout layers draw their streams: from the same place, resumed or not.
    set_seed(derived_seed(problem.seed, state.surgery_epoch, _SURGERY), problem.model)
    with state.strategy.scope():
        state.left = problem.without(state.decision.removed)
        state.left.observe()
        pruned = state.left.pruned(state.decision.masks)
        # From scratch: initialized anew for its own widths, not a slice of the dense one.
        state.pruned = (clone_model(pruned, clone_function=copied)
                        if state.method.decides_first else pruned)


def cut_values(state: State, problem: Problem, values: Mapping[int, np.ndarray]
               ) -> dict[int, np.ndarray]:
    """What surgery leaves of arrays of the shapes of weights, by place among the trainable weights:
    of the dense model, then of the pruned one.

    Surgery itself cuts them, as the weights of the dense model, which then has its own again.
    """
    weights = problem.model.trainable_variables
    before = {place: keras.ops.convert_to_numpy(weights[place]) for place in values}
    _assign(weights, values)
    try:
        with state.strategy.scope():
            left = problem.without(state.decision.removed)
            pruned = prune_model(left.model, left.groups, state.decision.masks)
    finally:
        _assign(weights, before)
    return dict(enumerate(map(keras.ops.convert_to_numpy, pruned.trainable_variables)))


def _assign(weights: list[keras.Variable], values: Mapping[int, np.ndarray]) -> None:
    for place, value in values.items():
        weights[place].assign(value)
