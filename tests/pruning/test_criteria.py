"""Criteria: scores that a reader can sum."""

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.methods.names import METHODS
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.importance import CRITERIA, OBSERVING, _distances_to_all, score_groups
from tfprune.pruning.options import PruningOptions
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.runs.problem import _of_method
from tfprune.search.problem import Problem
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, plain, randomize, residual


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
    model = randomize(residual())
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


def test_where_there_is_no_batch_normalization_l1_ranks():
    model = randomize(plain())  # bn1 stands behind conv1 only
    groups = trace_groups(model)
    with pytest.warns(UserWarning, match="'bn_scale' has nothing to look at in conv2, hidden: ran"):
        scores = score_groups(model, groups, criterion='bn_scale')
    norms = score_groups(model, groups, criterion='l1')
    assert scores['conv1'].tolist() == np.abs(np.array(model.get_layer('bn1').gamma)).tolist()
    for name in ('conv2', 'hidden'):
        assert scores[name].tolist() == norms[name].tolist()
    with pytest.warns(UserWarning, match='hidden'):
        alone = score_groups(model, groups, criterion='bn_scale', names=['hidden'])
    assert alone['hidden'].tolist() == norms['hidden'].tolist()


def test_by_itself_it_is_combined_where_something_was_observed_and_l1_elsewhere(recwarn):
    model = randomize(plain())
    groups, data = trace_groups(model), batches(model, 2)
    reconstruction = Reconstruction(model, groups, data)
    reconstruction.observe()
    for given, name in ((reconstruction, 'combined'), (None, 'l1')):
        found, expected = (
            {name: row.tolist() for name, row in score_groups(
                model, groups, criterion=each, data=data, reconstruction=given).items()}
            for each in ('auto', name))
        assert found == expected
    assert score_groups(model, groups, criterion='auto', reconstruction=reconstruction)[
        'conv1'].tolist() != score_groups(model, groups)['conv1'].tolist()
    assert not [each for each in recwarn if 'nothing to look at' in str(each.message)]


@pytest.mark.parametrize('method, criterion', [
    ('uniform', 'combined'), ('amc', 'combined'), ('ppo_search', 'combined'), ('n2n', 'l1'),
    ('scratch', 'l1'), ('rlal', 'l1'), ('autocompress', 'l1')])
def test_runs_take_it_by_themselves_where_the_weights_stay(method, criterion):
    model = randomize(plain())
    groups, named = trace_groups(model), PruningOptions(criterion='l2')
    observed = Reconstruction(model, groups, batches(model, 2))
    observed.observe()
    taken = _of_method(PruningOptions(), METHODS[method]).criterion
    for reconstruction, expected in ((observed, criterion), (None, 'l1')):
        one, other = (score_groups(model, groups, criterion=each, reconstruction=reconstruction)
                      for each in (taken, expected))
        assert all(np.array_equal(one[name], other[name]) for name in groups)
    assert _of_method(named, METHODS[method]) == named


def test_a_model_of_which_no_kernel_can_make_up_is_ranked_by_norms_and_that_is_no_fault(recwarn):
    image = keras.Input((4, 4, 3))
    x = layers.SeparableConv2D(2, 1)(layers.Conv2D(5, 1, name='conv')(image))
    model = randomize(keras.Model(image, layers.Flatten()(x)))
    groups, cost_model = trace_groups(model), CostModel(model, trace_groups(model))
    problem = Problem(model, groups, cost_model, Budget(groups, cost_model, {'macs': 0.6}),
                      reconstruction=Reconstruction(model, groups, batches(model, 2)))
    assert not problem.reconstruction.readers
    assert problem.channel_scores()['conv'].tolist() == score_groups(model, groups)['conv'].tolist()
    assert not [each for each in recwarn if 'nothing to look at' in str(each.message)]


def test_a_criterion_without_anything_to_look_at_is_refused():
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, layers.Dense(2)(layers.Conv2D(5, 1)(image)), name='bare')
    with pytest.raises(ValueError, match="'bn_scale' has nothing to look at in any .* 'bare'"):
        score_groups(model, trace_groups(model), criterion='bn_scale')


