"""One HTML page without network: sections, tables, figures, from the templates beside this file.

Text is escaped by the templates; what is `Markup` already, such as a table in a section, is not.
"""
import itertools
import re
import urllib.parse
from typing import Any, Sequence

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from tfprune.plain_text import visible
from tfprune.report.canvas import WIDTH, to_svg


def _on_one_line(value: Any) -> Any:
    """Text with its control characters written out; markup as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(value: Any) -> Any:
    """A proper minus sign in front of a number."""
    if isinstance(value, Markup) or value[:1] != '-' or not value[1:2].isdigit():
        return value
    return f'−{value[1:]}'


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader('tfprune.report'), autoescape=True, finalize=_on_one_line,
    trim_blocks=True, undefined=jinja2.StrictUndefined)
_ENVIRONMENT.filters['number'] = _number


def _part(name: str, *arguments: Any) -> Markup:
    return getattr(_ENVIRONMENT.get_template('parts.html').module, name)(*arguments)


def _is_half(part: Markup) -> bool:
    return part.startswith('<section class=half>')


def page(title: str, lead: str, body: Markup, *, wide: bool = False) -> str:
    """A whole page around `body`; its policy forbids it to load anything."""
    return _ENVIRONMENT.get_template('page.html').render(
        title=title, lead=lead, body=body, wide=wide) + '\n'


def joined(parts: Sequence[Markup]) -> Markup:
    """One part behind the other; of plots that take half of a desktop's width two columns."""
    found = Markup()
    for half, members in itertools.groupby(filter(None, parts), _is_half):
        body = Markup().join(members)
        found += _part('columns', body) if half else body
    return found


def section(title: str, body: Markup, *, paragraphs: Sequence[str] = (),
            notes: Sequence[str] = (), closed: bool = False) -> Markup:
    """A section; a closed one is opened by a click."""
    return _part('section', title, body, paragraphs, notes, closed)


def plots(title: str, figures: Sequence[tuple[Figure | None, str]], *,
          paragraphs: Sequence[str] = ()) -> Markup:
    """A section of (plot, caption), each plot named by the title; nothing without plot and
    paragraph. One plot that is no wider than a phone shares a desktop's width with the next."""
    found = [(fig, caption) for fig, caption in figures if fig is not None]
    if not found and not paragraphs:
        return Markup()
    half = len(found) == 1 and found[0][0].get_figwidth() <= WIDTH
    body = side_by_side([figure(fig, f'{title} {number}' if number else title, caption)
                         for number, (fig, caption) in enumerate(found)])
    return _part('section', title, body, paragraphs, (), False, half)


def side_by_side(bodies: Sequence[Markup]) -> Markup:
    """Two bodies beside each other, on a phone one below the other; a single one as it is."""
    return _part('side_by_side', joined(bodies)) if len(bodies) > 1 else joined(bodies)


def table(rows: Sequence[Sequence[str]], *, left: int = 1, header: bool = True) -> Markup:
    """A table in a box that scrolls, the first `left` columns flush left; a row of one cell is the
    title of those below it."""
    return _part('table', rows, left, header, max(map(len, rows)))


def tiles(facts: Sequence[tuple[str, str, str]]) -> Markup:
    """Large numbers side by side: (label, number, remark) each."""
    return _part('tiles', facts)


def figure(fig: Figure, label: str, caption: str) -> Markup:
    """A plot with its name for screen readers, unlike others of the page, and its caption; one that
    is wider than a phone scrolls."""
    name = re.sub(r'[^a-z0-9]+', '-', label.lower())
    width = fig.get_figwidth()
    wide = f' style="min-width:{72 * width:.0f}px"' if width > WIDTH else ''
    named = f'<svg role=img aria-label="{escape(visible(label))}"{wide} '
    return _part('figure', Markup(to_svg(fig, name).replace('<svg ', named, 1)), caption)


def link(path: str) -> Markup:
    """A link to a file beside the page."""
    return _part('link', urllib.parse.quote(path))
