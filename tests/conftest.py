"""Prepares TensorFlow before any test module imports it; tests of clients only on demand.

What needs a library that an extra brings (tfprune.extras) is skipped where there is none, with the
extra as the reason: of a test, or of a module that imports it, the error says it. A test that asks
another process for it is marked @pytest.mark.extra(name).
"""
import gc
import os

import pytest
from packaging.version import Version

if 'PYTEST_XDIST_WORKER' in os.environ:  # A worker a core: more threads wait for each other.
    for _name in ('TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS', 'OMP_NUM_THREADS'):
        os.environ.setdefault(_name, '1')

import tfprune  # noqa: E402, F401
import keras  # noqa: E402
from tfprune import extras  # noqa: E402

# Graphs are many small objects: collected at each 700 of them, tracing takes a tenth longer.
gc.set_threshold(50_000, 20, 50)

# Files of few and long tests: first, or one worker ends alone with them.
LONG = ('test_train_script', 'test_bad_input', 'test_teacher', 'test_subnetwork', 'test_notebooks',
        'test_compare', 'test_deployment', 'test_methods', 'test_given', 'test_any_task',
        'test_workers')

ON_DEMAND = {'clients': 'installs MediaPipe into an environment of its own',
             'slow': 'ten seconds and more'}


def pytest_collection_modifyitems(config, items):
    """Long files first; skips what is only run when asked for."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    for item in items:
        for mark in item.iter_markers('keras'):
            if Version(keras.version()) < Version(mark.args[0]):
                item.add_marker(pytest.mark.skip(reason=f'needs Keras {mark.args[0]}'))
        for mark in item.iter_markers('extra'):
            if not extras.is_installed(mark.args[0]):
                item.add_marker(pytest.mark.skip(reason=_needs(mark.args[0])))
    for name, reason in ON_DEMAND.items():
        if name not in (config.option.markexpr or ''):
            skip = pytest.mark.skip(reason=f'{reason}: -m {name}')
            for item in items:
                if name in item.keywords:
                    item.add_marker(skip)


def _needs(extra):
    return f'needs {extras.EXTRAS[extra].called}: pip install {extras.quoted(extra)}'


class _Module(pytest.Module):
    """A test module, skipped where it imports what an extra would bring."""

    def collect(self):
        try:
            return super().collect()
        except self.CollectError as error:
            extra = extras.missing_in(error.__cause__)
            if not extra:
                raise
            pytest.skip(_needs(extra), allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return _Module.from_parent(parent, path=module_path)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup():
    _skip_where_missing((yield))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call():
    _skip_where_missing((yield))


def _skip_where_missing(outcome):
    extra = extras.missing_in(outcome.excinfo and outcome.excinfo[1])
    if extra:
        outcome.force_exception(pytest.skip.Exception(_needs(extra)))


def pytest_runtest_logreport(report):
    """A failure is shown at once: a run that is cut off later has said it."""
    if report.failed and 'PYTEST_XDIST_WORKER' not in os.environ:
        print(f'\n{report.nodeid} failed in {report.when}:\n{report.longreprtext[-4000:]}',
              flush=True)
