"""The run folder: whose it is, and that each file in it is whole."""
import hashlib
import json
import os
import pathlib
import stat
import subprocess
import sys
import textwrap

import tfprune
import pytest

from tfprune import machine
from tfprune.files import write_text
from tfprune.runs.config import Config
from tfprune.runs.folder import RunFolder

CONFIG = Config(seed=3)


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / 'run', CONFIG)
    yield run
    run.close()


def begin(path):
    """As if the first checkpoint had been written."""
    (path / 'checkpoints/e00000_s00000001').mkdir(parents=True)


def contents(path):
    return sorted(p.name for p in path.iterdir())


def test_a_new_folder_says_what_it_is(folder):
    assert contents(folder.path) == ['.lock', 'config.flags', 'config.json', 'environment.json']
    assert folder.read_json('config.json') == CONFIG.to_json()
    assert (folder.path / 'config.flags').read_text(encoding='utf-8') == CONFIG.to_flags()
    environment = folder.read_json('environment.json')
    assert environment['packages']['tensorflow'].startswith('2.')
    assert set(environment) == {'command', 'python', 'packages', 'commit', 'platform', 'processor',
                                'cores'}


def test_parents_are_made(tmp_path):
    RunFolder(tmp_path / 'a' / 'b', CONFIG).close()
    assert (tmp_path / 'a' / 'b' / 'config.json').exists()


def test_the_same_configuration_opens_it_again(folder):
    folder.write_json('x.json', {'a': 1})
    begin(folder.path)
    before = (folder.path / 'environment.json').stat().st_mtime_ns
    folder.close()
    again = RunFolder(str(folder.path), Config(seed=3))
    assert again.read_json('x.json') == {'a': 1} and again.read_json('y.json') is None
    assert (folder.path / 'environment.json').stat().st_mtime_ns == before
    again.close()


def test_another_configuration_lists_the_differing_flags(folder):
    folder.close()
    begin(folder.path)
    before = {p.name: p.read_bytes() for p in folder.path.iterdir() if p.is_file()}
    with pytest.raises(ValueError) as caught:
        RunFolder(folder.path, Config(seed=4, method='uniform', prune_residual_groups=True))
    message = str(caught.value)
    assert 'is a run of another configuration; differing flags: ' in message
    assert message.endswith("--method: 'rlal' -> 'uniform'; --seed: 3 -> 4; "
                            '--prune_residual_groups: False -> True. Choose another run_dir, or '
                            'remove this one.')
    assert '\n' not in message
    assert {p.name: p.read_bytes() for p in folder.path.iterdir() if p.is_file()} == before


def test_numbers_are_equal_however_they_are_written(tmp_path):
    RunFolder(tmp_path / 'run', Config(lr_warmup_epochs=1)).close()
    RunFolder(tmp_path / 'run', Config(lr_warmup_epochs=1.0)).close()


def test_a_locked_folder(folder):
    with pytest.raises(ValueError, match='another process runs in .*run.$'):
        RunFolder(folder.path, CONFIG)
    folder.close()
    RunFolder(folder.path, CONFIG).close()


def test_a_locked_folder_in_another_process(folder):
    code = textwrap.dedent('''
        import sys
        from tfprune import Config
        from tfprune.runs.folder import RunFolder
        try:
            RunFolder(sys.argv[1], Config(seed=3))
        except ValueError as error:
            print(error)
    ''')
    done = python(code, folder.path)
    assert done.stdout.startswith('another process runs in '), done.stderr


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='neither empty nor a run folder'):
        RunFolder(tmp_path, CONFIG)
    assert contents(tmp_path) == ['notes.txt']


@pytest.mark.parametrize('left', [
    ['.lock'], ['.lock', '.partial_config.flags'], ['.lock', 'config.flags'],
    ['.lock', 'config.flags', 'environment.json', '.partial_config.json']])
