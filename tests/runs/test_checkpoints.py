"""Checkpoints: whole or not there, two of them, damage found before it is read."""
import json
import os
import shutil
import subprocess
import sys
import textwrap

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.runs.checkpoints import CheckpointError, Checkpoints, Position, restore


@pytest.fixture
def value():
    return tf.Variable([1.0, 2.0, 3.0])


@pytest.fixture
def state(value):
    return tf.train.Checkpoint(value=value)


@pytest.fixture
def reports():
    return []


@pytest.fixture
def checkpoints(tmp_path, reports):
    return Checkpoints(tmp_path / 'checkpoints', reports.append)


def save(checkpoints, state, value, *epochs):
    for epoch in epochs:
        value.assign([epoch, 0, 0])
        checkpoints.save(Position(epoch), state)


def newest_value(checkpoints, value, state):
    position, prefix = checkpoints.newest()
    value.assign([-1, -1, -1])
    restore(state, prefix)
    assert value.numpy()[0] == position.epoch
    return position


def folder(checkpoints):
    return checkpoints._folder


def names(checkpoints):
    return sorted(path.name for path in folder(checkpoints).iterdir())


def damage(checkpoints, epoch):
    """Flips a byte of the data, length unchanged."""
    path = next((folder(checkpoints) / Position(epoch).name).glob('state.data*'))
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def test_nothing_there(checkpoints, tmp_path):
    assert checkpoints.newest() is None
    assert not (tmp_path / 'checkpoints').exists()  # reading writes nothing


def test_the_newest_two_are_kept(checkpoints, state, value, reports):
    save(checkpoints, state, value, 1, 2, 3)
    assert names(checkpoints) == ['e00002_s00000000', 'e00003_s00000000']
    assert newest_value(checkpoints, value, state) == Position(3) and reports == []


def test_positions_order_by_epoch_then_step(checkpoints, state):
    for position in (Position(9, 120), Position(10, 7), Position(10, 30)):
        checkpoints.save(position, state)
    assert checkpoints.newest()[0] == Position(10, 30)
    checkpoints.save(Position(11), state)
    assert checkpoints.newest()[0] == Position(11)
    assert len(names(checkpoints)) == 2


def test_the_same_position_again_replaces(checkpoints, state, value):
    save(checkpoints, state, value, 1, 2)
    value.assign([2, 9, 9])
    checkpoints.save(Position(2), state)
    assert newest_value(checkpoints, value, state) == Position(2)
    assert value.numpy().tolist() == [2, 9, 9] and len(names(checkpoints)) == 2


def test_a_killed_write_is_ignored_then_removed(checkpoints, state, value, reports):
    save(checkpoints, state, value, 1)
    # What kill -9 leaves: before the manifest, and before the rename.
    shutil.copytree(folder(checkpoints) / Position(1).name,
                    folder(checkpoints) / f'partial_{Position(2).name}')
    half = folder(checkpoints) / f'partial_{Position(3).name}'
    half.mkdir()
    (half / 'state.data-00000-of-00001').write_bytes(b'half')
    assert newest_value(checkpoints, value, state) == Position(1) and reports == []
    save(checkpoints, state, value, 2)
    assert names(checkpoints) == [Position(1).name, Position(2).name]


@pytest.mark.parametrize('harm', [
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.unlink(),
    lambda path: path.write_bytes(b'')])
@pytest.mark.parametrize('file', ['state.index', 'state.data-00000-of-00001', 'manifest.json'])
def test_a_damaged_newest_is_reported_and_the_one_before_used(checkpoints, state, value, reports,
                                                              file, harm):
    save(checkpoints, state, value, 1, 2)
    harm(folder(checkpoints) / Position(2).name / file)
    assert newest_value(checkpoints, value, state) == Position(1)
    assert len(reports) == 1 and '\n' not in reports[0]
    assert Position(2).name in reports[0] and 'damaged' in reports[0]


@pytest.mark.parametrize('manifest', ['[]', '{}', 'null', '{"sha256": {}, "position": {"x": 1}}',
                                      '{"sha256": {}, "position": {"epoch": 7, "step": 0}}'])
def test_a_manifest_of_something_else_is_damage(checkpoints, state, value, reports, manifest):
    save(checkpoints, state, value, 1, 2)
    (folder(checkpoints) / Position(2).name / 'manifest.json').write_text(manifest)
    assert checkpoints.newest()[0] == Position(1) and len(reports) == 1


def test_a_flipped_bit_is_damage(checkpoints, state, value, reports):
    save(checkpoints, state, value, 1, 2)
    damage(checkpoints, 2)
    assert newest_value(checkpoints, value, state) == Position(1)
    assert 'state.data-00000-of-00001 is not what was written' in reports[0]


def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(checkpoints, state, value, reports):
    save(checkpoints, state, value, 4)
    checkpoints.save(Position(5, 50), state)
    folder_of_5 = folder(checkpoints) / Position(5, 50).name
    (folder_of_5 / 'manifest.json').unlink()
    assert checkpoints.newest()[0] == Position(4)
    assert folder_of_5.exists()  # reading removes nothing
    save(checkpoints, state, value, 6)
    assert names(checkpoints) == [Position(4).name, Position(6).name]
    # A damaged one that is written anew is whole again.
    damage(checkpoints, 6)
    assert checkpoints.newest()[0] == Position(4)
    save(checkpoints, state, value, 6)
    assert newest_value(checkpoints, value, state) == Position(6)
    assert names(checkpoints) == [Position(4).name, Position(6).name]


