"""Fields of configurations: their help, type and range, from which flags are made and checked."""
import dataclasses
import os
import typing
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, each end left out where it is open."""
    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        """False for NaN, which compares false with everything."""
        above = self.low < value if self.open_low else self.low <= value
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        return (f'{"(" if self.open_low else "["}{self.low}, {self.high}'
                f'{")" if self.open_high else "]"}')


SHARE = Range(0, 1)
# The upper ends are far above what makes sense; they catch slips, and what would overflow.
EPOCHS = Range(0, 99_999)
COUNT, COUNT_OR_NONE = Range(1, 1_000_000), Range(0, 1_000_000)
IMAGES, IMAGES_OR_AUTO = Range(1, 10 ** 9), Range(0, 10 ** 9)
RATE, STRENGTH = Range(0, 1_000), Range(0, 10 ** 6)
COST, MILLISECONDS = Range(0, 10 ** 18), Range(0, 10 ** 9)
SEED, THREADS, REPLICAS = Range(0, 2 ** 32 - 1), Range(0, 1_024), Range(1, 64)


def field_of(default: Any, text: str, within: Range | None = None) -> Any:
    """A field of a configuration with its help; `within` is what a number can be."""
    return dataclasses.field(default=default, metadata={'help': text, 'within': within})


def kind(field: dataclasses.Field) -> tuple[type, bool]:
    """The type of a field's values, and whether None may stand in its place."""
    types = typing.get_args(field.type) or (field.type,)
    return types[0], type(None) in types


def check_range(field: dataclasses.Field, value: Any) -> None:
    """ValueError unless a number is within what its field allows."""
    within = field.metadata['within']
    if within is not None and value is not None and value not in within:
        raise ValueError(f'{field.name} must be in {within}; received {value!r}.')


def plain(value: Any) -> Any:
    """Numbers of NumPy as Python's, paths as text, lists of names as the comma-separated one."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ','.join(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_number = hasattr(value, 'item') and getattr(value, 'shape', None) == ()
    return value.item() if is_number else value


def check_type(field: dataclasses.Field, value: Any) -> None:
    """TypeError unless a value is of the type of its field; a whole number is a float."""
    expected, optional = kind(field)
    ok = isinstance(value, expected) and not (expected is int and isinstance(value, bool))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        ok = True
    if not (ok or optional and value is None):
        raise TypeError(f'{field.name} must be {expected.__name__}; '
                        f'received {type(value).__name__} {value!r}.')
