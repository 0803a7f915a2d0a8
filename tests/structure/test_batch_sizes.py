"""Composite layers that compute with the size of the batch are opened, too."""
import tfprune  # noqa: F401  (before keras)
import keras
import pytest
from keras import layers, ops

from tfprune.costs.model import CostModel
from tfprune.costs.multiply_adds import macs_by_running
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, randomize

WIDTH = 6


class Windows(layers.Layer):
    """Dense layers within windows of 4x4 of [B, 8, 8, C], with a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.expand, self.project = layers.Dense(9, activation='tanh'), layers.Dense(WIDTH)

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, WIDTH), name='token')
        self.expand.build((None, 17, WIDTH))
        self.project.build((None, 17, 9))

    def call(self, x):
        images = ops.shape(x)[0]
        y = ops.transpose(ops.reshape(x, (images, 2, 4, 2, 4, WIDTH)), (0, 1, 3, 2, 4, 5))
        y = ops.reshape(y, (images * 4, 16, WIDTH))
        y = self.project(self.expand(y + self.token))
        images = ops.shape(y)[0] // 4
        y = ops.transpose(ops.reshape(y, (images, 2, 2, 4, 4, -1)), (0, 1, 3, 2, 4, 5))
        return x + ops.reshape(y, (images, 8, 8, WIDTH))


class Token(Windows):
    """A token before the positions, for each image."""

    def call(self, x):
        images = ops.shape(x)[0]
        y = ops.reshape(x, (images, 64, WIDTH))
        y = ops.concatenate([ops.tile(self.token, (images, 1, 1)), y], axis=1)
        y = self.project(self.expand(y))[:, 1:]
        return x + ops.reshape(y, (images, 8, 8, WIDTH))


class Moves(Windows):
    """Moves the images behind the rows."""

    def call(self, x):
        images = ops.shape(x)[0]
        return ops.reshape(ops.transpose(x, (1, 0, 2, 3)), (images * 8, 8, 1, WIDTH))[:images]


def model_of(layer):
    image = keras.Input((8, 8, 3), name='image')
    x = layers.Conv2D(WIDTH, 3, padding='same', activation='tanh', name='stem')(image)
    x = layers.GlobalAveragePooling2D()(layer(x))
    return randomize(keras.Model(image, layers.Dense(3, name='logits')(x)))


@pytest.mark.parametrize('kind', [Windows, Token])
def test_they_are_opened_and_counted(kind):
    model = model_of(kind(name='own'))
    groups = trace_groups(model)
    assert dict(groups) == {'stem': WIDTH, 'own/expand': 9}, groups.unprunable
    run = macs_by_running(lambda: model(ops.zeros((1, 8, 8, 3)), training=False))
    assert CostModel(model, groups).dense.macs == run
    for seed in range(2):
        found = check_promises(model, groups=groups, seed=seed)
        assert found.hold(), found


def test_what_moves_the_batch_stays_closed():
    groups = trace_groups(model_of(Moves(name='moves')))
    assert dict(groups) == {} and 'could not be opened' in groups.unprunable['stem']
