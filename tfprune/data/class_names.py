"""Names of classes: one name, one class, in every list and file that shows them."""

import unicodedata
from collections.abc import Sequence


def same_name(name: str) -> str:
    """Its NFC form: file systems hand out 'é' as one character or as two."""
    return unicodedata.normalize('NFC', name)


def label_of(name: str) -> str:
    """The name as it looks on one line: NFC, white space single, nothing that is not seen.

    Control and format characters (Unicode's Cc and Cf) that are no white space are left out.
    """
    seen = (char for char in same_name(name)
            if char.isspace() or unicodedata.category(char) not in ('Cc', 'Cf'))
    return ' '.join(''.join(seen).split())


def check_class_names(where: str, names: Sequence[str]) -> None:
    """ValueError if one of the names is no string or blank, or if two look the same."""
    labels: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f'{where}: expected names of classes, received {name!r:.80}')
        label = label_of(name)
        if not label:
            raise ValueError(f'{where}: expected a name for each class, received {name!r}')
        if label in labels:
            raise ValueError(f'{where}: {labels[label]!a} and {name!a}, of two classes, look the '
                             'same; rename one')
        labels[label] = name