def test_a_start_that_was_killed_is_started_again(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text('half')
    run = RunFolder(tmp_path, CONFIG)
    assert run.read_json('config.json') == CONFIG.to_json()
    assert (tmp_path / 'config.flags').read_text(encoding='utf-8') == CONFIG.to_flags()
    assert contents(tmp_path) == ['.lock', 'config.flags', 'config.json', 'environment.json']
    run.close()


@pytest.mark.parametrize('has_begun', [True, False])
@pytest.mark.parametrize('text, message', [
    (b'', 'damaged: not JSON'), (b'{', 'damaged: not JSON'),
    (b'\xff\xfe', 'damaged: not JSON'), (b'[' * 200_000, 'damaged: not JSON'),
    (b'[1]', r'it must be an object; received \[1\]'),
    (b'null', 'it must be an object; received None'),
    (b'{}', "no 'method'"), (b'{"method": 3}', 'method must be text; received 3')])
def test_a_damaged_configuration(folder, text, message, has_begun):
    folder.close()
    if has_begun:
        begin(folder.path)
    (folder.path / 'config.json').write_bytes(text)
    with pytest.raises(ValueError, match=f'config.json is .*{message}') as caught:
        RunFolder(folder.path, CONFIG)
    assert (folder.path / 'config.json').read_bytes() == text
    assert '\n' not in str(caught.value)


def test_a_file_in_the_way_is_an_oserror(tmp_path):
    (tmp_path / 'file').write_text('mine')
    for path, reason in ((tmp_path / 'file' / 'run', 'Not a directory'),
                         (tmp_path / 'file', 'File exists')):
        with pytest.raises(OSError) as caught:
            RunFolder(path, CONFIG)
        assert str(caught.value) == f'cannot write the run folder {path}: {reason}.'
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.skipif(os.geteuid() == 0, reason='root writes to read-only folders')
def test_a_read_only_folder_is_an_oserror(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(OSError, match='cannot write the run folder .*: Permission denied'):
            RunFolder(tmp_path / 'run', CONFIG)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize('field', ['model', 'initial_weights'])
def test_a_file_that_changed_is_another_configuration(tmp_path, field):
    file, run = tmp_path / 'weights.keras', tmp_path / 'run'
    file.write_bytes(b'one')
    config = Config(**{field: str(file)})
    RunFolder(run, config).close()
    begin(run)
    digest = json.loads((run / 'environment.json').read_text())['files'][field]
    assert digest == hashlib.sha256(b'one').hexdigest()
    RunFolder(run, config).close()
    file.write_bytes(b'two')
    with pytest.raises(ValueError) as caught:
        RunFolder(run, config)
    assert str(caught.value) == (f'{run} began with another content of --{field}. Choose another '
                                 'run_dir, or remove this one.')
    file.unlink()  # what is finished can still be read
    RunFolder(run, config).close()


def test_a_folder_older_than_the_digests_opens(tmp_path):
    file, run = tmp_path / 'weights.npz', tmp_path / 'run'
    file.write_bytes(b'one')
    config = Config(initial_weights=str(file))
    RunFolder(run, config).close()
    environment = json.loads((run / 'environment.json').read_text())
    del environment['files']
    (run / 'environment.json').write_text(json.dumps(environment))
    RunFolder(run, config).close()


def test_a_resumption_with_the_same_files_is_nothing_new(tmp_path):
    file = tmp_path / 'weights.npz'
    file.write_bytes(b'one')
    config = Config(initial_weights=str(file))
    RunFolder(tmp_path / 'run', config).close()
    run = RunFolder(tmp_path / 'run', config)
    run.note_resumption()
    assert 'resumed' not in run.read_json('environment.json')
    run.close()


# Rows.

def test_what_is_kept_is_compared(folder):
    folder.keep_json('data.json', {'num_train': 75, 'class_names': ['a', 'b']})
    folder.keep_json('data.json', {'num_train': 75, 'class_names': ['a', 'b']})
    with pytest.raises(ValueError) as caught:
        folder.keep_json('data.json', {'num_train': 74, 'class_names': ['a', 'c']})
    assert 'another data.json: num_train: 75 -> 74; class_names. Restore' in str(caught.value)
    assert folder.read_json('data.json')['num_train'] == 75
    # What is observed may differ, and an older file may lack it; the file stays.
    for seen in ([0, 1], [0, 2]):
        folder.keep_json('data.json', {'num_train': 75, 'class_names': ['a', 'b'], 'range': seen},
                         observed=['range'])
    assert 'range' not in folder.read_json('data.json')


def test_rows_come_back_in_order(folder):
    assert folder.read_rows('m.jsonl') == []
    folder.append_rows('m.jsonl', [{'epoch': 0, 'x': 1.5}, {'epoch': 0, 'widths': {'a': 2}}])
    folder.append_rows('m.jsonl', [])
    folder.append_rows('m.jsonl', iter([{'epoch': 1}]))
    assert folder.read_rows('m.jsonl') == [
        {'epoch': 0, 'x': 1.5}, {'epoch': 0, 'widths': {'a': 2}}, {'epoch': 1}]


@pytest.mark.parametrize('cut', [1, 2, 7])
def test_a_line_that_was_cut_short_is_left_out(folder, cut):
    folder.append_rows('m.jsonl', [{'epoch': 0}, {'epoch': 1}])
    path = folder.path / 'm.jsonl'
    path.write_bytes(path.read_bytes()[:-cut])
    # Without its newline only, a row is whole.
    kept = [{'epoch': 0}] + ([{'epoch': 1}] if cut == 1 else [])
    assert folder.read_rows('m.jsonl') == kept
    folder.append_rows('m.jsonl', [{'epoch': 2}])
    assert folder.read_rows('m.jsonl') == kept + [{'epoch': 2}]
    folder.keep_rows('m.jsonl', lambda row: row['epoch'] < 3)
    assert path.read_text() == ''.join(json.dumps(row) + '\n' for row in kept + [{'epoch': 2}])


def test_keep_rows_before_an_epoch(folder):
    folder.append_rows('e.jsonl', [{'epoch': e, 'i': i} for e in range(4) for i in range(2)])
    folder.keep_rows('e.jsonl', lambda row: row['epoch'] < 2)
    assert [row['epoch'] for row in folder.read_rows('e.jsonl')] == [0, 0, 1, 1]
    folder.keep_rows('e.jsonl', lambda row: row['epoch'] < 0)
    assert folder.read_rows('e.jsonl') == []
    folder.keep_rows('nothing.jsonl', lambda row: row['epoch'] < 0)
    assert not (folder.path / 'nothing.jsonl').exists()


# Whole or not at all.

@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / 'report.json'
    write_text(path, 'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError) as caught:
        write_text(path, 'new')
    assert str(caught.value) == f'cannot write {path}: No space left on device'
    assert path.read_text() == 'old' and contents(tmp_path) == ['report.json']


def test_text_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_text(tmp_path / 'x', 'old')
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / 'x', '\ud800')
    assert (tmp_path / 'x').read_text() == 'old' and contents(tmp_path) == ['x']


def test_a_real_failing_write_is_one_line(tmp_path):
    """The process may not write files beyond 1 KiB."""
    code = textwrap.dedent('''
        import resource, signal, sys
        from tfprune import Config
        from tfprune.runs.folder import RunFolder
        run = RunFolder(sys.argv[1], Config())
        run.write_json('x.json', ['old'])
        run.append_rows('m.jsonl', [{'epoch': 0}])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        for write in (lambda: run.write_json('x.json', 'new' * 1000),
                      lambda: run.append_rows('m.jsonl', [{'epoch': 1, 'x': 'y' * 3000}])):
            try:
                write()
            except OSError as error:
                print(error)
        print((run.path / 'x.json').read_text().split(), run.read_rows('m.jsonl'))
    ''')
    done = python(code, tmp_path / 'run')
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0] == f'cannot write {tmp_path}/run/x.json: File too large'
    assert lines[1] == f'cannot write {tmp_path}/run/m.jsonl: File too large'
    assert lines[2] == """['[', '"old"', ']'] [{'epoch': 0}]"""


def test_a_configuration_is_written_under_any_locale(tmp_path):
    code = textwrap.dedent('''
        import sys
        from tfprune import Config
        from tfprune.runs.folder import RunFolder
        for _ in range(2):
            RunFolder(sys.argv[1], Config(data_dir='gr\\u00f6\\u00dfer')).close()
    ''')
    done = python(code, tmp_path / 'run', LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONUTF8='0')
    assert done.returncode == 0, done.stderr
    assert '--data_dir=gr\u00f6\u00dfer\n' in (tmp_path / 'run' / 'config.flags').read_text('utf-8')


# The environment.

def test_no_git_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert machine.describe_environment()['commit'] is None


def test_a_commit_is_that_of_the_package_only(monkeypatch, tmp_path):
    """Installed inside another repository, it has none."""
    subprocess.run(['git', 'init', '-q', str(tmp_path)], check=True, timeout=300)
    inside = tmp_path / 'site-packages' / 'tfprune' / 'machine.py'
    monkeypatch.setattr(machine, '__file__', str(inside))
    inside.parent.mkdir(parents=True)
    assert machine._commit() is None


def python(code, *arguments, **environment):
    package = str(pathlib.Path(tfprune.__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get('PYTHONPATH')]))
    return subprocess.run([sys.executable, '-c', code, *map(str, arguments)], check=False,
                          capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': path, **environment}, timeout=300)
