"""Text that others chose, such as names of folders, made to do nothing where it is shown."""
import re
import unicodedata
from collections.abc import Iterable, Sequence

LISTED = 3  # names in a message

# Marks that change the direction of what follows, and separators that end a line somewhere.
_UNSEEN = frozenset('\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e'
                    '\u2066\u2067\u2068\u2069\ufeff')
# CommonMark's and GitHub's marks that are active within a line; a link that begins by itself, too.
_ACTIVE = re.compile(r'[\\`*\[\]|$~]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.|@(?=\w)',
                     re.IGNORECASE)


def visible(text: str) -> str:
    r"""The text on one line: control characters, and what is no character, as '\n', '\x1b', …"""
    return ''.join(
        char.encode('unicode_escape').decode() if char in _UNSEEN
        or unicodedata.category(char) in ('Cc', 'Cs') else char for char in text)


def markdown_text(text: str) -> str:
    """The text as it stands, on one line of Markdown: nothing in it is markup, HTML or a link."""
    text = re.sub(r'&(?=#?\w+;)', '&amp;', visible(text))
    text = _ACTIVE.sub(lambda found: '\\' + found[0], text)
    return text.replace('<', '&lt;').replace('>', '&gt;')


def labels(class_names: Sequence[str]) -> list[str]:
    """A label a class, on one line, for files and answers.

    White space within a name becomes single spaces, but where two classes would then have one
    label: theirs keep it, written out. ValueError names classes that have one label even so.
    """
    short = [visible(' '.join(name.split())) for name in class_names]
    found = [label if short.count(label) == 1 else visible(name)
             for name, label in zip(class_names, short)]
    for place, label in enumerate(found):
        if label in found[:place]:
            other = found.index(label)
            raise ValueError(f'class_names: expected a label for each class; classes {other} and '
                             f'{place} are both {label!r}')
    return found


def printable(text: object) -> str:
    """The text on one line: what cannot be printed as its escape."""
    return ''.join(char if char.isprintable() else char.encode('unicode_escape').decode()
                   for char in str(text))


def first_few(names: Iterable[str]) -> str:
    """The first few names, and how many there are beside them."""
    names = list(names)
    more = f' and {len(names) - LISTED} more' if len(names) > LISTED else ''
    return ', '.join(map(printable, names[:LISTED])) + more
