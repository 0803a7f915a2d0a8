"""Tables and pages of comparisons from rows made by hand, whose every number is known."""
import json
import math
import re

import pytest

from made_up_runs import AGENT, PRUNED, Page, line_of, make_report, make_run
from tfprune import report
from tfprune.report import reading, table
from tfprune.report.judgment import verdicts
from tfprune.report.pairs import against
from tfprune.runs.config import completed

ACCURACY = {('rlal', 0): 0.95, ('rlal', 1): 0.93, ('rlal', 2): 0.94,
            ('uniform', 0): 0.93, ('uniform', 1): 0.92, ('uniform', 2): 0.91,
            ('random', 0): 0.96, ('random', 1): 0.92, ('random', 2): 0.94,
            ('dense', 0): 0.97, ('dense', 1): 0.98, ('dense', 2): 0.99}


def cell_rows(folder, accuracy=ACCURACY, budget=0.5, flags=(), **changes):
    """Rows of a comparison: a run folder each, read; `flags`, {method: {flag: value}}."""
    rows = []
    for (method, seed), value in accuracy.items():
        pruned = {**PRUNED, 'macs': 4000 if method == 'dense' else int(4000 * budget) - 10 + seed,
                  'test_accuracy': value}
        budgets = [{'target': 'macs', 'asked': budget, 'limit': 4000 * budget, 'dense': 4000,
                    'cost': pruned['macs']}]
        run = make_run(folder / method / f'macs{budget}' / f's{seed}', method, seed, **{
            'pruned': pruned, 'budgets': budgets, **changes})
        config = json.loads((run / 'config.json').read_text()) | {'macs': budget}
        (run / 'config.json').write_text(json.dumps(config | dict(flags).get(method, {})))
        rows += [{**row, 'cell': method} for row in report.run_rows(run)]
    return rows


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    return cell_rows(tmp_path_factory.mktemp('runs'))


def first_table(text):
    return text.split('\n\n')[1]


def line(rows, label):
    found, = [line for line in report.aggregate(rows) if line['label'] == label]
    return found


def test_against_is_paired_by_seed(rows):
    lines = report.aggregate(rows)
    pair = against(line(rows, 'rlal'), 'uniform', lines)
    # 0.02, 0.01, 0.03: mean 0.02, sd 0.01, standard error 0.01 / sqrt(3), t(2) = 4.303
    assert (pair.mean, pair.pairs) == (pytest.approx(0.02), 3)
    assert pair.half_width == pytest.approx(4.303 * 0.01 / math.sqrt(3), 1e-3)
    assert math.isnan(against(line(rows, 'dense'), 'uniform', lines).mean)
    assert math.isnan(against(line(rows, 'uniform'), 'uniform', lines).mean)
    # Of another budget there is no control; without seed 2 of it two pairs are left.
    rlal = line(rows, 'rlal')
    other = dict(rlal, budgets={'macs': 0.3}, configuration=rlal['configuration'] | {'macs': 0.3})
    assert math.isnan(against(other, 'uniform', lines).mean)
    fewer = [row for row in rows if (row['cell'], row['seed']) != ('uniform', 2)]
    pair = against(line(fewer, 'rlal'), 'uniform', report.aggregate(fewer))
    assert (pair.mean, pair.pairs) == (pytest.approx(0.015), 2)


def test_what_is_shown_exceeds_what_the_test_images_alone_give(tmp_path):
    """Differences of 0.020, 0.020, 0.021: a narrow interval over seeds, on few images."""
    accuracy = {('rlal', 0): 0.950, ('rlal', 1): 0.940, ('rlal', 2): 0.931,
                ('uniform', 0): 0.93, ('uniform', 1): 0.92, ('uniform', 2): 0.91}
    rows = cell_rows(tmp_path, accuracy)
    said = ' uniform, by 95% intervals over 3 seeds: rlal +2.03 ± 0.14 points.'
    # 1.96 · √(Σ p(1 - p)) / 3 = 0.4073, and 0.02033 · √401.4 is as much.
    for images, text in ((401, 'Not shown to beat'), (402, 'Shown to beat'),
                         (None, 'Not shown to beat')):
        lines = report.aggregate([{**row, 'test_images': images} for row in rows])
        assert verdicts(lines) == [text + said]


