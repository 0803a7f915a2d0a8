"""Tables of pages are those of their rows files."""
import pathlib
import subprocess
import sys

import pytest
from made_up_runs import make_run

from tfprune import report
from tfprune.runs.config import completed

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {'README': 21, 'EARLIER': 5}  # tables of each


def read(path):
    return [completed(row) for row in report.read_rows_file(path)]


@pytest.mark.parametrize('name', PAGES)
def test_a_page_of_results_is_that_of_the_committed_rows(name):
    """python scripts/report.py --tables=flags/README.md, and likewise EARLIER.md"""
    page = ROOT / f'flags/{name}.md'
    text = page.read_text()
    assert text.count('\n<!-- table: ') == PAGES[name]
    assert report.remade(page, read, report.comparison_of_page) == text


def test_only_what_is_between_markers_is_made_anew(tmp_path):
    for name in ('a', 'b'):
        make_run(tmp_path / name, 'dense' if name == 'a' else 'uniform')
        report.write_rows_file(tmp_path / f'{name}.jsonl', [report.run_row(tmp_path / name)])
    page = tmp_path / 'page.md'
    page.write_text('One.\n<!-- table: a.jsonl b.jsonl -->\nold\n<!-- end -->\nTwo \\1.\n'
                    '<!-- table: b.jsonl -->\n<!-- end -->\n')
    done = subprocess.run([sys.executable, ROOT / 'scripts/report.py', f'--tables={page}'],
                          capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, '')
    text = page.read_text()
    first, second = text.split('\nTwo \\1.\n')
    assert first.startswith('One.\n<!-- table: a.jsonl b.jsonl -->\n| method')
    assert '| dense ' in first and '| uniform ' in first and 'old' not in first
    assert '| dense ' not in second and second.endswith('|\n<!-- end -->\n')
    assert report.remade(page, read, report.comparison_of_page) == text


@pytest.mark.parametrize('text, found', [
    ('no table\n', 'received 0, of which 0'),
    ('<!-- table: a.jsonl -->\n', 'received 1, of which 0'),
    ('<!-- table: a.jsonl -->\n<!-- table: a.jsonl -->\n<!-- end -->\n', 'received 2, of which 1')])
def test_a_marker_without_an_end_is_refused(tmp_path, text, found):
    page = tmp_path / 'page.md'
    page.write_text(text)
    with pytest.raises(ValueError, match=f'page.md: expected lines "<!-- table: .* {found}'):
        report.remade(page, read, report.comparison_of_page)


def test_a_file_that_is_not_there_is_named(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('<!-- table: nowhere.jsonl -->\n<!-- end -->\n')
    with pytest.raises(FileNotFoundError, match='nowhere.jsonl'):
        report.remade(page, read, report.comparison_of_page)
