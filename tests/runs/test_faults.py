"""A run that dies at one of its writes goes on as if it had not."""
import os
import pathlib

import numpy as np
import pytest

from light_export import light_export
from small_model import small_model
from tfprune.runs import run as runner
from tfprune.runs.config import Config

CONFIG = Config(model=small_model(), dataset='digits', method='uniform', macs=0.5, warmup_epochs=1,
                random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1,
                batch_size=512, reward_images=100, score_images=100, score_batch_size=100,
                calibration_batches=1, lr_warmup_epochs=0.0, distillation=0.0)


class Died(BaseException):
    """As sudden as a signal: nobody catches it."""


def files_of(run_dir: pathlib.Path) -> set[str]:
    return {str(path.relative_to(run_dir)) for path in run_dir.rglob('*')
            if path.is_file() and 'tensorboard' not in path.parts}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An uninterrupted run, and the names of what it put in place, in order."""
    run_dir, written, replace = tmp_path_factory.mktemp('whole') / 'run', [], os.replace
    with pytest.MonkeyPatch.context() as patch, light_export(page=True):
        patch.setattr(os, 'replace', lambda a, b: (written.append(pathlib.Path(b).name),
                                                   replace(a, b))[1])
        result = runner.train_and_prune(CONFIG, run_dir, progress=False)
    return result, written


@pytest.mark.parametrize('victim', [
    'report.json', *(pytest.param(name, marks=pytest.mark.slow) for name in (
        'e00001_s00000000', 'decision.json', 'e00002_s00000000', 'report.html'))])
def test_dying_at_a_write_changes_nothing(victim, whole, tmp_path, monkeypatch):
    result, written = whole
    assert victim in written
    replace = os.replace

    def die(source, target):
        if pathlib.Path(target).name == victim:
            raise Died
        replace(source, target)

    with light_export(page=True):
        with monkeypatch.context() as patch, pytest.raises(Died):
            patch.setattr(os, 'replace', die)
            runner.train_and_prune(CONFIG, tmp_path / 'run', progress=False)
        resumed = runner.train_and_prune(CONFIG, tmp_path / 'run', progress=False)
    for one, other in zip(result.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert files_of(tmp_path / 'run') == files_of(result.run_dir)
