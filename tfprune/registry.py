"""Names of things that are imported only when they are used."""
import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar

from tfprune import extras

T = TypeVar('T')


class Registry(MutableMapping[str, T], Generic[T]):
    """A dictionary whose values may stand as 'module:name', or 'module:' for the module itself,
    imported at the first look.

    So that --help can list names without importing TensorFlow.

    Args:
        needs: name -> the extra that it needs, see tfprune.extras; a MissingExtraError says so
            at the first look.
        kind: what it is a name of, for that message.
    """

    def __init__(self, entries: Mapping[str, T | str], needs: Mapping[str, str] | None = None,
                 kind: str = ''):
        self._entries: dict[str, T | str] = dict(entries)
        self._needs, self._kind = dict(needs or {}), kind

    def __getitem__(self, name: str) -> T:
        entry = self._entries[name]
        self.check(name)
        if isinstance(entry, str):
            module, _, attribute = entry.partition(':')
            found: Any = importlib.import_module(module)
            entry = self._entries[name] = getattr(found, attribute) if attribute else found
        return entry  # type: ignore[return-value]

    def check(self, name: str) -> None:
        """MissingExtraError where what a name needs is not installed."""
        if name in self._needs:
            extras.need(self._needs[name], f'{self._kind} {name!r}',
                        f'Without it there are {", ".join(filter(self.is_usable, self))}.')

    def is_usable(self, name: str) -> bool:
        """Whether what it needs is installed."""
        return name not in self._needs or extras.is_installed(self._needs[name])

    def is_imported(self, name: str) -> bool:
        """Whether the value stands there itself."""
        return not isinstance(self._entries[name], str)

    def __setitem__(self, name: str, value: T) -> None:
        self._needs.pop(name, None)
        self._entries[name] = value

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
