"""tfprune.plots: figures of runs made by hand, whose every bar is known."""
import json
import subprocess
import sys

import numpy as np
import pytest
from made_up_layers import LAYERS
from made_up_runs import PRUNED, SEGMENTATION, make_run, task_changes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import tfprune
from tfprune import plots, report
from tfprune.report.canvas import ORANGE, WIDTH, to_svg
from tfprune.report.comparison_plots import method_styles
from tfprune.report.network import UNPRUNABLE, lanes_of

ANSWERS = {'classes': [{'images': 4, 'before': 4, 'after': 3}, {'images': 2, 'before': 1,
                                                                'after': 2}],
           'confusion': [[3, 1], [0, 2]],
           'changed': [{'index': 3, 'label': 0, 'before': 0, 'after': 1}]}
OF_A_RUN = ('scores', 'loss', 'episodes', 'strength', 'widths', 'network', 'layer_macs',
            'operator_latency', 'confusion', 'changed_pictures')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp('runs') / 'run', class_names=['cat', 'dog'])
    (run / 'layers.json').write_text(json.dumps(LAYERS))
    (run / 'answers.json').write_text(json.dumps(ANSWERS))
    np.savez(run / 'changed.npz', pictures=np.zeros((1, 4, 4, 3), np.uint8))
    return run


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Folders of eleven methods, two of them of two budgets."""
    folder, found = tmp_path_factory.mktemp('comparison'), []
    methods = ('rlal', 'uniform', 'random', 'magnitude', 'amc', 'cacp', 'crl', 'n2n', 'purl',
               'scratch', 'dense')
    for budget in (0.5, 0.3):
        for method in methods[:2] if budget == 0.3 else methods:
            run = make_run(folder / f'{method}{budget}', method, budgets=[
                {'target': 'macs', 'asked': budget, 'limit': 4000 * budget, 'dense': 4000,
                 'cost': 1200}], **({} if method == 'dense' else {
                     'pruned': {**PRUNED, 'macs': 4000 * budget - 10}}))
            config = json.loads((run / 'config.json').read_text())
            (run / 'config.json').write_text(json.dumps(config | {'macs': budget}))
            found.append(run)
    return found


def texts(fig):
    return {text.get_text() for text in fig.findobj(lambda each: hasattr(each, 'get_text'))}


@pytest.mark.parametrize('name', OF_A_RUN)
def test_each_gives_a_figure_of_a_run(folder, name):
    fig = getattr(tfprune.plots, name)(folder)
    assert isinstance(fig, Figure) and fig.axes and fig.get_figwidth() == WIDTH


def test_a_figure_is_saved_and_shown_in_the_common_style(folder, tmp_path):
    fig = plots.strength(folder)
    assert fig._repr_png_().startswith(b'\x89PNG')
    fig.savefig(tmp_path / 'strength.svg')
    assert '>epoch</text>' in (tmp_path / 'strength.svg').read_text()  # text, not outlines
    assert 'id="a-b-' in to_svg(fig, 'a-b') and 'xmlns' not in to_svg(fig, 'a-b')


@pytest.mark.parametrize('is_aligned', [True, False])
@pytest.mark.parametrize('teaches_before', [True, False])
def test_the_loss_that_is_trained_by_is_told_apart(is_aligned, teaches_before, tmp_path):
    run = make_run(tmp_path / 'run')
    end = json.loads((run / 'report.json').read_text())['epochs']['search']
    rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    for row in rows:
        if is_aligned and row['epoch'] < end:
            row['penalty'] = 0.1
        if teaches_before or row['epoch'] >= end:
            row |= {'distillation': 0.2, 'student_loss': row['cross_entropy'], 'teacher_loss': 0.1}
    (run / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    lines = {line.get_label(): line.get_xdata() for line in plots.loss(run).axes[0].lines}
    answers = ", the teacher's answers" * teaches_before
    aligned = f'cross-entropy{answers} + alignment penalty'
    assert {label for label in lines if 'penalty' in label} == {aligned} - {
        '' if is_aligned else aligned}
    if is_aligned:
        assert max(lines[aligned]) <= end
    first = 1 if teaches_before else end + 1
    assert min(lines['cross-entropy of the teacher']) == first
    assert min(lines["cross-entropy and the teacher's answers"]) == (
        end + 1 if is_aligned else first)


def test_multiply_adds_are_bars(folder):
    before, after = plots.layer_macs(folder).axes[0].containers
    assert [bar.get_width() for bar in before] == [1000, 2000, 900, 100]
    assert [bar.get_width() for bar in after] == [750, 640, 500, 100]
    assert {'75%', '32%', '56%', '100%'} <= texts(plots.layer_macs(folder))


def test_operators_are_bars_in_seconds(folder):
    fig = plots.operator_latency(folder)
    before, after = fig.axes[0].containers
    assert [bar.get_width() for bar in before] == pytest.approx([2e-4, 2e-4, 1e-5])
    assert [bar.get_width() for bar in after] == pytest.approx([1.5e-4, 0, 1e-5])
    assert {'stem_relu', 'stage1_bn', 'output'} <= texts(fig)
    from tfprune.report.layers import operators_sentence
    from tfprune.report.reading import read_run
    assert ('Together 0.41 and 0.16 ms (39%); the files as a whole take 0.5 and 0.3 ms.'
            in operators_sentence(read_run(folder)))


def test_the_network_is_colored_by_what_is_kept(folder):
    fig = plots.network(folder)
    full = [patch for patch in fig.axes[0].patches if isinstance(patch, Rectangle)
            and patch.get_zorder() == 2.1]
    widest = max(patch.get_width() for patch in full)
    assert [round(16 * patch.get_width() / widest) for patch in full] == [16, 12, 7, 0, 12, 16]
    colors = [to_hex(patch.get_facecolor()) for patch in full]
    assert colors[0] == colors[5] == UNPRUNABLE and colors[3] == ORANGE
    assert colors[1] == colors[4] and len(set(colors)) == 4
    assert {'12 of 16', '7 of 16', 'gone', '10'} <= texts(fig)


def test_branches_run_in_lanes_of_their_own():
    #  0 - 1 - 2 - 3(1, 2): the shortcut from 1 keeps its lane, 3 goes on in the first that ends.
    assert lanes_of([[], [0], [1], [1, 2]]) == [0, 0, 1, 0]
    assert lanes_of([[], [0], [0], [0], [1, 2, 3]]) == [0, 1, 2, 0, 0]


def test_methods_are_told_apart(runs):
    lines = report.aggregate([row for run in runs for row in report.run_rows(run)])
    styles = method_styles(lines)
    assert len(styles) == 11
    assert len({(style['color'], style['marker']) for style in styles.values()}) == 11
    assert len({style['color'] for style in styles.values()}) == 8


def test_several_runs(runs, tmp_path):
    fig = plots.summary(runs)
    assert [axes.get_title(loc='left') for axes in fig.axes] == ['', 'macs 30%', 'macs 50%']
    assert [len(axes.get_yticks()) for axes in fig.axes] == [1, 2, 10]
    curves = plots.curves(map(str, runs))
    assert len(curves.axes[0].containers) == 10 and 'dense' in texts(curves)
    rows = tmp_path / 'rows.jsonl'
    report.write_rows_file(rows, [row for run in runs for row in report.run_rows(run)])
    assert len(plots.account(rows).axes[0].get_yticks()) == 13
    assert len(plots.method_widths(report.read_rows_file(rows)).axes[0].get_yticks()) == 12
    assert plots.summary(runs[0]).axes


def test_what_cannot_be_plotted_is_said(folder, runs, tmp_path):
    with pytest.raises(FileNotFoundError, match='no report.json'):
        plots.scores(tmp_path)
    bare = make_run(tmp_path / 'bare', 'uniform')
    for name, lacks in (('episodes', 'no episodes'), ('network', 'no layers.json'),
                        ('operator_latency', 'no operators'), ('confusion', 'no answers'),
                        ('strength', 'no alignment')):
        with pytest.raises(ValueError, match=f'bare: nothing to plot: .*{lacks}'):
            getattr(plots, name)(bare)
    with pytest.raises(ValueError, match='no finished run'):
        plots.summary([make_run(tmp_path / 'half', finished=False)])
    other = make_run(tmp_path / 'other', **task_changes(SEGMENTATION, 0.7, 0.6))
    with pytest.raises(ValueError, match='one of accuracy, mean_io_u'):
        plots.curves([folder, other])
    assert 'test mean_io_u, %' in texts(plots.curves([folder, other], metric='mean_io_u'))
    with pytest.raises(ValueError, match="Unknown metric 'acc'"):
        plots.curves([folder], metric='acc')


def test_plots_come_with_matplotlib_alone():
    """tfprune without Matplotlib until a plot is asked for; plots without TensorFlow."""
    code = ('import sys, tfprune; assert "matplotlib" not in sys.modules; tfprune.plots.scores; '
            'assert "matplotlib" in sys.modules; assert "keras" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
