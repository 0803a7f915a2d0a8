"""Images by class folder: layouts, formats, what cannot be read, where decoded images lie."""
import logging
import os
import pathlib

import tfprune  # noqa: F401  (first: sets up Keras)
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from class_folders import load, numbers, write
from tfprune.data import decoding, storage
from tfprune.data.loading import load_data
from tfprune.data.photographs import MEAN

IMAGENETTE = pathlib.Path(__file__).resolve().parents[3] / 'shared/data/imagenette128'


@pytest.fixture
def split(tmp_path):
    """train: b 0…4, a 5…7; val: b 100, 101, a 102."""
    write(tmp_path / 'train', b=5, a=3)
    write(tmp_path / 'val', first=100, b=2, a=1)
    return tmp_path


# Layouts.

def test_train_and_val_folders(split):
    data = load(split, reward_images=2)
    assert data.class_names == ('a', 'b') and data.num_classes == 2
    assert (data.num_train, data.num_reward, data.num_test) == (6, 2, 3)
    assert data.image_shape == (6, 4, 3)
    assert numbers(data.train_images) == [5, 6, 7, 0, 1, 2, 3, 4]
    assert data.train_labels.numpy().tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert numbers(data.test_images) == [102, 100, 101]
    assert data.test_labels.numpy().tolist() == [0, 1, 1]
    seen = [numbers(images) for images, _ in data.reward_batches(2).as_numpy_iterator()]
    assert sorted(seen[0] + numbers(data.train_images.numpy()[data.train_indices])) == [*range(8)]


def test_strays_are_left_aside_and_links_followed(split):
    before = numbers(load(split).train_images)
    for stray in ('.DS_Store', 'train/Thumbs.db', 'train/a/README.txt', 'train/a/._000.png',
                  'train/cover.jpg', 'val/.hidden/x.png', 'train/__MACOSX/a/._1.png',
                  'labels/a/x.csv'):
        (split / stray).parent.mkdir(parents=True, exist_ok=True)
        (split / stray).write_bytes(b'\0\1')
    assert numbers(load(split).train_images) == before
    outside = write(split / '.elsewhere', first=200, c=2)
    os.symlink(outside / 'c', split / 'train/c')
    (split / 'val/c').mkdir()
    os.symlink(outside / 'c/001.png', split / 'val/c/Linked.PNG')
    data = load(split)
    assert data.class_names == ('a', 'b', 'c')
    assert numbers(data.train_images) == before + [200, 201]
    assert numbers(data.test_images)[-1] == 201


def test_every_format_is_read_and_other_files_are_counted(split, caplog):
    """GIF, TIFF and the rarer names of JPEG beside PNG; the rest is said by suffix, once."""
    image = Image.fromarray(np.full((6, 4, 3), 77, np.uint8))
    for name in ('x.gif', 'x.TIF', 'x.tiff', 'x.jfif', 'x.jpe'):
        image.save(split / 'train/a' / name, **({'format': 'JPEG'} if '.j' in name else {}))
    data = load(split)
    assert data.num_train == 8 + 5 - 1
    assert sorted(numbers(data.train_images))[8:] == [77] * 5
    assert 'left aside' not in caplog.text
    for stray in ('train/a/1.heic', 'train/b/2.HEIC', 'val/a/3.heic', 'val/a/notes.txt',
                  'val/b/README', 'train/a/Thumbs.db', 'train/a/.DS_Store', 'val/cover.jpg'):
        (split / stray).write_bytes(b'?')
    caplog.clear()
    assert load(split).num_train == data.num_train
    message, = [record.getMessage() for record in caplog.records
                if 'left aside' in record.getMessage()]
    assert message.startswith(f'{split}: left aside 6 files: 3 .heic, ')
    for part in ('1 .txt', '1 without suffix', '1 .jpg beside the class folders'):
        assert part in message
    assert 'db' not in message and 'DS' not in message


def test_no_class_loses_its_last_images(tmp_path, caplog):
    """A large class beside tiny ones, whatever the seed; a class of two images trains on one."""
    write(tmp_path, common=60, **{f'rare{number}': 2 + number % 2 for number in range(8)})
    for seed in range(3):
        caplog.clear()
        data = load(tmp_path, split_seed=seed, reward_images=0)
        labels = data.train_labels.numpy()
        assert np.bincount(labels[data.train_indices], minlength=9).min() >= 1
        assert np.bincount(data.test_labels, minlength=9).min() >= 1
        message, = [record.getMessage() for record in caplog.records]
        assert 'folder: 8 of 9 classes with fewer than 10 training images: rare0 (1), ' in message


