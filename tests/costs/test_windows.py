"""Positions that are moved to the first axis, as windows of attention are, count as often."""
import tfprune  # noqa: F401  (before keras)
import keras
from keras import layers, ops

from tfprune.costs.model import CostModel
from tfprune.costs.multiply_adds import macs_by_running
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, randomize

WIDTH = 6


def windows():
    """image 8x8 - stem 6 - attention within windows of 4x4 by a residual - logits 3."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(WIDTH, 1, name='stem')(image)
    y = ops.transpose(ops.reshape(x, (-1, 2, 4, 2, 4, WIDTH)), (0, 1, 3, 2, 4, 5))
    y = layers.LayerNormalization(name='norm')(ops.reshape(y, (-1, 16, WIDTH)))
    y = layers.MultiHeadAttention(2, 3, name='attention')(y, y)
    y = ops.transpose(ops.reshape(y, (-1, 2, 2, 4, 4, WIDTH)), (0, 1, 3, 2, 4, 5))
    x = x + ops.reshape(y, (-1, 8, 8, WIDTH))
    return keras.Model(image, layers.Dense(3, name='logits')(layers.GlobalAveragePooling2D()(x)))


def test_windows_of_attention_count_as_often_as_there_are():
    model = randomize(windows())
    groups = trace_groups(model)
    assert dict(groups) == {'stem': WIDTH, 'attention/heads': 2, 'attention/key_width': 3,
                            'attention/value_width': 3}
    cost = CostModel(model, groups)
    of_window = 4 * 16 * WIDTH * 6 + 2 * 16 * 16 * 6
    assert cost.dense.macs == 64 * 3 * WIDTH + 4 * of_window + WIDTH * 3
    run = macs_by_running(lambda: model(keras.ops.zeros((1, 8, 8, 3)), training=False))
    assert cost.dense.macs == run
    found = check_promises(model, groups=groups)
    assert found.hold(), found
