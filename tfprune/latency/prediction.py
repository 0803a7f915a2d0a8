"""What a latency table predicted, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfprune.costs.model import CostModel
from tfprune.machine import machine_name


def prediction_row(cost_model: CostModel, widths: Mapping[str, int],
                   pruned: Sequence[Mapping[str, Any]], dense: Sequence[Mapping[str, Any]] = ()
                   ) -> dict[str, Any] | None:
    """The prediction beside the measurement, for report.json; None without a table.

    pruned and dense are latencies by threads, {'threads', 'median_ms'}, of TFLite files of the
    table's form; those of its threads are taken. Errors are relative: predicted / measured - 1,
    None for what was not measured. On another machine than the table's only that of the ratio is
    given.
    """
    def error(predicted: float | None, measured: float | None) -> float | None:
        return predicted / measured - 1 if predicted and measured else None

    table, ours, whole = (cost_model.latency_table, cost_model(widths).latency_ms,
                          cost_model.dense.latency_ms)
    if table is None or ours is None or whole is None:
        return None
    pruned_ms, dense_ms = (next((
        seen['median_ms'] for seen in side if seen['threads'] == table.about.get('threads')), None)
        for side in (pruned, dense))
    measured = pruned_ms / dense_ms if pruned_ms and dense_ms else None
    if table.about.get('machine') != machine_name():
        pruned_ms = dense_ms = None
    return {**{name: table.about.get(name) for name in ('machine', 'runtime', 'threads')},
            'form': table.about['form'],
            'dense_ms': whole, 'pruned_ms': ours, 'ratio': ours / whole,
            'dense_error': error(whole, dense_ms), 'pruned_error': error(ours, pruned_ms),
            'ratio_error': error(ours / whole, measured)}
