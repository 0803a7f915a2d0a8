import tfprune  # noqa: F401  (first: sets up Keras)

import socket

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.data.array_data import ArrayImageData
from tfprune.data.augment import random_shift_and_flip, shift_and_flip
from tfprune.data.image_data import Augmentation
from tfprune.data.loading import load_data
from tfprune.data.split import FEW, reward_split


def numbered(size=50, height=5, width=3, channels=2, **changes):
    """Data whose image i is filled with i (train) or 100 + i (test, 7 images), labels i mod 4."""
    def split(first, size):
        numbers = np.arange(first, first + size, dtype=np.uint8)
        images = np.broadcast_to(
            numbers[:, None, None, None], (size, height, width, channels)).copy()
        return images, (numbers % 4).astype(np.int64)

    return ArrayImageData.from_arrays(**{**dict(
        name='numbered', train=split(0, size), test=split(100, 7), class_names=tuple('abcd'),
        mean=(0.5, 0.5), std=(0.2, 0.2), reward_images=11), **changes})


def collect(batches):
    images, labels = zip(*batches.as_numpy_iterator())
    return np.concatenate(images), np.concatenate(labels)


def ids(batches):
    images, labels = collect(batches)
    np.testing.assert_array_equal(labels, images[:, 0, 0, 0] % 4)  # Each with its own label.
    return images[:, 0, 0, 0].tolist()


def test_splits_are_disjoint_and_complete():
    data = numbered()
    train, reward, test = (ids(batches) for batches in (
        data.train_batches(0, 13), data.reward_batches(4), data.test_batches(4)))
    assert (len(train), len(reward), len(test)) == (39, 11, 7)
    assert sorted(train + reward) == list(range(50))
    assert test == list(range(100, 107))
    assert (data.num_train, data.num_reward, data.num_test) == (39, 11, 7)


def test_reward_split_depends_on_split_seed_alone():
    first = ids(numbered(seed=0).reward_batches(4))
    assert ids(numbered(seed=5).reward_batches(11)) == first
    assert ids(numbered(split_seed=1).reward_batches(4)) != first


def imbalanced(sizes, seed=0):
    """Labels of classes of these sizes, in no order."""
    return np.random.default_rng(seed).permutation(np.repeat(range(len(sizes)), sizes))


def names(sizes):
    return tuple(f'class {label}' for label in range(len(sizes)))


@pytest.mark.parametrize('sizes, count, expected', [
    ((10, 20, 70), 10, [(1, 2, 7)]),
    ((8, 8, 8, 8), 8, [(2, 2, 2, 2)]),
    ((4, 4), 3, [(1, 2), (2, 1)]),  # 1.5 each: by chance
    ((6, 8, 86), 10, [(0, 1, 9), (1, 1, 8)]),  # 0.6, 0.8, 8.6: two of the rests
    ((1, 1, 1, 97), 50, []),  # at most 48
    ((1, 1, 1, 97), 48, [(0, 0, 0, 48)]),
    ((0, 2, 18), 10, [(0, 1, 9)]),
    ((3, 3, 3), 3, [(1, 1, 1)]),
])
def test_reward_images_are_a_share_of_each_class(sizes, count, expected):
    for seed in range(4):
        labels = imbalanced(sizes)
        if not expected:
            with pytest.raises(ValueError, match=f'expected 1 … 48 .* received {count}'):
                reward_split('set', labels, names(sizes), count, seed)
            continue
        train, reward = reward_split('set', labels, names(sizes), count, seed)
        assert tuple(np.bincount(labels[reward], minlength=len(sizes))) in expected
        assert sorted([*train, *reward]) == list(range(len(labels)))
        assert train.tolist() == sorted(train)


def test_equal_remainders_are_dealt_by_split_seed():
    drawn = {tuple(np.bincount(imbalanced((4, 4))[reward_split(
        'set', imbalanced((4, 4)), ('a', 'b'), 3, seed)[1]])) for seed in range(20)}
    assert drawn == {(1, 2), (2, 1)}


