"""A user's own examples of any task: arrays, tf.data datasets, Keras' PyDataset.

Examples are (x, y) or (x, y, weights), as for `model.fit`; x and y are tensors, or structures of
tensors as the model takes and gives them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.data.pixels import PixelRange
from tfprune.data.tuning import untuned
from tfprune.errors import first_line

_BATCH = 256  # examples that are looked at together
_PREFETCH = 4
_PARTS = ('inputs', 'targets', 'weights')

Shapes = Mapping[str, tuple[int | None, ...]]  # by name, without the batch


@dataclasses.dataclass(frozen=True, eq=False)
class Split(abc.ABC):
    """Examples of one split.

    Attributes:
        count: how many.
        spec: of one example, a structure of TensorSpec.
    """
    count: int
    spec: Any

    @abc.abstractmethod
    def batches(self, batch_size: int, order: np.ndarray | None = None) -> tf.data.Dataset:
        """All examples, the last batch partial; in an order, where it can be chosen."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Arrays(Split):
    tensors: Any

    def batches(self, batch_size: int, order: np.ndarray | None = None) -> tf.data.Dataset:
        order = np.arange(self.count) if order is None else order
        return untuned(tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(
            lambda index: tf.nest.map_structure(lambda x: tf.gather(x, index), self.tensors)
        ).prefetch(_PREFETCH))


@dataclasses.dataclass(frozen=True, eq=False)
class _Stream(Split):
    data: tf.data.Dataset  # not batched

    def batches(self, batch_size: int, order: np.ndarray | None = None) -> tf.data.Dataset:
        return self.data.batch(batch_size).prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True, eq=False)
