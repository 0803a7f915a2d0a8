"""What is asked of the training of weights."""
import dataclasses

from tfprune.config import COUNT, EPOCHS, RATE, REPLICAS, SHARE, Part, Range, field_of

PHASES = ('warmup', 'random', 'joint', 'alignment')  # before surgery


@dataclasses.dataclass(frozen=True)
class Epochs(Part):
    """Epochs of each phase. The controls train the same total."""
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

    def check(self) -> None:
        super().check()
        if not self.total:
            raise ValueError('the sum of all epochs must be at least 1; received 0.')

    @property
    def search(self) -> int:
        """Epochs before surgery."""
        return sum(getattr(self, f'{name}_epochs') for name in PHASES)

    @property
    def total(self) -> int:
        """Epochs of the whole run, the same for every method."""
        return self.search + self.fine_tune_epochs

    def phase(self, epoch: int) -> str:
        """Name of the phase of an epoch, counted from 0, under a method that has all phases."""
        for name in PHASES:
            epoch -= getattr(self, f'{name}_epochs')
            if epoch < 0:
                return name
        return 'fine_tune'


@dataclasses.dataclass(frozen=True)
class TrainingOptions(Part):
    """How the weights train."""
    batch_size: int = field_of(
        128, 'A step trains on this many images, over all replicas.', COUNT)
    optimizer: str = field_of(
        'compiled',
        'A given model is trained by the optimizer that it is compiled with, any other by SGD '
        'with momentum; sgd trains every model by SGD.', choices=('compiled', 'sgd'))
    learning_rate: float | None = field_of(
        None,
        'The learning rate has this peak before surgery, or after it if no epochs are before. If '
        'left out, given weights are trained at the rate of their compiled optimizer or, without '
        'one, at a rate that a short test on a copy finds; random weights at 0.1.', RATE)
    fine_tune_learning_rate: float | None = field_of(
        None, 'After surgery the learning rate begins anew, at this peak. If left out, see '
        'fine_tune_schedule; a peak that restarts is found likewise, random weights take 0.05.',
        RATE)
    check_first_epoch: bool = field_of(
        True,
        'The first epoch may not lower the mean score of given weights, on held-out examples and '
        'on those that are trained on, by more than three standard errors: a rate that was left '
        'out is lowered, a rate that was given stops the run.')
    schedule: str = field_of(
        'cosine', 'The learning rate follows this schedule.', choices=('cosine', 'step'))
    fine_tune_schedule: str = field_of(
        'continue',
        'continue lets one schedule span the epochs before and after surgery, and the optimizer '
        'keep its state, momentum and the like, cut as the weights are; unless there are no epochs '
        'before, fine_tune_learning_rate is given, or the model just before surgery is the '
        'teacher. With restart a new optimizer begins a '
        'schedule of its own after surgery.', choices=('continue', 'restart'), before='restart')
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
    distillation: float | None = field_of(
        None,
        'Up to this share of the loss is the divergence from the answers of a teacher: before '
        'surgery the model as given, if any; after it that or the one just before, whichever '
        'answers training examples better; of random weights the latter. If left out, it is 0.9 '
        'for classifiers that have a teacher and 0 of maps of classes; 0 is without.', SHARE,
        before=0.0)
    distillation_before_surgery: bool = field_of(
        True, 'A given model that answers better than chance teaches before surgery, too.',
        before=False)
    distillation_temperature: float = field_of(
        4.0, 'The answers of teacher and student are softened by this temperature.',
        Range(0, 1_000, open_low=True))
    distillation_schedule: str = field_of(
        'adaptive', 'Of that share a step takes the part of the loss of late, without label'
        '_smoothing, that the teacher has not, 1 - its loss / own loss, none where it answers no '
        'better (adaptive); all (constant); or what falls to zero by surgery, and after it by the '
        'last step (linear).',
        choices=('adaptive', 'constant', 'linear'), before='constant')
    fine_tune_average: float = field_of(
        0.0, 'After the last epoch the weights become their moving average of this momentum over '
        'the steps after surgery, and batch-norm statistics are re-estimated; 0 is without.',
        Range(0, 1, open_high=True))
    mixed_precision: str = field_of(
        'float32', 'The network computes in this precision while it trains.',
        choices=('float32', 'bfloat16'))
    replicas: int = field_of(
        1,
        'MirroredStrategy has this many replicas (logical devices on a CPU); if TF_CONFIG lists '
        'several workers, each has this many accelerators.', REPLICAS)
    jit_compile: bool = field_of(
        False,
        'XLA compiles training and evaluation. It is for accelerators: on a CPU it is slower, '
        'and runs need not repeat bit for bit.')
    calibration_batches: int = field_of(
        2,
        'The batch-norm statistics of the pruned model are re-estimated on this many batches at '
        'surgery.', COUNT)

    def check(self) -> None:
        super().check()
        self.require('batch_size', self.batch_size % self.replicas == 0,
                     f'a multiple of --replicas={self.replicas}')
