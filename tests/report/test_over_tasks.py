"""Comparisons over several tasks, and of right answers: rows whose every number is known."""
import numpy as np
import pytest
from made_up_runs import PRUNED, REGRESSION, line_of, make_run, task_changes

from tfprune import report
from tfprune.report.judgment import pair_notes
from tfprune.report.over_tasks import task_cells
from tfprune.report.right_answers import packed

# Of rlal and of uniform, by budget and seed.
ACCURACY = {(0.3, 0): (0.8, 0.8), (0.3, 1): (0.9, 0.8),
            (0.5, 0): (0.99, 0.9), (0.5, 1): (0.81, 0.9)}
LABELS = np.arange(40) % 10


def rows_of(folder, scores=ACCURACY, task=None):
    """A row a method, budget and seed; of another model where a task is given."""
    rows, model = [], 'regressor' if task else 'resnet8'
    for (budget, seed), pair in scores.items():
        for method, value in zip(('rlal', 'uniform'), pair):
            row = report.run_row(make_run(
                folder / method / str(budget) / str(seed), method, seed,
                **(task_changes(task, 1.0, value) if task else
                   {'pruned': {**PRUNED, 'test_accuracy': value}})))
            row['configuration'] |= {'macs': budget, 'model': model}
            rows.append({**row, 'model': model})
    return rows


def table_after(text, header):
    """The table whose header starts so."""
    found, = [part for part in text.split('\n\n') if part.splitlines()[0].startswith(header)]
    return found


def test_over_two_budgets(tmp_path):
    """Shares of uniform's mean: 1, 1.125, 1.1, 0.9; without the lowest and the highest 1.05. At 30%
    0.8 is no better than 0.8 and 0.9 is, at 50% one of two is: (0.75 + 0.5) / 2."""
    rows = rows_of(tmp_path)
    header, cells = task_cells(report.aggregate(rows))
    assert header == ['method', 'tasks', 'runs', 'IQM, % of uniform', 'P(better than uniform)']
    assert cells[:3] == ['rlal', '2', '4']
    assert cells[3].startswith('105.00 [9') and cells[4].startswith('0.62 [0.')
    for text in (report.format_comparison(rows), report.format_summary(rows)):
        assert line_of(table_after(text, 'method   tasks'), 'rlal')[:3] == ['rlal', '2', '4']
        assert 'Over tasks, which are models, data and budgets with runs of uniform' in text


def test_one_task_is_none(tmp_path):
    rows = [row for row in rows_of(tmp_path) if row['configuration']['macs'] == 0.3]
    assert task_cells(report.aggregate(rows)) == []
    assert 'Over tasks' not in report.format_comparison(rows)


def test_errors_beside_accuracies_and_one_seed(tmp_path):
    """Of the error the inverse share counts, 0.4 / 0.32; a task with one seed: no interval."""
    rows = [*rows_of(tmp_path / 'a'),
            *rows_of(tmp_path / 'b', {(0.5, 0): (0.32, 0.4)}, task=REGRESSION)]
    _, cells = task_cells(report.aggregate(rows))
    # 0.9, 1, 1.1, 1.125, 1.25 without the first and the last; (0.75 + 0.5 + 1) / 3
    assert cells == ['rlal', '3', '5', '107.50', '0.75']
    below = [*rows_of(tmp_path / 'c'),
             *rows_of(tmp_path / 'd', {(0.5, 0): (-0.2, 0.1)}, task=REGRESSION)]
    assert task_cells(report.aggregate(below))[1][3:] == ['–', '0.75']


def with_bits(rows, wrong):
    """Rows that say which of 40 images are right: all but those of `wrong`."""
    found = []
    for row in rows:
        answers = LABELS.copy()
        answers[wrong[row['method']]] += 1
        found.append({**row, 'right': packed(None, answers, LABELS), 'test_images': 40})
    return found


def test_right_answers_are_compared_seed_by_seed(tmp_path):
    """Five images that uniform alone answers right against one: p = 14/64."""
    rows = [row for row in rows_of(tmp_path) if row['configuration']['macs'] == 0.5]
    rows = with_bits(rows, {'rlal': [0, 1, 2, 3, 4, 10], 'uniform': [10, 20]})
    lines = report.aggregate(rows)
    text = report.format_comparison(rows)
    assert line_of(table_after(text, 'right alone : uniform alone'), 'rlal') == [
        'rlal', '1 : 5, p 0.22', '1 : 5, p 0.22']
    assert "McNemar's exact test; seeds share their test images" in text
    assert any('McNemar' in note for note in pair_notes(lines))
    # Other labels, or an order of their own: these are not the same images.
    rows[1]['right'] = packed(None, LABELS[::-1], LABELS[::-1])
    assert line_of(report.format_summary(rows), 'right alone :') == [
        'right alone : uniform alone', 'seed 1']
    assert 'McNemar' not in report.format_summary([
        {name: value for name, value in row.items() if name != 'right'} for row in rows])


def test_bits_of_another_number_of_images_are_named(tmp_path):
    rows = with_bits(rows_of(tmp_path), {'rlal': [0], 'uniform': [1]})
    with pytest.raises(ValueError, match='right answers to 1900 examples take 238 bytes'):
        report.format_comparison([{**row, 'test_images': 1900} for row in rows])