def test_verdicts_say_who_fails(rows, tmp_path):
    # 0.02 is 3.5 standard errors above uniform, t(2) is 4.3; against random -0.01, 0.01, 0: mean 0.
    assert verdicts(report.aggregate(rows)) == [
        f'Not shown to beat {name}, by 95% intervals over 3 seeds: rlal {difference} points.'
        for name, difference in (('uniform', '+2.00 ± 2.48'), ('random', '+0.00 ± 2.48'))]
    first = [row for row in rows if row['seed'] < 2]
    assert verdicts(report.aggregate(first))[0] == (
        'Too few seeds to judge against uniform (2 seeds): rlal +1.50 ± 6.35 points.')
    alone = [row for row in rows if row['seed'] < 1]
    assert verdicts(report.aggregate(alone))[0] == (
        'Too few seeds to judge against uniform (1 seed): rlal +2.00 points.')
    # The same three differences once more: 5.5 standard errors, t(5) is 2.6.
    twice = {(method, seed + 3 * k): value for (method, seed), value in ACCURACY.items()
             for k in (0, 1)}
    assert verdicts(report.aggregate(cell_rows(tmp_path, twice)))[0] == (
        'Shown to beat uniform, by 95% intervals over 6 seeds: rlal +2.00 ± 0.94 points.')


def test_an_agent_without_a_control_is_not_judged(rows):
    rlal = [row for row in rows if row['cell'] in ('rlal', 'dense')]
    assert verdicts(report.aggregate(rlal)) == [
        'Not judged, without a control of the same budget, epochs and weights: rlal.']


def test_a_control_differs_by_its_method_alone(tmp_path):
    """The first uniform has trained longer, the second began with other weights."""
    rows = []
    for number, (accuracy, flags) in enumerate((
            (0.99, {'fine_tune_epochs': 40}), (0.98, {'initial_weights': 'other.npz'}),
            (0.90, {'random_epochs': 2, 'joint_epochs': 2}))):
        rows += cell_rows(tmp_path / str(number), {('uniform', 0): accuracy},
                          flags={'uniform': flags})
    rlal = cell_rows(tmp_path, {('rlal', 0): 0.95})
    lines = report.aggregate(rows + rlal)
    assert against(lines[3], 'uniform', lines).mean == pytest.approx(0.05)
    assert against(lines[3], 'uniform', [*lines[:2], lines[3]]).pairs == 0
    # A flag younger than the control had its default.
    del rows[2]['configuration']['frozen']
    rows[2] = completed(rows[2])
    lines = report.aggregate(rows + rlal)
    assert against(lines[3], 'uniform', lines).pairs == 1


def test_lines_stand_by_model_and_budget(tmp_path):
    scores = {('uniform', 0): 0.9, ('rlal', 0): 0.9}
    rows = [row for model in ('resnet20', 'resnet8') for budget in (0.7, 0.3)
            for row in cell_rows(tmp_path / model / str(budget), scores, budget, {
                method: {'model': model} for method in ('uniform', 'rlal')})]
    rows += cell_rows(tmp_path, {('dense', 0): 0.95}, flags={'dense': {'model': 'resnet20'}})
    _, _, *lines = first_table(report.format_comparison(rows)).splitlines()
    assert [tuple(re.split(r'\s{2,}', line)[:3]) for line in lines] == [
        ('dense', '–', 'resnet20'), *(
            (method, f'macs {budget}%', model) for model in ('resnet20', 'resnet8')
            for budget in (30, 70) for method in ('uniform', 'rlal'))]


