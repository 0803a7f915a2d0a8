"""The report's tables and plots of answers by class."""
import dataclasses

import numpy as np
import pytest
from made_up_runs import make_run

from tfprune import report
from tfprune.report.answers import (changes_sentence, class_rows, confusions, plot_changed,
                                    plot_confusion)
from tfprune.report.reading import read_run

ANSWERS = {
    'classes': [{'images': 10, 'before': 9, 'after': 8}, {'images': 20, 'before': 10, 'after': 15},
                {'images': 5, 'before': 5, 'after': 3}, {'images': 0, 'before': 0, 'after': 0}],
    'confusion': [[8, 2, 0, 0], [5, 15, 0, 0], [1, 1, 3, 0], [0, 0, 0, 0]],
    'changed': [{'index': 3, 'label': 0, 'before': 0, 'after': 1}]}


@pytest.fixture
def run(tmp_path):
    read = read_run(make_run(tmp_path / 'run', class_names=['cat', 'dog', 'a<b', 'none']))
    return dataclasses.replace(read, answers=ANSWERS, pictures=np.zeros((1, 4, 4, 1), np.uint8))


def test_classes_stand_in_the_order_of_what_they_lose(run):
    header, *rows = class_rows(run)
    assert header == ('class', 'test images', 'before surgery', 'pruned', 'difference, points')
    assert rows == [('a<b', '5', '100.0%', '60.0%', '-40.0'),
                    ('cat', '10', '90.0%', '80.0%', '-10.0'),
                    ('dog', '20', '50.0%', '75.0%', '+25.0')]
    assert confusions(run) == ['dog as cat: 5', 'cat as dog: 2', 'a<b as cat: 1', 'a<b as dog: 1']
    assert '35 test images 24 were' in changes_sentence(run) and '26 after' in changes_sentence(run)


def test_without_a_model_before(run):
    alone = [row | {'before': None} for row in ANSWERS['classes']]
    run = dataclasses.replace(run, answers={'classes': alone, 'confusion': None, 'changed': []},
                              pictures=None)
    assert class_rows(run)[:2] == [('class', 'test images', 'pruned'), ('cat', '10', '80.0%')]
    assert confusions(run) == [] and changes_sentence(run) == ''
    assert plot_confusion(run) is None and plot_changed(run) is None


def test_the_page_has_them_escaped(run, tmp_path):
    from tfprune.report.html import render
    page = render(run)
    assert 'a&lt;b' in page and 'a<b' not in page
    assert 'data:image/png' in page and len(plot_confusion(run).axes[0].texts) == 7


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 7])
def test_pictures_of_any_number_of_channels_are_drawn(run, channels):
    pictures = np.full((1, 5, 4, channels), 200, np.uint8)
    axes, = plot_changed(dataclasses.replace(run, pictures=pictures)).axes
    assert axes.images[0].get_array().shape == ((5, 4, 3) if channels == 3 else (5, 4))


def test_a_damaged_file_of_pictures_is_named(tmp_path):
    folder = make_run(tmp_path / 'run')
    (folder / 'changed.npz').write_bytes(b'no archive')
    with pytest.raises(ValueError, match='changed.npz is damaged'):
        report.write_html(folder)
