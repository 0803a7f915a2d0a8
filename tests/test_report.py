"""Reports of runs made by hand, whose every number is known."""
import html.parser
import json
import math
import pathlib
import re
import subprocess
import sys

import pytest

from tfprune import report
from tfprune.config import TARGETS, Config
from tfprune.report import table
from tfprune.report.aggregate import mean_and_sd
from tfprune.report.plots import plot_summary

ROOT = pathlib.Path(__file__).resolve().parents[1]
DENSE = {'test_accuracy': 0.975, 'macs': 4000, 'params': 800, 'peak_memory_bytes': 512,
         'tflite_bytes': 10000, 'latency_ms': 0.5, 'latency_p10_ms': 0.45, 'latency_p90_ms': 0.6}
PRUNED = {'test_accuracy': 0.95, 'macs': 1990, 'params': 300, 'peak_memory_bytes': 256,
          'tflite_bytes': 6000, 'latency_ms': 0.3, 'latency_p10_ms': 0.25, 'latency_p90_ms': 0.4}
AGENT = {'episodes': 16, 'policy_reward_mean': 0.95, 'policy_reward_error': 0.003,
         'policy_reward_max': 0.97, 'random_reward_mean': 0.93, 'random_reward_error': 0.004,
         'random_reward_max': 0.96}


def make_report(method='rlal', seed=0, **changes):
    """The content of report.json."""
    dense = {**DENSE, 'test_accuracy': None, 'latency_ms': None} if method == 'scratch' else DENSE
    pruned = {**PRUNED, 'macs': 4000} if method == 'dense' else PRUNED
    return {
        'method': method, 'model': 'resnet8', 'dataset': 'digits', 'seed': seed,
        'decides_first': method == 'scratch',
        'budgets': [{'target': 'macs', 'asked': 0.5, 'limit': 2000, 'dense': 4000,
                     'cost': pruned['macs']}],
        'epochs': {'search': 6, 'fine_tune': 4, 'total': 10}, 'dense': dense, 'pruned': pruned,
        'latency_ratio': None if method == 'scratch' else 0.61,
        'groups': [{'name': 'stage1/conv<1>', 'dense_width': 16,
                    'width': 16 if method == 'dense' else 7},
                   {'name': 'stage2/conv1', 'dense_width': 32, 'width': 32}],
        'agent': AGENT if method == 'rlal' else None,
        'parity': {'images': 32, 'source': 'representative', 'largest_output': 9.5, 'pairs': [
            {'first': 'keras', 'second': 'tflite', 'difference': 3e-6, 'limit': 1e-4}]},
        'seconds': {'training': 60.0, 'search': 40.0, 'total': 100.0}, 'test_images': 1900,
        'files': {'keras': 'export/pruned.keras', 'tflite': 'export/model.tflite'}, **changes}


def make_run(folder, method='rlal', seed=0, finished=True, environment=None, **changes):
    """A run folder: 6 epochs before surgery, 4 after it, made-up curves with a NaN."""
    folder.mkdir(parents=True)
    config = Config(method=method, seed=seed, model='resnet8', dataset='digits', macs=0.5,
                    warmup_epochs=1, random_epochs=1, joint_epochs=3, alignment_epochs=1,
                    fine_tune_epochs=4)
    metrics, episodes = [], []
    for epoch in range(10 if finished else 3):
        phase = config.phase(epoch) if method == 'rlal' else 'train' if epoch < 6 else 'fine_tune'
        phase = 'train' if method == 'scratch' else phase
        row = {'epoch': epoch, 'phase': phase, 'learning_rate': 0.1 / (epoch + 1),
               'loss': math.nan if epoch == 2 else 2 / (epoch + 1), 'penalty': 0.0,
               'cross_entropy': 1.9 / (epoch + 1), 'accuracy': 1 - 0.5 / (epoch + 1),
               'reward_accuracy': 1 - 0.6 / (epoch + 1)}
        if phase in ('random', 'joint'):
            source = 'random' if phase == 'random' else 'policy'
            episodes += [{'epoch': epoch, 'source': source, 'reward': 0.9 + 0.01 * i,
                          'widths': {'stage2/conv1': 32}} for i in range(4)]
            row |= {'subnetwork_accuracy': 0.93, 'strength': 1e-4}
        if phase == 'joint':
            episodes.append({'epoch': epoch, 'source': 'random_reference', 'reward': 0.9})
        metrics.append(row)
    if method == 'rlal' and finished:
        episodes += [{'epoch': 4, 'source': f'{source}_comparison', 'reward': 0.9 + 0.01 * i}
                     for source in ('policy', 'random') for i in range(3)]
    files = {'config.json': config.to_json(), 'environment.json': environment or {
        'command': 'scripts/train.py --seed=0', 'commit': 'abc123', 'python': '3.11.9',
        'packages': {'keras': '3.15.0', 'tf-keras': None}, 'platform': 'Linux',
        'processor': 'A processor', 'cores': 2}}
    if finished:
        files['report.json'] = make_report(method, seed, **changes)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    for name, rows in (('metrics.jsonl', metrics), ('episodes.jsonl', episodes)):
        (folder / name).write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return folder


