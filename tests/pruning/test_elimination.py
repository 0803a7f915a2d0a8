"""Which channels the others make up for."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
from keras import layers

from tfprune.pruning.elimination import Reading, order_of_elimination
from tfprune.pruning.importance import score_groups
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, randomize


def reading(places, seed):
    random = np.random.default_rng(seed)
    seen = random.normal(size=(200, places.size)) @ random.normal(size=(places.size,) * 2)
    return seen.T @ seen / 200, random.normal(size=(places.size, 5)), places


def what_is_lost(second, kernel, places, gone):
    """Shares of a layer's output that its best kernel for the channels left does not give."""
    left = np.delete(places, gone, 0).ravel()
    told = second[:, left] @ np.linalg.solve(second[np.ix_(left, left)], second[left])
    return np.trace(kernel.T @ (second - told) @ kernel) / np.trace(kernel.T @ second @ kernel)


@pytest.mark.parametrize('each', [1, 3])
def test_the_cheapest_goes_first_by_refitting_for_each_in_turn(each):
    places = np.random.default_rng(1).permutation(7 * each).reshape(7, each)
    readings = [reading(places, seed) for seed in (2, 3)]
    found = order_of_elimination([Reading(*each) for each in readings], 7)
    gone = []
    for turn in range(7):
        errors = {channel: sum(what_is_lost(*each, [*gone, channel]) for each in readings)
                  for channel in range(7) if channel not in gone}
        assert found[min(errors, key=errors.get)] == turn
        gone.append(min(errors, key=errors.get))


def observed(model, images=200):
    groups = trace_groups(model)
    x = np.random.default_rng(0).normal(size=(images, 8, 8, 3)).astype('float32')
    found = Reconstruction(model, groups, [(x,)])
    found.observe()
    return groups, found


@pytest.mark.parametrize('behind', [
    lambda: [], lambda: [layers.Flatten()], lambda: [layers.BatchNormalization()],
    lambda: [layers.Conv2DTranspose(5, 2)]])
def test_of_two_that_tell_the_same_one_goes_early_and_so_does_what_is_dead(behind):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name='made', activation='relu'),
        layers.MaxPooling2D(3), *behind(), layers.Dense(9)])
    kernel, bias = map(np.array, model.get_layer('made').get_weights())
    kernel[..., 4], bias[4] = 5 * kernel[..., 1], 5 * bias[1]  # by norms the last to go
    kernel[..., 2], bias[2] = 0, -1
    model.get_layer('made').set_weights([kernel, bias])
    groups, reconstruction = observed(model)
    order = score_groups(model, groups, criterion='reconstruction',
                         reconstruction=reconstruction)['made']
    assert sorted(order) == [*range(6)]
    assert {order[2], min(order[1], order[4])} == {0, 1}  # both cost nothing but for the ridge
    assert np.argmax(score_groups(model, groups)['made']) == 4


@pytest.mark.parametrize('name', TOYS)
def test_every_channel_goes_once(name):
    model = randomize(TOYS[name].build())
    groups = trace_groups(model)
    x = [np.random.default_rng(0).normal(size=(30, *each.shape[1:])).astype('float32')
         for each in model.inputs]
    found = Reconstruction(model, groups, [(x[0] if len(x) == 1 else x,)])
    if found.observe():
        for group, width in groups.items():
            order = found.order_of_elimination(group)
            assert order is None or sorted(order) == [*range(width)]


def test_where_nothing_was_observed_it_says_what_it_needs():
    model = TOYS['plain'].build()
    groups = trace_groups(model)
    with pytest.raises(ValueError, match="'reconstruction' .* needs trained weights"):
        score_groups(model, groups, criterion='reconstruction')
    with pytest.raises(ValueError, match='observe'):
        Reconstruction(model, groups, []).order_of_elimination('conv1')
