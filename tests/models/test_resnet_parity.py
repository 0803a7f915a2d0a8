"""Gated against pruned, and predicted against recounted costs, on whole CIFAR ResNets.

python -m pytest tests/models/test_resnet_parity.py -n 0 -s -m 'slow or not slow': README's numbers.
"""
import numpy as np
import pytest

from tfprune.costs.model import CostModel
from tfprune.models.building import build_model
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.masks import widths_of
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import max_relative_difference, random_masks, randomize, recount


@pytest.mark.parametrize('name, draws, residual', [
    ('resnet20', 4, True), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('resnet20', 10, True), ('resnet20', 10, False),
        ('resnet56', 3, True), ('resnet56', 3, False)))])
def test_gated_equals_pruned_and_predicted_equals_recount(name, draws, residual):
    model = randomize(build_model(name, image_shape=(32, 32, 3), num_classes=10,
                                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    groups = trace_groups(model)
    groups = groups if residual else groups.without_residual()
    cost_model, gated = CostModel(model, groups), insert_gates(model, groups)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
    largest = 0.0
    for _ in range(draws):
        masks = random_masks(groups, rng)
        gated.set_masks(masks)
        pruned = prune_model(model, groups, masks)
        largest = max(largest, max_relative_difference(gated.model(images), pruned(images)))
        cost = cost_model(widths_of(masks))
        assert (cost.macs, cost.params) == recount(pruned)
    print(f'\n{name}, {len(groups)} groups, {draws} random masks: gated against pruned '
          f'{largest:.1e} of the largest output; MACs and params exact')
    assert largest < 1e-5