def line_of(text, start):
    """Cells of the line that starts so."""
    line, = [line for line in text.splitlines() if line.startswith(start)]
    return re.split(r'\s{2,}', line.strip())


def test_table_sums():
    text = report.format_table(make_report())
    assert line_of(text, 'test accuracy')[1:] == ['97.50%', '95.00%', '-2.50 points']
    assert line_of(text, 'MACs')[1:] == ['4,000', '1,990', '49.75%']
    assert line_of(text, 'params')[1:] == ['800', '300', '37.50%']
    assert line_of(text, 'TFLite bytes')[1:] == ['10,000', '6,000', '60.00%']
    # The ratio is the one measured in turns, not 0.3 / 0.5.
    assert line_of(text, 'TFLite latency')[1:] == ['0.5', '0.3', '61.0%']
    words = ' '.join(text.split())
    assert 'at most 2,000 (0.5 of dense 4,000); cost 1,990, 99.50% of the budget' in words
    assert "model just before surgery (after 6 of 10 epochs, not fine-tuned)" in words
    assert 'that is --method=dense' in words
    # sqrt(0.95 * 0.05 / 1900) = 0.005
    assert 'standard error of one accuracy 0.50 points' in words
    assert 'peak memory' not in text
    assert max(map(len, text.splitlines())) <= 100


def test_every_budget_is_said():
    rows = [{'target': 'params', 'asked': 400.0, 'limit': 400, 'dense': 800, 'cost': 300},
            {'target': 'peak_memory_bytes', 'asked': 0.75, 'limit': 384, 'dense': 512, 'cost': 256}]
    text = report.format_table(make_report(budgets=rows))
    assert line_of(text, 'peak memory, bytes')[1:] == ['512', '256', '50.00%']
    assert [line for line in text.splitlines() if line.startswith('Budget')] == [
        'Budget: params at most 400 (dense 800); cost 300, 75.00% of the budget.',
        'Budget: peak_memory_bytes at most 384 (0.75 of dense 512); cost 256, 66.67% of the '
        'budget.']
    text = report.format_table(make_report('dense', budgets=rows))
    assert 'Budget: not applied; nothing is pruned, params 300, peak_memory_bytes 256.' in text


def test_table_is_aligned():
    lines = report.format_table(make_report()).splitlines()
    rows = lines[lines.index('', 0) + 1:][:7]
    assert len({len(line) for line in rows}) == 1


def test_table_of_controls():
    scratch = report.format_table(make_report('scratch'))
    assert line_of(scratch, 'test accuracy')[1:] == ['–', '95.00%', '–']
    assert line_of(scratch, 'TFLite latency')[1:] == ['–', '0.3', '–']
    assert 'all after surgery' in scratch and 'was not trained in this run' in scratch
    dense = report.format_table(make_report('dense'))
    assert 'final / before' in dense and 'nothing was pruned' in dense and 'pruned /' not in dense


@pytest.mark.parametrize('policy, verdict', [
    # errors 0.003 and 0.004: the difference's is 0.005.
    (0.95, '+0.0200, +4.0 standard errors: the agent beats random actions.'),
    (0.935, '+0.0050, +1.0 standard errors: the agent does not beat random actions: a difference'),
    (0.91, '-0.0200, -4.0 standard errors: the agent does not beat random actions; it is worse.'),
    (math.nan, 'cannot be judged'), (None, 'cannot be judged')])
def test_agent_against_random_in_words(policy, verdict):
    agent = {**AGENT, 'policy_reward_mean': policy}
    assert verdict in ' '.join(table.agent_sentences(make_report(agent=agent)))


def test_agent_without_spread_is_not_judged():
    agent = {**AGENT, 'policy_reward_error': 0.0, 'random_reward_error': 0.0}
    assert table.reward_difference(agent)[0] == pytest.approx(0.02)
    assert 'cannot be judged' in ' '.join(table.agent_sentences({'agent': agent}))


