"""Keras' callbacks around the epochs of a run: each phase of training is a `fit` to them."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.structure.keras_internals import CompiledWith
from tfprune.training.distribution import any_worker, from_chief
from tfprune.training.step import Trainer

Phase = Callable[[int], str]  # epoch -> its name


class UserCallbacks:
    """A user's callbacks, which see the model that trains.

    The model has the run's optimizer, and the compiled loss and metrics, as in `fit`. A learning
    rate that a callback sets holds from then on, in place of the run's schedule, until a callback
    sets another. `stop_training` ends the phase. A run that is resumed begins them anew. Of several
    workers the chief's rate holds, and any ends the phase; all must make the same calls.

    Args:
        phase: of an epoch.
        compiled: loss and metrics that the model is to be compiled with; None for those of a
            classifier.
        batch: some (x, y), by which metrics are built.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], trainer: Trainer,
                 phase: Phase, compiled: CompiledWith | None, batch: Callable[[], Any]):
        self._phase, self._trainer = phase, trainer
        self._current: str | None = None  # phase
        self._set: float | None = None  # the rate that was last given to the optimizer
        self._held: float | None = None  # the rate that a callback has set
        self._list: keras.callbacks.CallbackList | None = None
        if callbacks:
            _compile(trainer, compiled, batch())
            self._list = keras.callbacks.CallbackList(list(callbacks), model=trainer.model)

    def begin_epoch(self, epoch: int, planned: float, steps: int, end: int) -> None:
        """Before the first of an epoch's steps, of which `planned` is the run's learning rate;
        epochs are below `end`."""
        if self._list is None:
            return
        self._see_rate()
        self._set_rate(planned if self._held is None else self._held)
        if self._phase(epoch) != self._current:
            self._current = self._phase(epoch)
            self._trainer.model.stop_training = False
            self._list.set_params({'verbose': 0, 'epochs': self.after(epoch, end), 'steps': steps})
            self._list.on_train_begin()
        self._list.on_epoch_begin(epoch)

    def begin_step(self, step: int, planned: float) -> float:
        """The learning rate of a step."""
        if self._list is None:
            return planned
        self._list.on_train_batch_begin(step)
        self._see_rate()
        rate = planned if self._held is None else self._held
        self._set_rate(rate)
        factor = float(self._trainer.rate_factor)  # which the trainer multiplies a rate by
        return rate if self._held is None else rate / factor

    def end_step(self, step: int, logs: Mapping[str, float]) -> None:
        """After a step, with the means of the epoch so far."""
        if self._list is not None:
            self._list.on_train_batch_end(step, dict(logs))

    def end_epoch(self, epoch: int, means: Mapping[str, float], held_out: Mapping[str, float]
                  ) -> bool:
        """After an epoch; whether its phase is to end."""
        if self._list is None:
            return False
        self._list.on_epoch_end(epoch, {
            **means, **{f'val_{name}': value for name, value in held_out.items()}})
        return any_worker(self._trainer.strategy, bool(self._trainer.model.stop_training))

    def end_phase(self, epoch: int, coming: int, end: int) -> None:
        """After an epoch, if its phase ends with it: where the epoch that comes next is of another,
        or the `end`."""
        if self._list is not None and (
                coming == end or self._phase(coming) != self._phase(epoch)):
            self._list.on_train_end()
            self._current = None

    def after(self, epoch: int, end: int) -> int:
        """The first epoch after the phase of an epoch, at most `end`."""
        return next((later for later in range(epoch + 1, end)
                     if self._phase(later) != self._phase(epoch)), end)

    def _see_rate(self) -> None:
        """Notes a rate that is not the one that was given: the chief's."""
        now = float(keras.ops.convert_to_numpy(self._trainer.optimizer.learning_rate))
        if self._set is not None and now != np.float32(self._set):
            self._held = now
        self._held = from_chief(self._trainer.strategy, self._held)

    def _set_rate(self, rate: float) -> None:
        """Gives the optimizer a held rate, or a planned one times the trainer's factor."""
        if self._held is None:
            rate *= float(self._trainer.rate_factor)
        self._trainer.optimizer.learning_rate.assign(rate)
        self._set = rate

    @property
    def holds_rate(self) -> bool:
        """Whether a callback's rate stands in place of the schedule's."""
        return self._held is not None

    def forget_rate(self) -> None:
        """The optimizer has been made anew: its rate is nobody's."""
        self._set = None


def _compile(trainer: Trainer, compiled: CompiledWith | None, batch: Any) -> None:
    """Gives the model what callbacks look for: an optimizer, and metrics that have names."""
    model, (x, y, *weights) = trainer.model, batch
    compiled = compiled or CompiledWith(None, None, ['accuracy'], None)
    model.compile(trainer.optimizer, compiled.loss, compiled.loss_weights,
                  compiled.metrics, compiled.weighted_metrics)
    model.compute_metrics(None, y, model(x, training=False), *weights)
    model.reset_metrics()
