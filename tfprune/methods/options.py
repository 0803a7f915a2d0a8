"""Options of one method: a frozen dataclass, and the text of --method_options that sets it."""
import dataclasses
from typing import Any, NoReturn, TypeVar

from tfprune.errors import near
from tfprune.fields import Range

OptionsT = TypeVar('OptionsT')


def number(default: float, low: float, high: float, *, open_low: bool = False,
           open_high: bool = False) -> Any:
    """A field of an option that is a number of this `Range`, both ends finite."""
    return dataclasses.field(default=default,
                             metadata={'range': Range(low, high, open_low, open_high)})


def count(default: int, low: int = 1, high: int = 10_000) -> Any:
    """A field of an option that counts."""
    return number(default, low, high)


def rate(default: float) -> Any:
    """A field of an option that is a learning rate, in (0, 10]."""
    return number(default, 0, 10, open_low=True)


def one_of(default: str, *others: str) -> Any:
    """A field of an option that is a name among these."""
    return dataclasses.field(default=default, metadata={'choices': (default, *others)})


def refuse(name: str, expected: str, received: Any) -> NoReturn:
    """The ValueError of an option, which it names."""
    raise ValueError(f'method_options: {name} must be {expected}; received {received}.')


@dataclasses.dataclass(frozen=True)
class Options:
    """Of a method; a subclass has fields of int, float, str and bool, all with defaults.

    Raises:
        ValueError: a value that its field cannot have, `method_options` and its name in it.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if 'range' in field.metadata and value not in field.metadata['range']:
                refuse(field.name, f'in {field.metadata["range"]}', value)
            if 'choices' in field.metadata and value not in field.metadata['choices']:
                raise ValueError(f'method_options: unknown {field.name} {value!r}. Available: '
                                 f'{", ".join(sorted(field.metadata["choices"]))}')


@dataclasses.dataclass(frozen=True)
class NoOptions(Options):
    """Of a method without options of its own."""


def parse_options(cls: type[OptionsT], text: str, method: str) -> OptionsT:
    """An instance of `cls`, a dataclass of int, float, str and bool fields that have defaults.

    Args:
        text: 'name=value,name=value'; '' takes the defaults.
        method: named in errors.

    Raises:
        ValueError: an unknown name, with the right ones; a name that is there twice; a value of
            another type, or one that the option cannot have.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(','))):
        name, equals, value = (part.strip() for part in item.partition('='))
        if not equals or name not in fields:
            known = ', '.join(f'{n}={field.default}' for n, field in fields.items()) or 'none'
            raise ValueError(f'method_options: method {method!r} has no option {item!r}'
                             f'.{near(name, fields)} Available: {known}')
        if name in values:
            raise ValueError(f'method_options: {name} is given twice.')
        values[name] = _parse(name, value, type(fields[name].default))
    return cls(**values)


def _parse(name: str, text: str, expected: type) -> Any:
    try:
        if expected is bool:
            return {'true': True, 'false': False}[text.lower()]
        return expected(text)
    except (ValueError, KeyError):
        raise ValueError(f'method_options: {name} must be {expected.__name__}; '
                         f'received {text!r}.') from None
