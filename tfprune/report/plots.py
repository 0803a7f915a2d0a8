"""The plots of report.html, each a figure; None where there is nothing to plot."""
import itertools
from typing import Any, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from tfprune.report import scores
from tfprune.report.canvas import BLUE, GREEN, GREY, ORANGE, PINK, WIDTH, canvas, legend_below
from tfprune.report.reading import (Row, Run, as_given, finite, is_pruned, surgery_first, task_of,
                                    test_score)


def plot_scores(run: Run) -> Figure | None:
    """The metric of full, sub- and pruned model by epoch; test scores at the end."""
    rows, end, task = run.metrics, _surgery(run), task_of(run.report)
    if not rows:
        return None
    before = [row for row in rows if row['epoch'] < end]
    after = [row for row in rows if row['epoch'] >= end]
    with canvas(3.7) as fig:
        metric, examples = task['metric'], task['examples']
        axes = _epoch_axes(fig, run, metric)
        _line(axes, rows, metric, GREY, f'training {examples} (as trained)', linewidth=1.3)
        _line(axes, before, f'reward_{metric}', BLUE, f'full model, held-out {examples}')
        _line(axes, before, f'scored_full_{metric}', BLUE, 'full model, scored like it',
              linestyle='--', linewidth=1.2)
        _line(axes, before, f'subnetwork_{metric}', ORANGE, 'sub-network, as rewarded',
              marker='o', linewidth=1.2)
        _line(axes, after, f'reward_{metric}', ORANGE, f'pruned model, held-out {examples}')
        last = len(before) if before and after else len(rows)
        for side, name, epoch, color in (('dense', 'before surgery', last, BLUE),
                                         ('pruned', 'pruned', len(rows), ORANGE)):
            value = test_score(run.report[side])
            if finite(value) and (side == 'pruned' or is_pruned(run.report)):
                axes.plot([epoch], [value], 'D', color=color, markersize=7, zorder=5,
                          markeredgecolor='white', clip_on=False,
                          label=f'test {examples}, {name if is_pruned(run.report) else "final"}')
        given = test_score(as_given(run.report) or {})
        if finite(given):
            axes.axhline(given, color=GREY, linestyle=':', linewidth=1.2,
                         label=f'test {examples}, as given')
        _format(axes, in_percent=task['is_share'])
        legend_below(fig, axes, columns=2)
        return fig


def plot_episodes(run: Run) -> Figure | None:
    """Each episode's reward by epoch, or by round of a search on frozen weights; policy against
    random actions at the end beside it."""
    sources: dict[str, list[tuple[float, float]]] = {}
    place = 'round' if any('round' in row for row in run.episodes) else 'epoch'
    for row in run.episodes:
        if finite(row['reward']):
            sources.setdefault(row['source'], []).append((row[place] + 1, row['reward']))
    if not sources:
        return None
    compared = [(name, [reward for _, reward in sources.get(f'{name}_comparison', [])])
                for name in ('policy', 'random')]
    beside, task = all(rewards for _, rewards in compared), task_of(run.report)
    is_metric = scores.reward_is_metric(task)
    in_percent = is_metric and task['is_share']
    with canvas(3.5) as fig:
        grid = fig.add_gridspec(1, 2, width_ratios=(1, 0.4)) if beside else None
        if place == 'epoch':
            label = f'reward ({task["metric"]})' if is_metric else 'reward'
            axes = _epoch_axes(fig, run, label, place=grid[0] if grid else None, searching=True)
        else:
            axes = fig.add_subplot(grid[0]) if grid else fig.add_subplot()
            axes.set(xlabel='round of search', ylabel='reward')
        for name, label, color, shift in _styles(run.report.get('sources', {})):
            _reward_dots(axes, sources.get(name, []), label, color, shift)
        if place == 'epoch':  # of rounds the method says what a reward is
            _format(axes, in_percent)
        if grid:
            _comparison(fig.add_subplot(grid[1]), compared, in_percent)
        legend_below(fig, axes)
        return fig


def _styles(sources: Mapping[str, str]) -> list[tuple[str, str, str, float]]:
    """(name, label, color, shift) of each source: the first of random actions, and of others, is
    drawn at its epoch, further ones a little beside it."""
    at_random = [name for name in sources if name.startswith('random')]
    acting = [name for name in sources if name not in at_random]
    return [(name, sources[name], ORANGE if names is at_random else BLUE if not place else GREEN,
             0.18 if place else 0.0)
            for names in (at_random, acting) for place, name in enumerate(names)]


def plot_strength(run: Run) -> Figure | None:
    """Strength of the alignment penalty by epoch."""
    _, values = _series(run.metrics, 'strength')
    positive = values[values > 0]
    if not positive.size:
        return None
    with canvas(2.3) as fig:
        axes = _epoch_axes(fig, run, 'λ', searching=True)
        _line(axes, run.metrics, 'strength', GREEN, None, drawstyle='steps-mid')
        if positive.max() > 20 * positive.min():
            _logarithmic(axes)
        else:
            axes.set_ylim(0, 1.15 * positive.max())
            axes.yaxis.set_major_formatter('{x:.3g}')  # no offset above the axis
        return fig


