"""What a run says before it begins, and the time that it says is left."""
import tfprune  # noqa: F401  (before keras)
import pytest

from light_export import light_export
from small_model import small_model
from tfprune.runs.announcement import seconds_left
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune


def row(phase, train, method=0.0):
    return {'phase': phase, 'train_seconds': train, 'method_seconds': method}


def test_time_left_is_that_of_the_phases_that_come():
    rows = [row('warmup', 9.0), row('warmup', 2.0), row('warmup', 4.0), row('joint', 3.0, 7.0)]
    assert seconds_left(rows[:1], ['warmup']) == 9              # all there is
    assert seconds_left(rows, ['warmup', 'warmup']) == 2 * (2 + 4) / 2
    assert seconds_left(rows, ['joint']) == 3 + 7
    assert seconds_left(rows, ['joint', 'fine_tune']) == pytest.approx(10 + (2 + 4 + 10) / 3)
    assert seconds_left(rows, []) == 0


@pytest.mark.slow
def test_a_log_file_has_lines_alone(tmp_path, capsys):
    """What is found is said first, and an epoch is a line."""
    with light_export():
        train_and_prune(Config(
            model=small_model(), dataset='digits', method='uniform', macs=0.5, warmup_epochs=2,
            random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1,
            batch_size=64, learning_rate=0.1, reward_images=100, score_images=100,
            score_batch_size=100, calibration_batches=1), tmp_path / 'run')
    said = capsys.readouterr()
    assert '\r' not in said.out + said.err
    model, budget, data, to_do, *lines = said.out.splitlines()
    assert model.endswith('channel groups can be pruned') and 'MACs' in model
    assert budget.startswith('budget: MACs at most ')
    assert data == 'digits: 1,337 training, 100 held-out and 360 test images'
    assert '3 epochs (2 before surgery, 1 after)' in to_do
    epochs = [line for line in lines if line.startswith('epoch ')]
    assert [line.endswith(' left') for line in epochs] == [True, True, False]
