"""Where decoded images lie: as much as fits, shared where it can be."""
import tfprune  # noqa: F401  (first: sets up Keras)
import numpy as np
import tensorflow as tf

from tfprune.data import storage


def test_machine_memory_is_that_of_the_container(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, '_CGROUP_LIMIT', tmp_path / 'memory.max')
    whole = storage._machine_memory()
    assert whole > 2 ** 28
    for text, expected in (('1048576\n', 1048576), ('max\n', whole), (f'{whole + 1}', whole)):
        (tmp_path / 'memory.max').write_text(text)
        assert storage._machine_memory() == expected


def test_tensors_share_the_memory_of_aligned_images_only():
    """A shared tensor shows a change of the array; an unaligned array is copied."""
    def fill(images, numbers):
        images[:], numbers[:] = 7, range(5)
        return 4

    images, numbers = storage.stored((5, 8, 8, 1), fill)
    assert images.shape == (4, 8, 8, 1) and numbers.tolist() == [0, 1, 2, 3]
    for array, shared in ((images, True), (images[2:], True), (images[:, 1:], False),
                          (images.reshape(-1)[1:].reshape(-1, 5), False)):
        tensor = storage.as_tensor(array)
        before = array.ravel()[-1]
        array[-1, ..., -1] = before + 1
        assert (tf.reshape(tensor, [-1])[-1].numpy() == before + 1) == shared
        np.testing.assert_array_equal(tf.gather(tensor, [0])[0], array[0])
