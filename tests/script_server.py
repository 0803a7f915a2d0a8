"""Scripts as processes of their own, without the seconds that each would import TensorFlow for.

A server process imports the package and TensorFlow once and runs no operation. For each job it
forks a child, which has fresh absl flags, runs the script as __main__ and ends.
"""
import contextlib
import importlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
# All that scripts import, but for tfprune.command_line, which defines flags.
PRELOADED = (*(f'tfprune.{name}' for name in (
    'runs.api', 'runs.comparison', 'runs.artifacts', 'costs.analysis', 'report.drawing',
    'benchmarks', 'latency.table', 'data.folder')), 'sklearn.datasets')
SECONDS = 60.0


class Done(NamedTuple):
    """How a job ended; `code` is negative where a signal ended it."""
    code: int
    out: str
    err: str
    seconds: float


class ScriptServer:
    """Runs scripts/NAME, or Python code, in forks of one prepared process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2', 'PYTHONPATH': str(ROOT),
                           'TF_NUM_INTRAOP_THREADS': '1', 'TF_NUM_INTEROP_THREADS': '1',
                           'OMP_NUM_THREADS': '1'})

    def run(self, *argv: object, cwd: object = ROOT, code: str = '', stop: tuple = (),
            **environment: str) -> Done:
        """Runs `argv`, a script's name and its flags, or `code`.

        stop: (text, signal): sends the signal once the text is on its stderr or stdout.
        """
        job = {'argv': [str(word) for word in argv], 'cwd': str(cwd), 'code': code, 'stop': stop,
               'environment': environment}
        self._process.stdin.write(json.dumps(job) + '\n')
        self._process.stdin.flush()
        return Done(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


def main() -> None:
    """Answers jobs, a line of JSON each, until the input ends."""
    for module in PRELOADED:
        importlib.import_module(module)
    from tensorflow.python.eager import context
    assert context.context()._context_handle is None, 'an operation has run: no fork is safe'
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            answer = json.dumps(_answer(json.loads(line), *files)) + '\n'
        os.write(answers, answer.encode())


def _answer(job: dict, out, err) -> tuple:
    begun = time.monotonic()
    child = os.fork()
    if not child:
        _become(job, out, err)

    def texts() -> list[str]:
        return [os.pread(file.fileno(), 10 ** 7, 0).decode(errors='replace') for file in (out, err)]

    stop = list(job['stop'])
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return (os.waitstatus_to_exitcode(status), *texts(), time.monotonic() - begun)
        if stop and stop[0] in ''.join(texts()):
            os.kill(child, stop[1])
            stop.clear()
        if time.monotonic() - begun > SECONDS:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)


def _become(job: dict, out, err) -> None:
    """The child: never returns."""
    code = 1
    try:
        os.setsid()
        # Whatever started the tests, nohup or a shell's background, may have them ignored.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for file, descriptor in ((out, 1), (err, 2)):
            os.dup2(file.fileno(), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(job['environment'])
        os.chdir(job['cwd'])
        if job['code']:
            sys.argv = ['-c']
            exec(compile(job['code'], '<user>', 'exec'), {'__name__': '__main__'})
        else:
            script = ROOT / 'scripts' / job['argv'][0]
            sys.argv = sys.orig_argv[1:] = [str(script), *job['argv'][1:]]
            runpy.run_path(str(script), run_name='__main__')
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == '__main__':
    main()
