"""Widths and masks."""

import numpy as np
import pytest

from tfprune.pruning.masks import (allowed_widths, best_channels, check_masks, check_widths,
                                   nearest_width, open_masks, select_channels, widths_of)
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain, residual

GROUPS = trace_groups(plain())  # conv1 5, conv2 7, hidden 11


@pytest.mark.parametrize('dense, multiple, ratio, expected', [
    (5, 1, 0.1, [1, 2, 3, 4, 5]),
    (30, 8, 0.1, [8, 16, 24, 30]),      # dense is always allowed
    (32, 8, 0.26, [16, 24, 32]),        # ceil(8.32) = 9
    (100, 1, 0.07, list(range(7, 101))),  # 0.07 · 100 = 7.000000000000001
    (5, 8, 0.1, [5]),
    (5, 1, 1.0, [5]),
    (5, 2, 0.0, [2, 4, 5]),
])
def test_allowed_widths(dense, multiple, ratio, expected):
    assert allowed_widths(dense, multiple=multiple, min_keep_ratio=ratio).tolist() == expected


@pytest.mark.parametrize('rate, expected', [
    (0, 32), (1, 8), (0.5, 16), (0.375, 24), (0.36, 24), (0.25, 24), (0.125, 32), (0.625, 16),
    (0.63, 8)])
def test_nearest_width_ties_to_the_larger(rate, expected):
    assert nearest_width(32, rate, np.array([8, 16, 24, 32])) == expected


def test_a_tie_is_not_decided_by_rounding_errors():
    # 10 · (1 − 0.85) = 1.5000000000000002, 10 · (1 − 0.55) = 4.499999999999999
    assert nearest_width(10, 0.85, np.arange(1, 11)) == 2
    assert nearest_width(10, 0.55, np.arange(1, 11)) == 5


@pytest.mark.parametrize('call, message', [
    (lambda: allowed_widths(0), 'dense_width must be at least 1, received 0'),
    (lambda: allowed_widths(4, multiple=0), 'multiple must be at least 1, received 0'),
    (lambda: allowed_widths(4, min_keep_ratio=2.), r'min_keep_ratio must be in \[0, 1\]'),
    (lambda: nearest_width(4, -.1, np.arange(1, 5)), r'rate must be in \[0, 1\], received -0.1'),
    (lambda: nearest_width(4, .1, np.array([])), 'allowed must hold at least one width'),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_select_channels_keeps_the_best_and_of_equals_the_first():
    model = plain()
    kernel = np.zeros((3, 3, 3, 5), 'float32')
    kernel[1, 1, 1] = [1, -4, 2, -2, 3]
    model.get_layer('conv1').kernel.assign(kernel)
    masks = select_channels(model, GROUPS, {'conv1': 3})
    assert masks['conv1'].tolist() == [False, True, True, False, True]
    assert widths_of(masks) == {'conv1': 3, 'conv2': 7, 'hidden': 11}


def test_select_channels_at_random_depends_on_seed_and_group_only():
    model, groups = residual(), trace_groups(residual())
    widths = {name: max(1, width // 2) for name, width in groups.items()}
    first = select_channels(model, groups, widths, criterion='random', seed=1)
    again = select_channels(model, groups, {'stem': 2}, criterion='random', seed=1)
    other = select_channels(model, groups, widths, criterion='random', seed=2)
    assert widths_of(first) == widths
    assert (first['stem'] == again['stem']).all()
    assert any((first[name] != other[name]).any() for name in groups)


def test_select_channels_with_data():
    model = residual()
    data = [(np.ones((2, 8, 8, 3), 'float32'), np.array([0, 1]))]
    masks = select_channels(model, trace_groups(model), {'stem': 2}, criterion='taylor', data=data)
    assert widths_of(masks)['stem'] == 2
    with pytest.raises(ValueError, match="criterion 'taylor' needs data"):
        select_channels(model, trace_groups(model), {'stem': 2}, criterion='taylor')


def test_best_channels_by_hand():
    masks = best_channels(GROUPS, {'conv1': 2, 'hidden': 10}, {
        'conv1': np.array([3., 1., 3., 3., 0.]), 'hidden': np.arange(11.)})
    assert masks['conv1'].tolist() == [True, False, True, False, False]
    assert masks['hidden'].tolist() == [False] + 10 * [True] and masks['conv2'].all()


@pytest.mark.parametrize('widths, error, message', [
    ({'conv9': 1}, ValueError, "Unknown group 'conv9'. Available: conv1, conv2, hidden"),
    ({'logits': 1}, ValueError, "group 'logits' is not prunable: it feeds the model's output"),
    ({'conv1': 0}, ValueError, r"width of group 'conv1' must be in \[1, 5\], received 0"),
    ({'conv1': 6}, ValueError, r"width of group 'conv1' must be in \[1, 5\], received 6"),
    ({'conv1': 2.5}, TypeError, "width of group 'conv1' must be an integer, received 2.5"),
    ({'conv1': True}, TypeError, "width of group 'conv1' must be an integer, received True"),
])
def test_bad_widths_are_named(widths, error, message):
    for call in (lambda: check_widths(GROUPS, widths),
                 lambda: select_channels(plain(), GROUPS, widths)):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize('masks, error, message', [
    ({'conv9': np.ones(5, bool)}, ValueError, "Unknown group 'conv9'"),
    ({'conv1': np.ones(4, bool)}, ValueError, r"must have the shape \(5,\), received \(4,\)"),
    ({'conv1': np.zeros(5, bool)}, ValueError, "group 'conv1' must keep at least one channel"),
    ({'conv1': np.ones(5)}, TypeError, "group 'conv1' must be boolean, received float64"),
])
def test_bad_masks_are_named(masks, error, message):
    with pytest.raises(error, match=message):
        check_masks(GROUPS, masks)


def test_missing_groups_are_dense():
    assert check_widths(GROUPS, {'conv2': np.int64(3)}) == {'conv1': 5, 'conv2': 3, 'hidden': 11}
    assert widths_of(check_masks(GROUPS, {})) == widths_of(open_masks(GROUPS)) == dict(GROUPS)