class UserExamples(Examples):
    """Examples of three splits; made by `of`.

    Arrays are shuffled before each epoch, as by `fit`. Order and augmentation of a dataset are what
    it does itself: a run resumes bit for bit only if that is a function of TensorFlow's seed. A
    PyDataset is told of the epochs that it trains itself, not of those before a resumption.

    Attributes:
        train, reward, test: the splits.
        keys: of a dict of inputs, in the order of the model's; None of a deeper structure.
        inputs, outputs: shapes of what the model takes and gives, by name, without the batch.
        seed: of the order of arrays.
        weigh: y -> weights, of training examples; None for none.
    """
    train: Split
    reward: Split
    test: Split
    keys: Sequence[str] | None
    inputs: Shapes
    outputs: Shapes
    seed: int
    weigh: Callable[[Any], Any] | None

    @classmethod
    def of(cls, train_data: Any, reward_data: Any, test_data: Any, *, model: keras.Model,
           name: str = 'arrays', class_names: Sequence[str] = (), pixels: PixelRange | None = None,
           weigh: Callable[[Any], Any] | None = None, seed: int = 0) -> UserExamples:
        """Checks and counts the data, in one pass over each split.

        Args:
            train_data, reward_data, test_data: (x, y) or (x, y, weights) of arrays [N, …]; tf.data
                datasets or PyDatasets of such, batched or not. All must end.
            model: what takes x and gives what is compared with y.
            weigh: see the class.

        Raises:
            TypeError, ValueError: name the split, what was expected and what was received.
        """
        given = {'train_data': train_data, 'reward_data': reward_data, 'test_data': test_data}
        splits = {key: _split(key, data, model) for key, data in given.items()}
        _check_alike(splits)
        if weigh and len(splits['train_data'].spec) > 2:
            raise ValueError('class_weight: the examples of train_data have weights already')
        if weigh and keras.tree.is_nested(splits['train_data'].spec[1]):
            raise ValueError('class_weight is only for a model of one output; the targets of '
                             f'train_data are {_described(splits["train_data"].spec[1])}')
        train, reward, test = splits.values()
        return cls(
            name=name, num_train=train.count, num_reward=reward.count, num_test=test.count,
            train=train, reward=reward, test=test, keys=_keys(model),
            inputs=_taken(model, train.spec[0]), outputs=_given(model), seed=seed, weigh=weigh,
            class_names=tuple(class_names), pixels=pixels, py_dataset=py_dataset_of(train_data))

    def to_json(self) -> dict[str, Any]:
        values = {'name': self.name, 'num_train': self.num_train, 'num_reward': self.num_reward,
                  'num_test': self.num_test}
        for key, shapes in (('inputs', self.inputs), ('outputs', self.outputs)):
            values[key] = {name: list(shape) for name, shape in shapes.items()}
        return {**values, 'class_names': list(self.class_names)}

    def with_released(self, score_images: int) -> UserExamples:
        """These examples: what the user holds out stays held out."""
        self._check_released(score_images)
        return self

    def in_order(self, x: Any) -> list[Any]:
        return _in_order(x, self.keys)

    def train_batches(self, epoch: int, batch_size: int) -> tf.data.Dataset:
        self._check_training(epoch, batch_size)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_train)
        steps = self.num_train // batch_size
        batches = self.train.batches(batch_size, order).take(steps)
        batches = batches.map(lambda *batch: _of_size(batch, batch_size))
        if self.weigh:
            weigh = self.weigh
            batches = batches.map(lambda x, y: (x, y, weigh(y)))
        return batches

    def reward_batches(self, batch_size: int) -> tf.data.Dataset:
        self._check_batch_size(batch_size)
        return self.reward.batches(batch_size)

    def test_batches(self, batch_size: int) -> tf.data.Dataset:
        self._check_batch_size(batch_size)
        return self.test.batches(batch_size)

    def calibration_batches(self, batch_size: int, count: int) -> tf.data.Dataset:
        self._check_batch_size(batch_size)
        self._check_count(count)
        size = min(batch_size, self.num_train)
        order = np.random.default_rng(self.seed).permutation(self.num_train)
        batches = self.train.batches(size, order).take(self.num_train // size)
        return batches.repeat().take(count)


def batch_size_of(data: Any, model: keras.Model) -> int | None:
    """The size of the batches in which data come; None of arrays, and of single examples."""
    if isinstance(data, (tuple, list)):
        return None
    x, *_ = _first('train_data', _as_dataset('train_data', data))
    return int(tf.nest.flatten(x)[0].shape[0]) if _is_batched('train_data', x, model) else None


def py_dataset_of(data: Any) -> keras.utils.PyDataset | None:
    """Data that are a PyDataset; None of others."""
    return data if isinstance(data, keras.utils.PyDataset) else None


def _split(name: str, data: Any, model: keras.Model) -> Split:
    if isinstance(data, (tuple, list)):
        _check_parts(name, data)
        return _of_arrays(name, [_taken_alone(data[0], model), *data[1:]], model)
    dataset = untuned(_as_dataset(name, data)).map(
        lambda x, *targets: (_taken_alone(x, model), *targets))
    first = _first(name, dataset)
    _check_parts(name, first)
    is_batched = _is_batched(name, first[0], model)
    if is_batched:
        dataset = dataset.unbatch()
        first = tf.nest.map_structure(lambda value: value[0], first)
    spec = tf.nest.map_structure(lambda value: tf.TensorSpec(value.shape, value.dtype), first)
    dataset = dataset.map(lambda *example: tf.nest.map_structure(
        lambda value, like: tf.ensure_shape(value, like.shape), example, spec))
    return _Stream(_counted(name, dataset), spec, dataset)


def _of_arrays(name: str, data: Sequence[Any], model: keras.Model) -> Split:
    parts = tuple(keras.tree.map_structure(np.asarray, part) for part in data if part is not None)
    sizes = {len(value) if value.ndim else 0 for value in keras.tree.flatten(parts)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f'{name}: expected arrays of as many examples each, received '
                         f'{", ".join(map(str, sorted(sizes)))}')
    if not _is_batched(name, parts[0], model):
        raise ValueError(f'{name}: expected arrays [N, …] of many examples, received one')
    for part, what in zip(parts, _PARTS):
        for value in keras.tree.flatten(part):
            _check_finite(name, value, what)
    with tf.device('CPU:0'):  # an accelerator must not hold the set
        tensors = tf.nest.map_structure(tf.convert_to_tensor, _tuples(parts))
    spec = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape[1:], x.dtype), tensors)
    return _Arrays(sizes.pop(), spec, tensors)


