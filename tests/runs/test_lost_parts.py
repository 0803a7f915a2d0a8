"""What a run had written and its folder lost while it was interrupted is said, also in the report;
a failure before the first checkpoint leaves a folder that another configuration may take.
"""
import json
import shutil

import pytest

import tfprune  # noqa: F401  (before keras)
from light_export import light_export
from small_model import small_model
from tfprune import report
from tfprune.report.reading import read_run
from tfprune.runs import epochs, lost_parts, run as runner
from tfprune.runs.config import Config
from tfprune.runs.folder import OWN_FILES, RunFolder

CONFIG = Config(model=small_model(), dataset='digits', method='uniform', macs=0.5, warmup_epochs=1,
                distillation=0.0,
                random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=2,
                batch_size=512, reward_images=100, score_images=100, score_batch_size=100,
                calibration_batches=1, lr_warmup_epochs=0.0)


def run(folder, config=CONFIG, **options):
    with light_export(page=True):
        return runner.train_and_prune(config, folder, progress=False, **options)


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    """A run that was stopped in its last epoch, after surgery."""
    folder = tmp_path_factory.mktemp('stopped') / 'run'
    with pytest.raises(epochs.Interrupted):
        run(folder, should_stop=lambda: len(
            (folder / 'metrics.jsonl').read_text().splitlines()) == 2
            if (folder / 'metrics.jsonl').exists() else False)
    return folder


@pytest.fixture(scope='module')
def whole(stopped, tmp_path_factory):
    """The same, finished; nothing was lost."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    shutil.copytree(stopped, folder)
    assert run(folder).report['missing'] == []
    return folder


def test_nothing_lost_is_not_spoken_of(whole):
    assert 'Lost' not in (whole / 'report.html').read_text()
    assert all(value > 0 for value in read_run(whole).report['seconds'].values())
    # Whatever a run writes is known as such: an unbegun folder is cleared by these names.
    assert {path.name for path in whole.iterdir()} <= OWN_FILES


def test_without_its_teacher_a_run_does_not_go_on(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / 'run')
    for name in ('config.json', 'training.json'):
        path = tmp_path / 'run' / name
        values = json.loads(path.read_text())
        (values.get('training') or values)['distillation'] = 0.5
        path.write_text(json.dumps(values))
    (tmp_path / 'run/dense.keras').unlink()
    with pytest.raises(ValueError, match='lost, and with it the teacher of --distillation=0.5; be'):
        runner.train_and_prune(CONFIG.replace(distillation=0.5), tmp_path / 'run', progress=False)


def test_lost_parts_are_said_once_and_reported(stopped, tmp_path, capsys):
    shutil.copytree(stopped, tmp_path / 'run')
    rows = (tmp_path / 'run/metrics.jsonl').read_text().splitlines(True)
    (tmp_path / 'run/metrics.jsonl').write_text(rows[1])
    for name in ('dense.keras', 'data.json'):
        (tmp_path / 'run' / name).unlink()
    found = run(tmp_path / 'run').report
    assert found['missing'] == ['data.json', 'metrics.jsonl: epoch 1 of 2', 'dense.keras']
    assert capsys.readouterr().err.count('lost since it was written') == 1
    # The sum of what is left is the time of nothing.
    assert found['seconds'] == {'training': None, 'search': None, 'total': None}
    page, card = ((tmp_path / 'run' / name).read_text()
                  for name in ('report.html', 'export/model_card.md'))
    for phrase in found['missing']:
        assert phrase in page and phrase in card
    assert 'data.json; metrics.jsonl' in ' '.join(report.format_table(found).split())
    row = report.run_row(tmp_path / 'run')
    assert row['seconds'] is None and report.format_summary([row])


@pytest.mark.parametrize('count, found, phrase', [
    (3, [0, 1, 2], ''), (0, [], ''), (3, [0, 2], 'm.jsonl: epoch 2 of 3'),
    (3, [], 'm.jsonl: epochs 1–3 of 3'), (9, [1, 4, 5, 8], 'm.jsonl: epochs 1, 3–4, 7–8 of 9')])
def test_rows_that_are_lost_by_hand(count, found, phrase):
    assert lost_parts._rows('m.jsonl', 'epoch', count, found) == phrase


def test_what_was_lost_is_remembered(tmp_path):
    """data.json is written anew by the first resumption; the second still says that it was lost."""
    folder = RunFolder(tmp_path / 'run', CONFIG)
    (folder.path / 'checkpoints/e00000_s00000001').mkdir(parents=True)
    folder.close()
    for _ in range(2):
        again = RunFolder(tmp_path / 'run', CONFIG)
        assert again.note_lost([]) == ['data.json', 'training.json']
        for name in ('data.json', 'training.json'):
            again.write_json(name, {})
        again.close()


def test_an_export_that_is_gone_is_made_again(whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run/export')
    again = run(tmp_path / 'run').report['pruned']['test_accuracy']
    assert (tmp_path / 'run/export/pruned.keras').exists()
    assert again == read_run(whole).report['pruned']['test_accuracy']
    shutil.rmtree(tmp_path / 'run/export')
    shutil.rmtree(tmp_path / 'run/checkpoints')
    with pytest.raises(ValueError, match='a finished run without export/pruned.keras'):
        run(tmp_path / 'run')


@pytest.mark.parametrize('error', [
    ValueError('mine'), pytest.param(KeyboardInterrupt(), marks=pytest.mark.slow)])
def test_a_failure_before_the_first_checkpoint_leaves_nothing(tmp_path, monkeypatch, error):
    """Of whatever kind, and wherever what was written lies; a user's own file stays."""
    def fail(state, problem):
        (state.folder.path / 'tensorboard').mkdir()
        (state.folder.path / 'tensorboard/events').touch()
        raise error

    monkeypatch.setattr(runner, 'restore_run', fail)
    with pytest.raises(type(error)):
        run(tmp_path / 'a/b/run')
    assert not list(tmp_path.iterdir())

    def fail_beside_a_note(state, problem):
        (state.folder.path / 'notes.txt').write_text('mine')
        fail(state, problem)

    monkeypatch.setattr(runner, 'restore_run', fail_beside_a_note)
    with pytest.raises(type(error)):
        run(tmp_path / 'run')
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['notes.txt']


