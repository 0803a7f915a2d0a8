"""The transformer of the zoo: sizes by hand, positions, what is prunable."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest

from tfprune.costs.model import count_cost
from tfprune.models import vit
from tfprune.models.building import build_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, randomize

IMAGES = dict(num_classes=10, mean=(.5,) * 3, std=(.2,) * 3)
SMALL = dict(patch=4, width=12, depth=2, heads=3, mlp_ratio=2, image_shape=(8, 12, 3), **IMAGES)


def test_the_sizes_of_vit_cifar():
    model = build_model('vit_cifar', image_shape=(32, 32, 3), **IMAGES)
    tokens, width = 64, 96
    block = 4 * width ** 2 + 2 * tokens * width + 2 * 2 * width ** 2
    cost = count_cost(model)
    assert cost.macs == tokens * (48 * width + 6 * block) + width * 10
    biases = 6 * (2 * 2 + 4 + 2 + 1) * width + 2 * width + width + 10
    assert cost.params == 48 * width + tokens * width + 6 * 8 * width ** 2 + width * 10 + biases
    assert model.count_params() == cost.params


def test_each_patch_has_a_position_of_its_own():
    model = vit.build(**SMALL)
    image = np.full((2, 8, 12, 3), 100, 'float32')
    placed = keras.Model(model.input, model.get_layer('placed').output)(image).numpy()
    positions = model.get_layer('positions').embeddings.numpy()
    np.testing.assert_allclose(placed[1] - placed[1, :1], positions - positions[:1], atol=1e-6)


def test_heads_widths_and_the_stream_are_pruned():
    model = randomize(vit.build(**SMALL))
    groups = trace_groups(model)
    inner = ['attention/heads', 'attention/key_width', 'attention/value_width', 'mlp_in']
    assert dict(groups) == {'patches': 12, **{
        f'block{block}_{name}': width for block in (1, 2)
        for name, width in zip(inner, (3, 4, 4, 24))}}
    assert groups.groups['patches'].is_residual
    found = check_promises(model, groups=groups)
    assert found.hold(), found


def test_images_that_patches_do_not_tile_are_refused():
    with pytest.raises(ValueError, match='expected multiples of 4 pixels'):
        vit.build(**{**SMALL, 'image_shape': (8, 10, 3)})
