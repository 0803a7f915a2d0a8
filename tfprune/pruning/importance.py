"""Criteria: a score per channel of a group; the channels of highest score are kept.

Adding one is a function and a line in `CRITERIA`. Scores are compared within a group only. A
criterion gives None for a group that lacks what it looks at; l1 then ranks that group.

None is the best for all: behind batch normalization norms are what weight decay left of them. By
few examples, or by such as are not augmented, `taylor` is poor where a model knows most of them by
heart: their gradients vanish, and a few decide (flags/README.md).

Channels chosen by `reconstruction` suit best what is done with them: the kernels that read those
that stay make up for the others by the same least squares. They begin best; trained on, those of a
ResNet-20 fell behind those of `l1`, and of a MobileNetV2 stayed ahead by far: hence `combined`.
"""

import dataclasses
import functools
import warnings
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.errors import look_up
from tfprune.models.outputs import as_logits
from tfprune.pruning.options import PruningOptions
from tfprune.pruning.reconstruction import Reconstruction
from tfprune.structure.groups import ChannelGroups

# (images [B, …], integer labels [B]) of a classifier, (x, y) or (x, y, weights) of other tasks; as
# tensors or arrays
Batch = tuple[Any, ...]
BatchLoss = Callable[[keras.Model, Batch], tf.Tensor]  # the mean loss of a batch


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at.

    Attributes:
        batches: training data, finite; None where there is none.
        loss: of a batch; None for the cross-entropy of a classifier.
        reconstruction: that has observed the model; None where none has.
    """
    model: keras.Model
    groups: ChannelGroups
    seed: int
    batches: Iterable[Batch] | None
    loss: BatchLoss | None = None
    reconstruction: Reconstruction | None = None

    @functools.cached_property
    def first_order(self) -> dict[tuple[str, str, int], np.ndarray]:
        """W ⊙ ∂L/∂W of every kernel (layer, weight, axis), summed but for that axis, along which
        the layer sums: [N, C].

        L is the mean loss of each of the N batches, with the model as it predicts. Of the
        channel c this is ∂L/∂z_c for a gate z_c = 1 in front of the layer.

        Raises:
            ValueError: for no data, labels that are no integers [B], several outputs.
        """
        slots = [slot for slot in self.groups.layout.weights if slot.is_kernel]
        kernels = [slot.variable(self.model).value for slot in slots]
        read = [(place, each.axis) for place, slot in enumerate(slots)
                for each in slot.axes if each.reads]
        rows = []
        for batch in self.batches or ():
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(kernels)  # those of frozen layers too
                loss = (self.loss or _cross_entropy)(self.model, batch)
            gradients = tape.gradient(loss, kernels, unconnected_gradients='zero')
            products = [kernel * gradient for kernel, gradient in zip(kernels, gradients)]
            rows.append([
                tf.reduce_sum(products[place], [each for each in range(len(slots[place].shape))
                                                if each != axis]).numpy()
                for place, axis in read])
        if not rows:
            raise ValueError("criterion 'taylor' needs data: batches of (images, integer labels "
                             '[B]); received none')
        return {(slots[place].layer, slots[place].weight, axis): np.array(column, np.float64)
                for (place, axis), column in zip(read, zip(*rows))}


# (evidence, group name) -> score [C_g], or None where the group has nothing to look at
Criterion = Callable[[Evidence, str], np.ndarray | None]


def _filters(evidence: Evidence, name: str,
             reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns Σ over producers of reduce(filters [F, weights per filter]), by channel [C_g]; of a
    group that no kernel makes, such as an embedding, over the tables that do."""
    score = np.zeros(evidence.groups[name])
    parts = [part for part in evidence.groups.layout.slices(name) if part.side == 'out']
    kernels = [part for part in parts if part.slot.is_kernel]
    for part in kernels or [part for part in parts if len(part.slot.shape) > 1]:
        filters = np.moveaxis(_values(part.slot.variable(evidence.model)), part.axis, 0)
        np.add.at(score, part.index, reduce(filters.reshape(len(filters), -1))[part.positions])
    return score


