"""A latency table measured on another device, by TensorFlow Lite's public benchmark_model.

`write_probes` writes a small .tflite file for each time that the table needs. Each is run on the
device with --enable_op_profiling=true --profiling_output_csv_file=NAME.csv, and `import_profiles`
reads the CSV files. How they look: tensorflow/core/util/stats_calculator.cc.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Callable

import keras

from tfprune.config import MILLISECONDS
from tfprune.export.tflite import FLOAT32
from tfprune.files import read_json, write_text
from tfprune.latency.build import add_model, points
from tfprune.latency.table import LatencyTable

INDEX, TABLE = 'points.json', 'unmeasured_table.json'
_INDEX_SHAPE = [{'signature': str, 'row': int, 'column': int, 'factor': float}]
_RUNS = 'Operator-wise Profiling Info for Regular Benchmark Runs'
_RULE = re.compile(r'^=+ (.*?) =+$')
_NUMBER = r'-?(?:\d[\d.]*(?:e[-+]?\d+)?|nan|inf)'


def write_probes(model: keras.Model, folder: str | os.PathLike[str], *, form: str = FLOAT32,
                 to_tflite: Callable[[keras.Model], bytes] | None = None) -> int:
    """Writes NNNNN.tflite for each time to measure, and an index; returns how many.

    form, to_tflite: see `build.build`. FileExistsError unless `folder` is new or empty.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f'{folder}: expected a new or empty folder for the files to measure')
    table = LatencyTable({'machine': None, 'form': form})
    wanted = points(table, add_model(table, model, to_tflite=to_tflite))
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, point in enumerate(wanted):
        (folder / f'{number:05d}.tflite').write_bytes(point.content())
        rows.append({'signature': point.step.signature, 'row': point.row, 'column': point.column,
                     'factor': point.factor / point.copies})
    table.save(folder / TABLE)
    write_text(folder / INDEX, json.dumps(rows) + '\n')
    return len(wanted)


def import_profiles(folder: str | os.PathLike[str], *, machine: str, threads: int = 1
                    ) -> LatencyTable:
    """The table of the CSV files NNNNN.csv that `machine` made of the files of `write_probes`.

    Args:
        machine: what the device is called in the report.
        threads: as given to benchmark_model by --num_threads.

    FileNotFoundError if the folder or a profile is missing, ValueError for what is no profile.
    """
    folder = pathlib.Path(folder)
    rows = read_json(folder / INDEX, _INDEX_SHAPE)
    if rows is None:
        raise FileNotFoundError(f'{folder}: no {INDEX}: expected a folder of files to measure, '
                                'with a .csv file for each')
    missing = [number for number in range(len(rows))
               if not (folder / f'{number:05d}.csv').is_file()]
    if missing:
        raise FileNotFoundError(f'{folder}: {len(missing)} of {len(rows)} profiles are missing, '
                                f'the first is {missing[0]:05d}.csv')
    table = LatencyTable.load(folder / TABLE)
    table.about = {'machine': machine, 'runtime': 'benchmark_model', 'threads': threads,
                   'form': table.form}
    for number, row in enumerate(rows):
        path = folder / f'{number:05d}.csv'
        total = profiled_ms(path.read_text(encoding='utf-8', errors='replace'), str(path))
        try:
            times = table.surfaces[row['signature']].ms[row['row']]
            times[row['column']] = [total * row['factor']]
        except LookupError:
            raise ValueError(f'{folder / INDEX}: {path.name} is of {row}, which {TABLE} does not '
                             'have') from None
    table.call_ms = [0.0]  # a profile has operators only
    return table


def profiled_ms(text: str, name: str = 'profile') -> float:
    """Milliseconds of all operators of the model in one inference, of a benchmark_model CSV file.

    A delegate counts as what it takes in the model; its own operators, listed after it, do not
    count again. ValueError if the text has no such section.
    """
    lines = iter(text.splitlines())
    if not any(line.startswith(_RUNS) for line in lines):
        raise ValueError(f'{name}: not a profile: expected the CSV file of benchmark_model '
                         f'--enable_op_profiling=true, with "{_RUNS}"')
    total, rows, title, columns = 0.0, 0, '', None
    for line in lines:
        rule = _RULE.match(line.strip())
        if rule:
            title, columns = rule.group(1), None
            if rows:
                break
        elif title == 'Run Order' and line.startswith('node type'):
            columns = [column.strip() for column in line.split(',')]
        elif columns and line.strip():
            numbers = ''.join(rf', ({_NUMBER})%?' for _ in columns[1:-1])
            found = re.match(rf'^(.*?){numbers}, ?(.*)$', line)
            if not found:
                raise ValueError(f'{name}: not a row of a profile: {line[:80]!r}')
            values = dict(zip(columns, found.groups()))
            taken = float(values['avg_ms']) * float(values['times called'])
            if not 0 <= taken <= MILLISECONDS.high:
                raise ValueError(f'{name}: not a time: {line[:80]!r}')
            total += taken
            rows += 1
    if not rows:
        raise ValueError(f'{name}: a profile without operators')
    return total
