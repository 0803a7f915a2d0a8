"""One HTML page without network: style, sections, tables, figures. All text is escaped here."""
import html
from typing import Sequence

from tfprune.plain_text import visible

_STYLE = '''
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f8; color: #22272b; line-height: 1.5;
       font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 28px 20px 60px; }
main.wide { max-width: 1360px; }
.wide th, .wide td { padding: 5px 9px; }
.wide figure svg { max-width: 1020px; }
h1 { font-size: 25px; margin: 0 0 14px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 0 0 10px; }
.lead { color: #5b6670; margin: -12px 0 20px; }
section { background: #fff; border: 1px solid #e2e5e8; border-radius: 8px; padding: 18px 22px;
          margin: 0 0 16px; overflow-x: auto; }
section p { margin: 8px 0 0; max-width: 84ch; }
.note, figcaption { color: #5b6670; font-size: 13.5px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px;
         margin: 0 0 16px; }
.tile { background: #fff; border: 1px solid #e2e5e8; border-radius: 8px; padding: 12px 16px; }
.tile b { display: block; font-size: 25px; font-weight: 600; line-height: 1.25;
          font-variant-numeric: tabular-nums; }
.tile span { color: #5b6670; font-size: 13px; display: block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px; text-align: right; border-bottom: 1px solid #eceef0;
         vertical-align: top; white-space: nowrap; }
th { font-weight: 600; color: #5b6670; font-size: 13px; border-bottom-color: #c9ced3;
     white-space: normal; vertical-align: bottom; }
td.l, th.l { text-align: left; }
td.l:last-child { white-space: normal; overflow-wrap: anywhere; }
th.l:first-child, td.l:first-child { padding-left: 0; }
tr:last-child td { border-bottom: 0; }
figure { margin: 0; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: inherit !important; }
figcaption { margin-top: 6px; max-width: 96ch; }
code { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
summary { cursor: pointer; font-weight: 600; }
details table { margin-top: 10px; }
a { color: #0b62a4; }
'''


def escape(text: str) -> str:
    """Text as HTML, on one line; control characters are written out."""
    return html.escape(visible(text))


def page(title: str, lead: str, body: str, *, wide: bool = False) -> str:
    """A whole page around `body`, which is HTML; the policy forbids it to load anything."""
    return ('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta http-equiv="Content-Security-Policy" '
            'content="default-src \'none\'; style-src \'unsafe-inline\'">\n'
            f'<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
            f'<main{" class=wide" if wide else ""}>\n'
            f'<h1>{escape(title)}</h1>\n'
            + (f'<p class="lead">{escape(lead)}</p>\n' if lead else '')
            + f'{body}</main>\n</body>\n</html>\n')


def section(title: str, body: str, *, paragraphs: Sequence[str] = (), notes: Sequence[str] = (),
            closed: bool = False) -> str:
    """A section; `body` is HTML, the rest is text. A closed one is opened by a click."""
    inner = (body + ''.join(f'<p>{escape(text)}</p>' for text in paragraphs)
             + ''.join(f'<p class="note">{escape(text)}</p>' for text in notes))
    if closed:
        return (f'<section><details><summary>{escape(title)}</summary>{inner}</details>'
                '</section>\n')
    return f'<section>{f"<h2>{escape(title)}</h2>" if title else ""}{inner}</section>\n'


def table(rows: Sequence[Sequence[str]], *, left: int = 1, header: bool = True,
          raw: bool = False) -> str:
    """A table, the first `left` columns flush left; `raw` cells are HTML already."""
    lines = []
    for number, row in enumerate(rows):
        tag = 'th' if header and number == 0 else 'td'
        cells = [f'<{tag}{" class=l" if i < left else ""}>{cell if raw else _cell(cell)}</{tag}>'
                 for i, cell in enumerate(row)]
        lines.append(f'<tr>{"".join(cells)}</tr>')
    return '<table>\n' + '\n'.join(lines) + '\n</table>'


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers side by side: (label, number, remark) each."""
    return '<div class="tiles">' + ''.join(
        f'<div class="tile"><span>{escape(label)}</span><b>{_cell(number)}</b>'
        f'<span>{_cell(remark)}</span></div>' for label, number, remark in facts) + '</div>\n'


def figure(svg: str, label: str, caption: str) -> str:
    """An inline plot with its name for screen readers and its caption."""
    return (f'<figure>{svg.replace("<svg ", f"<svg role=img aria-label={_quoted(label)} ", 1)}'
            f'<figcaption>{escape(caption)}</figcaption></figure>')


def link(path: str) -> str:
    """A link to a file beside the page."""
    return f'<a href={_quoted(path)}><code>{escape(path)}</code></a>'


def _quoted(text: str) -> str:
    return f'"{escape(text)}"'


def _cell(text: str) -> str:
    """Escaped, with a proper minus sign in front of a number."""
    if text[:1] == '-' and text[1:2].isdigit():
        text = '−' + text[1:]
    return escape(text)
