"""What is asked of the choice of channels."""
import dataclasses

from tfprune.config import COUNT, Part, field_of


@dataclasses.dataclass(frozen=True)
class PruningOptions(Part):
    """Which channels of a group are kept."""
    criterion: str = field_of(
        'l1',
        'This criterion ranks the channels of a group by importance (bn_scale, geometric_median, '
        'l1, l2, random, taylor); l1 stands in where a group lacks what it needs.')
    criterion_batches: int = field_of(
        8, 'The criterion taylor sees this many batches of training images.', COUNT)
    reconstruction: bool = field_of(
        True, 'What kept channels tell of those that go, by least squares over some 500 training '
        'examples, is added to the weights that read them: at surgery, and where sub-networks are '
        'scored.', before=False)
