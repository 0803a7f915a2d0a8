"""The configuration of a run: a frozen dataclass, from which the flags of scripts are made."""
import dataclasses
from typing import Any, Mapping

from tfprune.errors import unknown
from tfprune.fields import (COST, COUNT, COUNT_OR_NONE, EPOCHS, IMAGES, IMAGES_OR_AUTO,
                            MILLISECONDS, RATE, REPLICAS, SEED, SHARE, STRENGTH, Range, check_range,
                            check_type, field_of, plain)

TARGETS = ('macs', 'params', 'peak_memory_bytes')
# The limits of a budget, by flag -> the field of Cost that they limit.
LIMITS = {**{name: name for name in TARGETS}, 'latency_ratio': 'latency_ms',
          'latency_ms': 'latency_ms'}
_LIMIT = 'Up to 1 it is a ratio of the dense model, above 1 a number; 0 sets no limit.'
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
class Config:
    """What decides the outcome of a run. Two runs with equal configs give equal weights on CPU."""
    # What is pruned, with what data, by which method, to which budget.
    model: str = field_of(
        'resnet20',
        'The dense model is this .keras file, which takes pixels 0..255 (it normalizes them '
        'itself) and gives logits or a softmax; or a model of this name.')
    dataset: str = field_of(
        'cifar10',
        'The examples are this data set, or any other image classification set of tensorflow- '
        'datasets.')
    data_dir: str = field_of(
        '', "The data set lies here: for --dataset=folder the folder of class folders; '' is the "
        'default place of tensorflow-datasets.')
    image_size: str = field_of(
        '', "Images are resized to N, HxW or HxWxC, with C 1 (gray) or 3; '' keeps the size that "
        'all of them have.')
    test_fraction: float = field_of(
        0.2, 'This share of the images becomes the test split, where the data set has none of its '
        'own.', Range(0, 1, open_low=True, open_high=True))
    skip_unreadable: bool = field_of(
        False, 'Image files that cannot be read are left out.')
    augment: bool | None = field_of(
        None, 'Training images are shifted and mirrored at random. If left out, they are, unless '
        'given weights do not know such images.')
    mirror: bool = field_of(
        True, 'Augmentation mirrors images (never the characters of known data sets). Turn it off '
        'where a mirrored image belongs to another class.')
    cache_dir: str = field_of(
        '',
        "Decoded images are kept in files of this folder, which later runs read again; '' keeps "
        'them in memory.')
    custom_layers: str = field_of(
        '', 'These comma-separated Python files are run at the start: they register the custom '
        'layers of --model, and their rules if they have any.')
    initial_weights: str = field_of(
        '', 'The dense model starts from the weights in this .npz, .weights.h5 or .keras file.')
    method: str = field_of(
        'rlal', 'This method decides which channels are removed.')
    method_options: str = field_of(
        '', 'These options, name=value,name=value, are of the method alone; a wrong name is '
        'answered with the right ones.')
    before_surgery_from: str = field_of(
        '', 'The epochs before surgery are taken from this run, which has the same flags but '
        '--method, instead of trained again. It works for methods that only decide: all but '
        'rlal, autocompress and scratch.')
    seed: int = field_of(
        0, 'This seeds weights, data order and agent, but not the data splits.', SEED)
    macs: float = field_of(0.0, f'This is the budget of multiply-adds at batch 1. {_LIMIT}', COST)
    params: float = field_of(
        0.0, f'This is the budget of parameters, those that do not train included. {_LIMIT}', COST)
    peak_memory_bytes: float = field_of(
        0.0, f'This is the budget of live activations at batch 1, in bytes. {_LIMIT}', COST)
    latency_ratio: float = field_of(
        0.0, "The budget of latency is this ratio, up to 1, of the dense model's latency by "
        '--latency_table; 0 sets no limit.', SHARE)
    latency_ms: float = field_of(
        0.0, 'The budget of latency by --latency_table is this many milliseconds; 0 sets no limit.',
        MILLISECONDS)
    latency_table: str = field_of(
        '', 'Latencies are predicted from this file of operator times of the device, which '
        'scripts/benchmark.py --suite=latency_table makes.')
    width_multiple: int = field_of(
        1, 'Every width is a multiple of this, or the dense width.', COUNT)
    min_keep_ratio: float = field_of(
        0.1, 'No group is pruned below this share of its dense width.', SHARE)
    prune_residual_groups: bool = field_of(
        False, 'Groups that couple several layers are pruned too.')
    frozen: str = field_of(
        '', 'These comma-separated layers or groups are not pruned.')
    prune_frozen: bool = field_of(
        False,
        'Groups that layers with frozen weights (trainable=False) read are pruned too, although '
        'such layers cannot make up for lost channels.')
    unknown_layers: str = field_of(
        'freeze',
        'A layer without a rule freezes the channels that it touches, or raises an error.')
    accept_uncounted: bool = field_of(
        False,
        'A relative budget of multiply-adds is accepted although those of some layers cannot be '
        'counted; it is then a share of the others.')
    criterion: str = field_of(
        'l1',
        'This criterion ranks the channels of a group by importance; l1 stands in where a group '
        'lacks what it needs.')
    criterion_batches: int = field_of(
        8, 'The criterion taylor sees this many batches of training images.', COUNT)
    # Epochs of each phase. The controls train the same total.
    warmup_epochs: int = field_of(
        2, 'The weights train for this many epochs before any pruning decision.', EPOCHS)
    random_epochs: int = field_of(
        1, 'In this many epochs the episodes take random actions.', EPOCHS)
    joint_epochs: int = field_of(
        6, 'In this many epochs the agent acts in the episodes, and the weights are aligned.',
        EPOCHS)
    alignment_epochs: int = field_of(
        3, 'In this many epochs the weights are aligned to the final decision.', EPOCHS)
    fine_tune_epochs: int = field_of(
        8, 'The pruned model trains for this many epochs after surgery.', EPOCHS)
    pretraining_epochs: int = field_of(
        0, "The given weights have cost this many epochs; the report's account adds them, and "
        'nothing else changes.', EPOCHS)
    charge_search: bool = field_of(
        False, 'Fine-tuning is shortened by what the search has cost, in steps, so that methods '
        'compare at the same total.')
    # Training of the weights.
    batch_size: int = field_of(
        128, 'A step trains on this many images, over all replicas.', COUNT)
    optimizer: str = field_of(
        'compiled',
        'A given model is trained by the optimizer that it is compiled with, any other by SGD '
        'with momentum; sgd trains every model by SGD.')
    learning_rate: float | None = field_of(
        None,
        'The learning rate has this peak before surgery. If left out, given weights are trained '
        'at the rate of their compiled optimizer or, without one, at a rate that a short test '
        'on a copy finds; random weights at 0.1.', RATE)
    fine_tune_learning_rate: float | None = field_of(
        None, 'The learning rate has this peak after surgery. If left out, it is found likewise; '
        'random weights take 0.05.', RATE)
    check_first_epoch: bool = field_of(
        True,
        'The first epoch may not lower the accuracy of given weights, on held-out images and on '
        'images that are trained on, by more than three standard errors: a rate that was left '
        'out is lowered, a rate that was given stops the run.')
    schedule: str = field_of(
        'cosine', 'The learning rate follows this schedule before surgery, and again after it.')
    lr_warmup_epochs: float = field_of(
        1.0, 'The learning rate rises linearly over this many epochs at the start.', EPOCHS)
    momentum: float = field_of(
        0.9, 'SGD has this momentum.', Range(0, 1, open_high=True))
    weight_decay: float | None = field_of(
        None,
        "Kernels have this L2 coefficient beside the model's own regularizers. If left out, it "
        'is 0 for given weights and 1e-4 for random ones.', RATE)
    label_smoothing: float = field_of(
        0.0, 'Labels are smoothed by this share, in [0, 1).', Range(0, 1, open_high=True))
    mixed_precision: str = field_of(
        'float32', 'The network computes in this precision while it trains.')
    replicas: int = field_of(
        1,
        'MirroredStrategy has this many replicas (logical devices on a CPU); if TF_CONFIG lists '
        'several workers, each has this many accelerators.', REPLICAS)
    jit_compile: bool = field_of(
        False,
        'XLA compiles training and evaluation. It is for accelerators: on a CPU it is slower, '
        'and runs need not repeat bit for bit.')
    # Rewards.
    reward_images: int = field_of(
        0,
        'This many training images are held out to measure rewards; 0 takes a tenth of them, up '
        'to 5,000.', IMAGES_OR_AUTO)
    score_images: int = field_of(
        0, 'This many of the held-out images score an episode; 0 takes all of them, up to 1,000.',
        IMAGES_OR_AUTO)
    score_batch_size: int = field_of(
        0, 'Scoring takes this many images a step; 0 takes up to 500.', COUNT_OR_NONE)
    calibration_batches: int = field_of(
        2,
        'The batch-norm statistics of the pruned model are re-estimated on this many batches at '
        'surgery.', COUNT)
    episodes_per_epoch: int = field_of(
        8, 'This many episodes are played after each random or joint epoch.', COUNT)
    random_reference_episodes: int = field_of(
        2, 'This many episodes of random actions are played in each joint epoch, as the reference '
        'of the reward curve.', COUNT_OR_NONE)
    rescored_candidates: int = field_of(
        3, 'This many of the best earlier decisions are scored again on the current weights in '
        'each epoch.', COUNT_OR_NONE)
    surrogate_candidates: int = field_of(
        0, 'The reward decoder ranks this many decisions after each joint epoch; 0 turns it off.',
        COUNT_OR_NONE)
    surrogate_scored: int = field_of(
        4, 'The best decisions that the decoder ranks are scored, this many of them.', COUNT)
    comparison_episodes: int = field_of(
        16, 'At the end of the joint phase this many episodes of the policy are compared with as '
        'many of random actions on the same weights.', COUNT_OR_NONE)
    # Agent and context.
    agent: str = field_of(
        'ppo', 'This agent of TF-Agents acts in the episodes.')
    agent_learning_rate: float = field_of(
        0.0, "The agent's actor learns at this rate; 0 takes the agent's own default.", RATE)
    agent_updates: int = field_of(
        20, 'The agent passes this often over the episodes of an epoch.', COUNT)
    context_size: int = field_of(
        128, 'The context z has this many numbers; 0 runs without context.', Range(0, 65_536))
    context_updates: int = field_of(
        100, 'The context network and its decoder take this many steps after each epoch.',
        COUNT_OR_NONE)
    context_learning_rate: float = field_of(
        1e-3, 'The context network learns at this rate.', RATE)
    # Alignment.
    alignment: str = field_of(
        'fixed', 'The alignment penalty has a fixed or an adaptive strength, or there is none.')
    alignment_strength: float = field_of(
        1e-4,
        'The alignment penalty has this strength lambda, or begins with it if it is adaptive.',
        STRENGTH)
    alignment_gap: float = field_of(
        0.02,
        'An adaptive lambda aims at this gap between the accuracies of the full model and the '
        'sub-network.', SHARE)

    # Files for phones, beside the float32 one.
    quantize: str = field_of(
        '', 'These comma-separated further TFLite files are written: float16, dynamic (int8 '
        'weights), int8 (throughout), int8_qat (int8 after fine-tuning under rounding).')
    quantize_epochs: int = field_of(
        3, 'Quantization-aware fine-tuning (int8_qat) takes this many epochs.', Range(1, 99_999))
    quantize_learning_rate: float = field_of(
        0.001, 'The learning rate of quantization-aware fine-tuning has this peak.', RATE)
    representative_images: int = field_of(
        300, 'The ranges of int8 files are measured on this many training images.', IMAGES)
    tflite_io: str = field_of(
        'uint8',
        'Int8 files take and give numbers of this type; uint8 takes the bytes of a picture.')
    tflite_softmax: bool = field_of(
        False, 'TFLite files end in a softmax, for clients that show scores as they are.')
    tflite_batch: int = field_of(
        1, 'A TFLite file takes this many images at a time: 1, as runtimes with static shapes '
        'need; 0 allows any number.', Range(0, 1))

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
            check_type(field, getattr(self, field.name))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
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
