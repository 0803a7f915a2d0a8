"""scripts/compare.py as a user runs it, and how its runs follow each other."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import tfprune  # noqa: F401  (before keras)
import keras
import pytest
from absl import flags as absl_flags

from made_up_runs import make_run
from tfprune import command_line, report
from tfprune.report.pairs import against
from tfprune.runs.comparison import Cell, Comparison, Grid, families, last_line, plan
from tfprune.runs.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = '''--model=resnet8
--dataset=digits
--macs=0.5
--warmup_epochs=1
--random_epochs=0
--joint_epochs=0
--alignment_epochs=0
--fine_tune_epochs=3
--batch_size=128
--reward_images=100
--calibration_batches=1
'''
# Does what scripts/train.py does as far as others see it; --frozen tells it how to end.
STAND_IN = '''import pathlib, signal, sys, time
flags = dict(flag.removeprefix('--').split('=', 1) for flag in sys.argv[1:])
run, how = pathlib.Path(flags['run_dir']), flags.get('frozen', '')
with open(run.parents[1] / 'order', 'a') as file:
    source = pathlib.Path(flags.get('before_surgery_from', '-/s0'))
    file.write(f'{run.parent.name} {source.parent.name}\\n')
run.mkdir(exist_ok=True)
if how == 'early':
    sys.exit('train.py: error: no')
(run / 'dense.keras').touch()
if how == 'late':
    print('epoch 1:  10%\\repoch 1: 100%', file=sys.stderr)
    sys.exit(2)
if how == 'slow' and not (run / 'ready').exists():
    signal.signal(signal.SIGTERM, lambda *_: ((run / 'saved').touch(), sys.exit(143)))
    (run / 'ready').touch()
    time.sleep(60)
(run / 'report.json').write_text('{}')
sys.exit(143 * (how == 'last'))
'''


@pytest.fixture
def flagfiles(tmp_path):
    """Flagfiles of base, uniform, dense, magnitude, scratch and rlal; their pattern."""
    return write_flagfiles(tmp_path / 'flags')


def write_flagfiles(folder):
    folder.mkdir()
    (folder / 'base.flags').write_text(BASE)
    for name in ('uniform', 'dense', 'magnitude', 'scratch', 'rlal'):
        (folder / f'{name}.flags').write_text(
            f'--flagfile={folder}/base.flags\n--method={name}\n'
            + '--warmup_epochs=0\n--joint_epochs=1\n' * (name == 'rlal'))
    return f'{folder}/{{}}.flags'


def planned(flagfiles, out, methods='dense,uniform', seeds=(0,), budgets=(), extra=()):
    return plan(Grid(methods.split(','), flagfiles, seeds, budgets, out, extra),
                command_line.read_config)


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
    """(folder, process) of dense and uniform of two convolutions, run by the script."""
    folder = tmp_path_factory.mktemp('compare')
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(16, 3, activation='relu')(image)
    x = keras.layers.Conv2D(24, 3, activation='relu')(x)
    keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))).save(
        folder / 'small.keras')
    flagfiles = write_flagfiles(folder / 'flags')
    (folder / 'compare.flags').write_text(
        f'--methods=dense,uniform\n--method_flagfiles={flagfiles}\n--seeds=0\n'
        f'--budgets=macs=0.4\n--out={folder}/out\n--jobs=2\n--threads=1\n')
    # A flag of train.py wins over the flagfiles.
    return folder, script(f'--flagfile={folder}/compare.flags', '--fine_tune_epochs=1',
                          f'--model={folder}/small.keras')


def script(*flags):
    return subprocess.run([sys.executable, ROOT / 'scripts/compare.py', *flags],
                          capture_output=True, text=True, check=False, timeout=300)


def test_compare(compared):
    folder, done = compared
    assert done.returncode == 0, done.stderr
    out = folder / 'out'
    rows = report.read_rows_file(out / 'rows.jsonl')
    assert [row['run'] for row in rows] == ['dense/s0', 'uniform/macs0.4/s0']
    assert '2 runs to do, 2 at a time.' in done.stderr
    assert re.search(r'dense/s0: done in .* \(1 of 2, about .* left\)', done.stderr)
    assert re.search(r'uniform/macs0.4/s0: done in .* \(2 of 2\)', done.stderr)
    assert done.stdout == report.format_comparison(rows) + '\n'
    lines = report.aggregate(rows)
    assert [(line['label'], line['n'], line['budgets']) for line in lines] == [
        ('dense', 1, {}), ('uniform', 1, {'macs': 0.4})]
    assert all(0.35 < ratio <= 0.4 for ratio in lines[1]['macs_ratios'])
    # 1 + 1, not 1 + 3, and the teacher's answers.
    assert lines[0]['account']['total'] == pytest.approx(2 + 1 / 3)
    assert (out / 'compare.html').read_text() == report.comparison_html(rows)
    assert (out / 'compare.md').exists() and (out / 'uniform/macs0.4/s0.log').exists()
    dense, uniform = ((out / name / 's0/metrics.jsonl').read_text().splitlines()
                      for name in ('dense', 'uniform/macs0.4'))
    assert uniform[0] == dense[0] and uniform[1] != dense[1]  # taken, its seconds with it


def test_the_same_command_skips_what_is_finished(compared):
    folder, _ = compared
    cells = planned(f'{folder}/flags/{{}}.flags', folder / 'out', budgets=['macs=0.4'],
                    extra=['--fine_tune_epochs=1', f'--model={folder}/small.keras'])
    said = []
    comparison = Comparison(cells, ['false'], [''], said.append)
    comparison.run()
    assert said == ['2 of 2 cells are finished.']
    rows = report.read_rows_file(folder / 'out/rows.jsonl')
    assert comparison.rows(folder / 'out') == rows
    # Of fewer cells: the others are still there.
    assert Comparison(cells[1:], [], []).rows(folder / 'out') == [*rows[1:], *rows[:1]]
    with pytest.raises(ValueError, match='dense/s0 is a run of another configuration; differing '
                       'flags: --fine_tune_epochs: 1 -> 3. Choose another --out'):
        planned(f'{folder}/flags/{{}}.flags', folder / 'out', budgets=['macs=0.4'],
                extra=[f'--model={folder}/small.keras'])


def test_rows_alone_render_again(compared):
    folder, first = compared
    done = script(f'--rows={folder}/out/rows.jsonl', f'--html={folder}/again.html')
    assert (done.returncode, done.stdout) == (0, first.stdout)
    assert (folder / 'again.html').read_text() == (folder / 'out/compare.html').read_text()


@pytest.mark.slow
def test_another_seed_is_added_to_what_is_finished(compared, tmp_path):
    folder, first = compared
    shutil.copytree(folder / 'out', tmp_path / 'out')
    done = script(f'--flagfile={folder}/compare.flags', '--fine_tune_epochs=1', '--seeds=0,1',
                  f'--out={tmp_path}/out', f'--model={folder}/small.keras')
    assert done.returncode == 0, done.stderr
    assert '2 of 4 cells are finished.' in done.stderr
    lines = report.aggregate(report.read_rows_file(tmp_path / 'out/rows.jsonl'))
    assert [(line['label'], line['n']) for line in lines] == [('dense', 2), ('uniform', 2)]
    assert '± –' in first.stdout and '± –' not in done.stdout  # the spread of seeds


def test_plan(tmp_path, flagfiles):
    cells = planned(flagfiles, tmp_path / 'out', 'dense,rlal', (0, 1), ['macs=0.5', 'params=0.4'],
                    ['--batch_size=32'])
    assert [str(cell.run_dir.relative_to(tmp_path / 'out')) for cell in cells] == [
        'dense/s0', 'dense/s1', 'rlal/macs0.5/s0', 'rlal/macs0.5/s1', 'rlal/params0.4/s0',
        'rlal/params0.4/s1']
    assert [cell.config.costs.limits for cell in cells[2::2]] == [{'macs': 0.5}, {'params': 0.4}]
    assert {cell.config.training.batch_size for cell in cells} == {32}
    assert cells[3].config.seed == 1 and cells[3].log == tmp_path / 'out/rlal/macs0.5/s1.log'
    # What the arguments say is what scripts/train.py reads.
    assert command_line.read_config(cells[4].arguments) == cells[4].config


def test_what_begins_with_random_weights_is_given_none(tmp_path, flagfiles, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'w.npz').touch()
    scratch, uniform = planned(flagfiles, tmp_path / 'out', 'scratch,uniform', extra=[
        '--initial_weights=w.npz', '--data_dir=d'])
    assert (scratch.config.models.initial_weights, scratch.config.data.data_dir) == ('', 'd')
    assert uniform.config.models.initial_weights == 'w.npz'


def test_methods_that_only_decide_share_their_epochs(tmp_path, flagfiles):
    cells = planned(flagfiles, tmp_path / 'out', 'rlal,uniform,scratch,dense', (0, 1),
                    ['macs=0.5', 'macs=0.3'])
    shared = [[str(cell.run_dir.relative_to(tmp_path / 'out')) for cell in family]
              for family in families(cells)]
    assert shared[:2] == [[f'uniform/macs0.5/s{seed}', f'dense/s{seed}', f'uniform/macs0.3/s{seed}']
                          for seed in (0, 1)]
    assert {len(family) for family in shared[2:]} == {1} and len(shared) == 10


def cacp_cells(flagfiles, out, *budgets, flags='--macs=0.5'):
    """{folder: budgets of the run} of cacp, ratios 0.3 and 0.5, beside uniform."""
    pathlib.Path(flagfiles.format('cacp')).write_text(
        f'--flagfile={flagfiles.format("base")}\n--method=cacp\n--cacp.ratios=0.3,0.5\n'
        f'{flags}\n')
    cells = planned(flagfiles, out, 'uniform,cacp', budgets=budgets)
    assert sum(cell.name == 'uniform' for cell in cells) == len(budgets or [''])
    return {cell.run_dir.parent.relative_to(out).as_posix(): cell.config.costs.limits
            for cell in cells if cell.name == 'cacp'}


@pytest.mark.parametrize('budgets, cells', [
    ((), {'cacp': {'macs': 0.5}}),
    (('macs=0.5',), {'cacp': {'macs': 0.5}}),
    (('macs=0.3', 'macs=0.50'), {'cacp': {'macs': 0.5}}),
    (('macs=0.3',), {'cacp': {'macs': 0.5}}),
    # None of the ratios.
    (('macs=0.4', 'macs=0.6'), {'cacp/macs0.4': {'macs': 0.4}, 'cacp/macs0.6': {'macs': 0.6}}),
    (('macs=0.4', 'macs=0.5'), {'cacp/macs0.4': {'macs': 0.4}, 'cacp': {'macs': 0.5}}),
    (('macs=20000',), {'cacp/macs20000': {'macs': 20000}}),
    # Another target: a search of its own, for its budgets together.
    (('macs=0.5', 'params=0.5'), {'cacp': {'macs': 0.5}, 'cacp/params': {'params': 0.3}}),
    (('params=0.5', 'params=0.3', 'params=0.4'),
     {'cacp/params': {'params': 0.3}, 'cacp/params0.4': {'params': 0.4}})])
def test_budgets_of_a_conditional_method(tmp_path, flagfiles, budgets, cells):
    for order in (budgets, budgets[::-1]):
        assert cacp_cells(flagfiles, tmp_path / 'out', *order) == cells


def test_the_budget_of_a_conditional_flagfile(tmp_path, flagfiles):
    """Its run is the shared one, whatever its budget is; two targets make none of them its own."""
    own = {'cacp': {'macs': 0.4}}
    for budgets in ((), ('macs=0.4',), ('macs=0.5', 'macs=0.4'), ('macs=0.3',)):
        assert cacp_cells(flagfiles, tmp_path / 'out', *budgets, flags='--macs=0.4') == own
    both = cacp_cells(flagfiles, tmp_path / 'out', 'macs=0.5', 'macs=0.4', flags='--params=0.5')
    assert both == {'cacp/macs': {'macs': 0.3}, 'cacp/macs0.4': {'macs': 0.4}}


def test_a_budget_added_later_finds_the_folders_of_before(tmp_path, flagfiles):
    out = tmp_path / 'out'
    for folder, budgets in cacp_cells(flagfiles, out, 'macs=0.5', 'params=0.5').items():
        cell, = (cell for cell in planned(flagfiles, out, 'cacp', (0,), ['macs=0.5', 'params=0.5'])
                 if cell.run_dir == out / folder / 's0')
        assert cell.config.costs.limits == budgets
        cell.run_dir.mkdir(parents=True)
        (cell.run_dir / 'config.json').write_text(json.dumps(cell.config.to_json()))
        (cell.run_dir / 'config.flags').touch()
    found = cacp_cells(flagfiles, out, 'macs=0.3', 'params=0.3', 'macs=0.4', 'macs=0.5',
                       'params=0.5')
    assert list(found) == ['cacp', 'cacp/params', 'cacp/macs0.4']


def test_rows_of_ratios_are_of_the_shared_run(tmp_path, flagfiles):
    """A search for a budget of its own has the ratios too, once more."""
    out = tmp_path / 'out'
    for folder in ('cacp', 'cacp/params', 'cacp/macs0.4'):
        make_run(out / folder / 's0', 'cacp')
        make_run(out / folder / 's0/ratios/0.3', 'cacp')
    rows = Comparison([], [], []).rows(out)
    assert sorted(row['run'] for row in rows) == [
        'cacp/macs0.4/s0', 'cacp/params/s0', 'cacp/params/s0/ratios/0.3', 'cacp/s0',
        'cacp/s0/ratios/0.3']


@pytest.mark.parametrize('changes, message', [
    (dict(methods='dense,rlla'), "Unknown method 'rlla': no .*rlla.flags. Available: dense, magnit"
     'ude, rlal, scratch, uniform$'),
    (dict(methods='broken'), r'broken.flags: Unknown flag --joint_epoch. Did you mean .joint_epo'),
    (dict(methods='other'), r"other.flags: Unknown method 'rlla'. .* Available: "),
    (dict(budgets=['flops=0.5']), "budgets must be target=limit each, target one of macs, params, "
     "peak_memory_bytes, latency_ratio, latency_ms; received 'flops=0.5'"),
    (dict(budgets=['macs=1.5']), 'macs must be a ratio in'),
    (dict(budgets=['macs=half']), 'budgets: macs must be a number; received .half'),
    (dict(budgets=['macs=0']), 'macs must be a ratio in'),
    (dict(budgets=['mac=0.5']), "Did you mean 'macs'"),
    (dict(extra=['--model=no.keras']), 'uniform.flags|dense.flags: model no.keras: no such file'),
    (dict(seeds=(0, 0)), "seeds must be given, each once; received '0,0'"),
    (dict(extra=['--schedule=linear']), 'Unknown schedule .linear.. Available: cosine, step')])
def test_wrong_names_are_found_before_any_run(tmp_path, flagfiles, changes, message):
    base = f'--flagfile={tmp_path}/flags/base.flags\n'
    (tmp_path / 'flags/broken.flags').write_text(base + '--joint_epoch=3\n')
    (tmp_path / 'flags/other.flags').write_text(base + '--method=rlla\n')
    if 'methods' in changes and 'rlla' in changes['methods']:
        (tmp_path / 'flags/broken.flags').unlink()
        (tmp_path / 'flags/other.flags').unlink()
    with pytest.raises(ValueError, match=message) as caught:
        planned(flagfiles, tmp_path / 'out', **{'methods': 'dense,uniform', **changes})
    assert '\n' not in str(caught.value) and not (tmp_path / 'out').exists()


def stand_in(tmp_path, ends, jobs=1):
    """A comparison of cells that end as told, all of one family; what it says."""
    (tmp_path / 'train.py').write_text(STAND_IN)
    cells = [Cell(name, (f'--frozen={end}',), Config(method='uniform'),
                  tmp_path / 'out' / name / 's0') for name, end in ends.items()]
    said = []
    return Comparison(cells, [sys.executable, str(tmp_path / 'train.py')], [''] * jobs,
                      said.append), said


def order(tmp_path):
    return (tmp_path / 'out/order').read_text().splitlines()


def test_a_failed_run_stops_no_other(tmp_path):
    """a fails before it has trained anything to take, b after it; d is stopped as it was done."""
    comparison, said = stand_in(tmp_path, {'a': 'early', 'b': 'late', 'c': '', 'd': 'last'})
    comparison.run()
    assert order(tmp_path) == ['a -', 'b -', 'c b', 'd b']
    a, b, c, d = comparison.cells
    assert comparison.failed == {a: 'train.py: error: no', b: 'epoch 1: 100%'}
    assert c.finished and d.finished and not a.finished
    assert any('FAILED' in text and 'train.py: error: no' in text for text in said)
    # The same command tries them again, from b's epochs, and no other.
    (tmp_path / 'out/order').unlink()
    again, _ = stand_in(tmp_path, {'a': '', 'b': '', 'c': 'early', 'd': 'early'})
    again.run()
    assert sorted(order(tmp_path)) == ['a b', 'b -'] and not again.failed


def test_a_signal_stops_the_runs_and_the_same_command_goes_on(tmp_path):
    comparison, said = stand_in(tmp_path, {'a': 'slow', 'b': ''})

    def stop():
        deadline = time.monotonic() + 30
        while not (tmp_path / 'out/a/s0/ready').exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    comparison.run()
    thread.join()
    assert comparison.signals == [signal.SIGTERM] and not comparison.failed
    assert (tmp_path / 'out/a/s0/saved').exists() and order(tmp_path) == ['a -']
    again, _ = stand_in(tmp_path, {'a': 'slow', 'b': ''})
    again.run()
    assert all(cell.finished for cell in again.cells) and not again.signals
    assert sorted(order(tmp_path)) == ['a -', 'a -', 'b a']


def test_a_damaged_run_hides_no_failed_cell(tmp_path, flagfiles):
    """The script beside a stand-in of train.py that fails; the damaged run is of another one."""
    shutil.copy(ROOT / 'scripts/compare.py', tmp_path)
    (tmp_path / 'train.py').write_text(STAND_IN)
    other = tmp_path / 'out/other/s0'
    other.mkdir(parents=True)
    (other / 'config.json').write_text('{"model')
    done = subprocess.run(
        [sys.executable, tmp_path / 'compare.py', '--methods=uniform', f'--out={tmp_path}/out',
         f'--method_flagfiles={flagfiles}', '--frozen=early'], timeout=300, capture_output=True,
        text=True, check=False, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 1 and done.stdout == ''
    *_, failed, broken = done.stderr.splitlines()
    assert failed.startswith(f'compare.py: {tmp_path}/out/uniform/s0 failed: train.py: error: no')
    assert broken.startswith(f'compare.py: no report: {other}/config.json is damaged: not JSON')
    (other / 'config.json').write_text('[1]')
    with pytest.raises(ValueError, match='other/s0/config.json is not what .* must be an object'):
        Comparison([], [], []).rows(tmp_path / 'out')


def test_rows_of_runs_that_never_began(tmp_path, flagfiles):
    cells = planned(flagfiles, tmp_path / 'out')
    comparison = Comparison(cells, [], [])
    comparison.failed[cells[1]] = 'train.py: error: no'
    row, = comparison.rows(tmp_path / 'out')
    assert (row['cell'], row['run'], row['finished'], row['error']) == (
        'uniform', 'uniform/s0', False, 'train.py: error: no')
    report.write_rows_file(tmp_path / 'rows.jsonl', [row])
    assert report.read_rows_file(tmp_path / 'rows.jsonl') == [json.loads(json.dumps(row))]


def test_last_line(tmp_path):
    log = tmp_path / 's0.log'
    assert last_line(log) == ''
    log.write_text('one\nepoch 2:  10%\repoch 2: 100%\r\n\n  \n')
    assert last_line(log) == 'epoch 2: 100%'


@pytest.mark.parametrize('path', sorted((ROOT / 'flags').glob('compare_*.flags')),
                         ids=lambda path: path.stem)
def test_flagfiles_of_comparisons(tmp_path, monkeypatch, path):
    """Every method that they name has its flagfile, whose flags exist; totals are equal, and all
    that keep a budget have their control, but for pipelines that are compared by their time.
    """
    monkeypatch.chdir(ROOT)
    # Those that it includes stand in its place.
    lines = absl_flags.FlagValues().read_flags_from_files([f'--flagfile={path}'])
    flags = dict(line.removeprefix('--').split('=', 1) for line in lines)
    own = {'methods', 'method_flagfiles', 'seeds', 'budgets', 'out', 'jobs', 'threads'}
    cells = planned(flags['method_flagfiles'], tmp_path / 'out', flags['methods'],
                    [0, 1, 2], flags['budgets'].split(','),
                    [f'--{name}={value}' for name, value in flags.items() if name not in own])
    assert len({cell.config.epochs.total for cell in cells}) == 1
    lines = [{'label': cell.name, 'method': cell.config.method, 'budgets': cell.config.costs.limits,
              'configuration': cell.config.to_json(), 'seeds': [cell.config.seed],
              'scores': [0.9], 'test_images': [100]} for cell in cells if not cell.config.seed]
    # Of uniform alone each is the control; of RLAL alone another file has it.
    if len({cell.config.method for cell in cells}) == 1 or 'total_time' in path.stem:
        return
    alone = {line['label'] for line in lines if not against(line, 'uniform', lines).pairs}
    # Not charged, and on CIFAR-10 with a learning rate for random weights.
    expected = {'uniform', 'purl_weights'} & {cell.name for cell in cells}
    assert alone - {'scratch'} == expected