def _values(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def _cross_entropy(model: keras.Model, batch: Batch) -> tf.Tensor:
    """Mean cross-entropy of a batch, of logits or of a final softmax."""
    images, labels = batch
    if len(model.outputs) != 1:
        raise ValueError("criterion 'taylor' needs a model with one output; "
                         f"'{model.name}' has {len(model.outputs)}")
    labels = tf.convert_to_tensor(labels)
    if len(labels.shape) != 1 or not labels.dtype.is_integer:
        raise ValueError("criterion 'taylor' needs integer labels [B]; received "
                         f'{labels.dtype.name} {tuple(labels.shape)}')
    outputs = model(tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), images),
                    training=False)
    return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(
        labels, as_logits(model, outputs), from_logits=True))


def l1(evidence: Evidence, name: str) -> np.ndarray:
    """Σ over producers of Σ|W| of the filter (Li et al. 2017, arXiv 1608.08710)."""
    return _filters(evidence, name, lambda filters: np.abs(filters).sum(1))


def l2(evidence: Evidence, name: str) -> np.ndarray:
    """Σ over producers of ‖W‖₂ of the filter."""
    return _filters(evidence, name, lambda filters: np.sqrt(np.square(filters).sum(1)))


def bn_scale(evidence: Evidence, name: str) -> np.ndarray | None:
    """Σ over the group's batch normalizations of |γ| (Liu et al. 2017, arXiv 1708.06519)."""
    parts = [part for part in evidence.groups.layout.slices(name)
             if part.slot.weight.split('.')[-1] == 'gamma']
    score = np.zeros(evidence.groups[name])
    for part in parts:
        gamma = np.abs(_values(part.slot.variable(evidence.model)))
        np.add.at(score, part.index, gamma[part.positions])
    return score if parts else None


def geometric_median(evidence: Evidence, name: str) -> np.ndarray:
    """Σ over producers of Σ_j ‖W − W_j‖₂, j over all filters of the layer: what is near the
    others can be replaced by them (FPGM, He et al. 2019, arXiv 1811.00250)."""
    return _filters(evidence, name, _distances_to_all)


def _distances_to_all(filters: np.ndarray) -> np.ndarray:
    """[F, n] -> Σ_j ‖x_i − x_j‖₂ [F], without the differences [F, F, n]."""
    # ‖x‖² + ‖y‖² − 2x·y of near points is a difference of large numbers; from the mean, smaller.
    centerd = filters - filters.mean(0)
    squares = np.square(centerd).sum(1)
    gram = centerd @ centerd.T
    distances = np.maximum(squares[:, None] + squares - 2 * gram, 0)
    np.fill_diagonal(distances, 0)
    return np.sqrt(distances).sum(1)


def taylor(evidence: Evidence, name: str) -> np.ndarray | None:
    """(∂L/∂z)², mean over batches, of a gate z = 1 on the channel at all of its consumers: the
    square of the first-order change of the loss when the channel goes. Needs data.

    Molchanov et al. 2019, arXiv 1906.10771, 'Taylor FO' with gates, the best of the paper. Not the
    filter's own Σ W ∂L/∂W: batch normalization makes the loss indifferent to a filter's scale.
    """
    parts = [part for part in evidence.groups.layout.slices(name)
             if part.side == 'in' and part.slot.is_kernel]
    if not parts:
        return None
    terms = [evidence.first_order[part.slot.layer, part.slot.weight, part.axis]
             for part in parts]
    gates = np.zeros((evidence.groups[name], len(terms[0])))
    for part, term in zip(parts, terms):
        np.add.at(gates, part.index, term.T[part.positions])
    return np.square(gates).mean(1)


