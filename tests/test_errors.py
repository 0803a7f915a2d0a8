"""Whose fault an error is, its reason in one line; files of another shape than expected."""
import os
import signal
import subprocess
import sys
import time

import tfprune  # noqa: F401  (before tensorflow)
import pytest
import tensorflow as tf

from script_server import ROOT, ScriptServer
from tensorflow_log import heard
from tfprune import files
from tfprune.command_line import read_config
from tfprune.errors import PACKAGE, is_users, near, one_line
from tfprune.progress import hush_retracing
from tfprune.report.number_text import percent
from tfprune.runs.config import Config
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain


def caught(call, *arguments, **keywords):
    with pytest.raises(BaseException) as found:
        call(*arguments, **keywords)
    return found.value


def test_checks_of_ours_are_the_users_and_the_rest_are_ours():
    assert is_users(caught(Config, seed=-1))
    assert is_users(caught(Config, seed='1'))  # a TypeError that a check raises
    assert is_users(caught(open, '/nowhere/x'))
    assert is_users(caught(files.read_json, ROOT / 'README.md'))
    assert is_users(caught(read_config, ['--sed=1']))
    # Raised by Python below our code: no check, whatever its type.
    assert not is_users(caught(Config.from_json, 5))
    assert not is_users(caught(trace_groups(plain()).__getitem__, 'no such group'))
    assert not is_users(caught(percent, 0.5, 'two'))  # a ValueError of str.format


