"""What configurations are made of: fields with help, type and range, and parts that hold them.

A part is a frozen dataclass of numbers, texts and switches. Each package that needs one defines it
in its `options` module, which imports no TensorFlow, and checks what belongs together in it.
`tfprune.runs.config.Config` holds the parts of a run, and the flags are made from their fields.
The names of limits of a budget stand here too, as reports know them and no costs.
"""
import dataclasses
import os
import typing
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from tfprune.errors import unknown


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


def field_of(default: Any, text: str, within: Range | None = None, *,
             choices: Iterable[str] = (), is_flag: bool = True, before: Any = None) -> Any:
    """A field of a part.

    Args:
        text: its help.
        within: what a number can be.
        choices: what a name can be; none for any text.
        is_flag: whether it is part of a configuration, or given in Python alone.
        before: what runs did before there was the flag; None for what its default does.
    """
    return dataclasses.field(default=default, metadata={
        'help': text, 'within': within, 'choices': tuple(choices), 'is_flag': is_flag,
        'before': default if before is None else before})


@dataclasses.dataclass(frozen=True)
class Part:
    """Fields of one package, with plain values; a subclass adds fields, all with defaults.

    Class attributes:
        prefix: of the names of its flags, in errors.

    Raises:
        TypeError, ValueError: name the field, what was expected and what was received.
    """
    prefix: ClassVar[str] = ''

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
            check_type(field, getattr(self, field.name), self.prefix)
        self.check()

    def check(self) -> None:
        """Checks values, whose types are right; a subclass adds what belongs together."""
        for field in dataclasses.fields(self):
            check_value(field, getattr(self, field.name), self.prefix)

    def require(self, name: str, holds: Any, expected: str) -> None:
        """ValueError 'NAME must be EXPECTED; received …', unless it holds."""
        if not holds:
            raise ValueError(f'{self.prefix}{name} must be {expected}; '
                             f'received {getattr(self, name)!r}.')


def flag_fields(part: Any) -> Iterator[dataclasses.Field]:
    """The fields of a part, a class or an instance, that are flags."""
    return (field for field in dataclasses.fields(part) if field.metadata.get('is_flag', True))


def values_of(part: Any) -> dict[str, Any]:
    """{flag: value} of a part, the prefix left out."""
    return {field.name: getattr(part, field.name) for field in flag_fields(part)}


def kind(field: dataclasses.Field) -> tuple[type, bool]:
    """The type of a field's values, and whether None may stand in its place.

    Of an annotation that is text (`from __future__ import annotations`) the default tells it.
    """
    if isinstance(field.type, str):
        return type(field.default), False
    types = typing.get_args(field.type) or (field.type,)
    return types[0], type(None) in types


def check_value(field: dataclasses.Field, value: Any, prefix: str = '') -> None:
    """ValueError unless a number is within what its field allows, a name one of its choices."""
    within, choices = field.metadata.get('within'), field.metadata.get('choices')
    if within is not None and value is not None and value not in within:
        raise ValueError(f'{prefix}{field.name} must be in {within}; received {value!r}.')
    if choices and value not in choices:
        raise unknown(f'{prefix}{field.name}', value, choices)


def plain(value: Any) -> Any:
    """Numbers of NumPy as Python's, paths as text, lists of names as the comma-separated one."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ','.join(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_number = hasattr(value, 'item') and getattr(value, 'shape', None) == ()
    return value.item() if is_number else value


def check_type(field: dataclasses.Field, value: Any, prefix: str = '') -> None:
    """TypeError unless a value is of the type of its field; a whole number is a float."""
    expected, optional = kind(field)
    ok = isinstance(value, expected) and not (expected is int and isinstance(value, bool))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        ok = True
    if not (ok or optional and value is None):
        raise TypeError(f'{prefix}{field.name} must be {expected.__name__}; '
                        f'received {type(value).__name__} {value!r}.')


def split_names(text: str) -> list[str]:
    """Returns the parts of a comma-separated list."""
    return [name.strip() for name in text.split(',') if name.strip()]


# Limits of a budget.

TARGETS = ('macs', 'params', 'peak_memory_bytes')
# The limits of a budget, by flag -> the field of Cost that they limit.
LIMITS = {**{name: name for name in TARGETS}, 'latency_ratio': 'latency_ms',
          'latency_ms': 'latency_ms'}


def is_ratio(name: str, limit: float) -> bool:
    """Whether a limit is a ratio of the dense model's cost."""
    return name == 'latency_ratio' or (name != 'latency_ms' and limit <= 1)


def check_limit(name: str, limit: float) -> None:
    """ValueError unless `limit` is one that `name`, a key of LIMITS, can have.

    That is a ratio of dense, in (0, 1], or a whole number above 1; of latency_ratio the first
    only, of latency_ms any number of milliseconds above 0.
    """
    if name == 'latency_ratio' and not 0 < limit <= 1:
        raise ValueError(f'{name} must be a ratio in (0, 1]; received {limit!r}.')
    if name == 'latency_ms':
        if not 0 < limit < float('inf'):
            raise ValueError(f'{name} must be a number of milliseconds above 0; received '
                             f'{limit!r}.')
    elif not (0 < limit <= 1 or (limit > 1 and limit % 1 == 0)):
        raise ValueError(f'{name} must be a ratio in (0, 1] or a whole number above 1; '
                         f'received {limit!r}.')
