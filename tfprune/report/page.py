"""One HTML page without network: sections, tables, figures, from the templates beside this file.

Text is escaped by the templates; what is `Markup` already, such as a table in a section, is not.
"""
import urllib.parse
from typing import Any, Sequence

import jinja2
from markupsafe import Markup, escape

from tfprune.plain_text import visible


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


def page(title: str, lead: str, body: Markup, *, wide: bool = False) -> str:
    """A whole page around `body`; its policy forbids it to load anything."""
    return _ENVIRONMENT.get_template('page.html').render(
        title=title, lead=lead, body=body, wide=wide) + '\n'


def joined(parts: Sequence[Markup]) -> Markup:
    """One part behind the other."""
    return Markup().join(parts)


def section(title: str, body: Markup, *, paragraphs: Sequence[str] = (),
            notes: Sequence[str] = (), closed: bool = False) -> Markup:
    """A section; a closed one is opened by a click."""
    return _part('section', title, body, paragraphs, notes, closed)


def table(rows: Sequence[Sequence[str]], *, left: int = 1, header: bool = True) -> Markup:
    """A table, the first `left` columns flush left."""
    return _part('table', rows, left, header)


def tiles(facts: Sequence[tuple[str, str, str]]) -> Markup:
    """Large numbers side by side: (label, number, remark) each."""
    return _part('tiles', facts)


def figure(svg: str, label: str, caption: str) -> Markup:
    """An inline plot with its name for screen readers and its caption."""
    named = f'<svg role=img aria-label="{escape(visible(label))}" '
    return _part('figure', Markup(svg.replace('<svg ', named, 1)), caption)


def link(path: str) -> Markup:
    """A link to a file beside the page."""
    return _part('link', urllib.parse.quote(path))
