"""What a Keras model is compiled with, as a task: loss, loss weights, metrics, sample weights.

The loss and the metrics are Keras' own, of a model of identities that stands between outputs and
targets: it is compiled as the user's model is, and takes the outputs of whatever is judged, the
dense model, a sub-network, a TFLite file. Metrics run without their variables: of each batch the
change of their state is taken from their initial state, and these changes add up.

The losses of the model itself, of regularizers and add_loss, are no part of the task: training adds
them, and 'loss' among the metrics is without them.
"""
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.errors import first_line, near
from tfprune.significance import ERRORS
from tfprune.structure.graph import functional_graph
from tfprune.structure.keras_internals import (CompiledWith, compiled_with, has_own_steps,
                                               function_of_loss, is_of_keras, losses_of)
from tfprune.tasks.base import Targets, Task, count_of
from tfprune.tasks.directions import is_accuracy, is_share, larger_is_better
from tfprune.tasks.measure import Measure
from tfprune.tasks.soft_targets import Divergence, divergence_of

# By such a share, beside ERRORS standard errors, a loss is better than that of other examples'
# targets: untrained outputs, too, depend on inputs, and agree with targets a little.
_SHARE = 0.05
_LOSS = 'loss'
_NO_MEANS = ('sum', 'none', None)  # reductions that Keras does not divide


def check_steps(model: keras.Model) -> None:
    """ValueError for a model whose class has a method of training of its own."""
    own = has_own_steps(model)
    if own:
        raise ValueError(f"model '{model.name}' has a {own} of its own, which is not followed: "
                         'prune it beside your own training, by search_widths and '
                         'callbacks.Alignment')