def _as_dataset(name: str, data: Any) -> tf.data.Dataset:
    """A dataset of tuples."""
    if isinstance(data, keras.utils.PyDataset):
        return of_py_dataset(name, data)
    if not isinstance(data, tf.data.Dataset):
        raise TypeError(f'{name}: expected (x, y) of arrays, a tf.data.Dataset or a PyDataset of '
                        f'(x, y), received {type(data).__name__}')
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f'{name}: does not end; leave out repeat()')
    if not isinstance(data.element_spec, tuple):
        raise TypeError(f'{name}: expected a dataset of (x, y), received elements of '
                        f'{type(data.element_spec).__name__}')
    return data


def of_py_dataset(name: str, data: keras.utils.PyDataset) -> tf.data.Dataset:
    """A dataset of the batches of a PyDataset; ValueError where these do not end, or are none."""
    if data.num_batches is None:
        raise ValueError(f'{name}: does not end; give it a length')
    if not data.num_batches:
        raise ValueError(f'{name}: expected examples, received none')

    def batches() -> Any:
        for place in range(data.num_batches):
            yield _tuples(keras.tree.map_structure(np.asarray, tuple(data[place])))

    first = _tuples(keras.tree.map_structure(np.asarray, tuple(data[0])))
    return tf.data.Dataset.from_generator(batches, output_signature=tf.nest.map_structure(
        lambda value: tf.TensorSpec([None, *value.shape[1:]], value.dtype), first))


def _first(name: str, data: tf.data.Dataset) -> tuple[Any, ...]:
    try:
        for element in data.take(1):
            return element
    except tf.errors.OpError as error:
        raise ValueError(f'{name}: fails: {first_line(error)}') from None
    raise ValueError(f'{name}: expected examples, received none')


def _counted(name: str, data: tf.data.Dataset) -> int:
    count = 0
    try:
        for batch in data.batch(_BATCH):
            for part, what in zip(batch, _PARTS):
                for value in tf.nest.flatten(part):
                    _check_finite(name, value.numpy(), what, count)
            count += int(tf.nest.flatten(batch)[0].shape[0])
    except tf.errors.OpError as error:
        raise ValueError(f'{name}: fails after {count} examples: {first_line(error)}; examples of '
                         'different sizes need padding to one size') from None
    return count


def _check_parts(name: str, parts: Sequence[Any]) -> None:
    if len(parts) > 1 and parts[1] is None:
        raise ValueError(f'{name}: expected targets y beside x; received None')
    if len(parts) not in (2, 3):
        raise ValueError(f'{name}: expected (x, y) or (x, y, weights), received {len(parts)} '
                         f'part{"s" * (len(parts) != 1)}')


def _check_finite(name: str, value: np.ndarray, what: str, before: int = 0) -> None:
    if not np.issubdtype(value.dtype, np.number) and value.dtype != bool:
        raise TypeError(f'{name}: expected {what} of numbers, received {value.dtype}')
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        place = int(np.argmin(np.isfinite(value).reshape(len(value), -1).all(1)))
        raise ValueError(f'{name}: the {what} of example {before + place} are not finite')


def _is_batched(name: str, x: Any, model: keras.Model) -> bool:
    """Whether inputs have the axis of examples; ValueError where they are not the model's."""
    wanted = {tensor.name: tensor for tensor in model.inputs}
    _check_form(name, x, model)
    values = _in_order(x, _keys(model))
    if len(values) != len(wanted):
        raise ValueError(f'{name}: the model takes {len(wanted)} inputs ({", ".join(wanted)}); '
                         f'received {len(values)}')
    found = set()
    for value, tensor in zip(values, wanted.values()):
        shape, own = tuple(value.shape), tuple(tensor.shape)
        fits = [len(shape) == len(own[cut:]) and all(
            size in (None, here) for size, here in zip(own[cut:], shape)) for cut in (0, 1)]
        if not any(fits):
            raise ValueError(f"{name}: input '{tensor.name}' of the model is {list(own)}; received "
                             f'{list(shape)}')
        found.add(fits[0])
    return found == {True}