def test_an_unknown_criterion_is_answered_with_the_right_ones():
    model = plain()
    with pytest.raises(ValueError, match=(
            "Unknown criterion 'l3'. Available: bn_scale, combined, geometric_")):
        score_groups(model, trace_groups(model), criterion='l3')


@pytest.mark.parametrize('criterion', CRITERIA)
def test_every_criterion_scores_every_channel(criterion):
    image = keras.Input((4, 4, 3))
    x = layers.BatchNormalization()(layers.Conv2D(5, 1, name='conv')(image))
    model = randomize(keras.Model(image, layers.Dense(2)(layers.Flatten()(x))))
    groups = trace_groups(model)
    reconstruction = Reconstruction(model, groups, batches(model, 2))
    reconstruction.observe()
    scores = score_groups(model, groups, criterion=criterion, seed=3, data=batches(model, 2),
                          reconstruction=reconstruction)
    assert scores['conv'].shape == (5,) and scores['conv'].dtype == np.float64
    # The first to go by an order has 0; the sums of two may be equal.
    assert (scores['conv'] > (-1 if criterion in OBSERVING else 0)).all()
    assert len(np.unique(scores['conv'])) == 5 or criterion == 'combined'


# Geometric median.

def test_distances_by_hand():
    # 3-4-5 triangles: |a b| = 5, |a c| = 4, |b c| = 3.
    corners = np.array([[0., 0.], [4., 3.], [4., 0.]])
    assert _distances_to_all(corners).tolist() == pytest.approx([9, 8, 7])


@pytest.mark.parametrize('offset, rtol', [(0, 1e-9), (1e4, 1e-6)])
def test_distances_of_a_product_equal_those_of_differences(offset, rtol):
    filters = np.random.default_rng(0).normal(size=(40, 30)) + offset
    filters[7] = filters[3]
    naive = np.sqrt(np.square(filters[:, None] - filters).sum(2)).sum(1)
    np.testing.assert_allclose(_distances_to_all(filters), naive, rtol=rtol)


def test_geometric_median_is_of_all_filters_of_each_producer():
    model = randomize(residual())
    groups = trace_groups(model)
    scores = score_groups(model, groups, criterion='geometric_median')
    for name in ('stem', 's2_conv2'):  # the stream: four producers, and three
        expected = np.zeros(groups[name])
        for layer in groups.groups[name].producers:
            kernel = np.array(model.get_layer(layer).kernel, np.float64)
            filters = kernel.reshape(-1, kernel.shape[-1]).T
            sums = [sum(np.linalg.norm(f - other) for other in filters) for f in filters]
            for part in groups.layout.slices(name):
                if part.side == 'out' and part.slot.is_kernel and part.slot.layer == layer:
                    for position, index in zip(part.positions, part.index):
                        expected[index] += sums[position]
        np.testing.assert_allclose(scores[name], expected, rtol=1e-9)


# Taylor.

def batches(model, count, size=6, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(size, *model.input_shape[1:])).astype('float32'),
             rng.integers(0, model.output_shape[-1], size)) for _ in range(count)]


def hidden(activation=None):
    """x 2 - hidden 3 - logits 2, all weights by hand."""
    image = keras.Input((2,))
    x = layers.Dense(3, use_bias=False, name='hidden')(image)
    model = keras.Model(image, layers.Dense(2, activation, use_bias=False, name='logits')(x))
    model.get_layer('hidden').kernel.assign([[1, 0, 3], [0, 1, -1]])
    model.get_layer('logits').kernel.assign([[1, -1], [-1, 2], [4, 0]])
    return model


@pytest.mark.parametrize('activation', [None, 'softmax'])
def test_taylor_by_hand(activation):
    model = hidden(activation)
    groups = trace_groups(model)
    # x = (1, 2): hidden (1, 2, 1), logits 1 - 2 + 4 = 3 and -1 + 4 + 0 = 3, so p - y is (-1, 1) / 2
    # for label 0. With a gate z_c on channel c, dL/dz_c = h_c (p - y) . W_c:
    #   1 (-1 - 1) / 2 = -1,   2 (1 + 2) / 2 = 3,   1 (-4 + 0) / 2 = -2.
    x, one, other = np.array([[1., 2.]]), np.array([0]), np.array([1])
    assert score_groups(model, groups, criterion='taylor', data=[(x, one)])['hidden'].tolist() == (
        pytest.approx([1, 9, 4]))
    # Label 1 turns the signs. Squares are of a batch's mean, means over batches: (g^2 + g^2) / 2,
    # but ((g - g) / 2)^2.
    data = [(x, one), (x, other)]
    assert score_groups(model, groups, criterion='taylor', data=data)['hidden'].tolist() == (
        pytest.approx([1, 9, 4]))
    data = [(np.concatenate([x, x]), np.array([0, 1]))]
    assert score_groups(model, groups, criterion='taylor', data=data)['hidden'].tolist() == (
        pytest.approx([0, 0, 0], abs=1e-9))


