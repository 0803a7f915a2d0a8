"""Runs that end without their slowest part, for tests of what comes before it."""
import contextlib
import pathlib

import pytest

from tfprune.data.pixels import BYTES
from tfprune.export.exporter import ExportReport
from tfprune.export.keras_file import open_model
from tfprune.export.parity import Parity
from tfprune.runs import artifacts, outcome, problem
from tfprune.runs.deployment import Deployed

_TIMES = {'threads': 1, 'median_ms': 1.0, 'p10_ms': 1.0, 'p90_ms': 1.0, 'ratio': None}


@contextlib.contextmanager
def light_export(*, page=False):
    """Only the Keras file is written, its accuracy real; the TFLite file's numbers are made up, and
    report.html is left out unless `page`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problem, 'check_convertible', lambda model: None)
        if not page:
            patch.setattr(outcome, 'write_html', lambda path: None)
        patch.setattr(outcome, 'convert', lambda model: b'lite')
        patch.setattr(outcome, 'deploy', _deploy)
        yield


def only_the_model(state, problem):
    """In place of `finish`, where what comes after the last epoch is tested elsewhere."""
    del problem
    return outcome.RunResult(state.folder.path, state.pruned, {})


def _deploy(model, task, data, out_dir, settings, *, dense_tflite=None, **_):
    path = pathlib.Path(out_dir).resolve() / 'pruned.keras'
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    metrics = artifacts.test_metrics(open_model(model, path), model, task, data)
    scored = {artifacts.score_key(task): metrics[task.measure.name], 'metrics': metrics,
              'lost': 0.0}
    rows = [{'form': 'keras', 'file': path.name, 'bytes': path.stat().st_size, **scored},
            {'form': 'tflite', 'file': 'model.tflite', 'bytes': 1, **scored,
             'latency': [_TIMES]}]
    exported = ExportReport(path.parent, {'keras': path}, {'keras': path.stat().st_size},
                            Parity(0, 'random', 0.0, ()), data.pixels or BYTES)
    return Deployed(exported, rows, [_TIMES] if dense_tflite else [])
