"""Names of class folders and files, as they are written and as they are shown."""
import os

import tfprune  # noqa: F401  (first: sets up Keras)
import pytest

from class_folders import load, numbers, write


@pytest.fixture
def split(tmp_path):
    """train: b 0…4, a 5…7; val: b 100, 101, a 102."""
    write(tmp_path / 'train', b=5, a=3)
    write(tmp_path / 'val', first=100, b=2, a=1)
    return tmp_path


def test_a_class_has_one_name_in_every_form_of_unicode(split, tmp_path):
    """As one system writes it (NFC) and another (NFD); sorted as one, too."""
    composed, decomposed = '\u00e9t\u00e9', 'e\u0301te\u0301'
    write(split / 'train', first=20, **{composed: 2, 'f': 1})
    write(split / 'val', first=120, **{decomposed: 1, 'f': 1})
    data = load(split)
    assert data.class_names == ('a', 'b', 'f', composed)
    assert numbers(data.test_images) == [102, 100, 101, 121, 120]
    write(split / 'val', first=130, **{composed: 1})
    with pytest.raises(ValueError, match='class folders of .*/val: .* look the same') as caught:
        load(split)
    assert ascii(composed) in str(caught.value) and ascii(decomposed) in str(caught.value)


@pytest.mark.parametrize('first, second', [
    ('new line', 'new\nline'), ('cat', 'cat '), ('cat', ' cat'), ('a b', 'a  b'), ('a b', 'a\tb'),
    ('dog', 'do\x07g'), ('dog', 'dog\u200b'), ('dog', '\u202edog'), ('a b', 'a\u00a0b')])
def test_classes_that_look_the_same_are_refused(tmp_path, first, second):
    write(tmp_path, **{first: 2, second: 2, 'other': 2})
    with pytest.raises(ValueError, match='look the same; rename one') as caught:
        load(tmp_path)
    assert str(caught.value).isprintable()
    assert ascii(first) in str(caught.value) and ascii(second) in str(caught.value)


def test_a_class_needs_a_name_that_is_seen(tmp_path):
    write(tmp_path, **{'a': 2, ' ': 2, 'b': 2})
    with pytest.raises(ValueError, match="expected a name for each class, received ' '"):
        load(tmp_path)


def test_a_class_that_is_a_link_to_nothing_is_named(split):
    os.symlink('nowhere', split / 'train/c')
    with pytest.raises(ValueError, match='class folder .*/train/c is a link to nothing'):
        load(split)


def test_names_of_files_are_escaped_in_messages(split):
    (split / 'train/a/1\n2.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'train/a/1\\n2.png \(no BMP') as caught:
        load(split)
    assert '\n' not in str(caught.value)
