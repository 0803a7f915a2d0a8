"""TFLite files as a phone would run them: latency by threads, in turns; memory; operators.

TensorFlow Lite's Python interpreter gives no profile: operators are timed one by one, each made a
file of its own (`export.operators`). Their sum is given beside the latency of the whole file.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from tfprune.export.exporter import is_tflite
from tfprune.export.latency import latencies_in_turns, prepare
from tfprune.export.operator_latency import call_ms, times_alone
from tfprune.export.operators import read_steps
from tfprune.export.tflite import convert
from tfprune.models.model_files import read_keras_file
from tfprune.runs.artifacts import find_artifacts

OPTIONS = ('artifacts', 'artifact_threads', 'rounds', 'repetitions', 'profile', 'memory')
DENSE = 'dense.keras'  # in a run folder
_MEMORY = pathlib.Path(__file__).with_name('memory.py')


def rows(only: Sequence[str] = (), *, artifacts: Sequence[str] = (),
         artifact_threads: Sequence[int] = (1, 2, 4), rounds: int = 20, repetitions: int = 10,
         profile: bool = True, memory: bool = True) -> Iterator[dict[str, Any]]:
    """Yields one row a file and number of threads, the first file being what ratios refer to.

    Args:
        only: some of the files, by name.
        artifacts: .tflite files, .keras files (converted to float32), run folders (their dense
            model and all their .tflite files) or export folders.
        artifact_threads: of the interpreter.
        rounds, repetitions: see `latencies_in_turns`.
        profile: whether to time each operator, at the first number of threads.
        memory: whether to run each file in a process of its own for its peak memory.

    Raises ValueError or OSError for what is no such file, before anything is measured.
    """
    threads = [int(number) for number in artifact_threads]
    if not artifacts:
        raise ValueError('artifacts: expected .tflite files or run folders, received none: '
                         '--artifacts=dense.tflite,pruned.tflite')
    with contextlib.ExitStack() as stack:
        files = _files(artifacts, stack)
        unknown = [name for name in only if name not in files]
        if unknown:
            raise ValueError(f"Unknown artifact '{unknown[0]}'. Available: {', '.join(files)}")
        files = {name: path for name, path in files.items() if not only or name in only}
        for path in files.values():
            prepare(path, 1)
        first = next(iter(files))
        peaks = {name: _peak_memory(path, threads[0]) for name, path in files.items() if memory}
        profiles = {name: _profile(path, threads[0]) for name, path in files.items() if profile}
        for number in threads:
            stats, ratios = latencies_in_turns(list(files.values()), threads=number, rounds=rounds,
                                               repetitions=repetitions)
            for (name, path), seen, ratio in zip(files.items(), stats, ratios):
                row = {'artifact': name, 'threads': number, 'cores': os.cpu_count(),
                       'bytes': path.stat().st_size, 'median_ms': seen.median, 'p10_ms': seen.p10,
                       'p90_ms': seen.p90, 'inferences': seen.repetitions, 'ratio': ratio,
                       'ratio_to': first, **peaks.get(name, {})}
                if number == threads[0] and profile:
                    row['operators'] = profiles[name]
                yield row


def _files(artifacts: Sequence[str], stack: contextlib.ExitStack) -> dict[str, pathlib.Path]:
    """{name: .tflite file}; what is converted lies in a folder that goes with `stack`."""
    found: dict[str, pathlib.Path] = {}
    several = len(artifacts) > 1

    def converted(path: pathlib.Path) -> pathlib.Path:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = folder / f'{path.stem}.tflite'
        made.write_bytes(convert(read_keras_file(path)))
        return made

    for text in artifacts:
        path = pathlib.Path(text)
        forms = find_artifacts(path)
        names = {}
        if path.is_dir():
            if (path / DENSE).exists():
                names['dense'] = converted(path / DENSE)
            names |= {file.name: file for form, file in forms.items()
                      if is_tflite(form)}
        else:
            names[path.name] = converted(path) if path.suffix == '.keras' else path
        for name, file in names.items():
            # Of several folders each file is called by its folder too; of equal ones, by its path.
            called = f'{path.name}/{name}' if path.is_dir() and several else name
            if called in found:
                called = f'{path}/{name}' if path.is_dir() else str(path)
            found[called] = file
    if not found:
        raise ValueError(f'{", ".join(artifacts)}: no .tflite file here')
    return found


def _peak_memory(path: pathlib.Path, threads: int) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(_MEMORY), str(path), str(threads)],
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{path}: {(done.stderr.strip().splitlines() or ["it failed"])[-1]}')
    return json.loads(done.stdout.splitlines()[-1])


def _profile(path: pathlib.Path, threads: int) -> list[dict[str, Any]]:
    """Each operator of a file, timed alone; the quietest of some passes over all of them."""
    steps = read_steps(path.read_bytes(), str(path))
    alike = {step.likeness: step for step in steps}
    times = dict(zip(alike, times_alone([*alike.values()], call_ms(threads), threads)))
    return [{'operator': step.kind, 'name': step.name, 'signature': step.signature,
             'in_width': step.in_width, 'out_width': step.out_width,
             'ms': times[step.likeness]} for step in steps]


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns latency as a Markdown table and, where there are profiles, one of operators."""
    lines = ['| artifact | threads | median, ms | p10–p90, ms | ratio | bytes | peak memory |',
             '|---|---:|---:|---:|---:|---:|---:|']
    for row in found:
        peak = f"{row['peak_bytes'] / 2 ** 20:.1f} MiB" if 'peak_bytes' in row else '–'
        crowded = '*' if row['threads'] > (row['cores'] or row['threads']) else ''
        lines.append(f"| {row['artifact']} | {row['threads']}{crowded} | {row['median_ms']:.4g} | "
                     f"{row['p10_ms']:.4g}–{row['p90_ms']:.4g} | {row['ratio']:.1%} | "
                     f"{row['bytes']:,} | {peak} |")
    if any(row['threads'] > (row['cores'] or row['threads']) for row in found):
        lines.append('\n\\* more threads than cores')
    profiled = [row for row in found if 'operators' in row]
    if profiled:
        lines += ['', *_operator_table(profiled)]
    return '\n'.join(lines)


def _operator_table(profiled: Sequence[dict[str, Any]]) -> list[str]:
    """Milliseconds by operator and sizes, timed one by one."""
    sums: dict[str, list[float]] = {}
    for column, row in enumerate(profiled):
        for step in row['operators']:
            label = step['signature'].rsplit(' #', 1)[0]
            sums.setdefault(label, [0.0] * len(profiled))[column] += step['ms']
    names = [row['artifact'] for row in profiled]
    lines = [f'| operators, ms, each timed alone | {" | ".join(names)} | '
             f'{names[-1]} / {names[0]} |', f'|---|{"---:|" * len(names)}---:|']

    def line(label: str, values: Sequence[float]) -> str:
        ratio = f'{values[-1] / values[0]:.1%}' if values[0] else '–'
        return f'| {label} | {" | ".join(f"{value:.4g}" for value in values)} | {ratio} |'

    for label, values in sorted(sums.items(), key=lambda item: -item[1][0]):
        lines.append(line(label, values))
    totals = [sum(step['ms'] for step in row['operators']) for row in profiled]
    return [*lines, line('sum', totals),
            line('the whole file', [row['median_ms'] for row in profiled])]
