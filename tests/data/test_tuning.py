"""No batches wait for tf.data's tuner when they end."""
import tfprune  # noqa: F401  (first: sets up Keras)
import pytest
import tensorflow as tf

from tfprune.data.loading import load_data
from tfprune.data.tuning import untuned

import test_user_datasets
import test_user_examples

SOURCES = {
    'arrays': lambda: load_data('digits', reward_images=100),
    'datasets of pictures': test_user_datasets.read,
    'a table': lambda: test_user_examples.examples(test_user_examples.arrays(24)),
    'a dataset': lambda: test_user_examples.examples(test_user_examples.dataset(24, batch=4))}


@pytest.mark.parametrize('source', SOURCES)
def test_batches_of_any_data_are_not_tuned(source):
    data = SOURCES[source]()
    for batches in (data.train_batches(0, 2), data.reward_batches(2), data.test_batches(2),
                    data.calibration_batches(2, 1)):
        assert batches.options().autotune.enabled is False
        assert len(list(batches.take(1))) == 1


def test_options_that_were_set_stay():
    options = tf.data.Options()
    options.deterministic = False
    found = untuned(tf.data.Dataset.range(3).with_options(options)).options()
    assert found.deterministic is False and found.autotune.enabled is False
