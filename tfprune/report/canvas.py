"""What the plots of all pages share: style, colors, the SVG that stands in a page.

Plots are as wide as a phone: there a page shows one below the other, on a desk two beside each
other, so that their text is legible on both.
"""
import contextlib
import io
import re
from typing import Any, Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe and Ito's colors, which the color-blind tell apart.
BLUE, ORANGE, GREEN, GREY = '#0072b2', '#d55e00', '#009e73', '#6f7780'
PINK, SKY, YELLOW, BLACK = '#cc79a7', '#56b4e9', '#e69f00', '#000000'
TEXT, PALE, LINE = '#3b444b', '#f1f3f5', '#9aa2a9'
_STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'tfprune', 'font.size': 9.5, 'axes.labelsize': 9.5,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': LINE,
    'axes.labelcolor': TEXT, 'text.color': TEXT, 'xtick.color': TEXT,
    'ytick.color': TEXT, 'axes.grid': True, 'grid.color': '#e6e9eb', 'grid.linewidth': .8,
    'axes.axisbelow': True, 'lines.linewidth': 1.8, 'lines.markersize': 4, 'legend.frameon': False,
    'legend.fontsize': 9, 'legend.handlelength': 1.6, 'legend.columnspacing': 1.2,
    'text.parse_math': False,  # names may hold a $
    'figure.facecolor': 'white', 'axes.unicode_minus': True,
}
WIDTH = 5.2  # inches
_LETTER = 0.073  # inches of a letter in a legend, about


class Plot(Figure):
    """A Matplotlib figure in the common style wherever it is drawn; a notebook shows it."""

    def draw(self, renderer: Any) -> None:
        with matplotlib.rc_context(_STYLE):
            super().draw(renderer)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        with matplotlib.rc_context(_STYLE):
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format='png', dpi=120)
        return file.getvalue()


@contextlib.contextmanager
def canvas(height: float, width: float = WIDTH) -> Iterator[Plot]:
    """A figure of this size, inches, and the common style for what is drawn within."""
    with matplotlib.rc_context(_STYLE):
        yield Plot(figsize=(width, height), layout='constrained')


def to_svg(fig: Figure, name: str) -> str:
    """SVG to stand in HTML: no prologue, no metadata, no namespaces, ids unlike those of other
    plots, whose names are others."""
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):  # savefig draws twice, for the layout that drawing makes
        FigureCanvasSVG(fig).print_svg(file, metadata={'Date': None})
    svg = file.getvalue()
    svg = svg[svg.index('<svg'):].strip()
    svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', '', svg)
    svg = re.sub(r'(<svg[^>]*?)\s+height="[^"]*"', r'\1', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\s+width="[^"]*"', r'\1', svg, count=1)
    svg = svg.replace('xlink:href', 'href')
    svg = re.sub(r'[\x00-\x08\x0b-\x1f\x7f]', '', svg)  # of names
    return re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{name}-', svg)


def legend_below(fig: Figure, axes: Axes, columns: int = 3) -> None:
    """The legend of `axes` under the whole figure, in as many columns as have room."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        room = fig.get_figwidth() / (0.4 + _LETTER * max(map(len, labels)))
        fig.legend(handles, labels, loc='outside lower center',
                   ncols=max(1, min(len(labels), columns, int(room))))