def reconstruction(evidence: Evidence, name: str) -> np.ndarray | None:
    """When the channel goes where, one after another, that goes which those left make up for best
    by least squares, in the outputs of all kernels that read them. Needs examples, no labels.

    Backward elimination by the error of He, Zhang, Sun 2017 (arXiv 1707.06168), who take LASSO;
    ThiNet (Luo et al. 2017, arXiv 1707.06342) is greedy, too, and fits the kernel at the end only.
    """
    if evidence.reconstruction is None:
        raise ValueError(f"criterion '{RECONSTRUCTION}' (and '{COMBINED}') needs trained weights, "
                         'calibration examples, and reconstruction=True')
    order = evidence.reconstruction.order_of_elimination(name)
    return None if order is None else order.astype(np.float64)


def combined(evidence: Evidence, name: str) -> np.ndarray | None:
    """The channel's rank by `reconstruction` and its rank by `l1`, added (Borda's count)."""
    order = reconstruction(evidence, name)
    return None if order is None else order + np.argsort(np.argsort(l1(evidence, name)))


def random(evidence: Evidence, name: str) -> np.ndarray:
    """Uniform in [0, 1), a stream per group: another group's absence changes nothing."""
    stream = [evidence.seed, zlib.crc32(name.encode())]
    return np.random.default_rng(stream).random(evidence.groups[name])


AUTO, COMBINED, RECONSTRUCTION = 'auto', 'combined', 'reconstruction'
OBSERVING = (AUTO, COMBINED, RECONSTRUCTION)  # look at what a reconstruction has observed

CRITERIA: dict[str, Criterion] = {
    'l1': l1,
    'l2': l2,
    'bn_scale': bn_scale,
    'geometric_median': geometric_median,
    'taylor': taylor,
    RECONSTRUCTION: reconstruction,
    COMBINED: combined,
    'random': random,
}

_EPOCH = 2 ** 18  # whose augmentation criteria see; no run has so many


def criterion_batches(data: Examples, options: PruningOptions, batch_size: int) -> tf.data.Dataset:
    """Batches of training examples, as they are trained on, for criteria that need data."""
    return data.train_batches(_EPOCH, batch_size).take(
        -(-options.examples_of(data.num_train) // batch_size))


def score_groups(model: keras.Model, groups: ChannelGroups, *, criterion: str = 'l1',
                 seed: int = 0, data: Iterable[Batch] | None = None,
                 names: Iterable[str] | None = None, loss: BatchLoss | None = None,
                 reconstruction: Reconstruction | None = None) -> dict[str, np.ndarray]:
    """Returns the scores, float64 [C_g], of the prunable groups (or of `names` among them).

    A group that lacks what the criterion looks at is scored by l1, with a warning if it was named.

    Args:
        criterion: a name in CRITERIA, or 'auto': 'combined' where there is a `reconstruction`, else
            'l1'.
        seed: for 'random'.
        data: for 'taylor', batches of (images, integer labels [B]) of training images as they are
            trained on, some thousand, finite.
        reconstruction: for 'reconstruction' and 'combined'; it has observed.
        loss: for 'taylor', of a batch of `data`; None for the cross-entropy of a classifier.

    Raises:
        ValueError: for an unknown criterion, one that no group has anything for, or missing data.
    """
    is_named = criterion != AUTO
    if not is_named:
        criterion = 'l1' if reconstruction is None else COMBINED
    score = look_up('criterion', criterion, CRITERIA)
    evidence = Evidence(model, groups, seed, data, loss, reconstruction)
    scores = {name: score(evidence, name) for name in (groups if names is None else names)}
    lacking = [name for name, value in scores.items() if value is None]
    if lacking and is_named:
        if all(score(evidence, name) is None for name in groups):
            raise ValueError(f"criterion '{criterion}' has nothing to look at in any group of "
                             f"'{model.name}'")
        warnings.warn(f"criterion '{criterion}' has nothing to look at in {', '.join(lacking)}: "
                      'ranked by l1')
    return {name: l1(evidence, name) if value is None else value
            for name, value in scores.items()}
