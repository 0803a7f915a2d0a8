"""What the plots of all pages share: style, colors, the SVG that stands in a page."""
import contextlib
import io
import re
from typing import Any, Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colors, which the color-blind tell apart.
BLUE, ORANGE, GREEN, GREY = '#0072b2', '#d55e00', '#009e73', '#6f7780'
_STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'tfprune', 'font.size': 10, 'axes.labelsize': 10,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': '#9aa2a9',
    'axes.labelcolor': '#3b444b', 'text.color': '#3b444b', 'xtick.color': '#3b444b',
    'ytick.color': '#3b444b', 'axes.grid': True, 'grid.color': '#e6e9eb', 'grid.linewidth': .8,
    'axes.axisbelow': True, 'lines.linewidth': 1.8, 'lines.markersize': 4, 'legend.frameon': False,
    'legend.fontsize': 9.5, 'text.parse_math': False,  # names may hold a $
    'figure.facecolor': 'white', 'axes.unicode_minus': True,
}
WIDTH = 9.4  # inches, the page's width


@contextlib.contextmanager
def canvas(name: str, height: float) -> Iterator[tuple[Figure, Any]]:
    """A figure of the page's width in the common style, and what makes its SVG; a unique name."""
    with matplotlib.rc_context(_STYLE):
        fig = Figure(figsize=(WIDTH, height), layout='constrained')
        yield fig, lambda: _to_svg(fig, name)


def _to_svg(fig: Figure, name: str) -> str:
    """SVG to stand in HTML: no prologue, no metadata, no namespaces, ids unlike other plots'."""
    file = io.StringIO()
    fig.savefig(file, format='svg', metadata={'Date': None})
    svg = file.getvalue()
    svg = svg[svg.index('<svg'):].strip()
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', '', svg)
    svg = re.sub(r'(<svg[^>]*?)\s+height="[^"]*"', r'\1', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\s+width="[^"]*"', r'\1', svg, count=1)
    svg = svg.replace('xlink:href', 'href')
    svg = re.sub(r'[\x00-\x08\x0b-\x1f\x7f]', '', svg)  # of names
    return re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{name}-', svg)


def legend_below(fig: Figure, axes: Axes, columns: int = 4) -> None:
    """The legend of `axes` under the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, loc='outside lower center', ncols=min(len(labels), columns))
