"""Which cases of a test run always, and which only where slow ones are asked for."""
from collections.abc import Collection, Iterable

import pytest

# One mask always, a second one of those that are slow.
SEEDS = [0, pytest.param(1, marks=pytest.mark.slow)]


def slow_but(names: Iterable[str], fast: Collection[str]) -> list:
    """All names as cases of a test; those that are not `fast` are slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def fast_but(names: Iterable[str], slow: Collection[str]) -> list:
    """All names as cases of a test, these slow."""
    names = list(names)
    return slow_but(names, [name for name in names if name not in slow])
