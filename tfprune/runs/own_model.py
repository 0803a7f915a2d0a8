"""A user's own model and data: what is learnt, and of what kind its examples are."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data.class_names import check_class_names
from tfprune.data.pixels import PixelRange, range_of
from tfprune.data.user_datasets import UserDatasets, batch_size_of
from tfprune.data.user_examples import UserExamples, of_py_dataset, py_dataset_of
from tfprune.data.user_examples import batch_size_of as batch_size_of_examples
from tfprune.models.model_files import check_loads, check_weights
from tfprune.models.outputs import outputs_probabilities
from tfprune.runs.learning import Monitor
from tfprune.runs.problem import OwnModel
from tfprune.structure.copies import storable
from tfprune.structure.keras_internals import compiled_with
from tfprune.tasks.compiled import weights_of_classes
from tfprune.tasks.directions import check_mode

_METRICS = ('accuracy', 'acc', keras.metrics.CategoricalAccuracy,
            keras.metrics.SparseCategoricalAccuracy)
_LOSSES = {'sparse_categorical_crossentropy': keras.losses.SparseCategoricalCrossentropy,
           'categorical_crossentropy': keras.losses.CategoricalCrossentropy}
_PICTURE = 3  # axes of one


def own_model(model: keras.Model, *, train_data: Any, reward_data: Any, test_data: Any,
              monitor: str | None = None, mode: str = 'auto',
              class_weight: Mapping[int, float] | None = None,
              callbacks: Sequence[keras.callbacks.Callback] | None = None,
              class_names: Sequence[str] | None = None,
              pixel_range: tuple[Any, Any] | None = None, seed: int = 0,
              name: str = '') -> OwnModel:
    """A user's model and data, checked; see `train_and_prune` for the arguments.

    A classifier of pictures that is not compiled, or compiled with plain cross-entropy, is taken as
    such, with all that is known of pictures and classes. Of others what they are compiled with is
    the task.

    Args:
        name: how reports call the data; '' for what it is.

    Raises:
        TypeError, ValueError: name the argument, what was expected and what was received.
    """
    _check_model(model)
    _check_callbacks(callbacks)
    data = {'train_data': train_data, 'reward_data': reward_data, 'test_data': test_data}
    check_mode(mode)
    beyond = _beyond_pairs(data, monitor, mode, class_weight)
    if _is_classifier(model) and not beyond:
        return _of_pictures(model, data, class_names, pixel_range, name, tuple(callbacks or ()))
    compiled = compiled_with(model)
    if beyond and _is_classifier(model) and (compiled is None or compiled.loss is None):
        raise ValueError(f"model '{model.name}' must be compiled, with its loss and metrics, for "
                         f'{" and ".join(beyond)}')
    if compiled is None:
        raise ValueError(
            f"model '{model.name}' is not compiled: what it learns is not known; compile it with "
            'its loss and metrics. (Only a classifier of pictures, [None, H, W, C] to '
            f'[None, classes], need not be; this one is {_shapes(model.inputs)} to '
            f'{_shapes(model.outputs)}.)')
    examples = UserExamples.of(
        *data.values(), model=model, name=name or _name_of(train_data), seed=seed,
        class_names=_checked_names(model, class_names),
        weigh=None if class_weight is None else weights_of_classes(class_weight))
    examples = dataclasses.replace(examples, pixels=_pixels(examples, pixel_range))
    return OwnModel(model, examples, Monitor(monitor, mode), tuple(callbacks or ()),
                    batch_size_of_examples(train_data, model), class_weight)


def _beyond_pairs(data: Mapping[str, Any], monitor: str | None, mode: str,
                  class_weight: Mapping[int, float] | None) -> list[str]:
    """What of the arguments a classifier of (picture, label) by its accuracy does not know."""
    parts = [_parts(each) for each in data.values()]
    return [what for what, is_given in (
        ('sample weights', any(len(each) > 2 for each in parts)),
        ('inputs by name', any(isinstance(x, Mapping) for x, *_ in parts)),
        ('class_weight', class_weight is not None),
        (f'monitor={monitor!r}', monitor not in (None, 'accuracy', 'val_accuracy')),
        (f'mode={mode!r}', mode == 'min')) if is_given]


def _of_pictures(model: keras.Model, data: Mapping[str, Any], class_names: Sequence[str] | None,
                 pixel_range: tuple[Any, Any] | None, name: str,
                 callbacks: tuple[keras.callbacks.Callback, ...]) -> OwnModel:
    """A classifier of pictures, and its data."""
    train_data = data['train_data']
    pairs = {key: _pairs(key, each) for key, each in data.items()}
    given = UserDatasets.from_datasets(
        *pairs.values(), num_classes=model.output_shape[-1], class_names=class_names,
        pixel_range=pixel_range, is_shuffled=isinstance(train_data, (tuple, list)))
    given = dataclasses.replace(given, name=name or given.name,
                                py_dataset=py_dataset_of(train_data))
    size = None if given.is_shuffled else batch_size_of(pairs['train_data'])
    return OwnModel(model, given, callbacks=callbacks, batch_size=size)


def _check_model(model: keras.Model) -> None:
    try:
        check_weights(model)
        check_loads(storable(model))
    except ValueError as error:
        raise ValueError(f"model '{model.name}': {error}") from None
    if not getattr(model, 'inputs', None):
        raise ValueError(f"model '{model.name}': expected a functional or Sequential model that is "
                         'built, received one without inputs')


def _check_callbacks(callbacks: Any) -> None:
    if callbacks is None:
        return
    if not isinstance(callbacks, (list, tuple)) or not all(
            isinstance(each, keras.callbacks.Callback) for each in callbacks):
        raise TypeError("callbacks: expected a list of Keras' callbacks, received "
                        f'{callbacks!r:.80}')


def _is_classifier(model: keras.Model) -> bool:
    """Whether a model takes one picture, gives one output a class, and is not compiled, or with
    nothing but cross-entropy and accuracy."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return False
    taken, given = model.inputs[0].shape, model.outputs[0].shape
    if len(taken) != _PICTURE + 1 or len(given) != 2 or not given[1] or given[1] < 2:
        return False
    compiled = compiled_with(model)
    if compiled is None or compiled.loss is None:
        return True
    metrics = keras.tree.flatten(compiled.metrics or [])
    return (_is_cross_entropy(compiled.loss, outputs_probabilities(model))
            and not compiled.loss_weights and not compiled.weighted_metrics
            and all(each in _METRICS[:2] if isinstance(each, str)
                    else type(each) in _METRICS[2:] for each in metrics))


