"""Rows and tables over several runs made by hand, whose every number is known."""
import json
import math
import pathlib
import re
import subprocess
import sys

import pytest

from made_up_runs import PRUNED, Page, line_of, make_run
from tfprune import report
from tfprune.report.aggregate import mean_and_sd
from tfprune.report.comparison_plots import plot_scores_by_budget

ROOT = pathlib.Path(__file__).resolve().parents[2]


def accuracy(value):
    return {**PRUNED, 'test_accuracy': value}


@pytest.fixture
def runs(tmp_path):
    """RLAL with seeds 0, 1, 2 (0.90, 0.92, 0.97), uniform with seed 0, one that stopped."""
    for seed, value in enumerate((0.90, 0.92, 0.97)):
        make_run(tmp_path / f'rlal_s{seed}', seed=seed, pruned=accuracy(value),
                 seconds={'training': 0, 'search': 0, 'total': 100.0 * (seed + 1)})
    make_run(tmp_path / 'uniform_s0', 'uniform')
    make_run(tmp_path / 'uniform_s1', 'uniform', seed=1, finished=False)
    return tmp_path


def rows_of(folder):
    return [report.run_row(path) for path in sorted(folder.iterdir()) if path.is_dir()]


def test_aggregate_by_hand(runs):
    rlal, uniform = report.aggregate(rows_of(runs))
    assert (rlal['method'], rlal['n'], uniform['method'], uniform['n']) == ('rlal', 3, 'uniform', 1)
    # (0.90 + 0.92 + 0.97) / 3; deviations -0.03, -0.01, 0.04: sqrt((9 + 1 + 16) / 2) = sqrt(13)
    assert rlal['score_mean'] == pytest.approx(0.93)
    assert rlal['score_sd'] == pytest.approx(0.01 * math.sqrt(13))
    assert rlal['seconds'] == pytest.approx(200)
    assert math.isnan(uniform['score_sd'])


def test_summary_text_and_markdown(runs):
    text = report.format_summary(rows_of(runs))
    assert line_of(text, 'rlal') == ['rlal', 'resnet8', 'digits', 'macs 50%', '49.75%', '3',
                                     '93.00 ± 3.61', '-5.00 (1 seed)', '97.50 ± 0.00', '10',
                                     '3.3 min']
    assert line_of(text, 'uniform')[6] == '95.00 ± –'
    assert 'unfinished: uniform_s1 (uniform, resnet8 on digits, seed 1): 3 of 10 epochs.' in text
    marked = report.format_summary(rows_of(runs), 'markdown').splitlines()
    sides = [(cell[0] == ':', cell[-1] == ':') for cell in marked[1].split('|')[1:-1]]
    assert sides == [(True, False)] * 3 + [(False, True)] * 8
    assert [cell.strip() for cell in marked[2].split('|')[1:-1]] == line_of(text, 'rlal')
    with pytest.raises(ValueError, match="Unknown format 'latex'. Available: markdown, text"):
        report.format_summary(rows_of(runs), 'latex')
    with pytest.raises(ValueError, match='no runs'):
        report.format_summary([])


def test_only_unfinished_runs(tmp_path):
    make_run(tmp_path / 'a', finished=False)
    (tmp_path / 'b').mkdir()
    text = report.format_summary(rows_of(tmp_path))
    assert 'unfinished: a (rlal' in text and 'unfinished: b (no config.json): 0 of ? epo' in text
    assert not any(line.startswith('method') for line in text.splitlines())
    with pytest.raises(NotADirectoryError, match='no such run folder'):
        report.run_row(tmp_path / 'c')


def test_rows_round_trip(runs, tmp_path):
    rows = rows_of(runs)
    report.write_rows_file(tmp_path / 'rows.jsonl', rows)
    assert report.read_rows_file(tmp_path / 'rows.jsonl') == rows
    (tmp_path / 'bad.jsonl').write_text(json.dumps(rows[0]) + '\n{"run": "x", "seed": 0}\n')
    with pytest.raises(ValueError, match="line 2 is not what was written: no 'finished'"):
        report.read_rows_file(tmp_path / 'bad.jsonl')


def test_configurations_differ_by_flags_not_by_data_dir(tmp_path):
    for name, changes in (('a', {}), ('b', {'data_dir': '/elsewhere'}), ('c', {'rlal.agent': 'sac'})
                          ):
        run = make_run(tmp_path / name, seed=0 if name == 'a' else 1)
        config = json.loads((run / 'config.json').read_text())
        (run / 'config.json').write_text(json.dumps({**config, **changes}))
    ppo, sac = report.aggregate(rows_of(tmp_path))
    assert (ppo['n'], ppo['flags']) == (2, '--rlal.agent=ppo')
    assert (sac['n'], sac['flags']) == (1, '--rlal.agent=sac')


