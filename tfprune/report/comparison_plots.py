"""The plots of a comparison of methods, each a figure; None where there is nothing to plot."""
import itertools
from typing import Any, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfprune.report import scores
from tfprune.report.aggregate import budget_text, budgets_of, line_names
from tfprune.report.canvas import (BLACK, BLUE, GREEN, GREY, ORANGE, PALE, PINK, SKY, WIDTH, YELLOW,
                                   canvas, legend_below)
from tfprune.report.number_text import MISSING
from tfprune.report.reading import finite, task_of

Line = Mapping[str, Any]
Style = Mapping[str, Any]
# Colors, markers and strokes step together, by numbers of no common divisor: the first methods
# differ in all three, and no two of 8 · 9 = 72 in color and marker.
_COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, BLACK, '#7a5195')
_MARKERS = 'osD^vXP*<'
_STROKES = ('-', (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)), (0, (3, 1)))
_PARTS = (('search', BLUE, 'training before surgery'),
          ('search_equivalents', ORANGE, 'search, in epoch-equivalents'),
          ('fine_tune', GREEN, 'fine-tuning'), ('distillation', PINK, 'its teacher'))
_NARROWEST = 5  # points of MACs that an axis spans at least
_MOST_NUMBERED = 30  # groups beside each other whose cells have room for a number


def method_styles(lines: Sequence[Line]) -> dict[str, Style]:
    """Color, marker and stroke of each method, in the order of their lines: the same in all plots.
    """
    labels = dict.fromkeys(line['label'] for line in lines)
    return {label: {'color': _COLORS[place % len(_COLORS)],
                    'marker': _MARKERS[place % len(_MARKERS)],
                    'linestyle': _STROKES[place % len(_STROKES)]}
            for place, label in enumerate(labels)}


def plot_curves(lines: Sequence[Line]) -> Figure | None:
    """Mean test score and its standard deviation against MACs, of lines of one metric; a curve a
    method."""
    pruned = [line for line in lines if _is_pruned(line) and finite(line['score_mean'])]
    labels = list(dict.fromkeys(line['label'] for line in pruned))
    if not labels:
        return None
    task, styles = task_of(lines[0]), method_styles(lines)
    scale = scores.scale(task)
    with canvas(3.2 + 0.09 * len(labels)) as fig:
        axes = fig.add_subplot()
        ratios = [_ratio(line) for line in pruned]
        # Methods of one budget stand at one place: each a little aside, in their order.
        spread = max((max(ratios) - min(ratios)) / 10, 0.02)
        of_label = {label: sorted((line for line in pruned if line['label'] == label), key=_ratio)
                    for label in labels}
        order = sorted(labels, key=lambda label: _ratio(of_label[label][0]))
        for label, own in of_label.items():
            aside = spread * (order.index(label) - (len(labels) - 1) / 2) / len(labels)
            axes.errorbar([100 * (_ratio(line) + aside) for line in own],
                          [scale * line['score_mean'] for line in own],
                          yerr=[scale * _spread(line) for line in own], label=label,
                          linewidth=1.3, capsize=2.5, markersize=5.5, **styles[label])
        whole = [line for line in lines if not _is_pruned(line) and finite(line['score_mean'])]
        for line, stroke in zip(whole, itertools.cycle(('--', ':', '-.'))):
            mean, sd = scale * line['score_mean'], scale * _spread(line)
            axes.axhline(mean, color=GREY, linestyle=stroke, linewidth=1.3, label=line['label'])
            axes.axhspan(mean - sd, mean + sd, color=GREY, alpha=.12, linewidth=0)
        axes.set(xlabel='MACs, % of dense', ylabel=scores.test_title(task, scores.unit(task)))
        axes.margins(x=0.06)
        left, right = axes.get_xlim()
        wider = max(0, _NARROWEST - (right - left)) / 2
        axes.set_xlim(left - wider, right + wider)
        legend_below(fig, axes)
        return fig


def plot_scores_by_budget(names: Sequence[str], lines: Sequence[Line]) -> Figure | None:
    """Test scores of lines of one metric, a facet a budget: each run, mean and standard deviation.

    Args:
        names: of the lines.
    """
    facets = [(title, rows) for title in ['', *budgets_of(lines)] if (rows := [
        (name, line) for name, line in zip(names, lines)
        if budget_text(line).strip(MISSING) == title])]
    if not facets:
        return None
    task, styles = task_of(lines[0]), method_styles(lines)
    sizes = [len(rows) + 0.6 for _, rows in facets]
    with canvas(0.6 + 0.27 * sum(sizes) + 0.3 * len(facets)) as fig:
        grid = fig.subplots(len(facets), 1, sharex=True, squeeze=False, height_ratios=sizes)
        for axes, (title, rows) in zip(grid[:, 0], facets):
            _scores(axes, rows, styles)
            if title:
                axes.set_title(title, loc='left', fontsize=9.5, fontweight='bold')
        grid[-1, 0].set_xlabel(scores.test_title(task, scores.unit(task)))
        grid[-1, 0].margins(x=0.06)
        return fig


