"""Opens the folder of a run, for all workers."""
import contextlib
import pathlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfprune.methods.names import make_method
from tfprune.progress import Progress
from tfprune.runs.checkpoints import SharedCheckpoints
from tfprune.runs.config import Config, differing_fields
from tfprune.runs.folder import RunFolder, WatchedFolder
from tfprune.runs.problem import OwnModel
from tfprune.runs.state import State
from tfprune.training.distribution import from_chief, is_chief, worker_index


@contextlib.contextmanager
def opened(config: Config, run_dir: pathlib.Path, own: OwnModel | None,
           strategy: tf.distribute.Strategy, should_stop: Callable[[], bool], progress: bool
           ) -> Iterator[State]:
    """A run in its folder, whose lock it holds; a run that fails before its first checkpoint
    leaves nothing behind."""
    folder, shown = _folder(config, run_dir, own, strategy), Progress(
        progress and is_chief(strategy))
    try:
        method = make_method(config.method, config.options)
        yield State(config, method, folder, strategy, shown, should_stop,
                    SharedCheckpoints(folder.path / 'checkpoints', shown.warn, strategy))
    except BaseException:
        folder.forget_unbegun()
        raise
    finally:
        folder.close()


def _folder(config: Config, run_dir: pathlib.Path, own: OwnModel | None,
            strategy: tf.distribute.Strategy) -> RunFolder:
    """The chief's run folder; what is wrong with it, or with other workers' flags, ends all."""
    folder, error = None, None
    digests = _digests(own, bool(config.models.task)) if own else {}  # a user's code: in each
    if is_chief(strategy):
        try:
            folder = RunFolder(run_dir, config, digests)
        except (ValueError, OSError) as caught:
            error = caught
    theirs = from_chief(strategy, {'config': config.to_json(), 'error': error and str(error)})
    if error:
        raise error
    if theirs['error']:
        raise ValueError(theirs['error'])
    differing = differing_fields(config, theirs['config'])
    if differing:
        raise ValueError(f'worker {worker_index(strategy)} was started with other flags than '
                         f'worker 0: {"; ".join(differing)}.')
    return folder or WatchedFolder(run_dir)


def _digests(own: OwnModel, of_task: bool) -> dict[str, str]:
    """What tells a user's model from others; that of a task file is what the file makes, but its
    loss may come from another file."""
    if of_task:
        return {'task.loss': own.task_digest()}
    return {'model': own.digest(), 'model.loss': own.task_digest()}
