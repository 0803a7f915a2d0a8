"""What is asked of the choice of channels."""
import dataclasses

from tfprune.config import IMAGES_OR_AUTO, Part, field_of


@dataclasses.dataclass(frozen=True)
class PruningOptions(Part):
    """Which channels of a group are kept."""
    criterion: str = field_of(
        'auto',
        'This criterion ranks the channels of a group by importance (bn_scale, combined, '
        'geometric_median, l1, l2, random, reconstruction, taylor; auto: combined, of l1 and '
        'reconstruction, where a trained model is cut, else l1); l1 stands in where a group lacks '
        'what it needs.', before='l1')
    criterion_examples: int = field_of(
        0, 'The criterion taylor sees this many training examples, as they are trained on, at '
        'least a batch; 0: a tenth of them, within 512 and 4,096.', IMAGES_OR_AUTO)
    reconstruction: bool = field_of(
        True, 'What kept channels tell of those that go, by least squares over some 500 training '
        'examples, is added to the weights that read them: at surgery, and where sub-networks are '
        'scored.', before=False)

    def examples_of(self, num_train: int) -> int:
        """How many of so many training examples criteria see."""
        return self.criterion_examples or min(max(num_train // 10, 512), 4096, num_train)