def test_all_damaged(checkpoints, state, value, reports):
    save(checkpoints, state, value, 1, 2)
    damage(checkpoints, 1)
    damage(checkpoints, 2)
    for _ in range(2):  # it stays an error
        with pytest.raises(CheckpointError, match='all checkpoints in .* are damaged') as caught:
            checkpoints.newest()
        assert '\n' not in str(caught.value)
    assert len(names(checkpoints)) == 2 and len(reports) == 4


def test_what_is_no_checkpoint_is_left_alone(checkpoints, state, value):
    folder(checkpoints).mkdir()
    (folder(checkpoints) / 'events').mkdir()
    (folder(checkpoints) / 'notes.txt').write_text('mine')
    save(checkpoints, state, value, 1, 2, 3)
    assert checkpoints.newest()[0] == Position(3)
    assert {'events', 'notes.txt'} < set(names(checkpoints))


def test_a_failed_write_leaves_what_was_there(checkpoints, state, value):
    save(checkpoints, state, value, 1)

    class Full:
        def write(self, path):
            with open(path + '.index', 'w') as file:
                file.write('half')
            raise tf.errors.ResourceExhaustedError(None, None, 'No space left\nTrace: …')

    with pytest.raises(OSError, match='cannot write checkpoint .*: No space left$') as caught:
        checkpoints.save(Position(2), Full())
    assert '\n' not in str(caught.value)
    assert names(checkpoints) == [Position(1).name]
    assert newest_value(checkpoints, value, state) == Position(1)


def test_a_file_too_large_for_the_disk_is_an_oserror(tmp_path):
    """A real failing write(2): the process may not write files beyond 64 KiB."""
    script = textwrap.dedent('''
        import pathlib, resource, signal, sys
        import tfprune
        import tensorflow as tf
        from tfprune.runs.checkpoints import Checkpoints, Position
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        checkpoints = Checkpoints(pathlib.Path(sys.argv[1]))
        checkpoints.save(Position(1), tf.train.Checkpoint(x=tf.Variable(tf.zeros(10))))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        try:
            checkpoints.save(Position(2), tf.train.Checkpoint(x=tf.Variable(tf.zeros(10 ** 6))))
        except OSError as error:
            print('refused:', error)
        print(checkpoints.newest()[0], [p.name for p in pathlib.Path(sys.argv[1]).iterdir()])
    ''')
    done = subprocess.run([sys.executable, '-c', script, str(tmp_path / 'c')], text=True,
                          capture_output=True, check=False, env=_environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, kept = done.stdout.splitlines()
    assert refused.startswith('refused: cannot write checkpoint ')
    assert kept == f"Position(epoch=1, step=0, seconds=0.0, round=0) ['{Position(1).name}']"


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path, state):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='cannot write checkpoint .*: Not a directory'):
        Checkpoints(tmp_path / 'file' / 'checkpoints').save(Position(1), state)


# What is restored.

def network(widths, seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3))
    x = image
    for i, width in enumerate(widths):
        x = layers.BatchNormalization()(layers.Conv2D(width, 3, name=f'conv{i}')(x))
    return keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))


def training_state(widths, seed=0):
    model = network(widths, seed)
    optimizer = keras.optimizers.SGD(0.1, momentum=.9)
    optimizer.build(model.trainable_variables)
    for i, variable in enumerate(optimizer.variables[2:]):
        variable.assign(variable + seed + i)
    return model, optimizer, tf.train.Checkpoint(model=model, optimizer=optimizer)


def test_a_model_and_its_optimizer_come_back_whole(checkpoints):
    model, optimizer, state = training_state([4, 5], seed=1)
    checkpoints.save(Position(1), state)
    other, its_optimizer, its_state = training_state([4, 5], seed=2)
    restore(its_state, checkpoints.newest()[1])
    for ours, theirs in ((model.variables, other.variables),
                         (optimizer.variables, its_optimizer.variables)):
        assert len(ours) == len(theirs) > 5
        assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(ours, theirs))


@pytest.mark.parametrize('widths', [[4, 6], [4, 5, 5], [4]])
def test_another_model_is_refused_on_one_line(checkpoints, widths):
    checkpoints.save(Position(1), training_state([4, 5])[2])
    with pytest.raises(CheckpointError, match='does not fit this model and method') as caught:
        restore(training_state(widths)[2], checkpoints.newest()[1])
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 500


def test_another_method_is_refused(checkpoints, state):
    checkpoints.save(Position(1), state)
    for other in (tf.train.Checkpoint(value=tf.Variable([1., 2., 3.]), agent=tf.Variable(0.)),
                  tf.train.Checkpoint(other=tf.Variable([1., 2., 3.]))):
        with pytest.raises(CheckpointError, match='does not fit'):
            restore(other, checkpoints.newest()[1])


def test_a_missing_file_is_a_checkpoint_error(tmp_path, state):
    with pytest.raises(CheckpointError, match='does not fit') as caught:
        restore(state, str(tmp_path / 'nothing' / 'state'))
    assert '\n' not in str(caught.value)


def test_the_manifest_says_what_was_written(checkpoints, state, value):
    save(checkpoints, state, value, 3)
    manifest = json.loads((folder(checkpoints) / Position(3).name / 'manifest.json').read_text())
    assert manifest['position'] == {'epoch': 3, 'step': 0, 'seconds': 0.0, 'round': 0}
    assert set(manifest['sha256']) == {'state.index', 'state.data-00000-of-00001'}


def _environment():
    package = os.path.dirname(os.path.dirname(tfprune.__file__))
    path = os.pathsep.join(filter(None, [package, os.environ.get('PYTHONPATH')]))
    return {**os.environ, 'PYTHONPATH': path}
