"""What a layer without a rule multiplies, found by running it."""
import weakref
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfprune.costs.multiply_adds import macs_by_running
from tfprune.structure.graph import Shape, Step
from tfprune.structure.layer_state import KeptState
from tfprune.structure.other_weights import called

# Operation -> shapes of its inputs -> what was found: a model is costed more than once.
_FOUND: weakref.WeakKeyDictionary[Any, dict[Any, int | None]] = weakref.WeakKeyDictionary()


def macs_of_call(step: Step, shapes: Sequence[Shape]) -> int | None:
    """Multiply-adds at batch 1 of one call, in inference, on zeros; the layer stays as it is.

    None where they cannot be counted: a size is not fixed, the layer does not run on zeros, or an
    operator hides what it multiplies.
    """
    found = _FOUND.setdefault(step.operation, {})
    if tuple(shapes) not in found:
        found[tuple(shapes)] = _count(step, shapes)
    return found[tuple(shapes)]


def _count(step: Step, shapes: Sequence[Shape]) -> int | None:
    if any(shape.count(None) > 1 for shape in shapes):
        return None
    first = [shape[0] for shape in shapes if shape]
    is_open = any(None in shape for shape in shapes)
    batch = 1 if is_open or not first else first[0] or 1
    kept = KeptState([step.operation])

    def run() -> Any:
        return called(step, [tf.zeros([size or 1 for size in shape], tensor.dtype)
                             for tensor, shape in zip(step.tensors, shapes)])

    try:
        macs = macs_by_running(run)
    finally:
        kept.restore()
    return None if macs is None else macs // batch
