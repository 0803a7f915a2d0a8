"""The configuration of a run: a frozen dataclass, from which the flags of scripts are made."""
import dataclasses
import os
import typing
from typing import Any, Mapping

TARGETS = ('macs', 'params', 'peak_memory_bytes')
# The limits of a budget, by flag -> the field of Cost that they limit.
LIMITS = {**{name: name for name in TARGETS}, 'latency_ratio': 'latency_ms',
          'latency_ms': 'latency_ms'}
_LIMIT = 'Up to 1 it is a ratio of the dense model, above 1 a number; 0: no limit.'
# Fields that act after the last epoch.
AFTER_TRAINING = ('quantize', 'quantize_epochs', 'quantize_learning_rate',
                  'representative_images', 'tflite_io', 'tflite_softmax', 'tflite_batch')
# Where data lie, and where equal epochs were trained, is no part of what was run.
NOT_IDENTITY = ('data_dir', 'cache_dir', 'before_surgery_from')
# --quantize -> key of export.FORMATS.
QUANTIZATIONS = {name: f'tflite_{name}' for name in ('float16', 'dynamic', 'int8', 'int8_qat')}
CHOICES: dict[str, tuple[str, ...]] = {
    'unknown_layers': ('freeze', 'raise'),
    'optimizer': ('compiled', 'sgd'),
    'schedule': ('cosine', 'step'),
    'mixed_precision': ('float32', 'bfloat16'),
    'agent': ('ppo', 'sac', 'ddpg', 'random'),
    'alignment': ('fixed', 'adaptive', 'none'),
    'tflite_io': ('uint8', 'int8', 'float32'),
}


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, each end left out where it is open."""
    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        """False for NaN, which compares false with everything."""
        above = self.low < value if self.open_low else self.low <= value
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        return (f'{"(" if self.open_low else "["}{self.low}, {self.high}'
                f'{")" if self.open_high else "]"}')


SHARE = Range(0, 1)
# The upper ends are far above what makes sense; they catch slips, and what would overflow.
EPOCHS = Range(0, 99_999)
COUNT, COUNT_OR_NONE = Range(1, 1_000_000), Range(0, 1_000_000)
IMAGES, IMAGES_OR_AUTO = Range(1, 10 ** 9), Range(0, 10 ** 9)
RATE, STRENGTH = Range(0, 1_000), Range(0, 10 ** 6)
COST, MILLISECONDS = Range(0, 10 ** 18), Range(0, 10 ** 9)
SEED, THREADS, REPLICAS = Range(0, 2 ** 32 - 1), Range(0, 1_024), Range(1, 64)


def _field(default: Any, text: str, within: Range | None = None) -> Any:
    """A field of `Config`; `within` is what a number can be."""
    return dataclasses.field(default=default, metadata={'help': text, 'within': within})


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides the outcome of a run. Two runs with equal configs give equal weights on CPU."""
    # What is pruned, with what data, by which method, to which budget.
    model: str = _field(
        'resnet20', 'The dense model: the path of a .keras file that takes pixels 0..255, so that '
        'it normalizes them itself, and gives logits or a softmax; or a name.')
    dataset: str = _field('cifar10', 'The images, or the name of any other image classification '
                          'set of tensorflow-datasets.')
    data_dir: str = _field('', 'Where the dataset lies: the folder of class folders for '
                           "--dataset=folder, else '' is tensorflow-datasets' default.")
    image_size: str = _field('', "Images are resized to this: N, HxW or HxWxC, C 1 (gray) or 3; '' "
                             'keeps the size that all of them have.')
    test_fraction: float = _field(0.2, 'Share of the images to test on, where the dataset has no '
                                  'test split of its own.',
                                  Range(0, 1, open_low=True, open_high=True))
    skip_unreadable: bool = _field(False, 'Leave out image files that cannot be read.')
    augment: bool | None = _field(
        None, 'Shift training images at random, and mirror them. Left out: yes, but for given '
        'weights that do not know such images.')
    mirror: bool = _field(True, 'Augmentation mirrors images (never characters of known datasets); '
                          'off where a mirrored image is of another class.')
    cache_dir: str = _field('', 'Folder for files of decoded images, which later runs read '
                            "again; '' keeps decoded images in memory.")
    custom_layers: str = _field(
        '', 'Comma-separated Python files that register the custom layers of --model (and their '
        'rules, if they have any); they are run at the start.')
    initial_weights: str = _field(
        '', "File with the dense model's weights: .npz, .weights.h5 or .keras.")
    method: str = _field('rlal', 'What decides.')
    method_options: str = _field(
        '', "Options of the method's own: name=value,name=value; a wrong name is answered with the "
        'right ones.')
    before_surgery_from: str = _field(
        '', 'Run of the same flags but --method: its epochs before surgery are taken instead '
        'of trained again. For methods that only decide: all but rlal, autocompress, scratch.')
    seed: int = _field(0, 'Seed of weights, data order and agent, not of the data splits.', SEED)
    macs: float = _field(0.0, f'Budget of multiply-adds at batch 1. {_LIMIT}', COST)
    params: float = _field(
        0.0, f'Budget of parameters, those that do not train included. {_LIMIT}', COST)
    peak_memory_bytes: float = _field(0.0, f'Budget of live activations at batch 1. {_LIMIT}', COST)
    latency_ratio: float = _field(
        0.0, "Budget of latency by --latency_table, a ratio of the dense model's, up to 1; 0: no "
        'limit.', SHARE)
    latency_ms: float = _field(
        0.0, 'Budget of latency by --latency_table, in milliseconds; 0: no limit.', MILLISECONDS)
    latency_table: str = _field(
        '', 'File of operator times of the device, from which latencies are predicted; made by '
        'scripts/benchmark.py --suite=latency_table.')
    width_multiple: int = _field(1, 'Widths are multiples of this, or dense.', COUNT)
    min_keep_ratio: float = _field(0.1, 'No group is pruned below this share of its dense width.',
                                   SHARE)
    prune_residual_groups: bool = _field(False, 'Also prune groups that couple several layers.')
    frozen: str = _field('', 'Comma-separated layers or groups that are not pruned.')
    prune_frozen: bool = _field(
        False, 'Also prune groups that layers with frozen weights (trainable=False) read, which '
        'cannot make up for lost channels.')
    unknown_layers: str = _field(
        'freeze', 'A layer without a rule: freeze the channels that it touches, or raise an error.')
    accept_uncounted: bool = _field(
        False, 'Accept a relative budget of multiply-adds although those of some layers cannot be '
        'counted: it is then a share of the others.')
    criterion: str = _field(
        'l1', 'Ranks the channels within a group; l1 stands in where a group lacks what it needs.')
    criterion_batches: int = _field(8, 'Batches of training images that --criterion=taylor sees.',
                                    COUNT)
    # Epochs of each phase. The controls train the same total.
    warmup_epochs: int = _field(2, 'Plain training before any pruning decision.', EPOCHS)
    random_epochs: int = _field(1, 'Epochs whose episodes take random actions.', EPOCHS)
    joint_epochs: int = _field(6, "Epochs whose episodes are the agent's, with alignment.", EPOCHS)
    alignment_epochs: int = _field(3, 'Epochs of alignment to the frozen decision.', EPOCHS)
    fine_tune_epochs: int = _field(8, 'Epochs after surgery.', EPOCHS)
    pretraining_epochs: int = _field(
        0, 'What --initial_weights have cost; for the account of the report only.', EPOCHS)
    charge_search: bool = _field(
        False, 'Fine-tuning is shorter by what the search has cost, in steps, so that '
        'methods compare at the same total.')
    # Training of the weights.
    batch_size: int = _field(128, 'Images a step, over all replicas.', COUNT)
    optimizer: str = _field(
        'compiled', 'The one that a given model is compiled with, else SGD with momentum; or sgd '
        'in any case.')
    learning_rate: float | None = _field(
        None, 'Peak learning rate until surgery. Left out: of given weights that of the compiled '
        'optimizer or, where there is none, one found by a short test on a copy; 0.1 from random '
        'weights.', RATE)
    fine_tune_learning_rate: float | None = _field(
        None, 'Peak learning rate after surgery. Left out: likewise, or 0.05 from random weights.',
        RATE)
    check_first_epoch: bool = _field(
        True, 'The first epoch may not lower the accuracy of given weights, on held-out images '
        'and on images that are trained on, by more than three standard errors: a rate that was '
        'left out is lowered, one that was given stops the run.')
    schedule: str = _field('cosine', 'Learning-rate schedule before and after surgery.')
    lr_warmup_epochs: float = _field(1.0, 'Epochs of linear learning-rate warm-up at the start.',
                                     EPOCHS)
    momentum: float = _field(0.9, 'Momentum of SGD.', Range(0, 1, open_high=True))
    weight_decay: float | None = _field(
        None, "L2 coefficient on kernels, beside the model's own regularizers. Left out: 0 for "
        'given weights, 1e-4 from random ones.', RATE)
    label_smoothing: float = _field(0.0, 'Label smoothing in [0, 1).', Range(0, 1, open_high=True))
    mixed_precision: str = _field('float32', 'Compute precision of the network while training.')
    replicas: int = _field(1, 'Replicas of MirroredStrategy (logical devices on CPU); accelerators '
                           'of each worker, if TF_CONFIG lists several.', REPLICAS)
    jit_compile: bool = _field(False, 'Compile training and evaluation with XLA: for accelerators; '
                               'on a CPU it is slower, and repeats bit for bit are not promised.')
    # Rewards.
    reward_images: int = _field(
        0, 'Training images held out to measure rewards; 0: a tenth of them, up to 5,000.',
        IMAGES_OR_AUTO)
    score_images: int = _field(
        0, 'Of these, the images that score one episode; 0: all of them, up to 1,000.',
        IMAGES_OR_AUTO)
    score_batch_size: int = _field(0, 'Images a step when scoring; 0: up to 500.', COUNT_OR_NONE)
    calibration_batches: int = _field(
        2, "Batches that re-estimate the batch-norm statistics of the pruned model at surgery.",
        COUNT)
    episodes_per_epoch: int = _field(8, 'Episodes after each random or joint epoch.', COUNT)
    random_reference_episodes: int = _field(
        2, 'Episodes of random actions in each joint epoch, the reference of the reward curve.',
        COUNT_OR_NONE)
    rescored_candidates: int = _field(
        3, "Best earlier decisions scored again on the current weights each epoch.", COUNT_OR_NONE)
    surrogate_candidates: int = _field(
        0, 'Decisions that the reward decoder ranks after each joint epoch; 0: none.',
        COUNT_OR_NONE)
    surrogate_scored: int = _field(4, 'Of these, the best that are scored.', COUNT)
    comparison_episodes: int = _field(
        16, 'Episodes of the policy and of random actions compared on the same weights at the end '
        'of the joint phase.', COUNT_OR_NONE)
    # Agent and context.
    agent: str = _field('ppo', 'Agent of TF-Agents.')
    agent_learning_rate: float = _field(
        0.0, "Learning rate of the agent's actor; 0 takes the agent's own default.", RATE)
    agent_updates: int = _field(20, "Passes over an epoch's episodes per update.", COUNT)
    context_size: int = _field(128, 'Size of z; 0 runs without context.', Range(0, 65_536))
    context_updates: int = _field(
        100, 'Steps of the context network and its decoder after each epoch.', COUNT_OR_NONE)
    context_learning_rate: float = _field(1e-3, 'Learning rate of the context network.', RATE)
    # Alignment.
    alignment: str = _field('fixed', 'Alignment penalty: fixed or adaptive strength, or none.')
    alignment_strength: float = _field(1e-4, 'lambda, or its initial value when adaptive.',
                                       STRENGTH)
    alignment_gap: float = _field(
        0.02, 'Accuracy gap, full to sub-network, that adaptive lambda aims at.', SHARE)

    # Files for phones, beside the float32 one.
    quantize: str = _field(
        '', 'Comma-separated numbers of further TFLite files: float16 and dynamic (int8 weights), '
        'int8 (throughout), int8_qat (int8 after fine-tuning under rounding); none.')
    quantize_epochs: int = _field(3, 'Epochs of quantization-aware fine-tuning (int8_qat).',
                                  Range(1, 99_999))
    quantize_learning_rate: float = _field(
        0.001, 'Peak learning rate of quantization-aware fine-tuning.', RATE)
    representative_images: int = _field(
        300, 'Training images on which the ranges of int8 files are measured.', IMAGES)
    tflite_io: str = _field(
        'uint8', 'Input and output of int8 files; uint8 takes the bytes of a picture.')
    tflite_softmax: bool = _field(
        False, 'TFLite files end in a softmax, for clients that show scores as they are.')
    tflite_batch: int = _field(
        1, 'Images that a TFLite file takes at a time: 1, as runtimes with static shapes need; 0: '
        'any number.', Range(0, 1))

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
            _check_type(field, getattr(self, field.name))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f'Unknown {name} {getattr(self, name)!r}. '
                                 f'Available: {", ".join(sorted(choices))}')
        for name, limit in self.budgets.items():
            check_limit(name, limit)
            self._require('latency_table', self.latency_table or name in TARGETS,
                          f'given, the file of operator times, for --{name}')
        for field in dataclasses.fields(self):
            check_range(field, getattr(self, field.name))
        for name in self.quantizations:
            self._require('quantize', name in QUANTIZATIONS,
                          f'a list of {", ".join(QUANTIZATIONS)}, or none')
        self._require('batch_size', self.batch_size % self.replicas == 0,
                      f'a multiple of --replicas={self.replicas}')
        if self.reward_images:
            self._require('score_images', self.score_images <= self.reward_images,
                          f'at most --reward_images={self.reward_images}')
        if self.score_images and self.score_batch_size:
            self._require('score_images', self.score_images % self.score_batch_size == 0,
                          f'a multiple of --score_batch_size={self.score_batch_size}')
        self._require('the sum of all epochs', self.total_epochs >= 1, 'at least 1')

    def _require(self, name: str, holds: Any, expected: str) -> None:
        if not holds:
            raise ValueError(f'{name} must be {expected}; received {getattr(self, name, 0)!r}.')

    @property
    def budgets(self) -> dict[str, float]:
        """The limits that are set, target -> limit; see `check_limit`."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name)}

    @property
    def quantizations(self) -> tuple[str, ...]:
        """What --quantize lists."""
        return tuple(name for name in dict.fromkeys(split_names(self.quantize)) if name != 'none')

    @property
    def search_epochs(self) -> int:
        """Epochs before surgery."""
        return (self.warmup_epochs + self.random_epochs + self.joint_epochs
                + self.alignment_epochs)

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole run, the same for every method."""
        return self.search_epochs + self.fine_tune_epochs

    def sized(self, reward_images: int) -> 'Config':
        """The same with the sizes of scoring filled in, for that many held-out images.

        ValueError if a size that is given does not fit.
        """
        batch = self.score_batch_size or min(500, self.score_images or reward_images)
        images = self.score_images or min(1000, reward_images) // batch * batch
        if not self.score_batch_size:
            even = next(size for size in range(batch, 0, -1) if images % size == 0)
            # A batch is normalized by its own statistics: none of a few images.
            batch, images = (even, images) if 4 * even > batch else (batch, images // batch * batch)
        return dataclasses.replace(self, reward_images=reward_images, score_images=images or batch,
                                   score_batch_size=batch)

    def phase(self, epoch: int) -> str:
        """Name of the phase of an epoch, counted from 0, under a method that has all phases."""
        for name in ('warmup', 'random', 'joint', 'alignment'):
            epoch -= getattr(self, f'{name}_epochs')
            if epoch < 0:
                return name
        return 'fine_tune'

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of all fields."""
        return dataclasses.asdict(self)

    def to_flags(self) -> str:
        """Text of a flagfile that gives this config; what is None has no line."""
        lines = ['# The configuration of this run; runnable: python scripts/train.py --flagfile=…']
        lines += [f'--{name}={str(value).lower() if isinstance(value, bool) else value}'
                  for name, value in self.to_json().items() if value is not None]
        return '\n'.join(lines) + '\n'

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> 'Config':
        """Inverse of to_json; ValueError names fields that do not exist."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f'Unknown configuration fields: {", ".join(unknown)}.')
        return cls(**values)


def is_ratio(name: str, limit: float) -> bool:
    """Whether a limit is a ratio of the dense model's cost."""
    return name == 'latency_ratio' or (name != 'latency_ms' and limit <= 1)


def check_limit(name: str, limit: float) -> None:
    """ValueError unless `limit` is one that `name`, a key of LIMITS, can have.

    That is a ratio of dense, in (0, 1], or a whole number above 1; of latency_ratio the first
    only, of latency_ms any number of milliseconds above 0.
    """
    if name == 'latency_ratio' and not 0 < limit <= 1:
        raise ValueError(f'{name} must be a ratio in (0, 1]; received {limit!r}.')
    if name == 'latency_ms':
        if not 0 < limit < float('inf'):
            raise ValueError(f'{name} must be a number of milliseconds above 0; received '
                             f'{limit!r}.')
    elif not (0 < limit <= 1 or (limit > 1 and limit % 1 == 0)):
        raise ValueError(f'{name} must be a ratio in (0, 1] or a whole number above 1; '
                         f'received {limit!r}.')


def split_names(text: str) -> list[str]:
    """Returns the parts of a comma-separated list."""
    return [name.strip() for name in text.split(',') if name.strip()]


def differing_fields(ours: Config, theirs: Mapping[str, Any]) -> list[str]:
    """'--flag: theirs -> ours' for each field in which a stored configuration differs.

    A field that is younger than the stored configuration had its default.
    """
    rows = []
    for field in dataclasses.fields(ours):
        stored, value = theirs.get(field.name, field.default), getattr(ours, field.name)
        if stored != value and field.name not in NOT_IDENTITY:
            rows.append(f'--{field.name}: {_shown(stored)} -> {_shown(value)}')
    known = {field.name for field in dataclasses.fields(ours)}
    rows += [f'--{name}: {theirs[name]!r} -> no such flag' for name in sorted(set(theirs) - known)]
    return rows


def _shown(value: Any) -> str:
    return 'not given' if value is None else repr(value)


def kind(field: dataclasses.Field) -> tuple[type, bool]:
    """The type of a field's values, and whether None may stand in its place."""
    types = typing.get_args(field.type) or (field.type,)
    return types[0], type(None) in types


def check_range(field: dataclasses.Field, value: Any) -> None:
    """ValueError unless a number is within what its field allows."""
    within = field.metadata['within']
    if within is not None and value is not None and value not in within:
        raise ValueError(f'{field.name} must be in {within}; received {value!r}.')


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's, paths as text, lists of names as the comma-separated one."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return ','.join(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_number = hasattr(value, 'item') and getattr(value, 'shape', None) == ()
    return value.item() if is_number else value


def _check_type(field: dataclasses.Field, value: Any) -> None:
    expected, optional = kind(field)
    ok = isinstance(value, expected) and not (expected is int and isinstance(value, bool))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        ok = True
    if not (ok or optional and value is None):
        raise TypeError(f'{field.name} must be {expected.__name__}; '
                        f'received {type(value).__name__} {value!r}.')
