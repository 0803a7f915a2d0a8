"""The configuration of a run: a frozen dataclass, from which the flags of scripts are made."""
import dataclasses
from typing import Any, Mapping

TARGETS = ('macs', 'params', 'peak_memory_bytes')
# The limits of a budget, by flag -> the field of Cost that they limit.
LIMITS = {**{name: name for name in TARGETS}, 'latency_ratio': 'latency_ms',
          'latency_ms': 'latency_ms'}
_LIMIT = 'Up to 1 it is a ratio of the dense model, above 1 a number; 0: no limit.'
# Fields that act after the last epoch.
AFTER_TRAINING = ('quantize', 'quantize_epochs', 'quantize_learning_rate',
                  'representative_images', 'tflite_io', 'tflite_softmax')
# Where data lie, and where equal epochs were trained, is no part of what was run.
NOT_IDENTITY = ('data_dir', 'cache_dir', 'before_surgery_from')
# --quantize -> key of export.FORMATS.
QUANTISATIONS = {name: f'tflite_{name}' for name in ('float16', 'dynamic', 'int8', 'int8_qat')}
CHOICES: dict[str, tuple[str, ...]] = {
    'unknown_layers': ('freeze', 'raise'),
    'schedule': ('cosine', 'step'),
    'mixed_precision': ('float32', 'bfloat16'),
    'agent': ('ppo', 'sac', 'ddpg', 'random'),
    'alignment': ('fixed', 'adaptive', 'none'),
    'tflite_io': ('uint8', 'int8', 'float32'),
}


