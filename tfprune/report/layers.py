"""Multiply-adds by layer and latency by operator, before surgery and after it."""
import re
from typing import Any, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from tfprune.report.canvas import BLUE, LINE, ORANGE, PALE, canvas, legend_below
from tfprune.report.number_text import milliseconds, percent, quotient
from tfprune.report.reading import Run, is_pruned

Bar = tuple[str, float, float]  # name, before surgery, after it
_MOST = 60  # bars; of more the largest, and the others together
_LONGEST = 26  # letters of a name


def plot_layer_macs(run: Run) -> Figure | None:
    """Multiply-adds of each call of a layer, the dense ones as an outline."""
    rows = run.layers['layers'] if run.layers and is_pruned(run.report) else ()
    bars = [(row['layer'], row['before'], row['after']) for row in rows]
    return _bars(bars, 'multiply-adds', BLUE) if any(bar[1] for bar in bars) else None


def plot_operators(run: Run) -> Figure | None:
    """Milliseconds of each operator of the TFLite file, those before surgery as an outline."""
    rows = _operators(run)
    bars = [(_short(row['name']), row['before_ms'] or 0.0, row['after_ms'] or 0.0)
            for row in rows]
    return _bars(bars, 'latency', ORANGE, 1e-3) if any(bar[1] for bar in bars) else None


def operators_sentence(run: Run) -> str:
    """What the operators' times are, and how far their sums are from the latencies of the files."""
    sums = [sum(row[side] or 0.0 for row in _operators(run)) for side in ('before_ms', 'after_ms')]
    wholes = [run.report[side]['latency_ms'] for side in ('dense', 'pruned')]
    return ('Each operator of the float32 TFLite file, timed alone on one thread, in turns with '
            'its like before surgery; named by the last layer that is fused into it. Kernels '
            'compute channels in blocks: fewer of a block take as long. Together '
            f'{milliseconds(sums[0])} and {milliseconds(sums[1])} ms '
            f'({percent(quotient(sums[1], sums[0]), 0)}); the files as a whole take '
            f'{milliseconds(wholes[0])} and {milliseconds(wholes[1])} ms.')


def _operators(run: Run) -> Sequence[Mapping[str, Any]]:
    return run.layers['operators'] if run.layers and is_pruned(run.report) else ()


def _bars(bars: Sequence[Bar], unit: str, color: str, factor: float = 1.0) -> Figure:
    """Horizontal bars, before surgery and after it.

    Args:
        unit: what the values are; times `factor` in seconds, where that is not 1.
    """
    bars = _largest(bars)
    before, after = (factor * np.array([bar[side] for bar in bars]) for side in (1, 2))
    places, most = np.arange(len(bars)), max(before.max(), after.max())
    with canvas(0.95 + 0.22 * len(bars)) as fig:
        axes = fig.add_subplot()
        axes.barh(places, before, height=0.7, facecolor=PALE, edgecolor=LINE, linewidth=1,
                  label='before surgery')
        axes.barh(places, after, height=0.7, color=color, label='pruned')
        for place, (_, dense, pruned) in enumerate(bars):
            if dense:
                axes.annotate(percent(pruned / dense, 0), (factor * max(dense, pruned), place),
                              (5, 0), textcoords='offset points', va='center', fontsize=8.5)
        axes.set_yticks(places, [bar[0] for bar in bars], fontsize=8.5)
        axes.set(xlabel=unit, xlim=(0, 1.15 * most), ylim=(len(bars) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(EngFormatter('' if factor == 1 else 's', sep=' '))
        axes.xaxis.set_major_locator(MaxNLocator(4))  # their labels are long
        axes.grid(axis='y', visible=False)
        axes.tick_params(axis='y', length=0)
        legend_below(fig, axes)
        return fig


def _largest(bars: Sequence[Bar]) -> list[Bar]:
    """At most _MOST bars, in their order; the small ones together are the last."""
    order = sorted(range(len(bars)), key=lambda place: -max(bars[place][1:]))
    chosen, others = sorted(order[:_MOST]), order[_MOST:]
    found = [(_cut(bars[place][0]), *bars[place][1:]) for place in chosen]
    if others:
        found.append((f'{len(others)} smaller ones', sum(bars[place][1] for place in others),
                      sum(bars[place][2] for place in others)))
    return found


def _short(tensor: str) -> str:
    """The layer in the name of a tensor: 'net_1/stage1_relu_1/Relu' -> 'stage1_relu'."""
    parts = tensor.split('/')
    if len(parts) == 1:
        return 'output' if tensor.startswith('StatefulPartitionedCall') else tensor
    return re.sub(r'_\d+$', '', parts[1] if len(parts) > 2 else parts[0])


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else '…' + name[1 - _LONGEST:]
