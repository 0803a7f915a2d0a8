"""The configuration of a run: the parts that packages define, by the names of their flags.

To add a flag: a field in the `options` module of the package that reads it. To add a part: such a
module, and a field here.
"""
import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tfprune._moved import OPTIONS as MOVED_OPTIONS, current_options
from tfprune.config import (SEED, Part, check_type, check_value, field_of, flag_fields, plain,
                            values_of)
from tfprune.costs.options import BudgetOptions
from tfprune.data.options import DataOptions
from tfprune.errors import near, unknown
from tfprune.export.options import ExportOptions
from tfprune.methods.names import CONTROLS, METHODS, options_of
from tfprune.methods.options import Options
from tfprune.models.options import ModelOptions
from tfprune.pruning.options import PruningOptions
from tfprune.run_files import NOT_IDENTITY
from tfprune.search.options import ScoringOptions
from tfprune.structure.options import StructureOptions
from tfprune.training.options import Epochs, TrainingOptions

# Flags that act after the last epoch.
AFTER_TRAINING = tuple(field.name for field in flag_fields(ExportOptions))


@dataclasses.dataclass(frozen=True)
class RunOptions(Part):
    """The run: its method and its seed."""
    method: str = field_of(
        'rlal', 'This method decides which channels are removed.')
    seed: int = field_of(
        0, 'This seeds weights, data order and agent, but not the data splits.', SEED)
    before_surgery_from: str = field_of(
        '', 'The epochs before surgery are taken from this run, which has the same flags but '
        '--method, instead of trained again. It works for methods that only decide: all but '
        'rlal, autocompress and scratch.')


@dataclasses.dataclass(frozen=True, init=False)
class Config:
    """What decides the outcome of a run. Two runs with equal configs give equal weights on CPU.

        Config(model='resnet20', macs=0.5, method='amc', amc={'episodes': 120})

    Args:
        flags: fields of any part by name, as the flags of tfprune train; the method's options
            under its name, as a mapping or an instance of its Options, or one by one as
            'amc.episodes'. What is left out has its default.

    Raises:
        TypeError: a name that is none, or a value of another type.
        ValueError: a value that its field cannot have.
    """
    run: RunOptions
    models: ModelOptions
    data: DataOptions
    costs: BudgetOptions
    structure: StructureOptions
    pruning: PruningOptions
    epochs: Epochs
    training: TrainingOptions
    scoring: ScoringOptions
    export: ExportOptions
    options: Options

    def __init__(self, **flags: Any):
        for name, part in PARTS.items():
            given = {field.name: flags.pop(field.name) for field in flag_fields(part)
                     if field.name in flags}
            object.__setattr__(self, name, part(**given))
        flags = current_options(flags, self.run.method)
        object.__setattr__(self, 'options', method_options(self.run.method, flags))
        self._name_task()
        check_names(flags, self.run.method)

    def _name_task(self) -> None:
        """Calls model and data set of a task by its file; ValueError where others are named."""
        if not self.models.task:
            return
        name = pathlib.PurePath(self.models.task).stem
        for part, field in (('models', 'model'), ('data', 'dataset')):
            value, default = getattr(getattr(self, part), field), DEFAULTS[field]
            if value not in (name, default):
                raise ValueError(f'--{field}={value} must be left out: --task={self.models.task} '
                                 'gives model and data')
            object.__setattr__(self, part, dataclasses.replace(
                getattr(self, part), **{field: name}))

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.run.method

    @property
    def seed(self) -> int:
        """Of weights, order and agent."""
        return self.run.seed

    def of_data(self) -> DataOptions:
        """What is asked of the data set, with what other parts say of it."""
        return dataclasses.replace(self.data, reward_images=self.scoring.reward_images,
                                   seed=self.seed)

    def sized(self, reward_images: int) -> 'Config':
        """The same with the sizes of scoring filled in; see `ScoringOptions.sized`."""
        sized = self.scoring.sized(reward_images)
        return self.replace(**dataclasses.asdict(sized))

    def replace(self, **flags: Any) -> 'Config':
        """The same with other values; another method has its default options."""
        values: dict[str, Any] = self.to_json()
        if flags.get('method', self.method) != self.method:
            values = {name: value for name, value in values.items() if '.' not in name}
        if self.method in flags:
            flags.update(_dotted(self.method, flags.pop(self.method)))
        return Config(**values | flags)

    def to_json(self) -> dict[str, Any]:
        """{flag: value} of all parts, and of the method's options."""
        values: dict[str, Any] = {}
        for name in PARTS:
            values |= values_of(getattr(self, name))
        return values | _dotted(self.method, self.options)

    def to_flags(self) -> str:
        """Text of a flagfile that gives this config; what is None has no line."""
        lines = ['# The configuration of this run; runnable: tfprune train --flagfile=…']
        lines += [f'--{name}={str(value).lower() if isinstance(value, bool) else value}'
                  for name, value in self.to_json().items() if value is not None]
        return '\n'.join(lines) + '\n'

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> 'Config':
        """Inverse of to_json; ValueError names fields that do not exist."""
        others = sorted(set(values) - set(flag_names(values.get('method', RunOptions().method))))
        if others:
            raise ValueError(f'Unknown configuration fields: {", ".join(others)}.')
        return cls(**values)


