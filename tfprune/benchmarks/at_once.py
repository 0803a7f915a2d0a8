"""What pruning at once leaves of a trained model, without training: with and without the
reconstruction of kernels (tfprune.pruning.reconstruction), channels by three criteria, uniform
widths, by `prune_to_budget`.

Batch-norm statistics are re-estimated either way, on the training images that tell channels by one
another. Test accuracy decides nothing here.
"""
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfprune.benchmarks.trained import check_asked, trained_model
from tfprune.data.loading import load_data
from tfprune.pruning.reconstruction import EXAMPLES
from tfprune.runs.own_training import prune_to_budget
from tfprune.training.evaluation import Evaluator

OPTIONS = ('initial_weights', 'cifar10_dir', 'search_model', 'search_dataset')
KINDS: dict[str, dict[str, Any]] = {  # options of prune_to_budget
    'cut': {'criterion': 'l1', 'reconstruction': False},
    'l1': {'criterion': 'l1'},
    'reconstruction': {'criterion': 'reconstruction'},
    'combined': {'criterion': 'combined'},
}
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of the MACs
_BATCH = 128


def rows(only: Sequence[str] = (), *, initial_weights: str = '', cifar10_dir: str = '',
         search_model: str = 'resnet20', search_dataset: str = 'cifar10'
         ) -> Iterator[dict[str, Any]]:
    """Yields a row a share of the MACs and kind, after one of the model as given; `only` names
    kinds.

    Raises:
        ValueError: for another name, or no weights.
    """
    check_asked('at_once is', only, [*KINDS], initial_weights)
    data = load_data(search_dataset, data_dir=cifar10_dir)
    dense = trained_model(data, search_model, initial_weights)
    calibration = [x for x, *_ in data.calibration_batches(_BATCH, EXAMPLES // _BATCH)]

    def accuracy(model: keras.Model) -> float:
        return float(Evaluator(model, tf.distribute.get_strategy()).metrics(
            data.test_batches(250))['accuracy'])

    yield {'model': search_model, 'kind': 'as given', 'macs': 1.0,
           'test_accuracy': accuracy(dense)}
    for share in SHARES:
        for kind, options in KINDS.items():
            if not only or kind in only:
                pruned = prune_to_budget(dense, macs=share, calibration_data=calibration, **options)
                yield {'model': search_model, 'kind': kind, 'macs': share,
                       'test_accuracy': accuracy(pruned)}


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table, a line a share of the MACs."""
    by_share: dict[float, dict[str, float]] = {}
    for row in found:
        by_share.setdefault(row['macs'], {})[row['kind']] = row['test_accuracy']
    lines = ['| MACs | cut alone, by l1, % | reconstructed, by l1, % | by reconstruction, % | '
             'by combined, % |', '|---:' * (1 + len(KINDS)) + '|']
    for share, cells in by_share.items():
        shown = [f'{100 * value:.2f}' if (value := cells.get(kind, cells.get('as given')))
                 is not None else '–' for kind in KINDS]
        lines.append(f'| {share:.0%} | {" | ".join(shown)} |')
    return '\n'.join(lines)
