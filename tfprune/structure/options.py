"""What is asked of tracing channel groups."""
import dataclasses

from tfprune.config import Part, field_of, split_names


@dataclasses.dataclass(frozen=True)
class StructureOptions(Part):
    """Which channel groups may be pruned."""
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
        'A layer without a rule freezes the channels that it touches, or raises an error.',
        choices=('freeze', 'raise'))

    @property
    def frozen_names(self) -> list[str]:
        """The layers and groups that `frozen` lists."""
        return split_names(self.frozen)
