"""Sets of tensorflow-datasets, made here and read by tensorflow-datasets' own code."""
import socket

import tfprune  # noqa: F401  (first: sets up Keras)
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfprune.data import tfds_images
from tfprune.data.loading import load_data
from tfprune.data.tfds_images import CHARACTERS

F = tfds.features


def rows(first, sizes, channels=3, label=lambda number: number % 2):
    """Images of the given (height, width), filled with their numbers, from `first` on."""
    return [{'image': np.full((*size, channels), number, np.uint8), 'label': label(number)}
            for number, size in enumerate(sizes, first)]


def make(folder, name, features, **splits):
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name, version='1.0.0', data_dir=folder, features=F.FeaturesDict(features),
        split_datasets={split: enumerate(found) for split, found in splits.items()})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Sets as tensorflow-datasets stores them."""
    folder = tmp_path_factory.mktemp('tensorflow_datasets')
    label = F.ClassLabel(names=['even', 'odd'])
    gray = {'image': F.Image(shape=(6, 4, 1)), 'label': label}
    make(folder, 'alone', gray, train=rows(0, [(6, 4)] * 30, channels=1))
    make(folder, 'twofold', gray, train=rows(0, [(6, 4)] * 6, channels=1),
         test=rows(100, [(6, 4)] * 4, channels=1))
    varied = {'image': F.Image(), 'label': label, 'mask': F.Image()}
    make(folder, 'varied', varied,
         **{split: [{**row, 'mask': row['image']} for row in found] for split, found in {
             'train': rows(0, [(5 + i, 9 - i) for i in range(6)]),
             'test': rows(50, [(4, 4)], label=lambda _: -1),
             'validation': rows(100, [(7, 3 + i) for i in range(4)])}.items()})
    make(folder, 'unlabeled', gray,
         train=rows(0, [(6, 4)] * 5, channels=1,
                    label=lambda number: -1 if number == 4 else number % 2),
         test=rows(50, [(6, 4)] * 3, channels=1))
    make(folder, 'tested', gray, test=rows(0, [(6, 4)] * 5, channels=1))
    make(folder, 'pairs', {'one': F.Image(), 'other': F.Image(), 'label': label},
         train=[{'one': np.zeros((2, 2, 3), np.uint8), 'other': np.zeros((2, 2, 3), np.uint8),
                 'label': 0}])
    make(folder, 'deep', {'image': F.Image(shape=(2, 2, 1), dtype=np.uint16), 'label': label},
         train=[{'image': np.zeros((2, 2, 1), np.uint16), 'label': 0}])
    return folder


def load(folder, name, **options):
    return load_data(name, data_dir=str(folder), **{'reward_images': 1, **options})


def numbers(images, labels):
    found = np.asarray(images)[:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(found % 2, labels)  # Each with its own label.
    assert np.asarray(images).std(axis=(1, 2)).max() == 0
    return sorted(found)


def test_a_set_with_a_test_split(folder):
    data = load(folder, 'twofold')
    assert data.name == 'twofold' and data.class_names == ('even', 'odd')
    assert data.image_shape == (6, 4, 1) and data.mean == (0.449,)
    assert numbers(data.train_images, data.train_labels) == list(range(6))
    assert numbers(data.test_images, data.test_labels) == [100, 101, 102, 103]


def test_a_set_without_a_test_split_is_split_by_fraction(folder):
    data = load(folder, 'alone')
    train, test = (numbers(*split) for split in (
        (data.train_images, data.train_labels), (data.test_images, data.test_labels)))
    assert len(test) == 6 and sorted(train + test) == list(range(30))
    assert test != list(range(24, 30))  # tensorflow-datasets has shuffled them
    assert numbers(load(folder, 'alone', seed=4).test_images, data.test_labels) == test
    assert load(folder, 'alone', test_fraction=0.5).num_test == 16  # 8 of each 15
    assert load(folder, 'alone', test_fraction=0.001).num_test == 2
    other = load(folder, 'alone', split_seed=1)
    assert numbers(other.test_images, other.test_labels) != test


def test_no_class_loses_its_last_images_to_a_test_split(folder, tmp_path):
    """24 images of one class, 3 of another, in a file that ends with the rare ones."""
    gray = {'image': F.Image(shape=(6, 4, 1)), 'label': F.ClassLabel(names=['common', 'rare'])}
    make(tmp_path, 'uneven', gray, train=rows(0, [(6, 4)] * 27, channels=1,
                                              label=lambda number: int(number >= 24)))
    for seed in range(4):
        data = load(tmp_path, 'uneven', split_seed=seed, reward_images=3)
        assert np.bincount(data.test_labels).tolist() == [5, 1]
        left = data.train_labels.numpy()[data.train_indices]
        assert np.bincount(left).tolist() == [16, 2]  # reward images: 2.7 and 0.3 of three


def test_images_of_several_sizes_are_resized(folder):
    """And a test split without labels is passed over for the next."""
    with pytest.raises(ValueError, match="'varied' has images of several sizes: .*--image_size"):
        load(folder, 'varied')
    data = load(folder, 'varied', image_size='8x12')
    assert data.image_shape == (8, 12, 3)
    assert numbers(data.train_images, data.train_labels) == list(range(6))
    assert numbers(data.test_images, data.test_labels) == [100, 101, 102, 103]


def test_color_and_gray(folder):
    assert load(folder, 'alone', image_size='6x4x3').image_shape == (6, 4, 3)
    data = load(folder, 'varied', image_size='8x8x1')
    assert data.image_shape == (8, 8, 1)
    assert numbers(data.test_images, data.test_labels) == [100, 101, 102, 103]


def test_characters_are_not_mirrored(folder, monkeypatch):
    assert set(CHARACTERS) < set(tfds.list_builders())
    monkeypatch.setattr(tfds_images, 'CHARACTERS', ('twofold',))
    assert not load(folder, 'twofold').augmentation.flip
    assert load(folder, 'alone').augmentation.flip
    assert not load(folder, 'alone', mirror=False).augmentation.flip


def test_files_of_decoded_images(folder, tmp_path):
    cached = [load(folder, 'alone', cache_dir=str(tmp_path)) for _ in range(2)]
    assert len(list(tmp_path.iterdir())) == 1  # split as it was read
    load(folder, 'alone', cache_dir=str(tmp_path), split_seed=1)
    assert len(list(tmp_path.iterdir())) == 2
    load(folder, 'twofold', cache_dir=str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4  # train, test
    plain = load(folder, 'alone')
    for data in cached:
        for field in ('train_images', 'train_labels', 'test_images', 'test_labels'):
            np.testing.assert_array_equal(getattr(data, field), getattr(plain, field))


@pytest.mark.parametrize('name, message', [
    ('pairs', "'pairs' is not one of image classification: expected an 'image' and its 'label', "
     'received label, one, other'),
    ('coco', "'coco' is not one of image classification"),
    ('ag_news_subset', "'ag_news_subset' is not one of image classification"),
    ('deep', r"'deep': expected uint8 images .*, received uint16 \(2, 2, 1\), 2 classes"),
    ('unlabeled', 'unlabeled, train split: expected labels in 0 … 1, received -1 … 1'),
    ('tested', "'tested' has no split 'train', only test"),
    ('imagenette/900px', "dataset 'imagenette/900px': .*900px"),
    ('mnits', r"Unknown dataset 'mnits'. Available: cifar10, cifar100, digits, folder, or any "
     r'image classification set of tensorflow-datasets \(there is mnist'),
    ('not a name', "dataset 'not a name': "),
])
def test_bad_sets_are_refused_by_name(folder, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, name)
    assert '\n' not in str(caught.value)


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    def no_network(*_):
        raise socket.gaierror(-2, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', no_network)
    monkeypatch.setattr('urllib.request.getproxies', dict)
    with pytest.raises(FileNotFoundError, match=f'tfds build beans --data_dir={tmp_path}'):
        load(tmp_path, 'beans', image_size='32')
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_one_line(folder, tmp_path):
    gray = {'image': F.Image(shape=(6, 4, 1)), 'label': F.ClassLabel(num_classes=2)}
    make(tmp_path, 'hurt', gray, train=rows(0, [(6, 4)] * 9, channels=1))
    record, = tmp_path.glob('hurt/1.0.0/*tfrecord*')
    content = bytearray(record.read_bytes())
    content[-30] ^= 1
    record.write_bytes(content)
    with pytest.raises(ValueError, match=r'hurt is damaged \(.*remove .*/hurt/1.0.0 and') as caught:
        load(tmp_path, 'hurt')
    assert '\n' not in str(caught.value)
    with pytest.raises(ValueError, match='hurt is damaged'):
        load(tmp_path, 'hurt', cache_dir=str(tmp_path / 'cache'))
    # Of the other split at most, and no part of a file.
    assert [path.name[0] for path in (tmp_path / 'cache').iterdir()] in ([], ['i'])
    with pytest.raises(OSError, match=f'cannot write {record}/images_.*: File exists'):
        load(tmp_path, 'hurt', cache_dir=str(record))