@pytest.mark.parametrize('name', TOYS)
def test_taylor_is_the_gradient_of_gates(name):
    """∂L/∂mask of the gates that close a channel for surgery, by autodiff, squared."""
    model = randomize(TOYS[name].build())
    groups = trace_groups(model)
    data = batches(model, 3)
    scores = score_groups(model, groups, criterion='taylor', data=data)
    gated, layout = insert_gates(model, groups), groups.layout
    expected = {name: np.zeros(width) for name, width in groups.items()}
    for images, labels in data:
        masks = [gate.mask.value for gate in gated.gates.values()]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(masks)
            logits = gated.model(images, training=False)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gates = {name: np.zeros(width) for name, width in groups.items()}
        for tensor, gradient in zip(gated.gates, tape.gradient(loss, masks)):
            places = layout.tensors[tensor].positions
            for group, index, value in zip(places.group, places.index, gradient.numpy()):
                if layout.names[group] in groups:
                    gates[layout.names[group]][index] += value
        for name, gate in gates.items():
            expected[name] += np.square(gate) / len(data)
    for name, score in scores.items():
        assert score.max() > 0
        np.testing.assert_allclose(score, expected[name], rtol=1e-3, atol=1e-4 * score.max())


def test_taylor_changes_nothing_and_reads_the_data_once():
    class Counted(list):
        read = 0

        def __iter__(self):
            self.read += 1
            return super().__iter__()

    model = randomize(residual())
    groups, data = trace_groups(model), Counted(batches(model, 2))
    before = model.get_weights()
    first = score_groups(model, groups, criterion='taylor', data=data)
    assert data.read == 1 and len(first) > 3
    for value, old in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, old)
    # Frozen layers are pruned like others: the gradient is of the gate, not of what trains.
    for layer in model.layers:
        layer.trainable = False
    again = score_groups(model, groups, criterion='taylor', data=tf.data.Dataset.from_generator(
        lambda: iter(data), output_signature=(tf.TensorSpec([None, 8, 8, 3]),
                                              tf.TensorSpec([None], tf.int64))))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


@pytest.mark.parametrize('data, message', [
    (None, r"'taylor' needs data: batches of \(images, integer labels \[B\]\); received none"),
    ([], "'taylor' needs data: batches"),
    ([(np.zeros((1, 2)), np.zeros((1, 2)))], r'integer labels \[B\]; received float64 \(1, 2\)'),
    ([(np.zeros((1, 2)), np.zeros((1, 1), int))], r'received int64 \(1, 1\)')])
def test_taylor_without_proper_data_is_refused(data, message):
    model = hidden()
    with pytest.raises(ValueError, match=message):
        score_groups(model, trace_groups(model), criterion='taylor', data=data)


def test_taylor_needs_one_output():
    image = keras.Input((2,))
    x = layers.Dense(3)(image)
    model = keras.Model(image, [layers.Dense(2)(x), layers.Dense(2)(x)], name='twins')
    with pytest.raises(ValueError, match="one output; 'twins' has 2"):
        score_groups(model, trace_groups(model), criterion='taylor',
                     data=[(np.zeros((1, 2)), np.zeros(1, int))])


@pytest.mark.parametrize('asked, num_train, seen', [
    (0, 45_000, 4096), (0, 8469, 846), (0, 2000, 512), (0, 100, 100), (64, 45_000, 64)])
def test_how_many_examples_criteria_see(asked, num_train, seen):
    assert PruningOptions(criterion_examples=asked).examples_of(num_train) == seen
