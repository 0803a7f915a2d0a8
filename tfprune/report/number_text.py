"""Numbers as text; MISSING for what is not known."""
import math
from typing import Any, Iterable

from tfprune.report.reading import finite

MISSING = '–'


def percent(share: Any, digits: int = 2) -> str:
    """'49.98%' of 0.4998."""
    return f'{100 * share:.{digits}f}%' if finite(share) else MISSING


def points(share: Any, reference: Any) -> str:
    """'-0.42 points', share - reference in percentage points."""
    if not finite(share) or not finite(reference):
        return MISSING
    difference = round(100 * (share - reference), 2)
    return f'{difference + 0.0:+.2f} points'


def count(value: Any) -> str:
    """'1,234'."""
    return f'{value:,.0f}' if finite(value) else MISSING


def milliseconds(value: Any) -> str:
    """Three significant digits, more where there are more before the point."""
    if not finite(value):
        return MISSING
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def duration(seconds: Any) -> str:
    """'48 s', '12.3 min', '5.2 h'."""
    if not finite(seconds):
        return MISSING
    for limit, size, unit in ((100, 1, 's'), (6000, 60, 'min')):
        if seconds < limit:
            return f'{seconds / size:.{0 if size == 1 else 1}f} {unit}'
    return f'{seconds / 3600:.1f} h'


def quotient(part: Any, whole: Any) -> float:
    """part / whole; NaN where either is missing or whole is zero."""
    return part / whole if finite(part) and finite(whole) and whole else math.nan


def listed(words: Iterable[Any]) -> str:
    """'a, b, c'."""
    return ', '.join(str(word) for word in words)
