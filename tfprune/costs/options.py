"""What is asked of a budget."""
import dataclasses

from tfprune.config import (COST, COUNT, LIMITS, MILLISECONDS, SHARE, TARGETS, Part, check_limit,
                            field_of)

_LIMIT = 'Up to 1 it is a ratio of the dense model, above 1 a number; 0 sets no limit.'


@dataclasses.dataclass(frozen=True)
class BudgetOptions(Part):
    """What the pruned model may cost."""
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
        'tfprune benchmark --suite=latency_table makes.')
    width_multiple: int = field_of(
        1, 'Every width is a multiple of this, or the dense width.', COUNT)
    min_keep_ratio: float = field_of(
        0.1, 'No group is pruned below this share of its dense width.', SHARE)
    accept_uncounted: bool = field_of(
        False,
        'A relative budget of multiply-adds is accepted although those of some layers cannot be '
        'counted; it is then a share of the others.')

    def check(self) -> None:
        for name, limit in self.limits.items():
            check_limit(name, limit)
        super().check()
        for name in self.limits:
            self.require('latency_table', self.latency_table or name in TARGETS,
                         f'given, the file of operator times, for --{name}')

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, target -> limit; see `check_limit`."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name)}