def plot_widths(run: Run) -> Figure | None:
    """Channels kept of each group, the dense width as an outline."""
    groups = run.report['groups']
    if not groups or not is_pruned(run.report):
        return None
    dense = np.array([group['dense_width'] for group in groups])
    kept = np.array([group['width'] for group in groups])
    places = np.arange(len(groups))
    with canvas(0.85 + 0.27 * len(groups)) as fig:
        axes = fig.add_subplot()
        axes.barh(places, dense, height=0.68, facecolor='#f1f3f5', edgecolor='#9aa2a9',
                  linewidth=1, label='dense')
        axes.barh(places, kept, height=0.68, color=BLUE, label='kept')
        for place, w, c in zip(places, kept, dense):
            axes.annotate(f'{w} / {c}  ({100 * w / c:.0f}%)', (c, place), (6, 0),
                          textcoords='offset points', va='center', fontsize=9)
        axes.set_yticks(places, [group['name'] for group in groups], fontsize=9)
        axes.set(xlabel='channels', xlim=(0, 1.2 * dense.max()), ylim=(len(groups) - 0.4, -0.6))
        axes.grid(axis='y', visible=False)
        axes.tick_params(axis='y', length=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(fig, axes)
        return fig


def plot_loss(run: Run) -> Figure | None:
    """Loss and learning rate by epoch."""
    if not run.metrics:
        return None
    with canvas(4.6) as fig:
        # The schedule starts anew there, also where nothing is pruned.
        cut = run.report['epochs']['search']
        grid = fig.add_gridspec(2, 1, height_ratios=(1.7, 1))
        axes = _epoch_axes(fig, run, 'loss', place=grid[0], surgery_at='top')
        task = task_of(run.report)
        name = scores.loss_name(task)
        early = [row for row in run.metrics if row['epoch'] < cut]
        taught = alike = [row for row in run.metrics if 'distillation' in row]
        if any(row.get('penalty', 0) > 0 for row in early):
            answers = ", the teacher's answers" * any('distillation' in row for row in early)
            _line(axes, early, 'loss', GREY, f'{name}{answers} + alignment penalty',
                  linestyle='--', linewidth=1.4)
            alike = [row for row in taught if row['epoch'] >= cut]
        _line(axes, alike, 'loss', GREY, f"{name} and the teacher's answers", linestyle=':',
              linewidth=1.4, cut=cut)
        _line(axes, run.metrics, task['loss'], BLUE, name, cut=cut)
        _from_zero_or_log(axes)
        # Without smoothing of labels, which the teacher's has not.
        if taught and all(row.get('student_loss') == row[task['loss']] for row in taught):
            _line(axes, taught, 'teacher_loss', PINK, f'{name} of the teacher', linewidth=1.4,
                  cut=cut)
        axes.set_xlabel('')
        rate = _epoch_axes(fig, run, 'learning rate', place=grid[1], named=False)
        _line(rate, run.metrics, 'learning_rate', GREEN, None, cut=cut)
        rate.set_ylim(bottom=0)
        fig.align_ylabels()
        legend_below(fig, axes)
        return fig


def _epoch_axes(fig: Figure, run: Run, ylabel: str, *, place: Any = None, named: bool = True,
                searching: bool = False, surgery_at: str = 'bottom') -> Axes:
    """Axes over all epochs, or those before surgery, from 1; phases shaded, surgery marked."""
    axes = fig.add_subplot(place) if place is not None else fig.add_subplot()
    end = _surgery(run)
    rows = [row for row in run.metrics if not searching or row['epoch'] < end]
    last = max((row['epoch'] + 1 for row in rows), default=1)
    axes.set(xlabel='epoch', ylabel=ylabel, xlim=(0.5, last + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis='x', visible=False)
    names = {'fine_tune': 'fine-tuning', **run.report.get('phases', {})}
    ends: list[float] = []  # right end of the last name in each row of names
    for number, (phase, group) in enumerate(itertools.groupby(rows, lambda r: r.get('phase'))):
        epochs = [row['epoch'] + 1 for row in group]
        left, right = epochs[0] - 0.5, epochs[-1] + 0.5
        if number % 2:
            axes.axvspan(left, right, color='#eff2f5', linewidth=0, zorder=0)
        if named and phase:
            _name_phase(axes, names.get(phase, phase), (left + right) / 2, last, ends)
    if rows and rows[0]['epoch'] < end <= rows[-1]['epoch']:
        axes.axvline(end + 0.5, color='#3b444b', linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        if named:
            height = 0.03 if surgery_at == 'bottom' else 0.97
            axes.annotate('surgery', (end + 0.5, height), (4, 0), fontsize=9, va=surgery_at,
                          xycoords=('data', 'axes fraction'), textcoords='offset points')
    return axes


def _name_phase(axes: Axes, name: str, center: float, last: int, ends: list[float]) -> None:
    """Writes a phase's name above the axes, in the lowest row where it meets no other."""
    place = axes.get_subplotspec()
    assert place is not None
    ratios = np.asarray(place.get_gridspec().get_width_ratios(), float)
    share = ratios[place.colspan.start] / ratios.sum()
    half = 0.5 * len(name) * 0.08 / (0.8 * share * WIDTH) * last  # about, in epochs
    left = center - half
    level = next((i for i, taken in enumerate(ends) if taken < left), len(ends))
    ends[level:level + 1] = [center + half]
    axes.annotate(name, (center, 1.0), (0, 4 + 12 * level), xycoords=('data', 'axes fraction'),
                  textcoords='offset points', ha='center', va='bottom', fontsize=9)


def _surgery(run: Run) -> float:
    """The first epoch, from 0, of the pruned model; beyond the last where nothing was pruned."""
    if surgery_first(run.report):
        return 0
    after = [row['epoch'] for row in run.metrics if row.get('phase') == 'fine_tune']
    return min(after) if after and is_pruned(run.report) else np.inf


def _series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs from 1, values) [n] of the rows that have a finite value."""
    pairs = [(row['epoch'] + 1, row[name]) for row in rows if finite(row.get(name))]
    array = np.array(pairs, float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _line(axes: Axes, rows: Sequence[Row], name: str, color: str, label: str | None,
          cut: float = np.inf, **style: Any) -> None:
    """A line over epochs, broken where epoch `cut`, from 0, begins."""
    epochs, values = _series(rows, name)
    if len(epochs) == 1:
        style.setdefault('marker', 'o')  # a line of one point is invisible
    if len(epochs) > 60:
        style.pop('marker', None)
    place = int(np.searchsorted(epochs, cut + 1))
    if 0 < place < len(epochs):
        alone = [0] * (place == 1) + [-1] * (place == len(epochs) - 1)  # on its side of the cut
        if alone and 'marker' not in style:
            style |= {'marker': 'o', 'markevery': alone}
        epochs, values = (np.insert(array, place, np.nan) for array in (epochs, values))
    if len(epochs):
        axes.plot(epochs, values, color=color, label=label, **style)


def _reward_dots(axes: Axes, points: Sequence[tuple[float, float]], label: str, color: str,
                 shift: float) -> None:
    """A dot an episode, and the line of the epochs' means."""
    if not points:
        return
    epochs, rewards = np.array(points, float).T
    reference = shift > 0
    marker, style = ('D', '--') if reference else ('o', '-')
    axes.plot(epochs + shift, rewards, marker, color=color, alpha=.45,
              markersize=3.5 if reference else 4, markeredgewidth=0)
    steps = np.unique(epochs)
    means = [rewards[epochs == epoch].mean() for epoch in steps]
    axes.plot(steps + shift, means, color=color, linewidth=1.3 if reference else 2,
              linestyle=style, marker='_' if len(steps) == 1 else None, markersize=14)
    axes.plot([], [], color=color, marker=marker, linestyle=style, label=label)


def _comparison(axes: Axes, compared: Sequence[tuple[str, Sequence[float]]],
                in_percent: bool) -> None:
    """The comparison's episodes in two columns, mean and standard error beside them."""
    for place, ((_, rewards), color) in enumerate(zip(compared, (BLUE, ORANGE))):
        array = np.array(rewards)
        spread = np.linspace(-0.13, 0.13, len(array)) if len(array) > 1 else np.zeros(1)
        axes.plot(place - 0.12 + spread, array, 'o', color=color, alpha=.45, markeredgewidth=0)
        error = array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else 0
        axes.errorbar(place + 0.24, array.mean(), yerr=error, fmt='s', color=color, capsize=4,
                      markersize=5)
    axes.set_xticks(range(len(compared)), [name for name, _ in compared])
    axes.set(xlim=(-0.5, 1.55), xlabel='at the end')
    _format(axes, in_percent)
    axes.grid(axis='x', visible=False)


def _format(axes: Axes, in_percent: bool) -> None:
    """Ticks of shares in percent, of other values with the digits that they have."""
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=_decimals(axes)) if in_percent
                                   else '{x:.6g}')


def _decimals(axes: Axes) -> int:
    """Decimals that tell all ticks, in percent, as they are."""
    ticks = 100 * axes.get_yticks()
    return next((decimals for decimals in (0, 1) if np.allclose(ticks, ticks.round(decimals))), 2)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')  # 0.01; Matplotlib's own is markup
    axes.yaxis.set_minor_formatter(NullFormatter())


def _from_zero_or_log(axes: Axes) -> None:
    """A linear axis from 0, or a logarithmic one for values of several magnitudes."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    positive = values[values > 0]
    if np.any(values < 0):  # some losses are
        return
    if positive.size and positive.max() > 100 * positive.min():
        _logarithmic(axes)
    else:
        axes.set_ylim(bottom=0)