@pytest.mark.parametrize('sizes', [(500,) * 10, (30, 300, 600), (2, 2, 996)])
def test_every_beginning_of_the_reward_split_is_as_balanced_as_the_whole(sizes):
    labels, classes = imbalanced(sizes), len(sizes)
    for seed in range(3):
        _, reward = reward_split('set', labels, names(sizes), sum(sizes) // 5, seed)
        found = labels[reward]
        share = np.bincount(found, minlength=classes) / len(found)
        counts = np.cumsum(np.eye(classes)[found], axis=0)
        expected = np.arange(1, len(found) + 1)[:, None] * share
        assert np.abs(counts - expected).max() < 3
        # In no order of classes: neighbors are of one class no more often than by chance.
        assert np.mean(found[1:] == found[:-1]) < (share ** 2).sum() + 0.02


def test_no_class_loses_its_last_training_images(caplog):
    """Whatever the sizes; small classes are named once."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sizes = rng.choice([1, 2, 3, 5, 40, 200], 12)
        labels, most = imbalanced(sizes, seed), int((sizes // 2).sum())
        for count in {0, 1, most // 2, most}:
            caplog.clear()
            train, reward = reward_split('set', labels, names(sizes), count, seed)
            assert len(reward) == (count or min(max(1, len(labels) // 10), most))
            left = np.bincount(labels[train], minlength=12)
            assert (left >= 1).all() and (2 * left >= sizes).all()
            few = int((sizes < FEW).sum())
            message, = [record.getMessage() for record in caplog.records] or ['']
            assert (f'set: {few} of 12 classes with fewer than 10 training images' in message
                    ) == bool(few)


def test_small_classes_are_named_with_their_images(caplog):
    reward_split('plants', imbalanced((3, 90, 7)), ('moss', 'fern', 'yew'), 10, 0)
    message, = [record.getMessage() for record in caplog.records]
    assert message.startswith('plants: 2 of 3 classes with fewer than 10 training images: '
                              'moss (3), yew (7)')
    assert message.endswith('; 1 without an image in the reward split: moss')  # 0.3 of one
    caplog.clear()
    reward_split('plants', imbalanced((10, 90, 12)), ('moss', 'fern', 'yew'), 3, 0)
    assert 'without an image in the reward split' in caplog.text
    caplog.clear()
    reward_split('plants', imbalanced((10, 90, 12)), ('moss', 'fern', 'yew'), 1, 0)
    assert not caplog.records  # one image is what was asked for


def test_what_nothing_scores_is_trained_on_after_the_decision():
    data = numbered(size=48, reward_images=12)
    released = data.with_released(5)
    assert (released.num_train, released.num_reward, released.num_test) == (43, 5, 7)
    before, after = ids(data.reward_batches(4)), ids(released.reward_batches(4))
    assert after == before[:5]
    train = ids(released.train_batches(3, 43))
    assert sorted(train + after) == list(range(48))
    assert ids(numbered(size=48, reward_images=12).with_released(5).train_batches(3, 43)) == train
    assert ids(released.train_batches(4, 43)) != train
    assert sorted(ids(released.calibration_batches(43, 1))) == sorted(train)
    assert data.num_train == 36 and ids(data.reward_batches(4)) == before
    assert ids(data.with_released(12).train_batches(2, 36)) == ids(data.train_batches(2, 36))
    for count in (0, 13):
        with pytest.raises(ValueError, match=f'score_images: expected 1 … 12, .*received {count}'):
            data.with_released(count)


def test_sets_held_as_bytes_have_their_range():
    assert numbered().pixel_range == (0.0, 255.0)
    assert numbered().to_json()['pixel_range'] == [0.0, 255.0]


def test_batch_shapes():
    data = numbered()
    train, reward, test, calibration = (
        [len(labels) for _, labels in batches] for batches in (
            data.train_batches(0, 16), data.reward_batches(4), data.test_batches(4),
            data.calibration_batches(16, 5)))
    assert train == [16, 16]  # 39 = 16 + 16 + 7, dropped
    assert reward == [4, 4, 3]
    assert test == [4, 3]
    assert calibration == [16] * 5
    for batches in (data.train_batches(0, 16), data.reward_batches(4), data.test_batches(4)):
        images, labels = batches.element_spec
        assert images.dtype == tf.uint8 and labels.dtype == tf.int32
        assert images.shape[1:] == (5, 3, 2)
    assert data.train_batches(0, 16).element_spec[0].shape[0] == 16


def test_epochs_are_functions_of_seed_and_epoch():
    data = load_data('digits', reward_images=300, seed=1)
    keras.utils.set_random_seed(0)
    images, labels = collect(data.train_batches(2, 100))
    keras.utils.set_random_seed(1)  # Other random streams must not matter, nor a new object.
    again = load_data('digits', reward_images=300, seed=1).train_batches(2, 100)
    for _ in range(2):
        np.testing.assert_array_equal(collect(again)[0], images)
        np.testing.assert_array_equal(collect(again)[1], labels)
    for other in (data.train_batches(3, 100),
                  load_data('digits', reward_images=300, seed=2).train_batches(2, 100)):
        assert np.mean(collect(other)[1] == labels) < 0.2


def test_seeds_do_not_share_epochs():
    assert (ids(numbered(seed=1).train_batches(0, 39)) != ids(numbered().train_batches(1, 39)))


def test_fixed_orders():
    data = load_data('digits', reward_images=300)
    for batches in (
            data.test_batches(100), data.reward_batches(100), data.calibration_batches(50, 3)):
        for first, second in zip(collect(batches), collect(batches)):
            np.testing.assert_array_equal(first, second)


def test_calibration_images_are_training_images_and_plain():
    data = numbered(augmentation=Augmentation(2, True, (255, 255)))
    train = sorted(ids(numbered().train_batches(0, 39)))
    drawn = ids(data.calibration_batches(13, 6))  # 78 = 2 x 39: each twice
    assert sorted(drawn[:39]) == sorted(drawn[39:]) == train
    assert ids(numbered(seed=1).calibration_batches(13, 6)) != drawn


def naive_crop(image, row, col, flip, fill, pad):
    height, width, channels = image.shape
    padded = np.empty((height + 2 * pad, width + 2 * pad, channels), np.uint8)
    padded[:] = fill
    padded[pad:-pad, pad:-pad] = image
    crop = padded[pad + row:pad + row + height, pad + col:pad + col + width]
    return crop[:, ::-1] if flip else crop


def test_shift_and_flip_against_naive_crops():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (200, 7, 5, 3), np.uint8)
    rows, cols = generator.integers(-4, 5, (2, 200)).astype(np.int32)
    flips = generator.integers(0, 2, 200).astype(bool)
    fill = np.array([124, 116, 104], np.uint8)
    expected = [naive_crop(*arguments, fill, 4) for arguments in zip(images, rows, cols, flips)]
    np.testing.assert_array_equal(shift_and_flip(images, rows, cols, flips, fill), expected)


def test_random_offsets_reach_every_value_evenly():
    # Each pixel tells its row and column, so that the offsets can be read off the result.
    height = width = 9
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    images = np.broadcast_to(np.stack([y, x], -1), (6000, height, width, 2))
    out = random_shift_and_flip(
        tf.constant(images), [1, 2], max_shift=2, flip=True, fill=tf.constant([255, 255], tf.uint8))
    center = out.numpy()[:, 4, 3:5].astype(int)
    flips = center[:, 0, 1] > center[:, 1, 1]
    rows = center[:, 1, 0] - 4
    cols = center[:, 1, 1] - 4
    assert set(rows) == set(cols) == {-2, -1, 0, 1, 2}
    for offsets in (rows, cols):
        np.testing.assert_allclose(np.bincount(offsets + 2) / 6000, 0.2, atol=0.03)
    assert abs(flips.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(rows, cols)[0, 1]) < 0.05
    assert abs(np.corrcoef(cols, flips)[0, 1]) < 0.05


def test_batches_of_an_epoch_are_augmented_differently():
    data = numbered(
        size=100, height=9, width=9, augmentation=Augmentation(4, True, (255, 255)))
    outside = [(images == 255).mean((1, 2, 3)) for images, _ in
               data.train_batches(0, 40).as_numpy_iterator()]
    assert not np.array_equal(*outside)


def test_digits_are_shifted_by_one_pixel_and_never_mirrored():
    data = load_data('digits', reward_images=300)
    assert data.image_shape == (8, 8, 1)
    assert (data.num_train, data.num_reward, data.num_test) == (1137, 300, 360)
    plain = data.train_images.numpy()[data.train_indices]
    possible = {
        naive_crop(image, row, col, False, 0, 1).tobytes()
        for image in plain for row in (-1, 0, 1) for col in (-1, 0, 1)}
    augmented, _ = collect(data.train_batches(0, 379))
    assert {image.tobytes() for image in augmented} <= possible
    plain_bytes = sorted(image.tobytes() for image in plain)
    # One of nine offsets leaves an image as it is.
    assert np.mean([image.tobytes() in set(plain_bytes) for image in augmented[:200]]) < 0.3
    unchanged, _ = collect(
        load_data('digits', reward_images=300, augment=False).train_batches(0, 379))
    assert sorted(image.tobytes() for image in unchanged) == plain_bytes


def test_digits_constants_are_those_of_the_training_images():
    data = load_data('digits', reward_images=300)
    pixels = data.train_images.numpy() / 255
    assert pixels.mean() == pytest.approx(data.mean[0], abs=5e-5)
    assert pixels.std() == pytest.approx(data.std[0], abs=5e-5)
    assert data.train_images.numpy().max() == 255


@pytest.mark.parametrize('change, message', [
    (dict(reward_images=-1), 'expected 1 … 24 .* at most half of each class, received -1'),
    (dict(reward_images=25), 'expected 1 … 24 .* at most half of each class, received 25'),
    (dict(size=4), 'numbered: no class has two training images'),
    (dict(class_names=('a', 'b', 'c', 'b ')), "class names: 'b' and 'b ', .* look the same"),
    (dict(class_names=('a', 'b')), 'train split: expected labels in 0 … 1, received 0 … 3'),
    (dict(train=(np.zeros((5, 4, 4)), np.zeros(5, int))),
     r'train split: expected uint8 .*float64 \(5, 4, 4\)'),
    (dict(test=(np.zeros((5, 4, 4, 2), np.uint8), np.zeros(5, int))),
     r'test split: expected images of shape \(5, 3, 2\) .*received \(4, 4, 2\)'),
    (dict(test=(np.zeros((5, 5, 3, 2), np.uint8), np.zeros(4, int))),
     r'test split: expected 5 integer labels, received int64 \(4,\)'),
    (dict(test=(np.zeros((5, 5, 3, 2), np.uint8), np.zeros(5))),
     'integer labels, received float64'),
    (dict(seed=-1), 'seed.*expected at least 0, received -1'),
])
def test_bad_arrays(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        numbered(**change)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('call, message', [
    (lambda data: data.train_batches(0, 40),
     'batch_size: expected at most 39, the training examples of .*received 40'),
    (lambda data: data.train_batches(-1, 4), 'epoch: expected at least 0, received -1'),
    (lambda data: data.test_batches(0), 'batch_size: expected at least 1, received 0'),
    (lambda data: data.calibration_batches(4, 0), 'count: expected at least 1 batch, received 0'),
])
def test_bad_batches(call, message):
    with pytest.raises(ValueError, match=message):
        call(numbered())


def test_a_tenth_of_the_images_is_held_out_unless_said():
    data = load_data('digits')
    assert (data.num_reward, data.num_train) == (143, 1294)


def test_bad_names_and_splits():
    expected = "Unknown dataset 'mnits'. Available: cifar10, cifar100, digits"
    with pytest.raises(ValueError, match=expected):
        load_data('mnits', reward_images=1)
    with pytest.raises(ValueError, match=r'reward_images must be in \[0, .* received -1'):
        load_data('digits', reward_images=-1)
    with pytest.raises(ValueError, match='expected 1 … 716 of the 1437 .* received 717'):
        load_data('digits', reward_images=717)


@pytest.mark.parametrize('option, value, kind, message', [
    ('reward_images', 2.5, TypeError, 'must be int; received float 2.5'),
    ('reward_images', '5', TypeError, "received str '5'"),
    ('seed', True, TypeError, 'received bool True'),
    ('seed', -1, ValueError, r'must be in \[0, 4294967295\]; received -1'),
    ('split_seed', 2 ** 32, ValueError, r'in \[0, 4294967295\]; received 4294967296'),
    ('test_fraction', float('nan'), ValueError, r'must be in \(0, 1\); received nan'),
    ('test_fraction', float('inf'), ValueError, 'received inf'),
    ('test_fraction', '0.2', TypeError, "received str '0.2'"),
    ('image_size', '100000x100000', ValueError, "at most 16384 pixels, received '100000x100000'"),
    ('image_size', '8x' + 5000 * '9', ValueError, 'at most 16384 pixels'),
    ('image_size', '8\n', ValueError, r"received '8\\n'"),
    ('augment', 'no', TypeError, "must be bool; received str 'no'"),
    ('data_dir', 5, TypeError, 'must be str; received int 5'),
    ('cache_dir', 'a\0b', ValueError, r"received 'a\\x00b'"),
])
def test_options_are_checked_by_name(option, value, kind, message):
    with pytest.raises(kind, match=f'^{option}.*{message}') as caught:
        load_data('digits', **{option: value})
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 200


def test_missing_files_say_how_to_get_them_and_leave_nothing(tmp_path, monkeypatch):
    def no_network(*_):
        raise socket.gaierror(-2, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', no_network)
    monkeypatch.setattr('urllib.request.getproxies', dict)
    expected = f'tfds build cifar10 --data_dir={tmp_path}'
    with pytest.raises(FileNotFoundError, match=expected) as caught:
        load_data('cifar10', data_dir=str(tmp_path), reward_images=5000)
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())
