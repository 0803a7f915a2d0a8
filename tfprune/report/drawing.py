"""A picture of a network, top to bottom as it runs, colored by channel group."""

import os
import pathlib
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from tfprune.report.network import UNPRUNABLE, lanes_of
from tfprune.structure.groups import ChannelGroups
from tfprune.structure.layout import Layout

_ROW, _LANE, _BOX = 0.28, 0.9, 0.20  # inches


def draw_groups(groups: ChannelGroups, path: str | os.PathLike[str], *, title: str = '',
                note: str = '') -> None:
    """Writes the traced model as a picture; the suffix of `path` (.png, .svg, .pdf) says which.

    Each call of a layer is a row, named; its box is colored by the groups that its output holds
    (a stripe each, by share of channels), gray where they cannot be pruned. Tensors that live
    beside each other, as on a shortcut, run in lanes of their own. The note stands below the title.
    ValueError for another suffix.
    """
    layout = groups.layout
    suffix = pathlib.Path(path).suffix[1:].lower()
    if suffix not in Figure().canvas.get_supported_filetypes():
        raise ValueError(f'{path}: expected a picture that ends in .png, .svg or .pdf; received '
                         f'{suffix!r}')
    made = {tensor: row for row, node in enumerate(layout.nodes) for tensor in node.outputs}
    sources = [[made[tensor] for tensor in node.inputs] for node in layout.nodes]
    lanes = lanes_of(sources)
    rows, width = len(layout.nodes), 1 + max(lanes)
    figure = Figure(figsize=(_LANE * width + 4.5, _ROW * (rows + 3.7)), dpi=_dpi(rows))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.6, width + 4.5 / _LANE - 0.6)
    axes.set_ylim(rows + 1, -2.7)
    axes.axis('off')
    axes.text(-0.35, -2.3, title, fontsize=10, weight='bold', va='center',
              parse_math=False)
    axes.text(-0.35, -1.6, note, fontsize=6, va='center', parse_math=False)
    axes.text(-0.35, -0.9, 'One color a group of channels that go together; gray: not prunable.',
              fontsize=6, va='center')
    colors = _colors(groups)
    for row, starts in enumerate(sources):
        for start in starts:
            a, b = lanes[start], lanes[row]
            # Down its own lane, then over to the consumer just above it.
            axes.plot([a, a, b], [start, row - 0.5 if a != b else row, row], color='#888888',
                      lw=0.8, zorder=1, solid_joinstyle='round')
    for row, node in enumerate(layout.nodes):
        _box(axes, lanes[row], row, layout, node.outputs[0], colors)
        channels = layout.tensors[node.outputs[0]].shape
        text = f'{node.layer}  ({node.kind}, {"×".join(str(n or "?") for n in channels[1:])})'
        if node.refused is not None:
            text += '  no rule'
        axes.text(width + 0.1, row, text, fontsize=6, va='center', parse_math=False)
    figure.savefig(path)


def _colors(groups: ChannelGroups) -> dict[int, Any]:
    """Returns a color for every group; neighbors in the order of the model differ."""
    names = groups.layout.names
    map_ = matplotlib.colormaps['tab20']
    palette = [map_(place) for place in range(20) if place not in (14, 15)]  # its grays
    prunable = [number for number, name in enumerate(names) if name in groups]
    found: dict[int, Any] = {number: UNPRUNABLE for number in range(len(names))}
    found.update({number: palette[7 * place % len(palette)]
                  for place, number in enumerate(prunable)})
    return found


def _box(axes: Any, x: float, y: float, layout: Layout, tensor: int,
         colors: dict[int, Any]) -> None:
    group, counts = np.unique(layout.tensors[tensor].positions.group, return_counts=True)
    stripes = [(colors[g], count / counts.sum()) for g, count in zip(group.tolist(), counts)]
    left, height = x - 0.35, 0.62
    for color, share in stripes or [(UNPRUNABLE, 1.0)]:
        axes.add_patch(FancyBboxPatch((left, y - height / 2), 0.7 * share, height, lw=0, zorder=2,
                                      boxstyle='square,pad=0', color=color))
        left += 0.7 * share


def _dpi(rows: int) -> int:
    """Agg draws no more than 2^16 pixels a side."""
    return int(min(150, 60_000 / (_ROW * (rows + 3.7))))
