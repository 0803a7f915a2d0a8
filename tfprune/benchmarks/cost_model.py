"""How many evaluations a second the cost model of ResNet-56 gives, one by one and in batches."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfprune.costs.model import CostModel
from tfprune.models.building import build_model
from tfprune.structure.groups import trace_groups

OPTIONS: tuple[str, ...] = ()
BATCHES = (1, 16, 256, 4096)


def rows(only: Sequence[str] = (), *, seconds: float = 1.0) -> Iterator[dict[str, Any]]:
    """Yields evaluations of all costs a second, for each batch size (`only` names some)."""
    model = build_model('resnet56', image_shape=(32, 32, 3), num_classes=10, mean=(.5,) * 3,
                        std=(.5,) * 3)
    groups = trace_groups(model)
    costs = CostModel(model, groups)
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        if only and str(batch) not in only:
            continue
        widths = rng.integers(1, costs.dense_widths + 1, (batch, len(groups)))
        costs.batch(widths)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            costs.batch(widths)
            count += batch
        rate = count / (time.perf_counter() - start)
        yield {'model': 'resnet56', 'groups': len(groups), 'batch': batch,
               'evaluations_per_second': round(rate)}


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = ['| batch | evaluations a second |', '|---:|---:|']
    lines += [f"| {row['batch']:,} | {row['evaluations_per_second']:,} |" for row in found]
    return '\n'.join(lines)
