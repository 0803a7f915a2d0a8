"""Plots of finished runs as Matplotlib figures: a notebook shows them, `savefig` writes them.

    tfprune.plots.network('runs/mine')
    tfprune.plots.curves('runs/compare/rows.jsonl').savefig('curves.svg')

They are those of report.html and compare.html. Of one run each function takes its folder, and
raises FileNotFoundError where that holds no report.json, and ValueError where a file of it is
damaged or it has nothing of the kind to plot. Of several runs a function takes their folders, or
rows as `tfprune.report.run_rows` gives them, or the rows.jsonl of a comparison.
"""
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from tfprune.errors import unknown
from tfprune.report import aggregate, read_rows_file, run_rows
from tfprune.report import answers as _answers
from tfprune.report import comparison_plots as _comparison
from tfprune.report import layers as _layers
from tfprune.report import network as _network
from tfprune.report import plots as _plots
from tfprune.report.aggregate import by_budget, line_names
from tfprune.report.reading import Run, read_run

Path = str | os.PathLike[str]
Runs = Path | Iterable[Path | Mapping[str, Any]]
__all__ = ['account', 'changed_pictures', 'confusion', 'curves', 'episodes', 'layer_macs', 'loss',
           'method_widths', 'network', 'operator_latency', 'scores', 'strength', 'summary',
           'widths']


def scores(run_dir: Path) -> Figure:
    """The metric of full, sub- and pruned model by epoch, test scores at the end."""
    return _of_run(run_dir, _plots.plot_scores, 'no epochs')


def loss(run_dir: Path) -> Figure:
    """Loss and learning rate by epoch."""
    return _of_run(run_dir, _plots.plot_loss, 'no epochs')


def episodes(run_dir: Path) -> Figure:
    """The reward of each episode; the policy against random actions at the end beside it."""
    return _of_run(run_dir, _plots.plot_episodes, 'no episodes')


def strength(run_dir: Path) -> Figure:
    """The factor of the alignment penalty by epoch."""
    return _of_run(run_dir, _plots.plot_strength, 'no alignment penalty')


def widths(run_dir: Path) -> Figure:
    """Channels kept of each prunable group."""
    return _of_run(run_dir, _plots.plot_widths, 'nothing was pruned')


def network(run_dir: Path) -> Figure:
    """The network from top to bottom, colored by the share of channels that each call keeps."""
    return _of_run(run_dir, _network.plot_network, 'nothing was pruned, or no layers.json')


def layer_macs(run_dir: Path) -> Figure:
    """Multiply-adds of each call of a layer, before surgery and after it."""
    return _of_run(run_dir, _layers.plot_layer_macs, 'nothing was pruned, or no layers.json')


def operator_latency(run_dir: Path) -> Figure:
    """Seconds of each operator of the TFLite file, timed alone, before surgery and after it."""
    return _of_run(run_dir, _layers.plot_operators, 'no operators were timed')


def confusion(run_dir: Path) -> Figure:
    """The pruned classifier's answers by class, in shares of a class."""
    return _of_run(run_dir, _answers.plot_confusion, 'no answers by class, or too many classes')


def changed_pictures(run_dir: Path) -> Figure:
    """Test pictures that one of the models before and after surgery alone answers right."""
    return _of_run(run_dir, _answers.plot_changed, 'no picture changed class')


def curves(runs: Runs, *, metric: str = '') -> Figure:
    """Mean test score against MACs, a curve a method; bars are standard deviations over seeds.

    Args:
        metric: of the runs that are plotted; needed where they have several.
    """
    return _of_lines(_comparison.plot_curves(_lines(runs, metric)), 'no pruned model')


def summary(runs: Runs, *, metric: str = '') -> Figure:
    """Test scores of each method, a facet a budget: each run, mean and standard deviation.

    Args:
        metric: of the runs that are plotted; needed where they have several.
    """
    lines = _lines(runs, metric)
    names = line_names(lines, budgets=False)
    return _of_lines(_comparison.plot_scores_by_budget(names, lines), 'no finished run')


def method_widths(runs: Runs) -> Figure:
    """The share of channels that each method keeps of each group, with mean widths."""
    return _of_lines(_comparison.plot_method_widths(_all_lines(runs)), 'no pruned model')


def account(runs: Runs) -> Figure:
    """Mean epochs of each method's runs, by what they went into."""
    return _of_lines(_comparison.plot_account(_all_lines(runs)), 'no epochs')


def _of_run(run_dir: Path, plot: Callable[[Run], Figure | None], lacks: str) -> Figure:
    fig = plot(read_run(run_dir))
    if fig is None:
        raise ValueError(f'{os.fspath(run_dir)}: nothing to plot: {lacks}.')
    return fig


def _of_lines(fig: Figure | None, lacks: str) -> Figure:
    if fig is None:
        raise ValueError(f'nothing to plot: {lacks}.')
    return fig


def _all_lines(runs: Runs) -> list[dict[str, Any]]:
    """Lines of `aggregate`, by budget."""
    if isinstance(runs, (str, os.PathLike)):
        is_file = os.fspath(runs).endswith('.jsonl')
        return by_budget(aggregate(read_rows_file(runs) if is_file else run_rows(runs)))
    rows: list[Mapping[str, Any]] = []
    for run in runs:
        if isinstance(run, Mapping):
            rows.append(run)
        else:
            rows += run_rows(run)
    return by_budget(aggregate(rows))


def _lines(runs: Runs, metric: str) -> Sequence[dict[str, Any]]:
    """Those of one metric."""
    lines = _all_lines(runs)
    found = sorted({line['task']['metric'] for line in lines})
    if metric and metric not in found:
        raise unknown('metric', metric, found)
    if not metric and len(found) > 1:
        raise ValueError(f'metric: expected one of {", ".join(found)}: the runs differ in it.')
    return [line for line in lines if metric in ('', line['task']['metric'])]
