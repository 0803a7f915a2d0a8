"""The network as a picture, colored by what was cut."""
from typing import Any, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tfprune.report.canvas import BLUE, GREY, LINE, ORANGE, SKY, TEXT, WIDTH, YELLOW, canvas
from tfprune.report.reading import Run, is_pruned

Row = Mapping[str, Any]
UNPRUNABLE = '#d9d9d9'
_COLORS = LinearSegmentedColormap.from_list('kept', [ORANGE, YELLOW, '#f0e442', SKY, BLUE])
_ROW, _LANE, _LANES, _TOP = 0.21, 0.62, 2.0, 0.42  # inches; _LANES: of all lanes at most
_EDGE = 0.08
_LETTER = 0.074  # inches of a letter of a layer's name, about


def plot_network(run: Run) -> Figure | None:
    """The calls of the dense model, top to bottom: of each the share of its channels that is kept,
    as a color and as the full part of its box; gray where none could be cut."""
    rows = run.layers['network'] if run.layers and is_pruned(run.report) else ()
    if not rows:
        return None
    lanes = lanes_of([row['inputs'] for row in rows])
    width = min(_LANE, _LANES / (1 + max(lanes)))  # of a lane
    with canvas(_TOP + _ROW * (len(rows) + 0.3)) as fig:
        fig.set_layout_engine('none')
        axes = fig.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(len(rows) - 0.2, -0.5 - _TOP / _ROW))
        axes.axis('off')
        _key(axes)
        middle = [_EDGE + width * (lane + 0.5) for lane in lanes]
        for place, row in enumerate(rows):
            for source in row['inputs']:
                a, b = middle[source], middle[place]
                # Down its own lane, then over to the consumer just above it.
                axes.plot([a, a, b], [source, place - 0.5 if a != b else place, place],
                          color='#8a9299', lw=1, zorder=1, solid_joinstyle='round')
        text = 2 * _EDGE + width * (1 + max(lanes))
        for place, row in enumerate(rows):
            _box(axes, middle[place] - 0.44 * width, place, 0.88 * width, row)
            _name(axes, text, place, row)
        return fig


def lanes_of(inputs: Sequence[Sequence[int]]) -> list[int]:
    """Returns a lane for every row of a network, of which `inputs` are the rows that it reads: that
    of an input that ends here, else the first free one."""
    last = {source: row for row, sources in enumerate(inputs) for source in sources}
    owner: dict[int, int] = {}  # lane -> the row until which it is taken
    lanes: list[int] = []
    for row, sources in enumerate(inputs):
        ending = [lanes[source] for source in sources if last[source] == row]
        free = (lane for lane in range(len(owner) + 1) if owner.get(lane, -1) <= row)
        lane = min(ending) if ending else next(free)
        owner[lane] = last.get(row, row)
        lanes.append(lane)
    return lanes


def _box(axes: Axes, left: float, place: int, width: float, row: Row) -> None:
    """The full part of a box is what is kept."""
    share = row['kept'] / row['channels'] if row['channels'] else 1.0
    color = _COLORS(share) if row['is_prunable'] else UNPRUNABLE
    corner, height = (left, place - 0.34), 0.68
    axes.add_patch(Rectangle(corner, width, height, facecolor='white', lw=0, zorder=2))
    axes.add_patch(Rectangle(corner, width * share, height, facecolor=color, lw=0, zorder=2.1))
    axes.add_patch(Rectangle(corner, width, height, fill=False, zorder=2.2, lw=0.8,
                             edgecolor=color if share == 1 else TEXT if share else LINE))


def _name(axes: Axes, x: float, place: int, row: Row) -> None:
    name, is_cut = row['layer'], row['kept'] < row['channels']
    room = int((WIDTH - 1.75 - x) / _LETTER)
    if len(name) > room:
        name = '…' + name[1 - room:]
    sizes = '×'.join(str(size or '?') for size in row['shape'][:-1])
    axes.text(x, place, name, va='center', fontsize=8.5, weight='bold' if is_cut else 'normal',
              color=TEXT if row['kept'] else GREY)
    axes.text(WIDTH - 1.05, place, sizes, va='center', ha='right', fontsize=8.5, color=GREY)
    said = f'{row["kept"]} of {row["channels"]}' if is_cut else str(row['channels'])
    axes.text(WIDTH - _EDGE, place, said if row['kept'] else 'gone', va='center', ha='right',
              fontsize=8.5, color=TEXT)


def _key(axes: Axes) -> None:
    """The colors, above the network."""
    y, steps, left, width = -0.45 - 0.62 * _TOP / _ROW, 20, 1.3, 0.09
    axes.text(_EDGE, y, 'channels kept: 0%', va='center', fontsize=8.5)
    for step in range(steps):
        axes.add_patch(Rectangle((left + step * width, y - 0.34), width * 1.05, 0.68, lw=0,
                                 facecolor=_COLORS((step + 0.5) / steps)))
    right = left + steps * width
    axes.text(right + 0.06, y, '100%', va='center', fontsize=8.5)
    axes.add_patch(Rectangle((right + 0.62, y - 0.34), 0.3, 0.68, lw=0, facecolor=UNPRUNABLE))
    axes.text(right + 0.98, y, 'cannot be cut', va='center', fontsize=8.5)
