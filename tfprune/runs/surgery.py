"""Removes what the decision removes."""
from tfprune.pruning.surgery import prune_model
from tfprune.runs.state import State
from tfprune.search.problem import Problem
from tfprune.structure.keras_internals import clone_model
from tfprune.training.seeding import derived_seed, set_seed

_SURGERY = 2 ** 21  # of a seed; no run has so many rounds


def prune(state: State, problem: Problem) -> None:
    """Adds to the state the problem without the removed blocks, and the model without the removed
    channels, too."""
    # Copies of dropout layers draw their streams: from the same place, resumed or not.
    set_seed(derived_seed(problem.seed, state.surgery_epoch, _SURGERY), problem.model)
    with state.strategy.scope():
        state.left = left = problem.without(state.decision.removed)
        pruned = prune_model(left.model, left.groups, state.decision.masks)
        # From scratch: initialized anew for its own widths, not a slice of the dense one.
        state.pruned = (clone_model(pruned) if state.method.decides_first else pruned)
