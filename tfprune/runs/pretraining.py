"""The epochs before surgery."""
import tensorflow as tf

from tfprune.methods.base import Trained
from tfprune.runs.carrying import keep_state, take_state
from tfprune.runs.checkpoints import Position, restore
from tfprune.runs.epochs import EpochLoop
from tfprune.runs.given import first_epoch
from tfprune.runs.reuse import take_epochs
from tfprune.runs.stages import stage_before_surgery
from tfprune.runs.state import State
from tfprune.runs.teacher import teacher_before
from tfprune.search.problem import Problem


def pretrain(state: State, problem: Problem) -> None:
    """Trains the dense model to surgery, the method acting after each epoch; or takes the epochs
    from another run.

    What comes next stands after the last of them.
    """
    if state.config.run.before_surgery_from and not (state.method.decides_first or state.prefix):
        take_epochs(state.config, state.folder, problem.model)
        take_state(state)
        state.took_epochs = True
    elif state.surgery_epoch and not state.position.round:
        _train(state, problem)
    else:
        return
    state.position, state.prefix = Position(state.surgery_epoch), None


def _train(state: State, problem: Problem) -> None:
    method, scorer = state.method, state.scorer
    judged = first_epoch(state, problem)
    trainer = state.trainer(problem.model, teacher=teacher_before(state), penalty=method.penalty,
                            constrain=method.constrain(), companion=method.companion())
    loop = EpochLoop(state, trainer, tf.train.Checkpoint(
        model=problem.model, trainer=trainer, method=method, account=problem.account),
        [stage_before_surgery(state, state.data)], method.phase)
    if state.prefix:
        restore(loop.saved, state.prefix)
    for epoch in loop.epochs_left():
        trained = loop.train(epoch)
        if epoch == 0 and judged:
            trained = loop.not_ruined(trained, judged)
        if not method.only_decides:
            problem.observe()
        with loop.acting(trained) as row:
            measure = state.task.measure
            seen = Trained(measure.reward(trained.held_out[measure.name]),
                           float(trainer.last_rate))
            result = scorer.lead(lambda: method.after_epoch(epoch, loop.coming, seen), method)
            if result is not None:  # the chief's alone
                state.folder.append_rows('episodes.jsonl', result.episodes)
                row |= {'phase': method.phase(epoch), **result.metrics,
                        'search_equivalents': problem.account.epochs}
    keep_state(state, trainer)
