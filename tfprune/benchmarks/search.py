"""What episodes, agent and context add to a joint epoch, from the metrics.jsonl of runs.

Without run folders a run of four epochs is made: one of plain training, one of random actions, two
joint ones, the rest left out.
"""
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfprune.benchmarks.turns import cores, machine
from tfprune.report.reading import read_rows
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.runs.state import Interrupted

OPTIONS = ('search_runs', 'search_model', 'search_dataset', 'search_episodes', 'cifar10_dir',
           'threads')
# Of methods.rlal. The rest of method_seconds: the full model's accuracy, the change of masks.
PARTS = ('scoring', 'policy', 'agent', 'context', 'surrogate', 'rescoring', 'random_reference')
ONCE = 'comparison'  # of policy and random actions, at the end of the joint phase alone
METRICS = 'metrics.jsonl'


def rows(only: Sequence[str] = (), *, search_runs: Sequence[str] = (),
         search_model: str = 'resnet20', search_dataset: str = 'cifar10',
         search_episodes: int = 20, cifar10_dir: str = '', threads: int = 0
         ) -> Iterator[dict[str, Any]]:
    """Yields a row a joint epoch but the first of each run, in which functions are traced.

    Args:
        only: run folders, by name.
        search_runs: run folders of the method rlal; none makes a run.
        search_model, search_dataset, search_episodes: of that run; episodes an epoch.
        cifar10_dir: where tensorflow-datasets has CIFAR-10.
        threads: within an operation, and cores, of that run; 0 is all.

    Raises ValueError or OSError for a folder without joint epochs.
    """
    if search_runs:
        for path in map(pathlib.Path, search_runs):
            if not only or path.name in only:
                yield from epoch_rows(path)
        return
    with tempfile.TemporaryDirectory() as folder, cores(threads):
        path = pathlib.Path(folder) / f'{search_model}_{search_episodes}_episodes'
        config = Config(
            model=search_model, dataset=search_dataset, data_dir=cifar10_dir, macs=0.5,
            warmup_epochs=1, random_epochs=1, joint_epochs=2, alignment_epochs=0,
            fine_tune_epochs=1, lr_warmup_epochs=0.5,
            rlal={'episodes_per_epoch': search_episodes, 'comparison_episodes': 0})
        try:
            train_and_prune(config, path, progress=False,
                            should_stop=lambda: _epochs_done(path) == config.epochs.search)
        except Interrupted:
            pass
        for row in epoch_rows(path):
            yield {**row, **machine(),
                   'threads': tf.config.threading.get_intra_op_parallelism_threads()}


def epoch_rows(run: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Seconds by part of the joint epochs of a run folder, but the first."""
    if not (run / METRICS).exists():
        raise FileNotFoundError(f'{run / METRICS}: no such file')
    joint = [row for row in read_rows(run / METRICS) if row.get('phase') == 'joint']
    if len(joint) < 2:
        raise ValueError(f'{run}: expected two joint epochs or more, received {len(joint)}')
    for row in joint[1:]:
        train, once = row['train_seconds'], row.get(f'{ONCE}_seconds', 0.0)
        parts = {name: row.get(f'{name}_seconds', 0.0) for name in PARTS}
        method = row['method_seconds'] - once
        yield {'run': run.name, 'epoch': row['epoch'], 'train_seconds': train,
               'method_seconds': method, **{f'{name}_seconds': s for name, s in parts.items()},
               'rest_seconds': method - sum(parts.values()), f'{ONCE}_seconds': once,
               'added': method / train}


def _epochs_done(run: pathlib.Path) -> int:
    return len((run / METRICS).read_text().splitlines()) if (run / METRICS).exists() else 0


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns seconds by part as a Markdown table."""
    parts = (*PARTS, 'rest')
    lines = [f'| run | epoch | training, s | all else, s | '
             f'{" | ".join(name.replace("_", " ") for name in parts)} | added |',
             f'|---|{"---:|" * (len(parts) + 4)}']
    for row in found:
        seconds = ' | '.join(f"{row[f'{name}_seconds']:.2f}" for name in parts)
        lines.append(f"| {row['run']} | {row['epoch'] + 1} | {row['train_seconds']:.1f} | "
                     f"{row['method_seconds']:.1f} | {seconds} | {row['added']:.1%} |")
    return '\n'.join(lines)