PARTS: dict[str, type[Part]] = {
    field.name: field.type  # type: ignore[misc]
    for field in dataclasses.fields(Config) if field.name != 'options'}


DEFAULTS: dict[str, Any] = {
    field.name: field.default for part in PARTS.values() for field in flag_fields(part)}


def flag_names(method: str) -> Collection[str]:
    """The flags of a configuration with this method."""
    return default_values(method).keys()


def check_names(flags: Iterable[str], method: str = '') -> None:
    """TypeError for the first that is no flag, nor a method with its options."""
    names = flag_names(method)
    for name in flags:
        if name not in {*names, *MOVED_OPTIONS} and name.partition('.')[0] not in METHODS:
            raise TypeError(f'Unknown option {name!r}.{near(name, names)} Available: '
                            f'{", ".join(sorted(names))}')


def default_values(method: str) -> dict[str, Any]:
    """{flag: default} of a configuration with this method."""
    return _values(method, 'default')


def values_before(method: str) -> dict[str, Any]:
    """{flag: what a configuration that does not know it yet had}."""
    return _values(method, 'before')


def _values(method: str, kind: str) -> dict[str, Any]:
    """{flag: its default, or what it was before}."""
    parts: list[tuple[str, Any]] = [('', part) for part in PARTS.values()]
    if method in METHODS:
        parts.append((f'{method}.', options_of(method)))
    return {f'{prefix}{field.name}': field.metadata.get(kind, field.default)
            for prefix, part in parts for field in flag_fields(part)} | {'method': method}


def completed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a run, in whose configuration flags that are younger than it have the values that
    it ran with, and which is a control if its method is one by now."""
    known = row['configuration']
    if 'method' not in known:
        return dict(row)
    values = {name: value for name, value in values_before(known['method']).items()
              if name not in ('seed', *NOT_IDENTITY)}
    return {**row, 'configuration': values | dict(known),
            'is_control': known['method'] in CONTROLS or row.get('is_control', False)}


def option_parts() -> Iterator[tuple[str, type[Options]]]:
    """(name, Options) of each method that has any."""
    for method in METHODS:
        if any(flag_fields(options_of(method))):
            yield method, options_of(method)


def _dotted(method: str, options: Options | Mapping[str, Any]) -> dict[str, Any]:
    """{'method.option': value}."""
    if not (isinstance(options, Mapping) or dataclasses.is_dataclass(options)):
        raise TypeError(f'{method} must be a mapping or its Options; received '
                        f'{type(options).__name__} {options!r}.')
    values = options if isinstance(options, Mapping) else values_of(options)
    return {f'{method}.{name}': value for name, value in values.items()}


def method_options(method: str, flags: dict[str, Any]) -> Options:
    """The options of a method, which are taken out of `flags`."""
    if method not in METHODS:
        raise unknown('method', method, METHODS)
    options = options_of(method)
    given = flags.pop(method, {})
    if isinstance(given, options):
        given = values_of(given)
    if not isinstance(given, Mapping):
        raise TypeError(f'{method} must be a mapping or {options.__name__}; '
                        f'received {type(given).__name__} {given!r}.')
    values = {**given, **{name.partition('.')[2]: flags.pop(name)
                          for name in [*flags] if name.startswith(f'{method}.')}}
    other = next((name for name in flags if name.partition('.')[0] in METHODS), None)
    if other is not None:
        raise ValueError(f'{other} is for method {other.partition(".")[0]!r}; the method is '
                         f'{method!r}.')
    known = {field.name: field for field in flag_fields(options)}
    for name, value in values.items():
        if name not in known:
            listed = ', '.join(known) or 'none'
            raise ValueError(f'method {method!r} has no option {name!r}.{near(name, known)} '
                             f'Available: {listed}')
        values[name] = plain(value)
        check_type(known[name], values[name], f'{method}.')
        check_value(known[name], values[name], f'{method}.')
    return options(**values)


def differing_fields(ours: Config, theirs: Mapping[str, Any]) -> list[str]:
    """'--flag: theirs -> ours' for each flag in which a stored configuration differs.

    A flag that is younger than the stored configuration had the value of `values_before`.
    """
    rows, defaults = [], values_before(ours.method)
    for name, value in ours.to_json().items():
        stored = theirs.get(name, defaults[name])
        if stored != value and name not in NOT_IDENTITY:
            rows.append(f'--{name}: {_shown(stored)} -> {_shown(value)}')
    if theirs.get('method', ours.method) != ours.method:  # whose options follow from it
        theirs = {name: value for name, value in theirs.items() if '.' not in name}
    rows += [f'--{name}: {theirs[name]!r} -> no such flag'
             for name in sorted(set(theirs) - set(defaults))]
    return rows


def _shown(value: Any) -> str:
    return 'not given' if value is None else repr(value)