def _check_form(name: str, x: Any, model: keras.Model) -> None:
    """ValueError where Keras would not find the model's inputs in such a structure."""
    struct, keys = _struct(model), _keys(model)
    if isinstance(x, Mapping):
        fits = isinstance(struct, Mapping) if keys is None else set(keys) <= set(x)
    else:
        fits = not isinstance(struct, Mapping) or list(struct) == sorted(struct)
    if not fits:
        takes = ', '.join(keys) if keys else str(
            keras.tree.map_structure(lambda tensor: tensor.name, struct))
        given = ', '.join(map(str, x)) if isinstance(x, Mapping) else 'inputs without names'
        raise ValueError(f'{name}: the model takes {takes}; received {given}')


def _check_alike(splits: Mapping[str, Split]) -> None:
    """ValueError where examples of splits differ in form, weights aside."""
    train = splits['train_data'].spec
    for name, split in splits.items():
        for part, ours, theirs in zip(_PARTS, train[:2], split.spec[:2]):
            try:
                keras.tree.assert_same_structure(ours, theirs)
                same = all(one.shape == other.shape for one, other in zip(
                    tf.nest.flatten(ours), tf.nest.flatten(theirs)))
            except (ValueError, TypeError):
                same = False
            if not same:
                raise ValueError(f'{name}: expected {part} as in train_data, {_described(ours)}; '
                                 f'received {_described(theirs)}')


def _described(spec: Any) -> str:
    return str(keras.tree.map_structure(lambda leaf: list(leaf.shape), spec))


def _given(model: keras.Model) -> dict[str, tuple[int | None, ...]]:
    """The shapes of the model's outputs by name."""
    names = getattr(model, 'output_names', None) or [model.layers[-1].name]
    return {name: tuple(tensor.shape[1:]) for name, tensor in zip(names, model.outputs)}


def _taken_alone(x: Any, model: keras.Model) -> Any:
    """Inputs without those that the model does not take."""
    keys = _keys(model)
    if keys is None or not isinstance(x, Mapping) or not set(keys) <= set(x):
        return x
    return {key: x[key] for key in keys}


def _taken(model: keras.Model, x: Any) -> dict[str, tuple[int | None, ...]]:
    """The shapes of examples that fit, by the names of the model's inputs."""
    return {tensor.name: tuple(leaf.shape)
            for tensor, leaf in zip(model.inputs, _in_order(x, _keys(model)))}


def _struct(model: keras.Model) -> Any:
    """The structure of a model's inputs."""
    return model.inputs if isinstance(model, keras.Sequential) else model.input


def _keys(model: keras.Model) -> list[str] | None:
    """The keys by which Keras takes a dict of inputs, in the order of the model's: those of its own
    dict, else the names of inputs; None where its inputs are a deeper structure."""
    struct = _struct(model)
    parts = struct.values() if isinstance(struct, Mapping) else (
        struct if isinstance(struct, (list, tuple)) else [struct])
    if not all(isinstance(part, keras.KerasTensor) for part in parts):
        return None
    return sorted(struct) if isinstance(struct, Mapping) else [
        tensor.name for tensor in model.inputs]


def _in_order(x: Any, keys: Sequence[str] | None) -> list[Any]:
    """The tensors of inputs in the order of the model's."""
    if keys is not None and isinstance(x, Mapping):
        return [x[key] for key in keys]
    return keras.tree.flatten(x)


def _of_size(batch: Any, size: int) -> Any:
    return tf.nest.map_structure(lambda x: tf.ensure_shape(x, [size, *x.shape[1:]]), batch)


def _tuples(value: Any) -> Any:
    """A structure whose lists are tuples, as tf.data has them."""
    if isinstance(value, Mapping):
        return {key: _tuples(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(each) for each in value)
    return value
