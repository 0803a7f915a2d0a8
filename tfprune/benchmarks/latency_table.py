"""Makes a latency table of a model's operators here, or of profiles from another device.

Its rows say how well it predicts: the model at widths drawn at random, converted, and measured in
turns with the dense model.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.costs.model import CostModel
from tfprune.export.latency import latencies_in_turns
from tfprune.export.options import QUANTIZATIONS
from tfprune.export.tflite import FLOAT32
from tfprune.latency.build import build, file_of
from tfprune.latency.phone import import_profiles, write_probes
from tfprune.latency.table import LatencyTable
from tfprune.models.building import untrained_model
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups

OPTIONS = ('model', 'image_size', 'num_classes', 'table', 'checks', 'artifact_threads',
           'probe_files', 'profiles', 'device', 'quantize')


def rows(only: Sequence[str] = (), *, model: str = '',
         image_size: str = '', num_classes: int = 10, table: str = '',
         checks: int = 4, artifact_threads: Sequence[int] = (1,), probe_files: str = '',
         profiles: str = '', device: str = '', quantize: str = '', seed: int = 0
         ) -> Iterator[dict[str, Any]]:
    """Measures a table, or imports one, or writes the files to measure elsewhere.

    Args:
        only: nothing: a table is made as a whole.
        model: a .keras file or a name of MODELS.
        image_size, num_classes: see `untrained_model`.
        table: the file to write, or to go on with.
        checks: random widths at which to compare prediction and measurement.
        artifact_threads: the first is that of the table.
        probe_files: writes the files to measure to this folder, and measures nothing.
        profiles: reads the profiles in this folder in place of measuring.
        device: what the device of the profiles is called.
        quantize: '' for float32 files, 'int8'.
        seed: of the random widths.

    Raises ValueError or OSError for arguments that do not fit.
    """
    if only:
        raise ValueError(f'only: a latency table is made as a whole, received {", ".join(only)}')
    threads, form = int(artifact_threads[0]), QUANTIZATIONS.get(quantize, FLOAT32)
    if profiles:
        _need(table=table, device=device)
        found = import_profiles(profiles, machine=device, threads=threads)
        found.save(table)
        yield {'table': table, 'imported': profiles, 'surfaces': len(found.surfaces)}
        return
    _need(model=model)
    built = untrained_model(model, image_size=image_size, num_classes=num_classes)
    if probe_files:
        count = write_probes(built, probe_files, form=form)
        yield {'probe_files': probe_files, 'files': count}
        return
    _need(table=table)
    made = build(built, table, threads=threads, form=form,
                 say=lambda text: print(text, file=sys.stderr))
    yield from check_rows(built, made, checks, threads, seed)


def check_rows(model: keras.Model, table: LatencyTable, checks: int, threads: int, seed: int
               ) -> Iterator[dict[str, Any]]:
    """Prediction and measurement, in turns with the dense model, a row a width vector."""
    groups = trace_groups(model)
    costs = CostModel(model, groups, latency_table=table)
    dense = file_of(model, table.form) if checks else b''
    rng = np.random.default_rng(seed)
    for number in range(checks):
        low = np.maximum(costs.dense_widths * (0.2 + 0.5 * rng.random()), 1).astype(np.int64)
        widths = {name: int(width) for name, width in zip(
            groups, rng.integers(low, costs.dense_widths + 1))}
        masks = {name: np.arange(groups[name]) < width for name, width in widths.items()}
        file = file_of(prune_model(model, groups, masks), table.form)
        (dense_ms, pruned_ms), (_, ratio) = latencies_in_turns([dense, file], threads=threads)
        cost = costs(widths)
        assert cost.latency_ms is not None and costs.dense.latency_ms is not None
        predicted = cost.latency_ms / costs.dense.latency_ms
        yield {'model': model.name, 'table': table.source, 'form': table.form, 'check': number,
               'widths': widths,
               'macs_ratio': cost.macs / costs.dense.macs, 'predicted_ms': cost.latency_ms,
               'measured_ms': pruned_ms.median, 'measured_p10_ms': pruned_ms.p10,
               'dense_predicted_ms': costs.dense.latency_ms, 'dense_measured_ms': dense_ms.median,
               'predicted_ratio': predicted, 'measured_ratio': ratio,
               'error': cost.latency_ms / pruned_ms.median - 1,
               'ratio_error': predicted / ratio - 1}


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns predictions beside measurements as a Markdown table."""
    if not found or 'check' not in found[0]:
        return '\n'.join(', '.join(f'{name}: {value}' for name, value in row.items())
                         for row in found) or 'No checks.'
    lines = ['| widths | MACs | predicted, ms | measured, ms | error | predicted ratio | '
             'measured ratio | error |', '|---:|' + '---:|' * 7]
    for row in found:
        lines.append(
            f"| {row['check']} | {row['macs_ratio']:.1%} | {row['predicted_ms']:.4g} | "
            f"{row['measured_ms']:.4g} | {row['error']:+.1%} | {row['predicted_ratio']:.1%} | "
            f"{row['measured_ratio']:.1%} | {row['ratio_error']:+.1%} |")
    return '\n'.join(lines)


def _need(**options: str) -> None:
    for name, value in options.items():
        if not value:
            raise ValueError(f'--{name}: needed for --suite=latency_table, received nothing')
