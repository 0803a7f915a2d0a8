r"""Methods × seeds × budgets, each a run of `tfprune train`; rows, table, curves.

tfprune compare --flagfile=flags/compare_digits.flags
tfprune compare --flagfile=flags/compare_digits.flags --methods=uniform,rlal --seeds=0
tfprune compare --flagfile=flags/compare_cifar10_resnet20.flags \
  --initial_weights=WEIGHTS --data_dir=DIR
tfprune compare --rows=flags/results/compare_digits.jsonl --format=markdown \
  --html=compare.html

A flag of `tfprune train` that is given here is given to every run, and wins over the flagfiles of
the methods. The same command goes on after a stop and skips what is finished; what fails stops no
other run, is named at the end, and is tried again by the same command. Runs lie in
OUT/method/budget/s<seed>, their logs beside them; OUT/rows.jsonl, compare.md and compare.html, of
all runs in OUT, are written after every run.
"""
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from tfprune import command_line
from tfprune.config import LIMITS, SEED, Range, flag_fields
from tfprune.errors import one_line
from tfprune.files import write_text
from tfprune.runs.config import completed, default_values, option_parts

METHODS = flags.DEFINE_list('methods', [], 'What to compare: names of flagfiles, see '
                            '--method_flagfiles.')
METHOD_FLAGFILES = flags.DEFINE_string('method_flagfiles', 'flags/digits/{}.flags',
                                       "A method's flagfile, {} in place of its name.")
SEEDS = command_line.define_numbers('seeds', ['0'], 'Seeds of each method and budget.', SEED)
BUDGETS = flags.DEFINE_list('budgets', [], 'Budgets of each method, target=limit each, as '
                            'macs=0.3,macs=0.5; none: that of the flagfiles.')
OUT = command_line.define_folder('out', 'Folder of the runs and of what they come to.',
                                 required=False)
JOBS = flags.DEFINE_integer('jobs', 0, 'Runs at a time; 0: one a device of --devices, else as many '
                            'as --threads fit on the cores, else 1.', lower_bound=0,
                            upper_bound=1_024)
THREADS = command_line.define_threads("Threads within an operation of a run; 0 is TensorFlow's "
                                      'default.')
DEVICES = command_line.define_numbers('devices', [], 'GPUs by number: a run at a time on each; '
                                      'one named twice has two.', Range(0, 1_023))
ROWS = flags.DEFINE_multi_string('rows', [], 'Runs nothing: tables and page of the runs in this '
                                 'file, which is a rows.jsonl; given again, of another one, too.')
HTML = command_line.define_output('html', 'Also writes the page to this file.')
FORMAT = flags.DEFINE_string('format', 'text', 'What is printed: text or markdown.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Only lists the runs and whether they are finished.')

# What every run may be given; the rest is what is compared.
PASSED_ON = [name for name in default_values('') if name not in (
    'method', 'seed', 'before_surgery_from', *LIMITS)]
PASSED_ON += [f'{name}.{field.name}' for name, options in option_parts()
              for field in flag_fields(options)]
command_line.define_config_flags(PASSED_ON)


def main(_: Sequence[str]) -> int:
    # Not above: --help needs neither TensorFlow nor Matplotlib, and rows no TensorFlow.
    with command_line.importing():
        from tfprune import report
        if not ROWS.value:
            from tfprune.runs.comparison import Comparison, Grid, plan
    if ROWS.value:
        present([completed(row) for path in ROWS.value for row in report.read_rows_file(path)])
        return 0
    out = pathlib.Path(_given('out', OUT.value))
    cells = plan(Grid(METHODS.value, METHOD_FLAGFILES.value, [int(seed) for seed in SEEDS.value],
                      BUDGETS.value, out, _passed_on()), command_line.read_config)
    if DRY_RUN.value:
        for cell in cells:
            print(f'{"finished" if cell.finished else "to do   "}  {cell.run_dir}: '
                  f'{" ".join(cell.arguments)}')
        return 0
    comparison = Comparison(
        cells, [*start_of_run(), f'--threads={THREADS.value}'], places(),
        say=lambda text: print(text, file=sys.stderr, flush=True),
        on_end=lambda: write_out(comparison.rows(out), out))
    comparison.run()
    broken = None
    try:
        rows = comparison.rows(out)
        write_out(rows, out)
        if rows:
            present(rows)
    except Exception as error:  # said after what failed, which it must not hide
        broken = one_line(error)
    for cell, line in comparison.failed.items():
        print(f'compare.py: {cell.run_dir} failed: {line} (log: {cell.log})', file=sys.stderr)
    if broken:
        print(f'compare.py: no report: {broken}', file=sys.stderr)
    if comparison.signals:
        print('stopped; the same command goes on.', file=sys.stderr)
        return 128 + comparison.signals[0]
    return int(bool(comparison.failed or broken))


def start_of_run() -> list[str]:
    """What starts a run, before its flags: as this was started, a script or the command."""
    started = pathlib.Path(str(getattr(sys.modules['__main__'], '__file__', '')))
    if started.name == 'compare.py' and started.with_name('train.py').exists():
        return [sys.executable, str(started.with_name('train.py'))]
    return [sys.executable, '-m', 'tfprune', 'train']


def places() -> list[str]:
    """A place a run: the device that it sees, '' for what the environment says."""
    threads = THREADS.value
    jobs = JOBS.value or len(DEVICES.value) or (
        max((os.cpu_count() or 1) // threads, 1) if threads else 1)
    devices = DEVICES.value or ['']
    return [devices[job % len(devices)] for job in range(jobs)]


def write_out(rows: Sequence[dict], out: pathlib.Path) -> None:
    """Writes rows.jsonl, compare.md and compare.html."""
    from tfprune import report
    if rows:
        report.write_rows_file(out / 'rows.jsonl', rows)
        write_text(out / 'compare.md', report.format_comparison(rows, 'markdown') + '\n')
        write_text(out / 'compare.html', report.comparison_html(rows))


def present(rows: Sequence[dict]) -> None:
    """Prints the tables."""
    from tfprune import report
    print(report.format_comparison(rows, FORMAT.value))
    if HTML.value:
        write_text(pathlib.Path(HTML.value), report.comparison_html(rows))


def _passed_on() -> list[str]:
    given = (flags.FLAGS[name] for name in PASSED_ON)
    return [flag.serialize() for flag in given if flag.present]


def _given(name: str, value: str | None) -> str:
    if not value:
        raise ValueError(f'--{name} must be given.')
    return value
