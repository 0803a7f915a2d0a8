"""Options of one method: a frozen dataclass, and the text of --method_options that sets it."""
import dataclasses
from typing import Any, Callable, TypeVar

OptionsT = TypeVar('OptionsT')


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Of a method without options of its own."""


def require_at_least(least: int, options: Any, *names: str) -> None:
    """ValueError unless these options are that at least."""
    _require(options, names, f'at least {least}', lambda value: value >= least)


def require_positive(options: Any, *names: str) -> None:
    """ValueError unless these options are above 0."""
    _require(options, names, 'above 0', lambda value: value > 0)


def _require(options: Any, names: tuple[str, ...], expected: str, holds: Callable[[Any], bool]
             ) -> None:
    for name in names:
        if not holds(getattr(options, name)):
            raise ValueError(f'method_options: {name} must be {expected}; '
                             f'received {getattr(options, name)}.')


def parse_options(cls: type[OptionsT], text: str, method: str) -> OptionsT:
    """An instance of `cls`, a dataclass of int, float, str and bool fields that have defaults.

    Args:
        text: 'name=value,name=value'; '' takes the defaults.
        method: named in errors.

    Raises:
        ValueError: an unknown name, with the right ones; a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(','))):
        name, equals, value = (part.strip() for part in item.partition('='))
        if not equals or name not in fields:
            known = ', '.join(f'{n}={field.default}' for n, field in fields.items()) or 'none'
            raise ValueError(f'method_options: method {method!r} has no option {item!r}. '
                             f'Available: {known}')
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
