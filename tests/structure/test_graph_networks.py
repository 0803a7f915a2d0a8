"""Message passing written in keras.ops: hidden widths of nodes and messages are pruned."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, random_masks, randomize

NODES, EDGES = 7, 20


def by_segments(reduce):
    """Nodes [N, 5], edges by two lists of indices: rows are nodes, without an axis of graphs."""
    nodes = keras.Input((5,), name='nodes')
    sender, receiver = (keras.Input((), dtype='int32', name=name) for name in ('from', 'to'))
    x = layers.Dense(8, activation='tanh', name='embed')(nodes)
    for place in range(2):
        ends = ops.concatenate([ops.take(x, sender, axis=0), ops.take(x, receiver, axis=0)], -1)
        message = layers.Dense(6, activation='tanh', name=f'message{place}')(ends)
        received = reduce(message, receiver, num_segments=NODES)
        x = x + layers.Dense(8, name=f'update{place}')(ops.concatenate([x, received], -1))
    return keras.Model([nodes, sender, receiver], layers.Dense(3, name='out')(x))


def by_indices():
    """Graphs [B, N, 5] with neighbors by indices [B, N, 1]."""
    nodes = keras.Input((NODES, 5), name='nodes')
    neighbor = keras.Input((NODES, 1), dtype='int32', name='neighbor')
    x = layers.Dense(8, activation='tanh', name='embed')(nodes)
    x = x + layers.Dense(8, name='update')(ops.take_along_axis(x, neighbor, axis=1))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model([nodes, neighbor], layers.Dense(3, name='out')(x))


@pytest.mark.parametrize('reduce', [ops.segment_sum, ops.segment_max])
def test_edges_by_segments(reduce):
    model = randomize(by_segments(reduce))
    groups = trace_groups(model)
    assert dict(groups) == {'embed': 8, 'message0': 6, 'message1': 6}
    rng = np.random.default_rng(0)
    nodes = rng.normal(size=(NODES, 5)).astype('float32')
    # Every node receives, for the maximum of nothing is -inf.
    ends = rng.integers(0, NODES, EDGES), np.arange(EDGES) % NODES
    inputs = [nodes, *(each.astype('int32') for each in ends)]
    found = check_promises(model, random_masks(groups, rng), groups=groups, inputs=inputs)
    assert found.hold(), found


def test_neighbors_by_indices():
    model = randomize(by_indices())
    groups = trace_groups(model)
    assert dict(groups) == {'embed': 8}
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(2, NODES, 5)).astype('float32'),
              rng.integers(0, NODES, (2, NODES, 1)).astype('int32')]
    masks = {'embed': np.arange(8) % 3 > 0}
    found = check_promises(model, masks, groups=groups, inputs=inputs)
    assert found.hold() and found.gated_difference < 1e-5, found
