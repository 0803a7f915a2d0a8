"""Criteria: scores that a reader can sum."""

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from tfprune.criteria import CRITERIA, score_groups
from tfprune.groups import trace_groups
from tfprune.testing import plain, randomise, residual


def naive(model, groups, name, norm):
    """Sums over producers, position by position."""
    score = np.zeros(groups[name])
    layout = groups.layout
    for node in layout.nodes:
        if node.layer in groups.groups[name].producers:
            kernel = np.array(model.get_layer(node.layer).kernel, np.float64)
            places = layout.tensors[node.outputs[0]].positions
            for channel, (group, index) in enumerate(zip(places.group, places.index)):
                if layout.names[group] == name:
                    score[index] += norm(kernel[..., channel])
    return score


@pytest.mark.parametrize('criterion, norm', [
    ('l1', lambda w: np.abs(w).sum()), ('l2', lambda w: np.sqrt((w ** 2).sum()))])
def test_norms_sum_over_all_producers_of_a_group(criterion, norm):
    model = randomise(residual())
    groups = trace_groups(model)
    scores = score_groups(model, groups, criterion=criterion)
    assert list(scores) == list(groups)
    for name, score in scores.items():
        np.testing.assert_allclose(score, naive(model, groups, name, norm), rtol=1e-6)


def test_the_stream_aligns_by_position():
    model = residual()
    groups = trace_groups(model)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign(np.zeros(layer.kernel.shape))
    kernel = np.zeros((3, 3, 13, 11), 'float32')
    kernel[0, 0, 0] = np.arange(11)  # pad 2 | stem 5 | pad 4
    model.get_layer('s2_conv2').kernel.assign(kernel)
    scores = score_groups(model, groups, names=['stem', 's2_conv2'])
    assert scores['stem'].tolist() == [2, 3, 4, 5, 6]
    assert scores['s2_conv2'].tolist() == [0, 1, 7, 8, 9, 10]


def test_bn_scale_sums_absolute_gammas():
    model = residual()
    groups = trace_groups(model)
    for name, sign in (('stem_bn', 1), ('s1_conv2_bn', -10), ('s2_conv2_bn', 0),
                       ('s3_conv2_bn', 0)):
        gamma = model.get_layer(name).gamma
        gamma.assign(sign * np.arange(gamma.shape[0]))
    scores = score_groups(model, groups, criterion='bn_scale', names=['stem'])
    assert scores['stem'].tolist() == [0, 11, 22, 33, 44]


def test_bn_scale_needs_batch_normalisation():
    model = plain()
    with pytest.raises(ValueError, match="'bn_scale' needs .* group 'conv2' has none"):
        score_groups(model, trace_groups(model), criterion='bn_scale')


def test_an_unknown_criterion_is_answered_with_the_right_ones():
    model = plain()
    with pytest.raises(ValueError, match="Unknown criterion 'l3'. Available: bn_scale, l1, l2, ra"):
        score_groups(model, trace_groups(model), criterion='l3')


@pytest.mark.parametrize('criterion', CRITERIA)
def test_every_criterion_scores_every_channel(criterion):
    image = keras.Input((4, 4, 3))
    x = layers.BatchNormalization()(layers.Conv2D(5, 1, name='conv')(image))
    model = randomise(keras.Model(image, layers.Dense(2)(x)))
    scores = score_groups(model, trace_groups(model), criterion=criterion, seed=3)
    assert scores['conv'].shape == (5,) and (scores['conv'] > 0).all()
    assert len(np.unique(scores['conv'])) == 5
