"""Prepares TensorFlow before any test module imports it; tests of clients only on demand."""
import os

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ:  # A worker a core: more threads wait for each other.
    for _name in ('TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS', 'OMP_NUM_THREADS'):
        os.environ.setdefault(_name, '1')

import tfprune  # noqa: E402, F401

# Files of few and long tests: first, or one worker ends alone with them.
LONG = ('test_train_script', 'test_methods', 'test_deployment', 'test_initial_weights',
        'test_faults', 'test_properties', 'test_workers', 'test_compare')

ON_DEMAND = {'clients': 'installs MediaPipe into an environment of its own',
             'slow': 'ten seconds and more'}


def pytest_collection_modifyitems(config, items):
    """Long files first; skips what is only run when asked for."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    for name, reason in ON_DEMAND.items():
        if name not in (config.option.markexpr or ''):
            skip = pytest.mark.skip(reason=f'{reason}: -m {name}')
            for item in items:
                if name in item.keywords:
                    item.add_marker(skip)


def pytest_runtest_logreport(report):
    """A failure is shown at once: a run that is cut off later has said it."""
    if report.failed and 'PYTEST_XDIST_WORKER' not in os.environ:
        print(f'\n{report.nodeid} failed in {report.when}:\n{report.longreprtext[-4000:]}',
              flush=True)