class CompiledTask(Task):
    """The task of a compiled model; made by `of`.

    Args:
        judge: the compiled model of identities, outputs -> outputs, built.
        has_loss: whether there is a loss beside those of the model itself.
    """
    loss_name = 'compiled_loss'

    def __init__(self, judge: keras.Model, has_loss: bool):
        self._judge, self._has_loss = judge, has_loss
        self._variables = list(judge.metrics_variables)
        self._means = _means_of_losses(judge, self._variables)
        self._divergences = _divergences(judge)
        with keras.StatelessScope([(v, v.value) for v in self._variables]) as scope:
            judge.reset_metrics()
            self._initial = [np.asarray(scope.get_current_value(v)) for v in self._variables]
        self.tally_size = 2 + sum(value.size for value in self._initial)

    @classmethod
    def of(cls, model: keras.Model, batch: Any, *, monitor: str | None = None, mode: str = 'auto'
           ) -> 'CompiledTask':
        """The task of a model that is compiled.

        Args:
            batch: (x, y) or (x, y, weights), some examples as it is trained on.
            monitor: the metric that a run is judged by, as Keras' callbacks name it, with or
                without 'val_'; None for the first of the compiled metrics, without any the loss.
            mode: 'max' or 'min'; 'auto' knows it of Keras' own metrics.

        Raises:
            ValueError: the model is not compiled, has steps of its own, or does not fit the
                batch; a metric that does not exist; or one that does not add up over batches.
        """
        check_steps(model)
        compiled = compiled_with(model)
        if compiled is None:
            raise ValueError(f"model '{model.name}' is not compiled: what is learnt is not known; "
                             'compile it with its loss and metrics')
        x, *targets = batch
        try:
            outputs = model(x, training=False)
            judge = _judge(model, compiled)
            if compiled.loss is not None:
                judge.compute_loss(x=None, y=targets[0], y_pred=outputs,
                                   sample_weight=targets[1] if len(targets) > 1 else None)
            judge.compute_metrics(None, targets[0], outputs, *targets[1:])
            judge.reset_metrics()
        except Exception as error:  # Keras raises nearly any type for what does not fit
            raise ValueError(f"model '{model.name}': the data do not fit it or the loss and "
                             f'metrics that it is compiled with: {_reason(error)}') from error
        made = cls(judge, compiled.loss is not None)
        made._check_sums(outputs, tuple(targets))
        made.measure = made._measure(outputs, tuple(targets), monitor, mode)
        return made

    def loss(self, outputs: Any, *targets: Any) -> tf.Tensor:
        return _times_examples(outputs, self._mean_loss(outputs, *targets))

    def tally(self, outputs: Any, *targets: Any) -> tf.Tensor:
        count = tf.cast(_examples(outputs), tf.float64)
        loss, after = self._updated(self._initial, outputs, targets)
        summed = tf.cast(_times_examples(outputs, loss), tf.float64)
        for total, number in self._means:  # the loss of an output, over the examples
            after[total] *= tf.cast(count, after[total].dtype) / after[number]
            after[number] = tf.cast(count, after[number].dtype)
        changes = [tf.reshape(tf.cast(new, tf.float64), [-1]) - np.float64(old).ravel()
                   for new, old in zip(after, self._initial)]
        sums = tf.concat([tf.stack([summed, count]), *changes], 0)
        return tf.where(count > 0, sums, tf.zeros_like(sums))  # a replica may have no example

    def metrics(self, tally: np.ndarray) -> dict[str, float]:
        if not tally[1]:
            raise ValueError('there are no examples to evaluate on.')
        return {_LOSS: float(tally[0] / tally[1]), **self._results(tally)}

    def scores(self, outputs: Any, *targets: Any) -> tf.Tensor:
        def of_one(example: tuple[Any, Targets]) -> tf.Tensor:
            answer, wanted = tf.nest.map_structure(lambda value: value[None], example)
            return -self._mean_loss(answer, *wanted)

        return tf.map_fn(of_one, (outputs, tuple(targets)), fn_output_signature=tf.float32)

    @property
    def can_distil(self) -> bool:
        return bool(self._divergences)

    @property
    def is_distilled(self) -> bool:
        """Of one answer an example: in a map of classes most places are sure, what is left of
        the others at a temperature of 4 says little, and a U-Net lost by it (runs/README.md)."""
        return self.can_distil and all(
            len(_part(self._judge.output, path).shape) <= 2 for path, *_ in self._divergences)

    def divergence(self, outputs: Any, teacher: Any, temperature: float) -> tf.Tensor:
        total = tf.constant(0.0)
        for path, own, weight in self._divergences:
            answer, wanted = (_part(each, path) for each in (outputs, teacher))
            total += weight * tf.reduce_sum(own(answer, wanted, temperature))
        return total

    def shown_score(self, score: float) -> str:
        return f'a loss of {-score:.4g}'

    def evidence(self, scores: tf.Tensor, outputs: Any, *targets: Any) -> tf.Tensor:
        """The score of each example, and that with the targets of another; none of one alone."""
        count = _examples(outputs)
        others = tf.nest.map_structure(
            lambda value: tf.roll(value, tf.maximum(1, count // 2), axis=0), targets)
        pairs = tf.stack([scores, self.scores(outputs, *others)], 1)
        return pairs[:tf.where(count > 1, count, 0)]

    def knows(self, evidence: np.ndarray) -> bool:
        gain = evidence[:, 0] - evidence[:, 1]
        if not np.isfinite(gain).all():
            raise ValueError('the loss of the given model on training examples is NaN or infinite.')
        if not len(gain):
            return False
        least = _SHARE * abs(evidence[:, 1].mean())
        return bool(gain.mean() > max(least, ERRORS * gain.std() / len(gain) ** 0.5))

    def _mean_loss(self, outputs: Any, *targets: Any) -> tf.Tensor:
        with keras.StatelessScope([(v, v.value) for v in self._variables]):
            return self._computed_loss(outputs, targets)

    def _computed_loss(self, outputs: Any, targets: Targets) -> tf.Tensor:
        """The mean loss, within a scope that takes what is tracked in it."""
        if not self._has_loss:
            return tf.constant(0.0)
        y, weights = (*targets, None)[:2]
        loss = self._judge.compute_loss(x=None, y=y, y_pred=outputs, sample_weight=weights)
        # Among replicas Keras gives the share of one in the mean over all of them.
        return tf.cast(loss, tf.float32) * tf.distribute.get_strategy().num_replicas_in_sync

    def _updated(self, states: Any, outputs: Any, targets: Targets) -> tuple[tf.Tensor, list[Any]]:
        """The mean loss of a batch, and the states of the metrics after it."""
        y, weights = (*targets, None)[:2]
        mapping = [(v, tf.cast(state, v.dtype)) for v, state in zip(self._variables, states)]
        with keras.StatelessScope(mapping) as scope:
            loss = self._computed_loss(outputs, targets)  # tracks each output's own
            self._judge.compute_metrics(None, y, outputs, weights)
            return loss, [scope.get_current_value(v) for v in self._variables]

    def _results(self, tally: np.ndarray) -> dict[str, float]:
        """The metrics that are one number, without the loss."""
        states, place = [], 2
        for old in self._initial:
            states.append((np.float64(old).ravel() + tally[place:place + old.size]
                           ).reshape(old.shape).astype(old.dtype))
            place += old.size
        return self._results_of(states)

    def _results_of(self, states: Any) -> dict[str, float]:
        """The metrics that are one number, by their states, without the loss."""
        with keras.StatelessScope([(v, tf.convert_to_tensor(state))
                                   for v, state in zip(self._variables, states)]):
            # Within: a metric may give its variable as it is.
            found = {name: np.asarray(keras.ops.convert_to_tensor(value))
                     for name, value in self._judge.get_metrics_result().items()}
        return {name: float(value) for name, value in found.items()
                if name != _LOSS and value.ndim == 0}

    def _check_sums(self, outputs: Any, targets: Targets) -> None:
        """ValueError where the states of metrics are no sums over examples."""
        half = count_of(outputs) // 2
        if not half:
            return
        parts = [tf.nest.map_structure(lambda value: value[cut], (outputs, targets))
                 for cut in (slice(half), slice(half, None))]
        states, total = self._initial, np.zeros(self.tally_size)
        for answers, wanted in parts:
            _, states = self._updated(states, answers, wanted)
            total = total + np.asarray(self.tally(answers, *wanted))
        expected = self._results_of(states)
        own = {f'{name}_loss' for name in self._judge.output_names}  # see `tally`
        for name, value in self._results(total).items():
            if name not in own and not np.allclose(
                    value, expected[name], rtol=1e-3, atol=1e-5, equal_nan=True):
                raise ValueError(f'metric {name!r} is no sum over examples: its state after two '
                                 'batches is not that of both together; take a metric of Keras, '
                                 'or a function of targets and outputs')

    def _measure(self, outputs: Any, targets: Targets, monitor: str | None, mode: str) -> Measure:
        known = self.metrics(np.asarray(self.tally(outputs, *targets)))
        metrics = [metric for group in self._judge.metrics
                   for metric in getattr(group, 'metrics', ())]
        by_name = {name: metric for name in known for metric in metrics
                   if name == metric.name or name.endswith(f'_{metric.name}')}
        name = str(monitor or next(iter(by_name), _LOSS)).removeprefix('val_')
        if name not in known:
            listed = ', '.join(f'val_{each}' for each in known)
            raise ValueError(f'monitor: there is no metric {monitor!r}.{near(name, known)} '
                             f'Available: {listed}')
        metric = by_name.get(name)
        return Measure(name, larger_is_better(name, metric, mode), is_share(metric),
                       is_accuracy(metric, outputs))


def _examples(outputs: Any) -> tf.Tensor:
    """Number of examples of outputs, maybe none."""
    return tf.shape(tf.nest.flatten(outputs)[0])[0]


def _times_examples(outputs: Any, mean: tf.Tensor) -> tf.Tensor:
    """A mean over examples times their number; 0 where there are none."""
    count = tf.cast(_examples(outputs), tf.float32)
    return tf.where(count > 0, count * mean, 0.0)


def _means_of_losses(judge: keras.Model, variables: list[Any]) -> list[tuple[int, int]]:
    """Where the sum and the count of each output's own loss are among the variables. Keras counts
    batches in them where it does not know their size."""
    places = {id(variable): place for place, variable in enumerate(variables)}
    return [(places[id(metric.total)], places[id(metric.count)]) for metric in judge.metrics
            if type(metric) is keras.metrics.Mean and metric.name != _LOSS]


def _divergences(judge: keras.Model) -> list[tuple[Any, Divergence, float]]:
    """(path, divergence, weight) of each output; none where one has a loss without."""
    found = [(path, divergence_of(loss), weight) for path, loss, weight in losses_of(judge)]
    known = [(path, own, weight) for path, own, weight in found if own is not None]
    return known if len(known) == len(found) else []


def _part(outputs: Any, path: Any) -> Any:
    return functools.reduce(lambda part, key: part[key], path, outputs)


def _judge(model: keras.Model, compiled: CompiledWith) -> keras.Model:
    """A model of identities of the outputs of `model`, compiled alike."""
    struct = functional_graph(model).output
    flat = keras.tree.flatten(struct)
    names = getattr(model, 'output_names', None) or [f'output_{i}' for i in range(len(flat))]
    if len(set(names)) < len(flat):  # a layer that is called twice
        names = [f'{name}_{i}' for i, name in enumerate(names)]
    inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in flat]
    outputs = [keras.layers.Identity(name=name, dtype=tensor.dtype)(value)
               for name, value, tensor in zip(names, inputs, flat)]
    judge = keras.Model(inputs, keras.tree.pack_sequence_as(struct, outputs))
    judge.compile(loss=keras.tree.map_structure(_averaged, compiled.loss),
                  loss_weights=compiled.loss_weights, metrics=compiled.metrics,
                  weighted_metrics=compiled.weighted_metrics)
    return judge


def _averaged(loss: Any) -> Any:
    """A loss that may give a scalar, a mean already, as one that Keras divides by the number of
    replicas, as it does the means that it takes; Keras' own, which give none, as they are."""
    if loss is None or isinstance(loss, str):
        return loss
    loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.Loss):
        return _of_one(loss)
    function, _ = function_of_loss(loss)
    if (type(loss).__call__ is not keras.losses.Loss.__call__
            or is_of_keras(type(loss)) and is_of_keras(function or keras.losses.Loss)):
        return loss
    made = keras.losses.Loss(loss.name, loss.reduction, loss.dtype)
    made.call = (_divided if loss.reduction in _NO_MEANS else _of_one)(loss.call)
    return made


def _divided(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, a scalar of it divided by the number of replicas."""
    @functools.wraps(function)
    def given(*args: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(function(*args))
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return value if value.shape.rank else value / replicas

    return given


def _of_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, a scalar of it as the loss [1] of one example."""
    @functools.wraps(function)
    def given(*args: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(function(*args))
        return value if value.shape.rank else value[None]

    return given


def _reason(error: Exception) -> str:
    """The first line of what Keras says."""
    text = str(error).partition('Exception encountered: ')[2] or str(error)
    return first_line(ValueError(text), 300) if text.strip() else type(error).__name__


def weights_of_classes(class_weight: Mapping[int, float]) -> Any:
    """y -> the weight of each example, float32: labels [B], whole numbers or one-hot rows.

    ValueError unless these are numbers of 0 or more, by class.
    """
    try:
        table = {int(label): float(weight) for label, weight in class_weight.items()}
    except (TypeError, ValueError, AttributeError):
        table = {-1: -1.0}
    if not table or min(table) < 0 or not all(0 <= w < float('inf') for w in table.values()):
        raise ValueError('class_weight: expected {class: weight of 0 or more}, received '
                         f'{class_weight!r:.80}')
    weights = np.ones(max(table) + 1, np.float32)
    for label, weight in table.items():
        weights[label] = weight

    def of(y: tf.Tensor) -> tf.Tensor:
        if len(y.shape) > 2 and y.dtype.is_integer and y.shape[-1] != 1:
            labels = tf.cast(y, tf.int32)  # a class a place, as of a mask
        elif len(y.shape) > 1:
            is_column = y.shape[-1] == 1
            labels = tf.cast(y[..., 0], tf.int32) if is_column else tf.argmax(y, -1, tf.int32)
        else:
            labels = tf.cast(y, tf.int32)
        inside = tf.minimum(labels, len(weights) - 1)
        return tf.where(labels < len(weights), tf.gather(tf.constant(weights), inside), 1.0)

    return of