def test_flags_are_told_apart_where_a_charged_search_leaves_other_epochs(tmp_path):
    for seed, every in enumerate((0, 4)):
        run = make_run(tmp_path / str(every), seed=seed)
        config = json.loads((run / 'config.json').read_text())
        (run / 'config.json').write_text(json.dumps({**config, 'rlal.subnetwork_every': every}))
        found = json.loads((run / 'report.json').read_text())
        found['epochs']['total'] -= every / 100  # by what the sub-network's steps have cost
        (run / 'report.json').write_text(json.dumps(found))
    names = report.aggregate(rows_of(tmp_path))
    assert sorted(line['flags'] for line in names) == ['--rlal.subnetwork_every=0',
                                                       '--rlal.subnetwork_every=4']


def test_one_path_with_another_content_is_another_line(tmp_path):
    for seed, digest in enumerate(('a' * 64, 'a' * 64, 'b' * 64)):
        make_run(tmp_path / str(seed), seed=seed, environment={'files': {'model': digest}})
    same, other = report.aggregate(rows_of(tmp_path))
    assert (same['n'], other['n']) == (2, 1)
    assert other['flags'] == '--model=resnet8 (bbbbbbbb)'


def test_budgets_tell_configurations_apart(tmp_path):
    for name, limits in (('a', {'macs': 0.5}), ('b', {'macs': 0.5, 'params': 300_000})):
        run = make_run(tmp_path / name)
        config = json.loads((run / 'config.json').read_text())
        (run / 'config.json').write_text(json.dumps(config | limits))
    one, both = report.aggregate(rows_of(tmp_path))
    assert (one['budgets'], both['budgets']) == ({'macs': 0.5}, {'macs': 0.5, 'params': 300_000})
    assert not one['flags'] and not both['flags']  # the column of budgets says it
    text = report.format_summary(rows_of(tmp_path))
    assert 'macs 50%, params 300,000 ' in text and 'macs 50% ' in text


def test_one_seed_twice_is_said(tmp_path):
    for name in ('a', 'b'):
        make_run(tmp_path / name)
    text = report.format_summary(rows_of(tmp_path))
    assert 'seed 0 is counted 2 times: a, b.' in text and line_of(text, 'rlal')[5] == '1'


def test_macs_ratios_of_seeds_may_differ(tmp_path):
    for seed, macs in enumerate((1990, 2000)):
        make_run(tmp_path / str(seed), seed=seed, pruned={**PRUNED, 'macs': macs})
    make_run(tmp_path / 'dense', 'dense')
    text = report.format_summary(rows_of(tmp_path))
    assert line_of(text, 'rlal')[4] == '49.75%–50.00%'
    assert line_of(text, 'dense')[3:5] == ['–', '100.00%'] and line_of(text, 'dense')[7] == '–'


def test_mean_and_sd():
    assert mean_and_sd([1, 3]) == (2, pytest.approx(math.sqrt(2)))
    assert mean_and_sd([5])[0] == 5 and math.isnan(mean_and_sd([5])[1])
    assert all(map(math.isnan, mean_and_sd([1, None]) + mean_and_sd([])))


def test_summary_html_has_no_network(runs):
    text = report.summary_html(rows_of(runs))
    page = Page(text)
    assert page.tags.count('svg') == 1 and 'script' not in page.tags
    assert not re.search(r'https?:|\burl\((?!#)', text)
    assert '93.00 ± 3.61' in text and 'unfinished: uniform_s1' in text
    assert len(plot_scores_by_budget(['a'], report.aggregate(rows_of(runs))[:1]).axes) == 1


def script(*arguments):
    """Runs scripts/report.py."""
    return subprocess.run([sys.executable, ROOT / 'scripts' / 'report.py', *map(str, arguments)],
                          capture_output=True, text=True, check=False, timeout=300)


def test_script(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    (runs / 'rlal_summary.json').write_text('{}')
    # A pattern, a folder that it matched, a file beside them.
    first = script(f'{runs}/rlal_s*', runs / 'rlal_s0', f'{runs}/uniform*', '--format=markdown',
                   f'--out={out}/rows.jsonl', f'--json={out}/all.json', f'--html={out}/all.html')
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == report.format_summary(rows_of(runs), 'markdown')
    again = script(f'--rows={out}/rows.jsonl', '--format=markdown')
    assert again.stdout == first.stdout
    content = json.loads((out / 'all.json').read_text())
    assert [line['n'] for line in content['table']] == [3, 1]
    assert content['table'][1]['score_sd'] is None and len(content['runs']) == 5
    assert 'uniform_s1' in (out / 'all.html').read_text()


@pytest.mark.parametrize('arguments, message', [
    (['nowhere/x_s*'], "no run folder matches 'nowhere/x_s*'."), ([], 'there are no runs'),
    (['--rows=nowhere.jsonl'], 'nowhere.jsonl')])
def test_script_errors_are_one_line(arguments, message):
    done = script(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and done.stderr.count('\n') == 1
