"""A user's examples of any task: arrays, datasets, PyDatasets; what is wrong with them, by line."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.data.user_examples import UserExamples, batch_size_of

RNG = np.random.default_rng(0)


def two_inputs():
    """Inputs whose order is not that of their names."""
    series, row = keras.Input((7, 3), name='series'), keras.Input((4,), name='row')
    x = layers.Concatenate()([layers.Flatten()(series), row])
    return keras.Model([series, row], layers.Dense(2, name='out')(x))


MODEL = two_inputs()


def arrays(count, **changes):
    x = {'series': RNG.normal(size=(count, 7, 3)).astype('float32'),
         'row': np.arange(4 * count, dtype='float32').reshape(count, 4)}
    return (x | changes, np.arange(count, dtype='int32'))


def dataset(count, batch=None):
    data = tf.data.Dataset.from_tensor_slices(arrays(count))
    return data.batch(batch) if batch else data


class Batches(keras.utils.PyDataset):
    def __init__(self, count, size=4):
        super().__init__()
        (self.x, self.y), self.size = arrays(count), size

    def __len__(self):
        return -(-len(self.y) // self.size)

    def __getitem__(self, place):
        part = slice(place * self.size, (place + 1) * self.size)
        return {name: value[part] for name, value in self.x.items()}, self.y[part]


def examples(train, reward=None, test=None, model=MODEL, **options):
    return UserExamples.of(train, reward or arrays(5), test or arrays(6), model=model, **options)


@pytest.mark.parametrize('train', [
    arrays(11), dataset(11), dataset(11, batch=3), Batches(11)])
def test_whatever_they_come_in_they_are_the_same_examples(train):
    data = examples(train)
    assert (data.num_train, data.num_reward, data.num_test) == (11, 5, 6)
    assert data.inputs == {'series': (7, 3), 'row': (4,)} and data.outputs == {'out': (2,)}
    seen = list(data.train_batches(0, 4))
    assert [batch[1].shape[0] for batch in seen] == [4, 4]  # whole batches
    for x, y in seen:
        assert np.array_equal(x['row'][:, 0], 4 * y.numpy())  # rows belong to their labels
    held_out = list(data.reward_batches(4))
    assert [len(y) for _, y in held_out] == [4, 1]
    assert np.concatenate([y for _, y in held_out]).tolist() == list(range(5))
    assert [len(y) for _, y in data.calibration_batches(8, 3)] == [8, 8, 8]


def test_arrays_are_shuffled_by_seed_and_epoch():
    def order(seed, epoch):
        data = examples(arrays(40), seed=seed)
        return np.concatenate([y for _, y in data.train_batches(epoch, 8)]).tolist()

    assert order(0, 0) == order(0, 0) and sorted(order(0, 0)) == list(range(40))
    assert len({tuple(order(*place)) for place in ((0, 0), (0, 1), (1, 0))}) == 3


def test_weights_come_along_and_weights_of_classes_are_added_in_training_alone():
    x, y = arrays(8)
    data = examples((x, y, np.ones(8, 'float32')))
    assert len(next(iter(data.train_batches(0, 4)))) == 3
    weighed = examples(arrays(8), weigh=lambda y: tf.cast(y, tf.float32) * 2)
    _, y, weights = next(iter(weighed.train_batches(0, 4)))
    assert weights.numpy().tolist() == (2 * y.numpy()).tolist()
    assert len(next(iter(weighed.reward_batches(4)))) == 2
    with pytest.raises(ValueError, match='class_weight: the examples of train_data have weights'):
        examples((x, np.zeros(8), np.ones(8, 'float32')), weigh=lambda y: y)


def test_examples_of_any_length_give_the_length():
    series = keras.Input((None, 3), name='series')
    model = keras.Model(series, layers.Dense(1)(layers.GlobalMaxPooling1D()(series)))
    data = [(RNG.normal(size=(n, 9, 3)), np.zeros(n)) for n in (4, 3, 2)]
    assert UserExamples.of(*data, model=model).inputs == {'series': (9, 3)}


def test_what_the_model_does_not_take_is_left_aside():
    data = examples(arrays(8, another=np.zeros((8, 2))), dataset(5), arrays(6, another=np.ones(6)))
    assert set(next(iter(data.train_batches(0, 4)))[0]) == {'series', 'row'}


def test_inputs_are_found_where_keras_finds_them():
    """In a dict by the keys of the model's own, else by the names of its inputs."""
    a, b = np.zeros((6, 4), 'float32'), np.ones((6, 3), 'float32')
    first, second = keras.Input((4,), name='first'), keras.Input((3,), name='second')
    y = layers.Dense(1)(layers.Concatenate()([first, second]))
    flat = [{'first': a, 'second': b}, {'z': a, 'y': b}, {'first': a}, {'p': a, 'q': b}, [a, b]]
    deep = [{'z': {'first': a}, 'second': b}, [{'first': a}, b]]
    verdicts = []
    for struct, given in (([first, second], flat + deep),
                          ({'first': first, 'second': second}, flat + deep),
                          ({'z': first, 'y': second}, flat[:-1]),
                          ([{'first': first}, second], flat + deep[1:]),
                          ({'z': {'first': first}, 'second': second}, [*deep, [a, b]])):
        model = keras.Model(struct, y)
        for x in given:
            try:
                model(x)
                verdicts.append(True)
            except ValueError:
                verdicts.append(False)
                with pytest.raises(ValueError, match='the model takes .*; received ') as error:
                    UserExamples.of(*[(x, np.zeros((6, 1)))] * 3, model=model)
                assert len(str(error.value).splitlines()) == 1
                continue
            data = UserExamples.of(*[(x, np.zeros((6, 1)))] * 3, model=model)
            taken, _ = next(iter(data.reward_batches(6)))
            by_name = dict(zip((tensor.name for tensor in model.inputs), data.in_order(taken)))
            assert np.array_equal(by_name['first'], a) and np.array_equal(by_name['second'], b)
            assert data.inputs == {'first': (4,), 'second': (3,)}
    model = keras.Sequential([keras.Input((4,), name='first'), layers.Dense(1)])
    for x in (a, [a], {'first': a, 'second': b}):
        assert UserExamples.of(*[(x, np.zeros((6, 1)))] * 3, model=model).inputs == {'first': (4,)}
    assert (verdicts.count(True), verdicts.count(False)) == (10, 17)


