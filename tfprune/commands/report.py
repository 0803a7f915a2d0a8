r"""Runs together: one line a configuration, mean and standard deviation over seeds.

tfprune report 'runs/rlal_s*' 'runs/uniform_s*' --format=markdown --out=rows.jsonl
tfprune report --rows=rows.jsonl
tfprune report --tables=flags/README.md

Run folders or quoted patterns of them; unfinished ones are listed as such. --tables makes the
tables of a page anew, of the rows files that it names; see tfprune/report/pages_of_tables.py.
"""
import glob
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfprune import command_line
from tfprune.files import write_text
from tfprune.runs.config import completed

FORMAT = flags.DEFINE_string('format', 'text', 'text or markdown.')
ROWS = flags.DEFINE_multi_string('rows', [], 'Reads runs from a file that --out wrote; given '
                                 'again, of another one, too.')
TABLES = flags.DEFINE_string('tables', None, 'A page whose tables are made anew; nothing else is.')
OUT = command_line.define_output('out', 'Also writes the runs to this file, a JSON line each.')
JSON = command_line.define_output('json', 'Also writes the table and the runs to this JSON file.')
HTML = command_line.define_output('html', 'Also writes the table to this HTML file.')


def main(patterns: Sequence[str]) -> None:
    from tfprune import report  # not above: --help needs no Matplotlib
    if TABLES.value:
        page = pathlib.Path(TABLES.value)
        write_text(page, report.remade(page, read_rows, report.comparison_of_page))
        return
    rows = [row for path in ROWS.value for row in read_rows(path)]
    rows += [completed(report.run_row(path)) for path in run_folders(patterns)]
    print(report.format_summary(rows, FORMAT.value))
    if OUT.value:
        report.write_rows_file(OUT.value, rows)
    if JSON.value:
        table = [_without_nan(line) for line in report.aggregate(rows)]
        write_text(pathlib.Path(JSON.value),
                   json.dumps({'table': table, 'runs': rows}, indent=1) + '\n')
    if HTML.value:
        write_text(pathlib.Path(HTML.value), report.summary_html(rows))


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a file, as runs of today say them."""
    from tfprune import report
    return [completed(row) for row in report.read_rows_file(path)]


def run_folders(patterns: Sequence[str]) -> list[pathlib.Path]:
    """Folders that match, each once, in the order of the patterns.

    ValueError for a pattern without a match.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for pattern in patterns:
        paths = [pathlib.Path(name) for name in sorted(glob.glob(pattern))]
        folders = [path for path in paths if path.is_dir()]
        if not folders:
            raise ValueError(f'no run folder matches {pattern!r}.')
        for path in folders:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