def test_what_comes_through_code_of_the_users_is_theirs(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('def key(row):\n    return row["gamma"]\n')
    scope: dict = {}
    exec(compile(path.read_text(), str(path), 'exec'), scope)
    error = caught(files.check_content, 'x', [1], _Calls(lambda: scope['key']({})))
    assert is_users(error)
    assert one_line(error) == f'{path}, line 2: KeyError: gamma'
    # Called by nothing of ours: a test, a script of the user's.
    assert not is_users(caught(scope['key'], {}))


class _Calls(list):
    """A list that runs a user's function when tfprune looks at its first item."""

    def __init__(self, call):
        super().__init__([str])
        self._call = call

    def __getitem__(self, index):
        return self._call()


AUTOGRAPH = f'''in user code:

    File "{PACKAGE}/training.py", line 180, in _train_step  *
        per_replica = self.strategy.run(self._replica_step, (images, labels))
    File "{{}}", line 8, in call
        raise ValueError('gamma is missing')

    {{}}
'''
KERAS = '''Exception encountered when calling Mine.call().

    \x1b[1mgamma is missing: look
    at it\x1b[0m

    Arguments received by Mine.call():
      • x=tf.Tensor(shape=(128, 6, 6, 8), dtype=float32)'''


@pytest.mark.parametrize('error, line', [
    (ValueError(AUTOGRAPH.format('/home/me/lay.py', f'ValueError: {KERAS}')),
     '/home/me/lay.py, line 8: ValueError: gamma is missing: look'),
    (ValueError(AUTOGRAPH.format('/home/me/lay.py', 'KeyError: ' + repr(
        "Exception encountered when calling Mine.call().\n\n\x1b[1mgamma\x1b[0m\n\nArgs"))),
     '/home/me/lay.py, line 8: KeyError: gamma'),
    (ValueError(AUTOGRAPH.format(os.__file__, 'ValueError: of a library')), 'of a library'),
    (ValueError('what follows is the reason:\n\n  gamma is missing\n'), 'gamma is missing'),
    (ValueError('gamma:'), 'gamma:'), (ValueError(''), 'ValueError'), (KeyError('gamma'), 'gamma'),
    (tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating [9]\nmore'),
     'TensorFlow: ResourceExhaustedError: OOM when allocating [9] A smaller --batch_size or '
     '--score_batch_size needs less.')])
def test_one_line(error, line):
    assert one_line(error) == line


def test_near_names():
    assert near('learning_rat', ['learning_rate', 'seed']) == " Did you mean 'learning_rate'?"
    assert near('x', ['learning_rate', 'seed']) == ''


# Files.

SHAPE = {'name': str, 'size?': int, 'share': (float, None), 'rows': [{'epoch': int}],
         'by_name': {str: [float]}, 'more?': ({'a': int}, None)}
GOOD = {'name': 'x', 'share': 1, 'rows': [{'epoch': 0}], 'by_name': {'a': [0.5, 2]}}


@pytest.mark.parametrize('changes, wrong', [
    ({}, ''), ({'size': 3, 'share': None, 'more': None}, ''), ({'more': {'a': 1, 'b': 2}}, ''),
    ({'name': 5}, 'name must be text; received 5'),
    ({'size': None}, 'size must be a whole number; received None'),
    ({'size': True}, 'size must be a whole number; received True'),
    ({'share': '1'}, "share must be a number or null; received '1'"),
    ({'rows': {}}, 'rows must be a list; received {}'),
    ({'rows': [{'epoch': 1}, {}]}, "no 'rows[1].epoch'"),
    ({'by_name': {'a': [1], 'b': [None]}}, 'by_name.b[0] must be a number; received None'),
    ({'more': {}}, "no 'more.a'")])
def test_shapes(changes, wrong):
    if not wrong:
        assert files.check_content('f.json', GOOD | changes, SHAPE) == GOOD | changes
    else:
        assert str(caught(files.check_content, 'f.json', GOOD | changes, SHAPE)) == (
            f'f.json is not what was written: {wrong}.')


@pytest.mark.parametrize('text, wrong', [
    (b'null', 'it must be an object; received None'), (b'[1]', 'received [1]'), (b'{', 'not JSON'),
    (b'\xff', 'not JSON'), (b'[' * 100_000, 'not JSON')])
def test_json_files(tmp_path, text, wrong):
    path = tmp_path / 'f.json'
    assert files.read_json(path) is None
    path.write_bytes(text)
    message = str(caught(files.read_json, path))
    assert message.startswith(f'{path} is ') and wrong in message and '\n' not in message


def test_json_lines(tmp_path):
    path = tmp_path / 'f.jsonl'
    assert files.read_rows(path) == []
    path.write_text('{"epoch": 0}\n{"epo\n{"epoch": 1}\n')
    assert files.read_rows(path, {'epoch': int}) == [{'epoch': 0}, {'epoch': 1}]
    path.write_text('{"epoch": 0}\n{"loss": 1}\n')
    assert "f.jsonl, line 2 is not what was written: no 'epoch'" in str(
        caught(files.read_rows, path, {'epoch': int}))


# Processes.

@pytest.fixture(scope='module')
def server():
    server = ScriptServer()
    yield server
    server.close()


FAULT = '''
import sys
sys.argv = ['report.py', *{arguments}]
from tfprune import command_line
from tfprune.structure.groups import trace_groups
def main(_):
    raise {error}
command_line.start('report.py', main)
'''


@pytest.mark.parametrize('error, arguments, code, last, traceback', [
    ("KeyError('policy_reward_mean')", [], 1,
     'report.py: fault of tfprune, please report it with the lines above: KeyError: '
     'policy_reward_mean', True),
    ("OSError('disk full')", [], 2, 'report.py: error: disk full', False),
    ("OSError('disk full')", ['--debug'], 2, 'report.py: error: disk full', True),
    ("KeyboardInterrupt()", [], 130, 'report.py: interrupted', False)])
def test_how_a_script_ends(server, error, arguments, code, last, traceback):
    done = server.run(code=FAULT.format(error=error, arguments=arguments))
    assert (done.code, done.err.splitlines()[-1]) == (code, last)
    assert ('Traceback' in done.err) == traceback


def test_a_hang_up_saves_as_any_stop(server, tmp_path):
    flags = ['--dataset=digits', '--model=resnet8', '--method=uniform', '--macs=0.5',
             '--warmup_epochs=50', '--batch_size=64', f'--run_dir={tmp_path}/run']
    done = server.run('train.py', *flags, stop=('epoch 1: ', signal.SIGHUP))
    assert done.code == 128 + signal.SIGHUP and 'the same command resumes' in done.err
    assert list((tmp_path / 'run/checkpoints').glob('e*'))


def test_an_interrupt_while_tensorflow_is_imported_shows_no_traceback(tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-X', 'importtime', str(ROOT / 'scripts/train.py'), '--run_dir=x',
         '--method=uniform', '--dataset=digits'],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # ignored in a background
    said = ''
    while 'tfprune.command_line' not in said:  # it is imported before TensorFlow
        said = process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert 'Traceback' not in process.communicate(timeout=100)[1]
    assert process.returncode == -signal.SIGINT


def test_retracing_is_not_spoken_of_and_other_warnings_are():
    def retrace(function):
        for _ in range(12):
            tf.function(function)(tf.constant(1))

    with heard('WARNING') as said:
        with hush_retracing():
            retrace(lambda x: x + 1)
            tf.get_logger().warning('another warning')
        assert said == ['another warning']
        retrace(lambda x: x + 2)  # TensorFlow says it twice of a function
        assert 'triggered tf.function retracing' in said[-1]