def test_test_split_is_test_then_val_then_validation(split, caplog):
    (split / 'val').rename(split / 'validation')
    assert load(split).num_test == 3
    write(split / 'val', first=90, a=1, b=1)
    assert numbers(load(split).test_images) == [90, 91]
    (split / 'test').mkdir()
    (split / 'test/unlabeled.png').write_bytes(b'')
    assert numbers(load(split).test_images) == [90, 91]
    assert 'test images are those of val; validation and test not used' in caplog.text
    write(split / 'test', first=80, a=1, b=1)
    assert numbers(load(split).test_images) == [80, 81]


@pytest.mark.parametrize('where', ['', 'train'])
def test_one_folder_is_split_within_each_class(tmp_path, where):
    """A fifth of 10, 25 and 3 images: 2, 5 and (0.6 of one) 1."""
    write(tmp_path / where, a=10, b=25, c=3)
    data = load(tmp_path)
    assert np.bincount(data.test_labels).tolist() == [2, 5, 1]
    test = numbers(data.test_images)
    assert sorted(numbers(data.train_images) + test) == list(range(38))
    for images, labels in ((data.train_images, data.train_labels),
                           (data.test_images, data.test_labels)):
        expected = np.searchsorted([10, 35], numbers(images), 'right')
        np.testing.assert_array_equal(labels, expected)
    assert numbers(load(tmp_path, seed=3, reward_images=4).test_images) == test
    assert numbers(load(tmp_path, split_seed=1).test_images) != test
    half = load(tmp_path, test_fraction=0.5)
    assert np.bincount(half.test_labels).tolist() == [5, 12, 2]
    assert np.bincount(load(tmp_path, test_fraction=0.92).train_labels).tolist() == [1, 2, 1]


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, plane=3, train=4)
    assert load(tmp_path).class_names == ('plane', 'train')


# Sizes.

@pytest.mark.parametrize('size, shape', [
    ('', (6, 4, 3)), ('8', (8, 8, 3)), ('8x16', (8, 16, 3)), ('6x4x1', (6, 4, 1))])
def test_image_size(split, size, shape):
    data = load(split, image_size=size)
    assert data.image_shape == shape == tuple(data.test_images.shape[1:])
    assert numbers(data.test_images) == [102, 100, 101]  # A flat image stays flat.
    assert data.mean == (MEAN if shape[2] == 3 else (0.449,))


def test_augmentation_scales_with_the_images(split):
    """An eighth of the shorter side; what is shifted in is the mean color."""
    data = load(split, image_size='16x40')
    assert (data.augmentation.max_shift, data.augmentation.flip) == (2, True)
    assert data.augmentation.fill == (124, 116, 104)
    assert not load(split, image_size='16', mirror=False).augmentation.flip
    assert load(split, augment=False).augmentation is None


# What is wrong.

BAD = {
    'text.jpg': (b'not an image', 'no BMP, GIF, JPEG, PNG, TIFF or WebP image'),
    'empty.png': (b'', 'no BMP, GIF, JPEG, PNG, TIFF or WebP image'),
    'icon.png': (b'\0\0\1\0\1' + bytes(50), 'no BMP, GIF, JPEG, PNG, TIFF or WebP image'),
    'cut.jpg': (None, 'truncated'),
}


def spoil(folder, *names):
    for name in names:
        content = BAD[name][0]
        if content is None:
            noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(noise).save(folder / name)
            content = (folder / name).read_bytes()[:-1000]
        (folder / name).write_bytes(content)


@pytest.mark.parametrize('name', BAD)
def test_an_unreadable_file_is_named(split, name):
    spoil(split / 'val/a', name)
    with pytest.raises(ValueError) as caught:
        load(split, image_size='8')
    message = str(caught.value)
    assert message.startswith(f'{split}: 1 of 12 images cannot be read: val/a/{name} (')
    assert BAD[name][1] in message and '--skip_unreadable' in message and '\n' not in message


