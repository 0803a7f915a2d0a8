"""Promises on models that nobody wrote: drawn by Hypothesis from branches, sums, nesting, sharing,
attention, recurrence, normalization, operations and layers of a user's own.
"""

import tempfile
from pathlib import Path

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from random_models import BLOCKS, SIZE, Block, Spec, build, specs
from tfprune.pruning.masks import open_masks, widths_of
from tfprune.pruning.surgery import prune_model
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.groups import trace_groups
from tfprune.testing import (check_promises, max_relative_difference, random_masks, recount)


def on_models(count, most=4):
    """Calls a test with the specs of `count` models and a seed for each, always the same ones."""
    def decorate(test):
        return settings(max_examples=count, deadline=None, derandomize=True)(
            given(specs(most), st.integers(0, 99))(test))

    return decorate


def images(seed):
    return np.random.default_rng(seed).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


def difference(a, b):
    return max(max_relative_difference(one, other) for one, other in zip(
        keras.tree.flatten(a), keras.tree.flatten(b), strict=True))


def axes_of(groups):
    """Where every reshape puts the channels."""
    layout = groups.layout
    return [layout.tensors[node.outputs[0]].axis for node in layout.nodes
            if node.kind == 'Reshape']


def check_gated_is_pruned(spec, seed):
    found = check_promises(build(spec), seed=seed)
    assert found.hold(), found


def check_pruning_twice(spec, seed):
    model, x, rng = build(spec), images(seed), np.random.default_rng(seed)
    groups = trace_groups(model)
    first = random_masks(groups, rng)
    once = prune_model(model, groups, first)
    again = trace_groups(once)
    # The last block of a grouped layer is an ordinary layer, of other groups, and of axes that a
    # reshape makes another may be the largest now.
    assume(dict(again) == widths_of(first) and axes_of(again) == axes_of(groups))
    second = random_masks(again, rng)
    both = {name: mask.copy() for name, mask in first.items()}
    for name, mask in second.items():
        both[name][np.flatnonzero(first[name])[~mask]] = False
    twice, at_once = prune_model(once, again, second), prune_model(model, groups, both)
    assert recount(twice) == recount(at_once)
    assert difference(twice(x), at_once(x)) <= 1e-5
    assert difference(model(x), prune_model(model, groups, open_masks(groups))(x)) <= 1e-6


def check_subnetwork_and_file(spec, seed):
    """The sub-network and the loaded file are the pruned model, by moving statistics."""
    model, x = build(spec), images(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    groups = trace_groups(model, prune_frozen=True)
    masks = random_masks(groups, np.random.default_rng(seed))
    pruned, subnetwork = prune_model(model, groups, masks), Subnetwork(model, groups)
    subnetwork.set_masks(masks)
    assert difference(pruned(x), subnetwork(x)) <= 1e-4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'pruned.keras')
        pruned.save(path)
        assert difference(pruned(x), keras.models.load_model(path)(x)) <= 1e-6


CHECKS = [check_gated_is_pruned, check_pruning_twice, check_subnetwork_and_file]


@on_models(3)
def test_gated_is_pruned_and_predicted_is_counted(spec, seed):
    check_gated_is_pruned(spec, seed)


@on_models(3, 3)
def test_pruning_twice_is_pruning_once_and_open_masks_are_the_identity(spec, seed):
    check_pruning_twice(spec, seed)


@on_models(3, 3)
def test_the_subnetwork_and_the_file_are_the_pruned_model(spec, seed):
    check_subnetwork_and_file(spec, seed)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize('check', CHECKS)
def test_the_same_on_many(check):
    on_models(100, 5)(lambda spec, seed: check(spec, seed))()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize('name', sorted(BLOCKS))
def test_every_form_of_a_block_by_itself(name):
    for form in range(8):
        spec = Spec(4, (Block(name, 3, form, form % 3),), bool(form % 4), 1, form)
        for check in CHECKS[::2]:
            check(spec, seed=form)