def test_numbers_as_text():
    assert table.percent(None) == table.percent(math.nan) == table.count(math.inf) == '–'
    assert table.points(0.5, 0.5 + 1e-9) == '+0.00 points'
    assert [table.milliseconds(x) for x in (0.04123, 1.5, 1234.5)] == ['0.0412', '1.5', '1,234']
    assert [table.duration(x) for x in (48.4, 738, 18720, None)] == [
        '48 s', '12.3 min', '5.2 h', '–']


class Page(html.parser.HTMLParser):
    """Headings, tags, attributes and ids of a page; fails where tags do not close in order."""
    VOID = {'meta', 'br', 'link', 'img', 'input'}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.headings, self.attributes = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ('h2', 'summary'):
            self.headings.append(data)


def html_of(folder):
    report.write_html(folder)
    return (folder / 'report.html').read_text()


def test_html_is_one_file_without_network(tmp_path):
    text = html_of(make_run(tmp_path / 'run'))
    page = Page(text)
    assert not re.search(r'https?:|//[a-z]|@import|\burl\((?!#)', text)
    assert not {'script', 'img', 'link', 'iframe', 'object', 'image'} & set(page.tags)
    targets = [value for name, value in page.attributes if name in ('src', 'href', 'xlink:href')]
    assert all(t.startswith('#') or t.startswith('export/') for t in targets)
    ids = [value for name, value in page.attributes if name == 'id']
    assert len(ids) == len(set(ids))
    assert {t[1:] for t in targets if t.startswith('#')} <= set(ids)
    assert set(re.findall(r'url\(#([^)]+)\)', text)) <= set(ids)
    assert page.tags.count('svg') == 5 and not list(tmp_path.glob('run/.*'))


def test_html_sections_and_escaping(tmp_path):
    text = html_of(make_run(tmp_path / 'run', environment={'command': 'a <b>&"c"', 'cores': 2}))
    assert Page(text).headings == [
        'Dense and pruned', 'Accuracy', 'Episodes', 'Widths', 'Strength of the alignment',
        'Loss and learning rate', 'Parity of the exported forms', 'Files', 'Environment',
        'Configuration']
    assert 'a &lt;b&gt;&amp;&quot;c&quot;' in text and '<b>&' not in text
    assert 'stage1/conv&lt;1&gt;' in text and 'conv<1>' not in text
    assert 'surgery' in text and 'fine-tuning' in text and '7 / 16' in text
    assert '+4.0 standard errors: the agent beats random actions' in text
    assert not re.search(r'\bnan\b', text, re.IGNORECASE)


def test_html_lists_the_classes(tmp_path):
    text = html_of(make_run(tmp_path / 'run', class_names=['cat', 'dog <2>']))
    assert 'Classes (2)' in Page(text).headings
    assert re.search(r'>0</td>\s*<td[^>]*>cat<', text)
    assert re.search(r'>1</td>\s*<td[^>]*>dog &lt;2&gt;<', text)


@pytest.mark.parametrize('method, widths', [('uniform', True), ('scratch', True), ('dense', False)])
def test_html_leaves_out_what_does_not_apply(tmp_path, method, widths):
    text = html_of(make_run(tmp_path / 'run', method))
    headings = Page(text).headings
    assert not {'Episodes', 'Strength of the alignment'} & set(headings)
    assert ('Widths' in headings) == widths
    assert 'random actions' not in text and 'Accuracy' in headings
    # A surgery inside the curves is marked; scratch had it before, dense has none.
    assert bool(re.search(r'>surgery<', text)) == (method == 'uniform')


def test_html_of_bare_runs(tmp_path):
    run = make_run(tmp_path / 'run', 'uniform', groups=[], parity=None, files={})
    for name in ('metrics.jsonl', 'episodes.jsonl', 'environment.json', 'config.json'):
        (run / name).unlink()
    assert Page(html_of(run)).headings == ['Before and final', 'Environment']
    with pytest.raises(FileNotFoundError, match='no report.json'):
        report.write_html(tmp_path)
    (run / 'report.json').write_text('{"method"')
    with pytest.raises(ValueError, match='report.json is damaged'):
        report.write_html(run)


def test_html_is_reproducible(tmp_path):
    run = make_run(tmp_path / 'run')
    assert html_of(run) == html_of(run)


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
    assert rlal['accuracy_mean'] == pytest.approx(0.93)
    assert rlal['accuracy_sd'] == pytest.approx(0.01 * math.sqrt(13))
    assert rlal['seconds'] == pytest.approx(200)
    assert math.isnan(uniform['accuracy_sd'])


