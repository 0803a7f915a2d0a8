"""Latency of TFLite files: measured with its spread, and as a ratio of two files in turns."""
import tfprune  # noqa: F401  (before keras)
import keras
import pytest

from tfprune.export import tflite
from tfprune.export.latency import compare_latency, tflite_latency_ms


def file_of(channels):
    image = keras.Input((12, 10, 3))
    x = keras.layers.Conv2D(channels, 3, activation='relu')(image)
    x = keras.layers.Conv2D(channels, 3, activation='relu')(x)
    return tflite.convert(keras.Model(image, keras.layers.Dense(7)(keras.layers.Flatten()(x))))


@pytest.fixture(scope='module')
def small():
    return file_of(3)


def test_latency(small):
    one = tflite_latency_ms(small, repetitions=20, warmup=1)
    assert 0 < one.p10 <= one.median <= one.p90
    assert (one.repetitions, one.threads) == (20, 1)
    with pytest.raises(ValueError, match='threads: expected at least 1, received 0'):
        tflite_latency_ms(small, threads=0)


def test_compare_latency_gives_pruned_over_dense(small):
    """A hundred times the multiply-adds take more time, in whichever order."""
    large = file_of(64)
    forward = compare_latency(large, small, rounds=5, repetitions=5)
    assert forward.ratio < 0.7 and forward.pruned.median < forward.dense.median
    assert compare_latency(small, large, rounds=5, repetitions=5).ratio > 1 / 0.7
