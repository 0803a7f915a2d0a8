"""A user's tf.data datasets: what is wrong is named by dataset and image, what is right is read."""
import logging

import tfprune  # noqa: F401  (first: sets up Keras)
import numpy as np
import pytest
import tensorflow as tf

from tfprune.data import user_checks
from tfprune.data.pixels import BYTES
from tfprune.data.user_datasets import UserDatasets

K = 3
LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 0, 1, 0])
PIXELS = np.linspace(-1, 1, 10 * 12, dtype=np.float32).reshape(10, 2, 3, 2)


def pairs(images=PIXELS, labels=LABELS, batch=4):
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    return data.batch(batch) if batch else data


def read(batch=4, names=None, **changes):
    """UserDatasets of three like datasets but for the changes."""
    given = {name: pairs(batch=batch) for name in ('train_data', 'reward_data', 'test_data')}
    return UserDatasets.from_datasets(**{**given, **changes}, num_classes=K, class_names=names)


def spoilt(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def one_hot(place=None, row=None):
    rows = np.eye(K, dtype=np.float32)[LABELS]
    return rows if place is None else spoilt(rows, place, row)


# What is wrong with pixels or labels: (images, labels, what the message must say).
WRONG = {
    'NaN': (spoilt(PIXELS, (7, 1, 2, 0), np.nan), LABELS, ['image 7', 'nan', 'finite']),
    'infinite': (spoilt(PIXELS, (9, 0, 0, 1), -np.inf), LABELS, ['image 9', '-inf']),
    'two': (spoilt(spoilt(PIXELS, 5, np.inf), 8, np.nan), LABELS, ['image 5', 'inf']),
    'bfloat16': (tf.cast(spoilt(PIXELS, 6, np.nan), tf.bfloat16), LABELS, ['image 6', 'nan']),
    'negative': (PIXELS, spoilt(LABELS, 6, -1), ['image 6', '-1', '0 … 2']),
    'too high': (PIXELS, spoilt(LABELS, 9, 3), ['image 9', 'received 3', '0 … 2']),
    'huge': (PIXELS, spoilt(LABELS.astype(np.uint64), 1, 2 ** 63), ['image 1', str(2 ** 63)]),
    'not whole': (PIXELS, spoilt(LABELS.astype(float), 2, 1.5), ['image 2', '1.5']),
    'NaN label': (PIXELS, spoilt(LABELS.astype(float), 3, np.nan), ['image 3', 'nan']),
    'multi-hot': (PIXELS, one_hot(5, [1, 0, 1]), ['image 5', '[1.0, 0.0, 1.0]', 'one-hot']),
    'soft': (PIXELS, one_hot(4, [.2, .8, 0]), ['image 4', 'one-hot']),
    'smoothed': (PIXELS, one_hot() * .9 + .1 / K, ['image 0', 'smoothed']),
    'no label': (PIXELS, one_hot(8, 0), ['image 8', '[0.0, 0.0, 0.0]']),
    'all NaN': (PIXELS, one_hot() * np.nan, ['image 0', 'nan']),
    'not one': (PIXELS, one_hot(1, [0, 2, 0]), ['image 1', '2.0']),
    'empty': (PIXELS[:0], LABELS[:0], ['expected images', 'none']),
}


@pytest.mark.parametrize('batch', [4, None])
@pytest.mark.parametrize('name', WRONG)
def test_wrong_pixels_and_labels_are_named_by_dataset_and_image(name, batch):
    images, labels, said = WRONG[name]
    for which in ('train_data', 'reward_data', 'test_data'):
        with pytest.raises(ValueError) as caught:
            read(batch=batch, **{which: pairs(images, labels, batch)})
        message = str(caught.value)
        assert message.startswith(f'{which}: ') and '\n' not in message
        for part in said:
            assert part in message, message


def generated(*failing, shape=(2, 3, 2)):
    """A dataset that gives two examples and then does what `failing` does."""
    def give():
        yield np.zeros(shape, np.float32), 0
        yield np.ones(shape, np.float32), 1
        for fail in failing:
            fail()

    return tf.data.Dataset.from_generator(give, output_signature=(
        tf.TensorSpec(shape), tf.TensorSpec((), tf.int32)))


def breaks():
    raise LookupError('picture 3\nis not there')


DATA = pairs()
FORMS = {
    'list': ([(PIXELS, LABELS)], TypeError, 'tf.data.Dataset of (images, labels), received list'),
    'array': (PIXELS, TypeError, 'received ndarray'),
    'none': (np.float32, TypeError, 'received type'),
    'weights': (DATA.map(lambda x, y: (x, y, 1.0)), TypeError, 'three parts; weights of samples'),
    'images alone': (DATA.map(lambda x, y: x), TypeError, 'received elements'),
    'one part': (DATA.map(lambda x, y: (x,)), TypeError, 'received elements'),
    'dictionary': (DATA.map(lambda x, y: {'image': x, 'label': y}), TypeError,
                   'dictionaries of image, label'),
    'inner': (DATA.map(lambda x, y: ({'image': x}, y)), TypeError, 'received elements'),
    'complex': (DATA.map(lambda x, y: (tf.cast(x, tf.complex64), y)), TypeError,
                'real numbers, received complex64'),
    'strings': (DATA.map(lambda x, y: (tf.strings.as_string(x), y)), TypeError, 'received string'),
    'names': (DATA.map(lambda x, y: (x, tf.strings.as_string(y))), TypeError,
              'integer or one-hot labels, received string'),
    'flat': (DATA.map(lambda x, y: (x[..., 0, 0], y)), ValueError, '[H, W, C] or [B, H, W, C]'),
    'sizes': (DATA.map(lambda x, y: (tf.ensure_shape(tf.numpy_function(
        lambda v: v, [x], tf.float32), [None, None, 3, 2]), y)), ValueError, 'of a fixed size'),
    'any rank': (DATA.map(lambda x, y: (tf.numpy_function(lambda v: v, [x], tf.float32), y)),
                 ValueError, 'of a fixed size'),
    'classes': (pairs(labels=np.eye(5)[LABELS]), ValueError, 'one-hot labels of 3 classes'),
    'grid': (DATA.map(lambda x, y: (x, tf.zeros([tf.size(y), 2, 2]))), ValueError,
             'a label for each image'),
    'endless': (DATA.repeat(), ValueError, 'does not end; leave out repeat()'),
    'endless, cut': (DATA.repeat().map(lambda x, y: (x, y)), ValueError, 'does not end'),
    'generator': (generated(breaks), ValueError, 'fails: LookupError: picture 3 is not there'),
    'file': (tf.data.Dataset.from_tensor_slices(['/nowhere/x.png']).map(lambda path: (
        tf.ensure_shape(tf.io.decode_png(tf.io.read_file(path)), (2, 3, 2)), 0)), ValueError,
        'fails: /nowhere/x.png; No such file'),
    'ragged': (tf.data.Dataset.from_generator(
        lambda: [(np.zeros((5, 2, 3, 2)), np.zeros(4))], output_signature=(
            tf.TensorSpec((None, 2, 3, 2)), tf.TensorSpec((None,), tf.int32))), ValueError,
        '5 images with 4 labels'),
    'other size': (pairs(PIXELS[:, :1]), ValueError, 'expected images [2, 3, 2] as in train_data'),
}


@pytest.mark.parametrize('name', FORMS)
def test_another_form_is_refused_in_one_line(name):
    data, kind, said = FORMS[name]
    with pytest.raises(kind) as caught:
        read(reward_data=data)
    message = str(caught.value)
    assert message.startswith('reward_data: ') and said in message, message
    assert '\n' not in message and len(message) < 300


@pytest.mark.parametrize('names, kind, said', [
    ('abc', TypeError, "list of 3 strings, received 'abc'"), (5, TypeError, 'received 5'),
    (('a', 'b'), ValueError, 'expected 3'), ((), ValueError, 'received 0'),
    (('a', 'b', 2), ValueError, 'received 2'), (('a', 'b', None), ValueError, 'received None'),
    (('a', 'b', 'a'), ValueError, "'a' and 'a'"), (('a', 'b', ' '), ValueError, "received ' '"),
    (('a b', 'c', 'a\n b'), ValueError, r"'a b' and 'a\n b'"),
    (('caf\u00e9', 'c', 'cafe\u0301'), ValueError, r"'caf\xe9' and 'cafe\u0301'"),
    (('a', 'b', 'a\u200b'), ValueError, r"'a\u200b'"), (('a', 'b', 'a\x07'), ValueError, r'\x07'),
])
def test_names_of_classes_are_checked(names, kind, said):
    with pytest.raises(kind) as caught:
        read(names=names)
    assert str(caught.value).startswith('class_names: ') and said in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('labels', [
    LABELS, LABELS.astype(np.uint8), LABELS.astype(float), LABELS[:, None], one_hot(),
    one_hot().astype(bool), one_hot().astype(np.int8)])
@pytest.mark.parametrize('batch', [4, None])
def test_every_form_of_labels_is_read(labels, batch):
    data = read(test_data=pairs(labels=labels, batch=batch), names=np.array(['x', 'y', 'z']))
    images, found = zip(*data.test_batches(3).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate(found), LABELS)
    np.testing.assert_array_equal(np.concatenate(images), PIXELS)
    assert found[0].dtype == np.int32 and data.class_names == ('x', 'y', 'z')


def test_the_range_of_pixels_is_that_of_all_splits():
    data = read(reward_data=pairs(PIXELS * 3), test_data=pairs(PIXELS - .5))
    assert data.pixel_range == (-3.0, 3.0)
    assert data.to_json()['pixel_range'] == [-3.0, 3.0]
    whole = (PIXELS * 100 + 120).astype(np.uint8)
    data = read(**{f'{name}_data': pairs(whole) for name in ('train', 'reward', 'test')})
    assert data.pixel_range == (20.0, 220.0) and data.pixels == BYTES


def test_pixels_of_another_scale_are_said(caplog):
    """The same type: a warning. Bytes beside numbers of 0 … 1: refused."""
    read(test_data=pairs(PIXELS * 100))
    assert 'test_data: expected pixels of the range of train_data, float32 -1 … 1' in caplog.text
    with pytest.raises(ValueError, match='reward_data: .*float32 -1 … 1, received uint8 0 … 240'):
        read(reward_data=pairs((PIXELS * 120 + 120).astype(np.uint8)))
    caplog.clear()
    read(test_data=pairs(PIXELS.astype(np.float64)))
    assert 'pixels' not in caplog.text


def test_small_and_absent_classes_are_named(caplog):
    labels = np.repeat([0, 1, 2], [12, 12, 4])[np.random.default_rng(0).permutation(28)]
    images = np.ones((28, 2, 3, 2), np.float32)
    with caplog.at_level(logging.WARNING):
        read(names=('ant', 'bee', 'cow'), train_data=pairs(images, labels),
             reward_data=pairs(labels=LABELS % 2))
    message, = [record.getMessage() for record in caplog.records]
    assert 'cow (4)' in message and 'ant' not in message.replace('cow', '')
    assert message.endswith('1 without an image in the reward split: cow')


def test_sorted_reward_images_are_refused():
    with pytest.raises(ValueError, match='reward_data: .*sorted: shuffle'):
        read(reward_data=pairs(np.ones((60, 2, 3, 2), np.float32), np.repeat(range(3), 20)))


def test_what_the_user_holds_out_stays_held_out():
    data = read()
    assert data.with_released(4) is data
    for count in (0, 11):
        with pytest.raises(ValueError, match=f'score_images: expected 1 … 10, .* received {count}'):
            data.with_released(count)


def test_a_dataset_that_does_not_end_is_said(monkeypatch, caplog):
    monkeypatch.setattr(user_checks, '_PATIENCE', -1.0)
    read(train_data=generated())
    assert 'train_data: 2 images so far, and it has not ended' in caplog.text


@pytest.mark.parametrize('call, said', [
    (lambda data: data.train_batches(0, 11), 'batch_size: expected at most 10'),
    (lambda data: data.train_batches(0, 0), 'batch_size: expected at least 1, received 0'),
    (lambda data: data.train_batches(-1, 1), 'epoch: expected at least 0, received -1'),
    (lambda data: data.reward_batches(0), 'batch_size: expected at least 1, received 0'),
    (lambda data: data.test_batches(-1), 'batch_size: expected at least 1, received -1'),
    (lambda data: data.calibration_batches(4, 0), 'count: expected at least 1 batch, received 0'),
])
def test_bad_sizes_of_batches(call, said):
    with pytest.raises(ValueError, match=said):
        call(read())