def _scores(axes: Axes, rows: Sequence[tuple[str, Line]], styles: Mapping[str, Style]) -> None:
    for place, (_, line) in enumerate(rows):
        scale, style = scores.scale(line['task']), styles[line['label']]
        seen = np.array([value for value in line['scores'] if finite(value)])
        axes.plot(scale * seen, np.full(len(seen), place - 0.2), '.', color=GREY, alpha=.8,
                  markeredgewidth=0)
        if finite(line['score_mean']):
            axes.errorbar(scale * line['score_mean'], place + 0.1, xerr=scale * _spread(line),
                          capsize=3, markersize=6.5, **style)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)


def plot_method_widths(lines: Sequence[Line]) -> Figure | None:
    """Share of channels kept of each group by method: a heat map with mean widths."""
    chosen = [(name, line['widths']) for name, line in zip(line_names(lines), lines)
              if _is_pruned(line) and line['widths']]
    groups = list(dict.fromkeys(group for _, widths in chosen for group in widths))
    if not groups:
        return None
    # A group that disappeared with its block has no width.
    shares = np.array([[widths[g][0] / widths[g][1] if g in widths and widths[g][0] else np.nan
                        for g in groups] for _, widths in chosen])
    longest = max(map(len, groups))
    names = 0.075 * max(len(name) for name, _ in chosen)
    height = 0.5 + 0.07 * longest + 0.27 * len(chosen)
    with canvas(height, max(WIDTH, names + 0.9 + 0.3 * len(groups))) as fig:
        axes = fig.add_subplot()
        axes.set_facecolor(PALE)
        # Of so few colors the bar is drawn, not an image, which the page would not show.
        image = axes.pcolormesh(shares, cmap=matplotlib.colormaps['YlGnBu'].resampled(20), vmin=0,
                                vmax=1, edgecolor='white', linewidth=.8)
        if len(groups) <= _MOST_NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                width = chosen[row][1].get(groups[column], (0, 0))[0]
                axes.text(column + 0.5, row + 0.5, f'{width:.3g}' if finite(share) else 'gone',
                          ha='center', va='center', fontsize=8.5,
                          color='white' if share > 0.6 else '#22272b')
        axes.set_xticks(np.arange(len(groups)) + 0.5, groups, rotation=90, fontsize=8.5)
        axes.set_yticks(np.arange(len(chosen)) + 0.5, [name for name, _ in chosen], fontsize=9)
        axes.tick_params(length=0)
        axes.set_ylim(len(chosen), 0)
        axes.grid(visible=False)
        fig.colorbar(image, ax=axes, format=lambda share, _: f'{100 * share:.0f}%', fraction=.03,
                     pad=.01)
        return fig


def plot_account(lines: Sequence[Line]) -> Figure | None:
    """Epochs of each method by what they went into; pretraining is not drawn."""
    chosen = [(name, line['account']) for name, line in zip(line_names(lines), lines)
              if finite(line['account']['total'])]
    if not chosen:
        return None
    with canvas(1.1 + 0.25 * len(chosen)) as fig:
        axes = fig.add_subplot()
        places, left = np.arange(len(chosen)), np.zeros(len(chosen))
        for part, color, label in _PARTS:
            epochs = np.array([account[part] for _, account in chosen])
            if epochs.any():
                axes.barh(places, epochs, left=left, height=0.66, color=color, label=label)
            left += epochs
        for place, (end, (_, account)) in enumerate(zip(left, chosen)):
            given = account['pretraining']
            axes.annotate(f'{end:.4g}' + (f' + {given:.4g} of pretraining' if given else ''),
                          (end, place), (5, 0), textcoords='offset points', va='center', fontsize=9)
        axes.set_yticks(places, [name for name, _ in chosen], fontsize=9)
        axes.set(xlabel='epochs', xlim=(0, 1.2 * left.max() or 1), ylim=(len(chosen) - 0.4, -0.6))
        axes.grid(axis='y', visible=False)
        axes.tick_params(axis='y', length=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(fig, axes)
        return fig


def _is_pruned(line: Line) -> bool:
    return any(ratio < 1 for ratio in line['macs_ratios'])


def _ratio(line: Line) -> float:
    return float(np.mean(line['macs_ratios']))


def _spread(line: Line) -> float:
    return line['score_sd'] if finite(line['score_sd']) else 0.0
