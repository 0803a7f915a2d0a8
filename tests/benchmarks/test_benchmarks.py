"""The benchmark of artifacts on two tiny files; the latency table from the command line."""
import json
import pathlib
import shutil
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import pytest

from tfprune.benchmarks import SUITES, artifacts, latency_table
from tfprune.export.tflite import convert

L = keras.layers


def small(channels):
    inputs = keras.Input((24, 24, 3))
    x = L.Conv2D(channels, 3, activation='relu')(inputs)
    x = L.Conv2D(channels, 3, activation='relu')(x)
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x)))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    for name, channels in (('dense', 48), ('pruned', 8)):
        (folder / f'{name}.tflite').write_bytes(convert(small(channels)))
    return [str(folder / name) for name in ('dense.tflite', 'pruned.tflite')]


@pytest.fixture(scope='module')
def measured(files):
    rows = list(artifacts.rows(artifacts=files, artifact_threads=['1', '2'], rounds=5,
                               repetitions=5, memory=False))
    return json.loads(json.dumps(rows))


def test_a_row_a_file_and_number_of_threads(measured):
    assert [(row['artifact'], row['threads']) for row in measured] == [
        ('dense.tflite', 1), ('pruned.tflite', 1), ('dense.tflite', 2), ('pruned.tflite', 2)]
    for row in measured:
        assert row['p10_ms'] <= row['median_ms'] <= row['p90_ms'] and row['inferences'] == 25
    assert measured[0]['ratio'] == 1 and measured[1]['ratio'] < .7  # of 6² the multiply-adds


def test_operators_one_by_one(measured):
    dense, pruned = measured[0]['operators'], measured[1]['operators']
    assert [step['operator'] for step in dense] == ['CONV_2D', 'CONV_2D', 'MEAN',
                                                    'FULLY_CONNECTED']
    assert [(step['in_width'], step['out_width']) for step in pruned] == [
        (3, 8), (8, 8), (8, 8), (8, 2)]
    assert pruned[1]['ms'] < dense[1]['ms'] and 'operators' not in measured[2]
    total = sum(step['ms'] for step in dense)
    assert .3 < total / measured[0]['median_ms'] < 3


def test_the_table_names_files_and_operators(measured):
    text = artifacts.format_table(measured)
    assert '| pruned.tflite | 2' in text and 'pruned.tflite / dense.tflite' in text
    assert '| CONV_2D 3x3 22x22>20x20 |' in text and '| the whole file |' in text


@pytest.mark.slow
def test_memory_of_a_process_of_its_own(files):
    row, = artifacts.rows(['dense.tflite'], artifacts=files, artifact_threads=[1], rounds=1,
                          repetitions=1, profile=False)
    # At least its largest activation, 22 · 22 · 48 float32; not what TensorFlow itself takes.
    assert 22 * 22 * 48 * 4 <= row['peak_bytes'] < 60e6
    assert f"{row['peak_bytes'] / 2 ** 20:.1f} MiB" in artifacts.format_table([row])


def test_folders_give_their_files(tmp_path, files):
    export = tmp_path / 'run' / 'export'
    export.mkdir(parents=True)
    (export / 'model.tflite').write_bytes(pathlib.Path(files[1]).read_bytes())
    small(8).save(tmp_path / 'run' / 'dense.keras')
    rows = list(artifacts.rows(artifacts=[str(tmp_path / 'run')], artifact_threads=[1], rounds=1,
                               repetitions=1, profile=False, memory=False))
    assert [row['artifact'] for row in rows] == ['dense', 'model.tflite']
    twins = [tmp_path / name / 'export' for name in 'ab']
    for folder in twins:
        shutil.copytree(export, folder)
    rows = list(artifacts.rows(artifacts=list(map(str, twins)), artifact_threads=[1], rounds=1,
                               repetitions=1, profile=False, memory=False))
    assert [row['artifact'] for row in rows] == [
        'export/model.tflite', f'{tmp_path}/b/export/model.tflite']


@pytest.mark.parametrize('given, error, message', [
    ({}, ValueError, 'artifacts: expected .tflite files or run folders, received none'),
    ({'artifacts': ['nowhere.tflite']}, FileNotFoundError, 'nowhere.tflite: no such file'),
    ({'artifacts': ['README.md']}, ValueError, 'README.md: unknown kind of file'),
    ({'only': ['x']}, ValueError, "Unknown artifact 'x'. Available: dense.tflite, pruned.tflite"),
    ({'artifact_threads': ['0'], 'memory': False, 'profile': False}, ValueError,
     'threads: expected at least 1')])
def test_bad_artifacts(files, given, error, message):
    if message[0] in 'Ut':
        given = {'artifacts': files, **given}
    with pytest.raises(error, match=message):
        list(artifacts.rows(**given))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / 'x.tflite').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='x.tflite: not a TFLite file'):
        list(artifacts.rows(artifacts=[str(tmp_path / 'x.tflite')]))


@pytest.mark.parametrize('given, message', [
    ({'only': ['conv']}, 'a latency table is made as a whole, received conv'),
    ({'table': 't.json'}, '--model: needed for --suite=latency_table'),
    ({'profiles': 'p', 'table': 't.json'}, '--device: needed for --suite=latency_table'),
    ({'model': 'resnet8'}, '--table: needed for --suite=latency_table')])
def test_bad_latency_tables(given, message):
    with pytest.raises(ValueError, match=message):
        list(latency_table.rows(**given))


def test_every_suite_can_be_asked_for():
    for suite in SUITES.values():
        assert callable(suite.rows) and callable(suite.format_table)
        assert isinstance(suite.OPTIONS, tuple)


@pytest.mark.slow
def test_the_command_line(files, tmp_path):
    script = pathlib.Path(__file__).parents[2] / 'scripts' / 'benchmark.py'
    out = tmp_path / 'rows.jsonl'
    done = subprocess.run(
        [sys.executable, str(script), '--suite=artifacts', f'--artifacts={",".join(files)}',
         '--artifact_threads=1', '--rounds=2', '--repetitions=2', '--nomemory', '--noprofile',
         f'--out={out}'], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('| artifact | threads | median, ms |')
    assert [json.loads(line)['threads'] for line in out.read_text().splitlines()] == [1, 1]