def test_summary_text_and_markdown(runs):
    text = report.format_summary(rows_of(runs))
    assert line_of(text, 'rlal') == ['rlal', 'resnet8', 'digits', 'macs 50%', '49.75%', '3',
                                     '93.00 ± 3.61', '97.50 ± 0.00', '10', '3.3 min']
    assert line_of(text, 'uniform')[6] == '95.00 ± –'
    assert 'unfinished: uniform_s1 (uniform, resnet8 on digits, seed 1): 3 of 10 epochs.' in text
    marked = report.format_summary(rows_of(runs), 'markdown').splitlines()
    assert marked[1] == '| :-- | :-- | :-- |' + ' --: |' * 7
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
    with pytest.raises(ValueError, match='line 2: not the row of a run: no finished, config'):
        report.read_rows_file(tmp_path / 'bad.jsonl')


def test_configurations_differ_by_flags_not_by_data_dir(tmp_path):
    for name, changes in (('a', {}), ('b', {'data_dir': '/elsewhere'}), ('c', {'agent': 'sac'})):
        run = make_run(tmp_path / name, seed=0 if name == 'a' else 1)
        config = json.loads((run / 'config.json').read_text())
        (run / 'config.json').write_text(json.dumps({**config, **changes}))
    ppo, sac = report.aggregate(rows_of(tmp_path))
    assert (ppo['n'], ppo['flags']) == (2, '--agent=ppo')
    assert (sac['n'], sac['flags']) == (1, '--agent=sac')


def test_one_path_with_another_content_is_another_line(tmp_path):
    for seed, digest in enumerate(('a' * 64, 'a' * 64, 'b' * 64)):
        make_run(tmp_path / str(seed), seed=seed, environment={'files': {'model': digest}})
    same, other = report.aggregate(rows_of(tmp_path))
    assert (same['n'], other['n']) == (2, 1)
    assert other['flags'] == '--model=resnet8 (bbbbbbbb)'


def as_of_old(run):
    """Turns a run folder into one of the time of --target and --budget_ratio."""
    config = json.loads((run / 'config.json').read_text())
    for name in TARGETS:
        del config[name]
    config |= {'target': 'macs', 'budget_ratio': 0.5}
    (run / 'config.json').write_text(json.dumps(config))
    content = json.loads((run / 'report.json').read_text())
    row, = content.pop('budgets')
    content |= {'target': row['target'], 'budget_ratio': row['asked'], 'cost': row['cost'],
                'budget_limit': row['limit'], 'dense_cost': row['dense']}
    (run / 'report.json').write_text(json.dumps(content))
    return content


def test_runs_of_old_are_read(tmp_path):
    assert report.format_table(as_of_old(make_run(tmp_path / 'a'))) == (
        report.format_table(make_report()))
    make_run(tmp_path / 'b', seed=1)
    assert 'macs at most 2,000 (0.5 of dense 4,000)' in html_of(tmp_path / 'a')
    rows = rows_of(tmp_path)
    assert rows[0]['budgets'] == rows[1]['budgets']
    line, = report.aggregate(rows)  # one configuration
    assert (line['n'], line['budgets'], line['flags']) == (2, {'macs': 0.5}, '')
    # A rows file written then had these in place of `budgets`.
    del rows[0]['budgets']
    rows[0] |= {'target': 'macs', 'budget_ratio': 0.5, 'budget_limit': 2000, 'cost': 1990}
    assert report.aggregate(rows) == [line]
    assert line_of(report.format_summary(rows), 'rlal')[3] == 'macs 50%'


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
    assert plot_summary(['a'], report.aggregate(rows_of(runs))[:1]).startswith('<svg')


def script(*arguments):
    """Runs scripts/report.py."""
    return subprocess.run([sys.executable, ROOT / 'scripts' / 'report.py', *map(str, arguments)],
                          capture_output=True, text=True, check=False)


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
    assert content['table'][1]['accuracy_sd'] is None and len(content['runs']) == 5
    assert 'uniform_s1' in (out / 'all.html').read_text()


@pytest.mark.parametrize('arguments, message', [
    (['nowhere/x_s*'], "no run folder matches 'nowhere/x_s*'."), ([], 'there are no runs'),
    (['--rows=nowhere.jsonl'], 'nowhere.jsonl')])
def test_script_errors_are_one_line(arguments, message):
    done = script(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and done.stderr.count('\n') == 1