def _field(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={'help': text})


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides the outcome of a run. Two runs with equal configs give equal weights on CPU."""
    # What is pruned, with what data, by which method, to which budget.
    model: str = _field(
        'resnet20', 'The dense model: the path of a .keras file that takes pixels 0..255, so that '
        'it normalises them itself, and gives logits or a softmax; or a name.')
    dataset: str = _field('cifar10', 'The images, or the name of any other image classification '
                          'set of tensorflow-datasets.')
    data_dir: str = _field('', 'Where the dataset lies: the folder of class folders for '
                           "--dataset=folder, else '' is tensorflow-datasets' default.")
    image_size: str = _field('', "Images are resized to this: N, HxW or HxWxC, C 1 (grey) or 3; '' "
                             'keeps the size that all of them have.')
    test_fraction: float = _field(0.2, 'Share of the images to test on, where the dataset has no '
                                  'test split of its own.')
    skip_unreadable: bool = _field(False, 'Leave out image files that cannot be read.')
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
    seed: int = _field(0, 'Seed of weights, data order and agent, not of the data splits.')
    macs: float = _field(0.0, f'Budget of multiply-adds at batch 1. {_LIMIT}')
    params: float = _field(
        0.0, f'Budget of parameters, those that do not train included. {_LIMIT}')
    peak_memory_bytes: float = _field(0.0, f'Budget of live activations at batch 1. {_LIMIT}')
    latency_ratio: float = _field(
        0.0, "Budget of latency by --latency_table, a ratio of the dense model's, up to 1; 0: no "
        'limit.')
    latency_ms: float = _field(
        0.0, 'Budget of latency by --latency_table, in milliseconds; 0: no limit.')
    latency_table: str = _field(
        '', 'File of operator times of the device, from which latencies are predicted; made by '
        'scripts/benchmark.py --suite=latency_table.')
    width_multiple: int = _field(1, 'Widths are multiples of this, or dense.')
    min_keep_ratio: float = _field(0.1, 'No group is pruned below this share of its dense width.')
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
    criterion_batches: int = _field(8, 'Batches of training images that --criterion=taylor sees.')
    # Epochs of each phase. The controls train the same total.
    warmup_epochs: int = _field(2, 'Plain training before any pruning decision.')
    random_epochs: int = _field(1, 'Epochs whose episodes take random actions.')
    joint_epochs: int = _field(6, "Epochs whose episodes are the agent's, with alignment.")
    alignment_epochs: int = _field(3, 'Epochs of alignment to the frozen decision.')
    fine_tune_epochs: int = _field(8, 'Epochs after surgery.')
    pretraining_epochs: int = _field(
        0, 'What --initial_weights have cost; for the account of the report only.')
    charge_search: bool = _field(
        False, 'Fine-tuning is shorter by what the search has cost, in whole epochs, so that '
        'methods compare at the same total.')
    # Training of the weights.
    batch_size: int = _field(128, 'Images a step, over all replicas.')
    learning_rate: float = _field(0.1, 'Peak learning rate until surgery.')
    fine_tune_learning_rate: float = _field(0.05, 'Peak learning rate after surgery.')
    schedule: str = _field('cosine', 'Learning-rate schedule before and after surgery.')
    lr_warmup_epochs: float = _field(1.0, 'Epochs of linear learning-rate warm-up at the start.')
    momentum: float = _field(0.9, 'Momentum of SGD.')
    weight_decay: float = _field(1e-4, 'L2 coefficient on convolution and dense kernels.')
    label_smoothing: float = _field(0.0, 'Label smoothing in [0, 1).')
    mixed_precision: str = _field('float32', 'Compute precision of the network while training.')
    replicas: int = _field(1, 'Replicas of MirroredStrategy (logical devices on CPU); accelerators '
                           'of each worker, if TF_CONFIG lists several.')
    jit_compile: bool = _field(False, 'Compile training and evaluation with XLA: for accelerators; '
                               'on a CPU it is slower, and repeats bit for bit are not promised.')
    # Rewards.
    reward_images: int = _field(
        0, 'Training images held out to measure rewards; 0: a tenth of them, up to 5,000.')
    score_images: int = _field(
        0, 'Of these, the images that score one episode; 0: all of them, up to 1,000.')
    score_batch_size: int = _field(0, 'Images a step when scoring; 0: up to 500.')
    calibration_batches: int = _field(
        2, "Batches that re-estimate the batch-norm statistics of the pruned model at surgery.")
    episodes_per_epoch: int = _field(8, 'Episodes after each random or joint epoch.')
    random_reference_episodes: int = _field(
        2, 'Episodes of random actions in each joint epoch, the reference of the reward curve.')
    rescored_candidates: int = _field(
        3, "Best earlier decisions re-scored on today's weights each epoch.")
    surrogate_candidates: int = _field(
        0, 'Decisions that the reward decoder ranks after each joint epoch; 0: none.')
    surrogate_scored: int = _field(4, 'Of these, the best that are scored.')
    comparison_episodes: int = _field(
        16, 'Episodes of the policy and of random actions compared on the same weights at the end '
        'of the joint phase.')
    # Agent and context.
    agent: str = _field('ppo', 'Agent of TF-Agents.')
    agent_learning_rate: float = _field(
        0.0, "Learning rate of the agent's actor; 0 takes the agent's own default.")
    agent_updates: int = _field(20, "Passes over an epoch's episodes per update.")
    context_size: int = _field(128, 'Size of z; 0 runs without context.')
    context_updates: int = _field(
        100, 'Steps of the context network and its decoder after each epoch.')
    context_learning_rate: float = _field(1e-3, 'Learning rate of the context network.')
    # Alignment.
    alignment: str = _field('fixed', 'Alignment penalty: fixed or adaptive strength, or none.')
    alignment_strength: float = _field(1e-4, 'lambda, or its initial value when adaptive.')
    alignment_gap: float = _field(
        0.02, 'Accuracy gap, full to sub-network, that adaptive lambda aims at.')

    # Files for phones, beside the float32 one.
    quantize: str = _field(
        '', 'Comma-separated numbers of further TFLite files: float16 and dynamic (int8 weights), '
        'int8 (throughout), int8_qat (int8 after fine-tuning under rounding); none.')
    quantize_epochs: int = _field(3, 'Epochs of quantisation-aware fine-tuning (int8_qat).')
    quantize_learning_rate: float = _field(
        0.001, 'Peak learning rate of quantisation-aware fine-tuning.')
    representative_images: int = _field(
        300, 'Training images on which the ranges of int8 files are measured.')
    tflite_io: str = _field(
        'uint8', 'Input and output of int8 files; uint8 takes the bytes of a picture.')
    tflite_softmax: bool = _field(
        False, 'TFLite files end in a softmax, for clients that show scores as they are.')

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field, getattr(self, field.name))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f'Unknown {name} {getattr(self, name)!r}. '
                                 f'Available: {", ".join(sorted(choices))}')
        for name, limit in self.budgets.items():
            check_limit(name, limit)
            self._require('latency_table', self.latency_table or name in TARGETS,
                          f'given, the file of operator times, for --{name}')
        self._require('min_keep_ratio', 0 <= self.min_keep_ratio <= 1, 'in [0, 1]')
        self._require('label_smoothing', 0 <= self.label_smoothing < 1, 'in [0, 1)')
        self._require('momentum', 0 <= self.momentum < 1, 'in [0, 1)')
        for name in ('width_multiple', 'batch_size', 'replicas',
                     'calibration_batches', 'episodes_per_epoch', 'agent_updates',
                     'criterion_batches', 'quantize_epochs', 'representative_images',
                     'surrogate_scored'):
            self._require(name, getattr(self, name) >= 1, 'at least 1')
        for name in ('reward_images', 'score_images', 'score_batch_size',
                     'warmup_epochs', 'random_epochs', 'joint_epochs', 'alignment_epochs',
                     'fine_tune_epochs', 'pretraining_epochs', 'lr_warmup_epochs', 'weight_decay',
                     'context_size', 'context_updates', 'alignment_strength', 'rescored_candidates',
                     'surrogate_candidates', 'comparison_episodes', 'random_reference_episodes',
                     'learning_rate',
                     'agent_learning_rate', 'context_learning_rate', 'alignment_gap',
                     'fine_tune_learning_rate', 'quantize_learning_rate'):
            self._require(name, getattr(self, name) >= 0, 'at least 0')
        for name in self.quantisations:
            self._require('quantize', name in QUANTISATIONS,
                          f'a list of {", ".join(QUANTISATIONS)}, or none')
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
    def quantisations(self) -> tuple[str, ...]:
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
            # A batch is normalised by its own statistics: none of a few images.
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
        """Text of a flagfile that gives this config."""
        lines = ['# The configuration of this run; runnable: python scripts/train.py --flagfile=…']
        for name, value in self.to_json().items():
            lines.append(f'--{name}={str(value).lower() if isinstance(value, bool) else value}')
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
            rows.append(f'--{field.name}: {stored!r} -> {value!r}')
    known = {field.name for field in dataclasses.fields(ours)}
    rows += [f'--{name}: {theirs[name]!r} -> no such flag' for name in sorted(set(theirs) - known)]
    return rows


def _check_type(field: dataclasses.Field, value: Any) -> None:
    expected = type(field.default)
    ok = isinstance(value, expected) and not (expected is int and isinstance(value, bool))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        ok = True
    if not ok:
        raise TypeError(f'{field.name} must be {expected.__name__}; '
                        f'received {type(value).__name__} {value!r}.')
