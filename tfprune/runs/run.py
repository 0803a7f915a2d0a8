"""One configuration, one run folder: the steps of a run, in their order."""
import os
import pathlib
from collections.abc import Callable

import tensorflow as tf

from tfprune.models.model_files import run_custom_layers
from tfprune.progress import hush_retracing
from tfprune.runs.announcement import announce
from tfprune.runs.beforehand import check_installed
from tfprune.runs.checks import checked_method
from tfprune.runs.config import Config
from tfprune.runs.fine_tuning import fine_tune
from tfprune.runs.given import judge_given
from tfprune.runs.opening import opened
from tfprune.runs.outcome import RunResult, finish, read_finished
from tfprune.runs.pretraining import pretrain
from tfprune.runs.problem import OwnModel, make_problem
from tfprune.runs.restoring import restore_run
from tfprune.runs.reuse import other_ratios
from tfprune.runs.searching import search, start_method
from tfprune.runs.state import State
from tfprune.runs.surgery import prune
from tfprune.runs.task_file import own_of_task
from tfprune.search.problem import Problem
from tfprune.training.distribution import check_compilable, losing_workers, make_strategy
from tfprune.training.step import make_deterministic


def train_and_prune(config: Config, run_dir: str | os.PathLike, *, own: OwnModel | None = None,
                    should_stop: Callable[[], bool] = lambda: False,
                    progress: bool = True) -> RunResult:
    """Runs `config` in `run_dir`, or resumes it there; a finished run is only read.

    Args:
        own: the user's model and data; those that the configuration names are then mere names.
        should_stop: asked after each step and each score; True saves and raises Interrupted.
        progress: whether to show a bar.

    Raises:
        ValueError, TypeError, OSError: what is wrong, in one line, before any training.
        NonFiniteLossError: the loss is NaN or infinite; the checkpoints before it stand.
        Interrupted: see should_stop; in all workers, of whichever it was asked.
        WorkerLostError: another worker is gone; call it again, in a new process.
    """
    check_installed(config, names_data=own is None)
    checked_method(config)
    options, path = config.training, pathlib.Path(run_dir)
    make_deterministic(not options.jit_compile)
    tf.get_logger().setLevel('WARNING')
    strategy = make_strategy(options.replicas)
    if options.jit_compile:
        check_compilable(strategy)
    run_custom_layers(config.models.custom_layers)
    own = own or own_of_task(config)
    with losing_workers(), hush_retracing():
        result = _run(config, path, own, strategy, should_stop, progress)
        for ratio, other in other_ratios(config, path).items():
            _run(other, path / 'ratios' / ratio, own, strategy, should_stop, progress)
    return result


def _run(config: Config, path: pathlib.Path, own: OwnModel | None, strategy: tf.distribute.Strategy,
         should_stop: Callable[[], bool], progress: bool) -> RunResult:
    with opened(config, path, own, strategy, should_stop, progress) as state:
        finished = read_finished(state)
        if finished:
            return finished
        problem = make_problem(state, own)
        announce(state, problem)
        judge_given(state, problem)
        restore_run(state, problem)
        if not state.has_decided:
            _decide(state, problem)
        prune(state, problem)
        fine_tune(state, problem)
        return finish(state, problem)


def _decide(state: State, problem: Problem) -> None:
    searched = start_method(state, problem)
    pretrain(state, searched)
    search(state, searched)