def test_batch_sizes():
    assert batch_size_of(arrays(8), MODEL) is None
    assert batch_size_of(dataset(8), MODEL) is None
    assert batch_size_of(dataset(8, batch=3), MODEL) == 3
    assert batch_size_of(Batches(8), MODEL) == 4


def ragged():
    return tf.data.Dataset.from_generator(
        lambda: (({'series': np.zeros((n, 3)), 'row': np.zeros(4)}, 0) for n in (7, 6)),
        output_signature=({'series': tf.TensorSpec([None, 3]), 'row': tf.TensorSpec([4])},
                          tf.TensorSpec([], tf.int32)))


@pytest.mark.parametrize('given, error, said', [
    ({'train': 5}, TypeError, r'train_data: expected \(x, y\) of arrays, .* received int'),
    ({'train': (np.zeros((4, 4)),)}, ValueError, r'train_data: expected \(x, y\) or .* 1 part'),
    ({'train': (arrays(8)[0], np.zeros(7))}, ValueError, 'as many examples each, received 7, 8'),
    ({'train': ({'series': np.zeros((8, 7, 3))}, np.zeros(8))}, ValueError,
     'the model takes series, row; received series'),
    ({'train': (np.zeros((8, 7, 3)), np.zeros(8))}, ValueError, r'takes 2 inputs .* received 1'),
    ({'train': arrays(8, series=np.zeros((8, 7, 2)))}, ValueError,
     r"input 'series' of the model is \[None, 7, 3\]; received \[8, 7, 2\]"),
    ({'test': (arrays(6)[0], np.zeros((6, 2)))}, ValueError,
     r'test_data: expected targets as in train_data, \[\]; received \[2\]'),
    ({'train': arrays(8, row=np.full((8, 4), np.nan))}, ValueError,
     'the inputs of example 0 are not finite'),
    ({'reward': (arrays(3)[0], np.array([0.0, 1.0, np.inf]))}, ValueError,
     'reward_data: the targets of example 2 are not finite'),
    ({'train': (arrays(2)[0], np.array(['a', 'b']))}, TypeError, 'expected targets of numbers'),
    ({'train': dataset(8).repeat()}, ValueError, 'does not end'),
    ({'train': dataset(8).take(0)}, ValueError, 'expected examples, received none'),
    ({'train': dataset(8).map(lambda x, y: x)}, TypeError, r'a dataset of \(x, y\)'),
    ({'train': ragged()}, ValueError, 'need padding to one size')])
def test_what_is_wrong_is_one_line(given, error, said):
    with pytest.raises(error, match=said) as found:
        examples(**{'train': arrays(8), **given})
    assert len(str(found.value).splitlines()) == 1