def test_what_is_no_regular_file_is_named_and_nothing_waits(split):
    os.mkfifo(split / 'train/b/pipe.png')
    os.symlink('/dev/zero', split / 'val/a/zero.jpg')
    with pytest.raises(ValueError, match=r'pipe.png \(not a regular .*val/a/zero'):
        load(split)
    data = load(split, skip_unreadable=True)
    assert data.num_train + data.num_reward == 8 and data.num_test == 3


def test_many_unreadable_files_are_counted_and_all_in_the_log(split, caplog):
    spoil(split / 'train/a', *BAD)
    os.symlink('nowhere', split / 'val/b/gone.jpg')
    with pytest.raises(ValueError, match=r'5 of 16 images .* and 2 more; ') as caught:
        load(split)
    assert 'train/a/cut.jpg' in str(caught.value) and 'text.jpg' not in str(caught.value)
    assert {record.getMessage().split(': ')[1].split(' (')[0] for record in caplog.records} == {
        *(f'train/a/{name}' for name in BAD), 'val/b/gone.jpg'}


@pytest.mark.parametrize('cached', [False, True])
def test_unreadable_files_are_skipped_by_flag(split, cached, caplog):
    """Every image left keeps its label; who is skipped is said at every start."""
    plain = load(split)
    spoil(split / 'train/a', *BAD)
    spoil(split / 'val/b', 'cut.jpg')
    options = {'cache_dir': str(split / '.cache')} if cached else {}
    for _ in range(2):
        caplog.clear()
        data = load(split, skip_unreadable=True, **options)
        for field in ('train_images', 'train_labels', 'test_images', 'test_labels'):
            np.testing.assert_array_equal(getattr(data, field), getattr(plain, field))
        skipped = [record for record in caplog.records if 'skipped' in record.getMessage()]
        assert len(skipped) == 5
    for image in (split / 'val/a').iterdir():
        image.write_bytes(b'')
    with pytest.raises(ValueError, match="test split: class 'a' has no image that can be read"):
        load(split, skip_unreadable=True)


def test_images_of_several_sizes_need_a_size(split):
    write(split / 'train', shape=(5, 4), c=1)
    write(split / 'val', c=1)
    with pytest.raises(ValueError, match='train/c/000.png has 5x4 pixels, .* 6x4: .*--image_size'):
        load(split)
    assert load(split, image_size='5').image_shape == (5, 5, 3)


def rename(old, new):
    return lambda root: (root / old).rename(root / new)


@pytest.mark.parametrize('change, message', [
    (lambda root: (root / 'val/a/000.png').unlink(),
     'class folder .*/val/a has no images: .* none'),
    (lambda root: (root / 'val/a/000.png').rename(root / 'val/a/0.heic'), 'no images: .* 0.heic'),
    (lambda root: (root / 'train/c').mkdir(), 'class folder .*/train/c has no images'),
    (rename('val/a', 'val/x'), 'train and val have different classes: only in train: a; only in'
     ' val: x'),
    (lambda root: write(root / 'val', z=1), 'different classes: only in val: z'),
    (lambda root: write(root / 'train/a', deeper=1), "train/a holds a folder, 'deeper'"),
    (rename('train', 'Training'), "class folder .*/Training holds a folder, 'a': expected DIR/<c"),
    (lambda root: [rename('train/a', '.a')(root), rename('val/a', '.b')(root)],
     "train has one class folder, 'b', expected at least two"),
    (lambda root: [rename('val/a', '.a')(root), rename('val/b', '.b')(root)],
     'val has no class folders: expected DIR/<class>'),
])
def test_bad_layouts_name_the_culprit(split, change, message):
    change(split)
    with pytest.raises(ValueError, match=message) as caught:
        load(split)
    assert '\n' not in str(caught.value) and str(split) in str(caught.value)


def test_bad_folders_name_the_culprit(tmp_path):
    with pytest.raises(FileNotFoundError, match='data_dir .*/nowhere: no such folder'):
        load(tmp_path / 'nowhere')
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='data_dir .*/file: not a folder'):
        load(tmp_path / 'file')
    with pytest.raises(ValueError, match='has no class folders'):
        load(tmp_path)
    with pytest.raises(ValueError, match='needs --data_dir'):
        load_data('folder', reward_images=1)
    write(tmp_path, a=1, b=5)
    with pytest.raises(ValueError, match="/a has one image, expected at least two"):
        load(tmp_path)