def test_a_run_that_was_killed_before_its_first_checkpoint_is_taken_over(tmp_path):
    """By another configuration, or the same of other files; a run that has begun is not."""
    path, other = tmp_path / 'run', CONFIG.replace(seed=5)
    RunFolder(path, CONFIG).close()  # and was killed
    (path / 'tensorboard').mkdir()
    (path / 'data.json').write_text('{"name": "of before"}')
    (path / 'notes.txt').write_text('mine')
    (path / 'checkpoints/partial_e00000_s00000001').mkdir(parents=True)
    taken = RunFolder(path, other)
    assert taken.read_json('config.json')['seed'] == 5 and taken.read_json('data.json') is None
    assert not (path / 'tensorboard').exists() and (path / 'notes.txt').read_text() == 'mine'
    with pytest.raises(ValueError, match='another process runs'):
        RunFolder(path, CONFIG)
    taken.close()
    for name in ('checkpoints/e00000_s00000001', 'export'):
        (path / name).mkdir(parents=True)
        with pytest.raises(ValueError, match='--seed: 5 -> 0'):
            RunFolder(path, CONFIG)
        shutil.rmtree(path / name)


@pytest.mark.parametrize('text', ['{"architectures": []}', json.dumps(CONFIG.to_json())])
@pytest.mark.parametrize('beside', ['export', 'src'])
def test_a_project_with_files_of_these_names_is_left_alone(tmp_path, text, beside):
    """Its config.json is of something else, or lies there alone: nothing is cleared."""
    (tmp_path / beside).mkdir()
    for name, content in (('config.json', text), ('data.json', 'mine')):
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError):
        RunFolder(tmp_path, CONFIG.replace(seed=8))
    assert {path.name for path in tmp_path.iterdir()} == {beside, 'config.json', 'data.json'}
    assert (tmp_path / 'data.json').read_text() == 'mine'