def _is_cross_entropy(loss: Any, is_softmax: bool) -> bool:
    if isinstance(loss, str):
        return loss in _LOSSES and is_softmax
    if type(loss) not in _LOSSES.values():
        return False
    plain = type(loss)(from_logits=not is_softmax).get_config()
    own = loss.get_config()
    return all(own.get(key) == value for key, value in plain.items() if key != 'name')


def _parts(data: Any) -> Sequence[Any]:
    """x, y and maybe weights as data have them; (None,) of what is no data."""
    if isinstance(data, keras.utils.PyDataset):
        data = data[0] if data.num_batches else None
    found = getattr(data, 'element_spec', data)
    return found if isinstance(found, (tuple, list)) and found else (None,)


def _pairs(name: str, data: Any) -> Any:
    """Arrays and a PyDataset as a dataset of pairs; what is neither as it is."""
    if isinstance(data, keras.utils.PyDataset):
        return of_py_dataset(name, data)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return data
    return tf.data.Dataset.from_tensor_slices(tuple(np.asarray(part) for part in data))


def _checked_names(model: keras.Model, names: Sequence[str] | None) -> tuple[str, ...]:
    """Names of classes, of a model that gives such; () for none."""
    if names is None:
        return ()
    shape = model.outputs[0].shape
    if len(model.outputs) != 1 or len(shape) != 2 or shape[1] != len(names):
        raise ValueError(f'class_names: expected a name for each class of an output [None, '
                         f'classes], received {len(names)} for {_shapes(model.outputs)}')
    check_class_names('class_names', tuple(names))
    return tuple(map(str, names))


def _pixels(examples: UserExamples, pixel_range: tuple[Any, Any] | None) -> PixelRange | None:
    """What a byte of a picture is in the inputs; None where these are no pictures."""
    shapes = list(examples.inputs.values())
    if len(shapes) != 1 or len(shapes[0]) != _PICTURE:
        if pixel_range is not None:
            raise ValueError('pixel_range: expected one input of pictures [H, W, C], received '
                             f'{dict(examples.inputs)}')
        return None
    x = next(iter(examples.calibration_batches(min(256, examples.num_train), 1)))[0]
    image, = tf.nest.flatten(x)
    return range_of(image.numpy(), pixel_range, int(image.shape[-1]))


def _name_of(data: Any) -> str:
    if isinstance(data, tf.data.Dataset):
        return 'tf.data'
    return 'PyDataset' if isinstance(data, keras.utils.PyDataset) else 'arrays'


def _shapes(tensors: Sequence[Any]) -> str:
    return ', '.join(str(list(tensor.shape)) for tensor in tensors)
