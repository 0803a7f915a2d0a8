"""layers.json: channels and multiply-adds by layer against the pruned model itself."""
import types

import tfprune
import numpy as np
import pytest

from tfprune.costs.model import CostModel, count_cost
from tfprune.methods.base import Decision
from tfprune.pruning.depth import removable_blocks, remove_blocks
from tfprune.runs.layers import layers_of


def problem_of(model):
    groups = tfprune.trace_groups(model)
    return types.SimpleNamespace(model=model, groups=groups, cost_model=CostModel(model, groups))


@pytest.fixture(scope='module')
def dense():
    return problem_of(tfprune.build_model('resnet8', image_shape=(8, 8, 1), num_classes=10,
                                          mean=(0,), std=(1,)))


def decided(problem, removed=()):
    """Every third channel goes, of every second group."""
    return Decision({name: np.arange(width) % 3 > 0
                     for name, width in list(problem.groups.items())[::2]}, removed)


@pytest.mark.parametrize('removes', [False, True])
def test_rows_are_those_of_the_pruned_model(dense, removes):
    blocks = list(removable_blocks(dense.model))[:removes]
    left = problem_of(remove_blocks(dense.model, blocks)) if blocks else dense
    decision = decided(left, tuple(blocks))
    pruned = tfprune.prune_model(left.model, left.groups, decision.masks)
    found = layers_of(dense, left, decision)
    sums = [sum(row[side] for row in found['layers']) for side in ('before', 'after')]
    assert sums == [dense.cost_model.dense.macs, count_cost(pruned).macs]
    gone = [row['layer'] for row in found['network'] if not row['kept']]
    assert bool(gone) == removes
    for row in found['network']:
        shape = dense.model.get_layer(row['layer']).output.shape
        assert tuple(row['shape']) == shape[1:] and row['channels'] == shape[-1]
        if row['layer'] not in gone:
            assert row['kept'] == pruned.get_layer(row['layer']).output.shape[-1]
    assert all(layer.name not in gone for layer in pruned.layers)
    assert any(0 < row['kept'] < row['channels'] for row in found['network'])


def test_what_hands_on_channels_is_left_out(dense):
    rows = layers_of(dense, dense, decided(dense))['network']
    kinds = {row['kind'] for row in rows}
    assert {'InputLayer', 'Conv2D', 'Add', 'Dense'} <= kinds
    assert not {'BatchNormalization', 'ReLU', 'Activation', 'GlobalAveragePooling2D'} & kinds
    assert all(source < place for place, row in enumerate(rows) for source in row['inputs'])
    assert [len(row['inputs']) for row in rows if row['kind'] == 'Add'] == [2, 2, 2]
    assert not rows[-1]['is_prunable'] and any(row['is_prunable'] for row in rows)