def test_table(rows):
    text = report.format_comparison(rows)
    assert line_of(first_table(text), 'rlal') == [
        'rlal', '1,992', '49.80%', '300', '3', '94.00 ± 1.00', '+2.00 ± 2.48', '97.50 ± 0.00',
        '10', '0', '1.7 min']
    assert line_of(text, 'dense')[1:3] == ['4,000', '100.00%']
    assert line_of(text, 'dense')[6:8] == ['–', '–']
    assert line_of(text.split('\n\n')[2], 'rlal') == ['rlal', '+0.00 ± 2.48']
    marked = report.format_comparison(rows, 'markdown').splitlines()
    assert marked[0] == 'Methods compared: resnet8 on digits (12 runs, budget: macs 50%)'
    assert [cell.strip() for cell in marked[2].split('|')][1:4] == ['method', 'MACs', 'of dense']
    fewer = [row for row in rows if (row['cell'], row['seed']) != ('uniform', 2)]
    cells = line_of(first_table(report.format_comparison(fewer)), 'rlal')
    assert cells[6] == '+1.50 ± 6.35 (2 seeds)'
    with pytest.raises(ValueError, match="Unknown format 'latex'. Available: markdown, text"):
        report.format_comparison(rows, 'latex')
    with pytest.raises(ValueError, match='no runs'):
        report.format_comparison([])


def test_two_cells_of_one_method_are_two_lines(tmp_path, rows):
    sac = [{**row, 'cell': 'rlal_sac'} for row in rows if row['cell'] == 'rlal']
    lines = report.aggregate(rows + sac)
    assert [line['label'] for line in lines] == ['rlal', 'uniform', 'random', 'dense', 'rlal_sac']
    assert not any(line['flags'] for line in lines)
    report.write_rows_file(tmp_path / 'rows.jsonl', rows + sac)
    assert report.aggregate(report.read_rows_file(tmp_path / 'rows.jsonl')) == lines


def test_agents_against_random_actions(rows):
    # Each seed's difference is 0.95 - 0.93.
    assert line_of(report.format_comparison(rows).split('policy', 1)[1], 'rlal') == [
        'rlal', 'macs 50%', '3', '0.9500', '0.9300', '+0.0200 ± 0.0000']


def test_failed_runs_are_named(rows):
    failed = {'run': 'crl/macs0.5/s0', 'cell': 'crl', 'finished': False, 'configuration': {},
              'seed': 0, 'method': 'crl', 'model': 'resnet8', 'dataset': 'digits', 'epochs': None,
              'error': 'train.py: error: no'}
    text = report.format_comparison([*rows, failed])
    assert ('unfinished: crl/macs0.5/s0 (crl, resnet8 on digits, seed 0): 0 of ? epochs. It failed:'
            ' train.py: error: no') in text
    assert 'crl' not in [line['label'] for line in report.aggregate([*rows, failed])]
    only = report.format_comparison([failed])
    assert 'It failed' in only and 'method' not in only


def test_page(tmp_path, rows):
    """One budget, then two; a removed group; no network."""
    page = Page(report.comparison_html(rows))
    titles = ['Methods', 'Against the other controls', 'Test accuracy', 'Accuracy against MACs',
              'Widths', 'Epochs',
              'Agents against random actions']
    assert page.headings == titles and page.tags.count('svg') == 4
    gone = [{'name': 'stage1/conv<1>', 'dense_width': 16, 'width': 0},
            {'name': 'stage2/conv1', 'dense_width': 32, 'width': 20}]
    more = cell_rows(tmp_path, {('rlal', 0): 0.9, ('rlal', 1): 0.91}, budget=0.3, groups=gone,
                     removed_blocks=['stage1'])
    text = report.comparison_html(rows + more)
    page = Page(text)
    assert page.headings == titles
    ids = [value for name, value in page.attributes if name == 'id']
    assert len(ids) == len(set(ids))
    assert '>gone<' in text and 'rlal, macs 30%' in text
    assert 'script' not in page.tags and not re.search(r'https?:|\burl\((?!#)', text)


