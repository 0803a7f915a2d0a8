"""What is asked of the dense model."""
import dataclasses

from tfprune.config import Part, field_of


@dataclasses.dataclass(frozen=True)
class ModelOptions(Part):
    """The dense model and its weights."""
    model: str = field_of(
        'resnet20',
        'The dense model is this .keras file, which takes pixels 0..255 (it normalizes them '
        'itself) and gives logits or a softmax; or a model of this name.')
    task: str = field_of(
        '', 'Model and data are those of this Python file: its model(), whose compiled loss, '
        'optimizer and metrics are the task, and its data(). --model and --dataset are left out.')
    custom_layers: str = field_of(
        '', 'These comma-separated Python files are run at the start: they register the custom '
        'layers of --model, and their rules if they have any.')
    initial_weights: str = field_of(
        '', 'The dense model starts from the weights in this .npz, .weights.h5 or .keras file.')
