"""A bit a test example: by hand, there and back, and what is no such text."""
import base64
import json

import numpy as np
import pytest
from made_up_runs import make_run

from tfprune import report
from tfprune.report.right_answers import packed, unpacked


def test_bits_by_hand():
    labels = np.array([1, 0, 2, 2, 1, 0, 0, 1, 2, 2])
    after = labels.copy()
    after[[1, 9]] += 1
    right = packed(None, after, labels)
    # 1011 1111 10 and six bits of nothing
    assert base64.b64decode(right['after']) == bytes([0b10111111, 0b10000000])
    assert right['before'] is None
    assert right['labels'] == packed(None, labels, labels)['labels']
    assert right['labels'] != packed(None, after, labels[::-1])['labels']


@pytest.mark.parametrize('number', [0, 1, 8, 9, 10_000])
def test_there_and_back(number):
    rng = np.random.default_rng(0)
    labels, before, after = rng.integers(3, size=(3, number))
    right = packed(before, after, labels)
    np.testing.assert_array_equal(unpacked(right, number, 'before'), before == labels)
    np.testing.assert_array_equal(unpacked(right, number), after == labels)
    assert len(right['after']) <= 1668  # 1,250 bytes of 10,000 examples


def test_another_text_is_refused():
    right = packed(None, np.zeros(9, int), np.zeros(9, int))
    with pytest.raises(ValueError, match='to 17 examples take 3 bytes, received 2'):
        unpacked(right, 17)
    with pytest.raises(ValueError, match='not base64'):
        unpacked({'after': '#'}, 9)


def test_rows_have_them_where_the_run_has(tmp_path):
    folder = make_run(tmp_path / 'run')
    assert 'right' not in report.run_row(folder)
    answers = {'classes': [], 'confusion': None, 'changed': []}
    for more in ({}, {'right': packed(None, np.zeros(9, int), np.zeros(9, int))}):
        (folder / 'answers.json').write_text(json.dumps(answers | more))
        rows = [report.run_row(folder)]
        assert rows[0].get('right') == more.get('right')
        report.write_rows_file(tmp_path / 'rows.jsonl', rows)
        assert report.read_rows_file(tmp_path / 'rows.jsonl') == rows
