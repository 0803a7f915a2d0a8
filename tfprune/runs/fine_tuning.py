"""The epochs after surgery."""
from collections.abc import Callable

import tensorflow as tf

from tfprune.methods.base import Decision
from tfprune.pruning.sparsity import zeroing
from tfprune.runs.carrying import take_over
from tfprune.runs.checkpoints import restore
from tfprune.runs.epochs import EpochLoop
from tfprune.runs.first_epoch import fine_tune_factor
from tfprune.runs.lost_parts import left_out
from tfprune.runs.stages import stage_after_surgery, stage_before_surgery
from tfprune.runs.state import FineTuning, State, plain_float32
from tfprune.runs.statistics import settle
from tfprune.runs.teacher import teacher_of
from tfprune.search.problem import Problem
from tfprune.training.batch_norm import batch_norm_layers
from tfprune.training.distribution import from_chief

# Share of a moving average that may be older than the training after surgery.
YOUNG = 0.05
_BATCHES_OF_AVERAGE = 20  # by which averaged weights get statistics


def fine_tune(state: State, problem: Problem) -> None:
    """Trains the state's pruned model to the last epoch, and leaves it in float32."""
    plan = FineTuning.after(state)
    steps = _train(state, problem, plan)
    if state.config.training.fine_tune_average and steps:
        _settle(state, _BATCHES_OF_AVERAGE)
    else:
        _settle_if_young(state, steps)
    if state.should_stop():
        raise state.interrupted('before export')
    state.pruned = plain_float32(state.pruned)


def _train(state: State, problem: Problem, plan: FineTuning) -> int:
    """The steps that were done since surgery."""
    config, decision, pruned = state.config, state.decision, state.pruned
    first = state.method.decides_first
    if not plan.steps and config.epochs.fine_tune_epochs:
        state.progress.warn(
            f'the search cost {decision.search_equivalents:.1f} epochs; charged, it leaves '
            f'none of {config.epochs.fine_tune_epochs} to fine-tuning.')
    keep_zeros = zeroing(pruned, decision.zeros) if decision.zeros else None
    trainer = state.trainer(pruned, teacher=teacher_of(state, problem.model), constrain=keep_zeros,
                            average=config.training.fine_tune_average)
    trainer.rate_factor.assign(fine_tune_factor(state.folder.path, state.recipe))
    stages = [stage_before_surgery(state, plan.data)] if first else []
    stages += [stage_after_surgery(state, plan)]
    phase = 'train' if first else 'fine_tune'
    goes_on, begun = state.recipe.continues and not first, tf.Variable(0, dtype=tf.int64)
    saved = tf.train.Checkpoint(model=pruned, trainer=trainer, **(
        {'steps_before': begun} if goes_on else {}))
    loop = EpochLoop(state, trainer, saved, stages, lambda _: phase)
    if state.prefix:
        restore(loop.saved, state.prefix)
    else:
        _begin(state, keep_zeros)
        if goes_on:
            take_over(state, problem, trainer)
        begun.assign(trainer.steps_in_all)
    for epoch in loop.epochs_left():
        with loop.acting(loop.train(epoch)) as row:
            row['phase'] = phase
    return trainer.steps_in_all - int(begun)


def _begin(state: State, keep_zeros: Callable[[], None] | None) -> None:
    """What surgery leaves to do before the first step."""
    if keep_zeros:
        keep_zeros()
    if keep_zeros or not state.method.decides_first and _is_smaller(state.decision):
        _settle(state)


def _settle(state: State, count: int | None = None) -> None:
    """Batch-norm statistics of the sub-network, by so many batches; as when it was scored."""
    settle(state.pruned, state.task, state.calibration_batches(count), state.strategy)


def _is_smaller(decision: Decision) -> bool:
    """Whether it removes anything, single weights too."""
    return bool(decision.zeros or decision.removed) or not all(
        mask.all() for mask in decision.masks.values())


def _settle_if_young(state: State, steps: int) -> None:
    """Re-estimates the statistics after training that was too short for them to follow, of so many
    steps since surgery; those that came with a model which lost nothing stay its own."""
    cut = not state.method.decides_first and _is_smaller(state.decision)
    if state.has_weights and not cut:
        return
    if not cut:
        skipped = from_chief(state.strategy, left_out(state.folder.read_rows('metrics.jsonl')))
        trained = state.surgery_epoch - sum(epoch < state.surgery_epoch for epoch in skipped)
        steps += trained * state.steps_per_epoch
    if steps and any(layer.trainable and layer.momentum ** steps > YOUNG
                     for layer in batch_norm_layers(state.pruned)):
        _settle(state)