def test_zeros_are_told_from_channels(tmp_path):
    """Single weights that are zero shrink nothing: said below the table, not in it."""
    run = make_run(tmp_path / 'a', 'dense', sparsity={'zeros': 300, 'kernel_weights': 400})
    text = report.format_comparison([{**report.run_row(run), 'cell': 'purl_weights'}])
    assert 'purl_weights: 75.0% of the kernel weights are zero, which leaves MACs' in text
    assert line_of(first_table(text), 'purl_weights')[1:4] == ['4,000', '100.00%', '300']


def test_page_of_unfinished_runs_alone(tmp_path):
    run = make_run(tmp_path / 'a', finished=False)
    text = report.comparison_html([{**report.run_row(run), 'cell': 'rlal'}])
    assert 'unfinished: a' in text and not Page(text).headings


def test_runs_of_other_budgets_have_rows(tmp_path):
    """What one search gave for several ratios lies in the run's folder."""
    make_run(tmp_path / 's0')
    for ratio in ('0.3', '0.7'):
        make_run(tmp_path / 's0/ratios' / ratio)
    assert [row['run'] for row in report.run_rows(tmp_path / 's0')] == [
        's0', 's0/ratios/0.3', 's0/ratios/0.7']


@pytest.mark.parametrize('changes, said, total', [
    # Of old, without pretraining and search_equivalents.
    ({}, 'Epochs: 6 before surgery + 4 fine-tuning = 10.', 10),
    ({'epochs': {'pretraining': 200, 'search': 4, 'search_equivalents': 1.25, 'fine_tune': 3,
                 'total': 7}},
     'Epochs: 200 pretraining + 4 before surgery + 1.25 search by its passes + 3 fine-tuning = '
     '208.2.', 208.25),
    ({'method': 'scratch'}, 'Epochs: 10 training = 10.', 10)])
def test_account(changes, said, total):
    run = make_report(**changes)
    assert reading.epoch_account(run)['total'] == total
    assert table.account_sentence(run) == said
    assert said in ' '.join(report.format_table(run).split())


@pytest.mark.parametrize('spent, charged, said', [
    (4.6, True, 'the search cost 4.6 epochs, fine-tuning had 4: none was left, and its total is '
     'above that of the others.'),
    (4.4, True, 'the search cost 4.4 epochs, fine-tuning had 4: none was left, and its total is '
     'above that of the others.'),
    (4.0, True, 'the search cost 4 epochs, fine-tuning had 4: none was left.'), (3.6, True, None),
    (3.4, True, None), (4.6, False, None)])
def test_searches_that_cost_all_of_fine_tuning_are_named(tmp_path, spent, charged, said):
    left = max(0, 4 - spent) if charged else 4
    rows = cell_rows(tmp_path, {('n2n', 1): 0.9}, flags={'n2n': {'charge_search': charged}},
                     epochs={'pretraining': 0, 'search': 6, 'search_equivalents': spent,
                             'fine_tune': left, 'total': 6 + left})
    text = report.format_comparison(rows)
    notes = [note for note in text.splitlines() if 'none was left' in note]
    assert notes == ([f's1: {said}'] if said else [])
    assert all(note in report.comparison_html(rows) for note in notes)


def test_account_of_a_row(tmp_path):
    run = make_run(tmp_path / 'a', epochs={'pretraining': 200, 'search': 4, 'fine_tune': 3,
                                           'search_equivalents': 1.25, 'distillation': 1.0,
                                           'total': 7})
    row = report.run_row(run)
    assert row['account'] == {'pretraining': 200, 'search': 4, 'search_equivalents': 1.25,
                              'fine_tune': 3, 'distillation': 1.0, 'total': 209.25}
    assert row['widths'] == {'stage1/conv<1>': [7, 16], 'stage2/conv1': [32, 32]}
    assert row['agent'] == AGENT
    cells = line_of(first_table(report.format_comparison([{**row, 'cell': 'a_cell'}])), 'a_cell')
    assert cells[-3:] == ['209.2', '1.2', '1.7 min']