@pytest.mark.parametrize('options, message', [
    ({'image_size': '0'}, "image_size: expected N, HxW or HxWxC .* received '0'"),
    ({'image_size': '-8'}, "received '-8'"), ({'image_size': '8x'}, "received '8x'"),
    ({'image_size': '8x8x2'}, "received '8x8x2'"), ({'image_size': '8 '}, "received '8 '"),
    ({'test_fraction': 0.0}, r'test_fraction must be in \(0, 1\); received 0.0'),
    ({'test_fraction': 1.0}, 'received 1.0'),
    ({'reward_images': 4}, 'expected 1 … 3 of the 8 training images of folder, .* received 4'),
])
def test_bad_options(split, options, message):
    with pytest.raises(ValueError, match=message):
        load(split, **options)


# Where decoded images lie.

def test_files_of_decoded_images_are_read_again(split, monkeypatch):
    plain, calls = load(split), []
    monkeypatch.setattr('tfprune.data.folder.decode_all', lambda *args, **keywords: (
        calls.append(1), decoding.decode_all(*args, **keywords))[1])
    cache = split / '.cache/deeper'
    for number in (1, 1, 2, 3):
        if number == 2:
            os.utime(split / 'val/a/000.png', ns=(0, 0))  # as if it had changed
        data = load(split, cache_dir=str(cache), **({'image_size': '3'} if number == 3 else {}))
        assert len(calls) == len(list(cache.iterdir())) == number
        if number < 3:
            for field in ('train_images', 'train_labels', 'test_images', 'test_labels'):
                np.testing.assert_array_equal(getattr(data, field), getattr(plain, field))


def test_damaged_and_unwritable_files_of_images(split):
    cache = split / '.cache'
    load(split, cache_dir=str(cache))
    path, = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(OSError, match=f'{path} is damaged: remove it'):
        load(split, cache_dir=str(cache))
    path.unlink()
    spoil(split / 'train/a', 'cut.jpg')
    with pytest.raises(ValueError, match='cut.jpg'):
        load(split, cache_dir=str(cache))
    assert not list(cache.iterdir())
    with pytest.raises(OSError, match='cannot write .*/val/a/000.png/.*: File exists'):
        load(split, cache_dir=str(split / 'val/a/000.png'), skip_unreadable=True)


def test_images_that_do_not_fit_are_refused_before_decoding(split, monkeypatch, tmp_path):
    """11 images of 6·4·3 bytes are 792 bytes, 0.6 of 1320."""
    monkeypatch.setattr(storage, '_machine_memory', lambda: 1320)
    assert load(split).num_test == 3
    monkeypatch.setattr(storage, '_machine_memory', lambda: 1319)
    with pytest.raises(ValueError, match='11 images of 6x4x3 take .*--image_size.*--cache_dir'):
        load(split)
    assert load(split, cache_dir=str(tmp_path / '.cache')).num_test == 3


# Real photographs.

@pytest.mark.skipif(not IMAGENETTE.is_dir(), reason='shared/data/imagenette128 is not there')
def test_imagenette(tmp_path):
    classes = sorted(path.name for path in (IMAGENETTE / 'train').iterdir())[:3]
    for part, count in (('train', 20), ('val', 5)):
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True)
            for image in sorted((IMAGENETTE / part / name).iterdir())[:count]:
                os.symlink(image, tmp_path / part / name / image.name)
    data = load(tmp_path, reward_images=10)
    assert data.class_names == tuple(classes) and data.image_shape == (128, 128, 3)
    assert (data.num_train, data.num_reward, data.num_test) == (50, 10, 15)
    assert data.augmentation.max_shift == 16
    images, labels = next(data.train_batches(0, 50).as_numpy_iterator())
    assert images.shape == (50, 128, 128, 3) and set(labels) == {0, 1, 2}
    assert 60 < images.mean() < 180 and images.std() > 30
    # Another library's decoder gives the same pixels, but for the rounding of JPEG.
    first = tf.io.decode_jpeg((tmp_path / 'val' / classes[0] / sorted(
        os.listdir(tmp_path / 'val' / classes[0]))[0]).read_bytes(), channels=3,
        dct_method='INTEGER_ACCURATE')
    assert np.abs(first.numpy().astype(int) - data.test_images[0].numpy()).mean() < 1


def test_the_log_is_silent_when_all_is_well(split, caplog):
    write(split / 'train', b=10, a=10)
    with caplog.at_level(logging.INFO, logger='tfprune'):
        load(split)
    assert not caplog.records
