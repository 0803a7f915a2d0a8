"""The state of a Keras optimizer as arrays, which the optimizer of another model can take over."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

Slots = Mapping[int, np.ndarray]  # place of a weight -> of its shape


@dataclasses.dataclass(frozen=True)
class StateValues:
    """What an optimizer has kept.

    Attributes:
        slots: by name ('momentum', 'velocity', 'average') the arrays of the weights that have one.
        numbers: the scalars in the optimizer's order: steps so far, a scale of the loss.
    """
    slots: Mapping[str, Slots]
    numbers: Sequence[np.ndarray]

    def of_slots(self, change: Callable[[Slots], Slots]) -> 'StateValues':
        """The same with slots of each name changed."""
        return StateValues({name: change(slots) for name, slots in self.slots.items()},
                           self.numbers)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """By names that a file can have."""
        slots = {f'{name}/{place}': value for name, values in self.slots.items()
                 for place, value in values.items()}
        return slots | {str(place): value for place, value in enumerate(self.numbers)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> 'StateValues':
        """Inverse of to_arrays."""
        found: dict[str, dict[int, np.ndarray]] = {}
        for key, value in arrays.items():
            name, _, place = key.rpartition('/')
            found.setdefault(name, {})[int(place)] = value
        numbers = found.pop('', {})
        return cls(found, [numbers[place] for place in sorted(numbers)])


class OptimizerState:
    """The variables of a Keras optimizer, which is built here: slots, one of a weight's shape each,
    and numbers.

    Args:
        optimizer: not built yet.
        weights: that it is to train.

    Attributes:
        others: variables of other shapes, as the factors of Adafactor, which belong to a weight in
            a way that only the optimizer knows.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, weights: Sequence[Any]):
        self._weights = weights
        self._slots: dict[str, dict[int, Any]] = {}
        self._build(optimizer, {id(weight): place for place, weight in enumerate(weights)})
        known = {id(slot) for slots in self._slots.values() for slot in slots.values()}
        left = [variable for variable in optimizer.variables if id(variable) not in known]
        self._numbers = [variable for variable in left if len(variable.shape) == 0]
        self.others = [variable for variable in left if len(variable.shape) > 0]

    def _build(self, optimizer: keras.optimizers.Optimizer, places: Mapping[int, int]) -> None:
        """Builds it, and notes each variable that it makes for a weight."""
        inner = steps_of(optimizer)
        add = inner.add_variable_from_reference

        def noting(reference_variable: Any, name: str | None = None, **options: Any) -> Any:
            variable = add(reference_variable, name=name, **options)
            place, name = places[id(reference_variable)], name or 'var'
            while place in self._slots.get(name, ()):
                name += '_'
            self._slots.setdefault(name, {})[place] = variable
            return variable

        inner.add_variable_from_reference = noting
        try:
            optimizer.build(self._weights)
        finally:
            del inner.add_variable_from_reference

    @property
    def values(self) -> StateValues:
        """As they are now."""
        read = keras.ops.convert_to_numpy
        return StateValues({name: {place: read(slot) for place, slot in slots.items()}
                            for name, slots in self._slots.items()}, list(map(read, self._numbers)))

    def take(self, values: StateValues) -> None:
        """Goes on from the state of an optimizer of the same kind, of equally many weights.

        Moving averages that it had none of begin at the weights: at a later step than the first
        Keras does not begin them.
        """
        for variable, number in zip(self._numbers, values.numbers, strict=True):
            variable.assign(number)
        for name, slots in self._slots.items():
            if name in values.slots:
                for place, slot in slots.items():
                    slot.assign(values.slots[name][place])
            elif name == 'average':
                for place, slot in slots.items():
                    slot.assign(self._weights[place])


def steps_of(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that steps, which stands behind one that scales the loss."""
    return getattr(optimizer, 'inner_optimizer', optimizer)
