"""The optimizer that a Keras model was compiled with."""

import copy
import dataclasses
import inspect
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from tfprune.structure.keras_internals import schedule_of


@dataclasses.dataclass(frozen=True)
class CompiledOptimizer:
    """An optimizer of which only the learning rate is left to say.

    Attributes:
        config: as `keras.optimizers.serialize` gives it, its learning rate a number.
        learning_rate: what it was compiled with, or has been set to since; the initial one of a
            schedule, 0 where that does not say.
        scheduled: whether the rate followed a schedule of its own, which ends with its training.
        schedule: that schedule, step -> rate; None where it is not at hand.
        iterations: steps that are done.
    """
    config: Mapping[str, Any]
    learning_rate: float
    scheduled: bool
    schedule: Callable[[int], Any] | None = dataclasses.field(default=None, compare=False)
    iterations: int = dataclasses.field(default=0, compare=False)

    @property
    def name(self) -> str:
        """Its class: Adam, SGD, …"""
        return inner_config(self.config)['class_name']

    @property
    def usual_rate(self) -> float:
        """The rate that its class has by default; its own where the class has none."""
        kind = type(keras.optimizers.deserialize(copy.deepcopy(inner_config(self.config))))
        parameter = inspect.signature(kind).parameters.get('learning_rate')
        default = parameter.default if parameter else None
        return float(default) if isinstance(default, (int, float)) else self.learning_rate

    def scheduled_rate(self, step: int) -> float:
        """The schedule's rate so many steps from now."""
        assert self.schedule is not None
        return float(self.schedule(self.iterations + step))

    def goes_on(self, steps: int) -> bool:
        """Whether there is a schedule that has not come to its end: in so many steps from now its
        rate is somewhere a hundredth of the highest that it had, or more."""
        if self.schedule is None or not steps:
            return False
        past = max((float(self.schedule(step)) for step in _places(self.iterations)), default=0.0)
        coming = max(map(self.scheduled_rate, _places(steps)))
        return coming > 0 and coming >= 0.01 * past  # a warm-up may begin at 0

    @classmethod
    def from_config(cls, serialized: Mapping[str, Any]) -> 'CompiledOptimizer':
        """Of a serialized optimizer; one that scales the loss stands around the one that steps."""
        config = copy.deepcopy(dict(serialized))
        for inner in (config, inner_config(config)):
            inner['config'].pop('name', None)  # a number that Keras counts up in a process
            inner.pop('build_config', None)
        inner = inner_config(config)
        rate = inner['config'].get('learning_rate', 0.0)
        scheduled = not isinstance(rate, (int, float))
        if scheduled:
            initial = rate.get('config', {}) if isinstance(rate, Mapping) else {}
            rate = initial.get('initial_learning_rate', 0.0)
            rate = rate if isinstance(rate, (int, float)) else 0.0
        inner['config']['learning_rate'] = float(rate)
        return cls(config, float(rate), scheduled)


def inner_config(config: Mapping[str, Any]) -> Any:
    """The configuration of the optimizer that steps, inside one that scales the loss or itself."""
    while config['class_name'] == 'LossScaleOptimizer':
        config = config['config']['inner_optimizer']
    return config


def compiled_optimizer(model: keras.Model) -> CompiledOptimizer | None:
    """That of a model in memory; None where it is not compiled. Raises as for a file."""
    if not getattr(model, 'compiled', False) or getattr(model, 'optimizer', None) is None:
        return None
    found = CompiledOptimizer.from_config(keras.optimizers.serialize(model.optimizer))
    if found.scheduled:
        found = dataclasses.replace(
            found, schedule=schedule_of(model.optimizer),
            iterations=int(keras.ops.convert_to_numpy(model.optimizer.iterations)))
    return _checked(found, model.name)


def _places(steps: int) -> Iterator[int]:
    """At most 200 of so many steps, the first and the last among them."""
    return iter(sorted({round(place * max(0, steps - 1) / 199) for place in range(200)}))


def compiled_optimizer_of_files(*paths: str | pathlib.Path) -> CompiledOptimizer | None:
    """That of the first .keras file that was saved compiled, from its configuration.

    Raises:
        ValueError: the optimizer is not one of Keras, nor a registered one.
    """
    return next(filter(None, map(_of_file, paths)), None)


def _of_file(path: str | pathlib.Path) -> CompiledOptimizer | None:
    with zipfile.ZipFile(path) as archive:
        compiled = json.loads(archive.read('config.json')).get('compile_config')
    config = compiled and compiled.get('optimizer')
    if not isinstance(config, Mapping) or 'class_name' not in config:
        return None
    return _checked(CompiledOptimizer.from_config(config), str(path))


def _checked(found: CompiledOptimizer, source: str) -> CompiledOptimizer:
    for name in ('gradient_accumulation_steps', 'ema_overwrite_frequency'):
        if inner_config(found.config)['config'].get(name):  # Keras cannot do it in a replica
            raise ValueError(f"model '{source}' is compiled with {found.name}({name}=…), which is "
                             'not followed; --optimizer=sgd trains without it, or compile it anew')
    try:
        make_optimizer(found.config)
    except Exception as error:  # Keras raises nearly any type for what it does not know.
        text = ' '.join(str(error).split())[:200]
        raise ValueError(f"model '{source}' is compiled with the optimizer {found.name!r}, which "
                         f'cannot be made: {text}; --optimizer=sgd trains without it') from None
    return found


def make_optimizer(config: Mapping[str, Any]) -> keras.optimizers.Optimizer:
    """An optimizer of its configuration.

    Raises:
        ValueError: it is neither one of Keras nor registered.
    """
    made = keras.optimizers.deserialize(copy.deepcopy(dict(config)))
    if not isinstance(made, keras.optimizers.Optimizer):  # Keras may give the name back
        raise ValueError('it is no optimizer of Keras, nor a registered class')
    return made
