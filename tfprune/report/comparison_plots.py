"""The plots of a comparison of methods, each an inline SVG string; None where there is nothing."""
import itertools
from typing import Any, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from tfprune.report import scores
from tfprune.report.canvas import BLUE, GREEN, GREY, ORANGE, canvas
from tfprune.report.reading import finite, task_of

Line = Mapping[str, Any]
# Okabe and Ito's eight, their yellow darker; a ninth method takes the next marker.
_COLOURS = (BLUE, ORANGE, GREEN, '#cc79a7', '#56b4e9', '#e69f00', '#000000', '#b8a800')
_MARKERS = 'osD^vXP*'
_PARTS = (('search', BLUE, 'training before surgery'),
          ('search_equivalents', ORANGE, 'search, in epoch-equivalents'),
          ('fine_tune', GREEN, 'fine-tuning'), ('distillation', '#cc79a7', 'its teacher'))
_NARROWEST = 5  # points of MACs that an axis spans at least
_MOST_NUMBERED = 30  # groups beside each other whose cells have room for a number


def plot_curves(lines: Sequence[Line], number: int = 0) -> str | None:
    """Mean test score and its standard deviation against MACs, of lines of one metric; a curve a
    method.

    Args:
        number: of the plot on its page.
    """
    pruned = [line for line in lines if _is_pruned(line) and finite(line['score_mean'])]
    labels = list(dict.fromkeys(line['label'] for line in pruned))
    if not labels:
        return None
    task = task_of(lines[0])
    scale = scores.scale(task)
    with canvas(f'curves{number or ""}', height=max(3.8, 1.2 + 0.19 * len(labels))) as (fig, svg):
        axes = fig.add_subplot()
        ratios = [_ratio(line) for line in pruned]
        # Methods of one budget stand at one place: each a little aside.
        step = max((max(ratios) - min(ratios)) / 250, 0.0012) if len(labels) > 1 else 0
        for number, label in enumerate(labels):
            own = sorted((line for line in pruned if line['label'] == label), key=_ratio)
            aside = step * (number - (len(labels) - 1) / 2)
            axes.errorbar([100 * (_ratio(line) + aside) for line in own],
                          [scale * line['score_mean'] for line in own],
                          yerr=[scale * _spread(line) for line in own], label=label,
                          color=_COLOURS[number % len(_COLOURS)], linewidth=1.3, capsize=2.5,
                          marker=_MARKERS[number // len(_COLOURS) % len(_MARKERS)], markersize=5)
        whole = [line for line in lines if not _is_pruned(line) and finite(line['score_mean'])]
        for line, style in zip(whole, itertools.cycle(('--', ':', '-.'))):
            mean, sd = scale * line['score_mean'], scale * _spread(line)
            axes.axhline(mean, color=GREY, linestyle=style, linewidth=1.3, label=line['label'])
            axes.axhspan(mean - sd, mean + sd, color=GREY, alpha=.12, linewidth=0)
        axes.set(xlabel='MACs, % of dense', ylabel=scores.test_title(task, scores.unit(task)))
        axes.margins(x=0.06)
        left, right = axes.get_xlim()
        wider = max(0, _NARROWEST - (right - left)) / 2
        axes.set_xlim(left - wider, right + wider)
        fig.legend(loc='outside right upper')
        return svg()


def plot_method_widths(names: Sequence[str], lines: Sequence[Line]) -> str | None:
    """Share of channels kept of each group by method: a heat map with mean widths."""
    chosen = [(name, line['widths']) for name, line in zip(names, lines)
              if _is_pruned(line) and line['widths']]
    groups = list(dict.fromkeys(group for _, widths in chosen for group in widths))
    if not groups:
        return None
    # A group that disappeared with its block has no width.
    shares = np.array([[widths[g][0] / widths[g][1] if g in widths and widths[g][0] else np.nan
                        for g in groups] for _, widths in chosen])
    longest = max(map(len, groups))
    with canvas('widths-by-method', height=0.5 + 0.07 * longest + 0.27 * len(chosen)) as (fig, svg):
        axes = fig.add_subplot()
        axes.set_facecolor('#f1f3f5')
        # Of so few colors the bar is drawn, not an image, which the page would not show.
        image = axes.pcolormesh(shares, cmap=matplotlib.colormaps['YlGnBu'].resampled(20), vmin=0,
                                vmax=1, edgecolor='white', linewidth=.8)
        if len(groups) <= _MOST_NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                width = chosen[row][1].get(groups[column], (0, 0))[0]
                axes.text(column + 0.5, row + 0.5, f'{width:.3g}' if finite(share) else 'gone',
                          ha='center', va='center', fontsize=8,
                          color='white' if share > 0.6 else '#22272b')
        axes.set_xticks(np.arange(len(groups)) + 0.5, groups, rotation=90, fontsize=8)
        axes.set_yticks(np.arange(len(chosen)) + 0.5, [name for name, _ in chosen], fontsize=9)
        axes.tick_params(length=0)
        axes.set_ylim(len(chosen), 0)
        axes.grid(visible=False)
        fig.colorbar(image, ax=axes, format=lambda share, _: f'{100 * share:.0f}%', fraction=.03,
                     pad=.01)
        return svg()


def plot_account(names: Sequence[str], lines: Sequence[Line]) -> str | None:
    """Epochs of each method by what they went into; pretraining is not drawn."""
    chosen = [(name, line['account']) for name, line in zip(names, lines)
              if finite(line['account']['total'])]
    if not chosen:
        return None
    with canvas('account', height=1.0 + 0.26 * len(chosen)) as (fig, svg):
        axes = fig.add_subplot()
        places, left = np.arange(len(chosen)), np.zeros(len(chosen))
        for part, color, label in _PARTS:
            epochs = np.array([account[part] for _, account in chosen])
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
        fig.legend(loc='outside lower center', ncols=len(_PARTS))
        return svg()


def _is_pruned(line: Line) -> bool:
    return any(ratio < 1 for ratio in line['macs_ratios'])


def _ratio(line: Line) -> float:
    return float(np.mean(line['macs_ratios']))


def _spread(line: Line) -> float:
    return line['score_sd'] if finite(line['score_sd']) else 0.0
