"""Pages whose tables are made of rows files, each between two markers:

    <!-- table: results/compare_digits.jsonl -->
    …
    <!-- end -->

Several files stand in one marker, separated by spaces; paths are relative to the page.
"""
import pathlib
import re
from typing import Callable, Mapping, Sequence

_BEGIN, _END = '<!-- table: ', '<!-- end -->'
_TABLE = re.compile(rf'^({re.escape(_BEGIN)}([^\n]*) -->\n).*?^({re.escape(_END)})$',
                    re.DOTALL | re.MULTILINE)


def remade(page: pathlib.Path, read: Callable[[pathlib.Path], Sequence[Mapping]],
           render: Callable[[Sequence[Mapping]], str]) -> str:
    """The text of a page with its tables made anew.

    Args:
        read: the rows of a file.
        render: rows -> tables and what they show, in markdown.

    Raises:
        ValueError: there is no marker, or one without an end.
    """
    text = page.read_text(encoding='utf-8')
    begun, whole = (len(re.findall(pattern, text, re.MULTILINE | re.DOTALL))
                    for pattern in (f'^{_BEGIN}', _TABLE.pattern))
    if not begun or begun != whole:
        raise ValueError(f'{page}: expected lines "{_BEGIN}FILE -->", each with a line "{_END}" '
                         f'before the next; received {begun}, of which {whole} have one.')

    def table(match: re.Match) -> str:
        rows = [row for name in match[2].split() for row in read(page.parent / name)]
        return f'{match[1]}{render(rows)}\n{match[3]}'

    return _TABLE.sub(table, text)
