"""Callbacks for a user's own `fit`."""
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.methods.base import Decision
from tfprune.search.alignment import AlignmentPenalty, check_strength
from tfprune.structure.groups import trace_groups


class Alignment(keras.callbacks.Callback):
    """Adds the alignment penalty to the loss while a model fits: weights that a decision will
    remove are pulled to zero, so that their removal costs less.

        found = tfprune.search_widths(model, reward_fn, macs=0.5)
        model.fit(…, callbacks=[tfprune.callbacks.Alignment(found.decision, strength=1e-3)])
        pruned = tfprune.prune_model(model, tfprune.trace_groups(model), found.decision.masks)

    The penalty is that of RLAL (arXiv 2403.19490): strength * sum_g ||(1 - v_g) * W_g||_2 over
    channel groups g, see tfprune.search.alignment. It is part of the loss that `fit` shows, not of
    the loss of validation; the compiled optimizer minimizes both. It is gone after `fit`.

    Args:
        decision: of `search_widths`, or masks {group name: bool [C_g]}, True = kept.
        strength: lambda, at least 0; `callback.strength.assign(…)` changes it between epochs.

    Raises:
        ValueError, TypeError: when `fit` begins, for masks that do not fit the model.
    """

    def __init__(self, decision: Decision | Mapping[str, np.ndarray], strength: float = 1e-4):
        super().__init__()
        check_strength(strength)
        self._masks = decision.masks if isinstance(decision, Decision) else decision
        self.strength = tf.Variable(strength, trainable=False, dtype=tf.float32)
        self._penalty: AlignmentPenalty | None = None

    def set_model(self, model: keras.Model) -> None:
        """Before the training step is made: the loss that it takes has the penalty."""
        super().set_model(model)
        if self._penalty is not None:
            return
        groups = trace_groups(model, prune_frozen=True)
        self._penalty = AlignmentPenalty(model, groups)
        self._penalty.set_masks(self._masks)
        self._penalty.strength = self.strength
        compute_loss, penalty = model.compute_loss, self._penalty

        def with_penalty(x: Any = None, y: Any = None, y_pred: Any = None,
                         sample_weight: Any = None, training: bool = True) -> Any:
            loss = compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight,
                                training=training)
            return loss + penalty() if training else loss

        model.compute_loss = with_penalty
        model.make_train_function(force=True)

    def on_train_end(self, logs: Any = None) -> None:
        """The model's own loss again."""
        if self._penalty is not None:
            self._penalty = None
            del self.model.compute_loss
            self.model.make_train_function(force=True)
