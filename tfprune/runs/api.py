"""`tfprune.train_and_prune`: a configuration and a run folder, or one's own model and data."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import keras

from tfprune.runs import run
from tfprune.runs.config import Config, check_names
from tfprune.runs.outcome import RunResult, end_of
from tfprune.runs.own_model import own_model
from tfprune.runs.problem import OwnModel

_POSITIONS = {True: ('model', 'train_data', 'reward_data', 'test_data'),
              False: ('config', 'run_dir')}


@overload
def train_and_prune(config: Config, run_dir: str | os.PathLike, *,
                    should_stop: Callable[[], bool] = ..., progress: bool = ...) -> RunResult: ...


@overload
def train_and_prune(model: keras.Model, train_data: Any, reward_data: Any, test_data: Any, *,
                    monitor: str | None = ..., mode: str = ...,
                    class_weight: Mapping[int, float] | None = ...,
                    callbacks: Sequence[keras.callbacks.Callback] = ...,
                    class_names: Sequence[str] | None = ...,
                    pixel_range: tuple[Any, Any] | None = ...,
                    run_dir: str | os.PathLike | None = ...,
                    should_stop: Callable[[], bool] = ..., progress: bool = ...,
                    **options: Any) -> keras.Model: ...


def train_and_prune(*args, **options):
    """Trains, prunes and fine-tunes: a configuration in a run folder, or a user's own model.

        result = train_and_prune(Config(…), 'runs/x')                            -> RunResult
        pruned = train_and_prune(model, train_data, reward_data, test_data, macs=0.5,
                                 monitor='val_mean_io_u')                        -> keras.Model

    What a model of one's own is compiled with is its task: optimizer, loss, loss weights, metrics;
    sample weights come with the data. A classifier of pictures need not be compiled.

    Args:
        config, run_dir: see `runs.run.train_and_prune`. With a model of one's own the folder may be
            left out: the run is then not kept.
        model: a functional or Sequential Keras 3 model. It stays as it is.
        train_data, reward_data, test_data: (x, y) or (x, y, weights) of arrays [N, …], tf.data
            datasets or PyDatasets of such, batched or not, of the structures that the model takes
            and gives. Rewards come from reward_data, held-out training examples.
        monitor: the compiled metric that is the reward, and by which models are compared, as Keras'
            callbacks name it; left out, the first metric, without any the loss.
        mode: 'max' or 'min'; 'auto' knows it of Keras' metrics.
        class_weight: {class: weight in the loss}, as for `fit`.
        callbacks: Keras' callbacks. They see epochs and steps of the dense model, and then of the
            pruned one, with metrics of reward_data as val_…; each phase is a `fit` to them, which
            EarlyStopping ends.
        class_names: of a classifier's outputs, for report and export.
        pixel_range: (what byte 0 of a picture is in the images, what byte 255 is), two numbers or
            two lists of one a channel, for files that take pictures; left out, it is taken from the
            values of the data where these are of 0…1, -1…1 or 0…255.
        should_stop, progress: see `runs.run.train_and_prune`.
        options: what Config takes, such as method, macs, params, epochs of each phase, and the
            method's options under its name, as amc={'episodes': 120}; batch_size is that of
            train_data if it is batched.

    Returns:
        A RunResult; or, of a model of one's own, the pruned and fine-tuned plain Keras model.

    Raises:
        TypeError, ValueError: name the argument, what was expected, what was received.
    """
    names = _POSITIONS[bool(args) and isinstance(args[0], keras.Model)]
    if len(args) > len(names):
        raise TypeError(f'train_and_prune takes {", ".join(names)} by position; received '
                        f'{len(args)} arguments')
    twice = [name for name in names[:len(args)] if name in options]
    if twice:
        raise TypeError(f'train_and_prune: {twice[0]} is given twice')
    return _train_and_prune(**dict(zip(names, args)), **options)


def _train_and_prune(*, config=None, run_dir=None, model=None, train_data=None, reward_data=None,
                     test_data=None, monitor=None, mode='auto', class_weight=None, callbacks=(),
                     class_names=None, pixel_range=None, should_stop=lambda: False, progress=True,
                     **options):
    _check_arguments(run_dir, should_stop, progress)
    about = {'monitor': monitor, 'class_weight': class_weight, 'callbacks': callbacks or None,
             'class_names': class_names, 'pixel_range': pixel_range}
    data = {'train_data': train_data, 'reward_data': reward_data, 'test_data': test_data}
    if config is not None:
        beside = [*(name for name, value in {'model': model, **data, **about}.items()
                    if value is not None), *options]
        if not isinstance(config, Config):
            raise TypeError(f'config: expected a tfprune.Config, received {_kind(config)}')
        if beside:
            raise TypeError('train_and_prune takes a config, or a model, datasets and options: '
                            f'received a config and {", ".join(beside)}')
        if run_dir is None:
            raise TypeError('run_dir: expected the path of a folder beside a config, received None')
        return run.train_and_prune(config, run_dir, should_stop=should_stop, progress=progress)
    missing = [name for name, value in {'model': model, **data}.items() if value is None]
    if missing:
        raise TypeError(f'train_and_prune needs a config and a run_dir, or a model and datasets: '
                        f'missing {", ".join(missing)}')
    if not isinstance(model, keras.Model):
        raise TypeError(f'model: expected a Keras 3 model, received {_kind(model)}')
    _check_options(options)
    own = own_model(model, **data, mode=mode, seed=options.get('seed', 0), **about)
    ours = _config(own, options)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if run_dir is None else run_dir
        result = run.train_and_prune(ours, folder, own=own, should_stop=should_stop,
                                     progress=progress)
    if progress and result.report:
        print(end_of(result, kept=run_dir is not None))
    return result.model


def _check_arguments(run_dir: Any, should_stop: Any, progress: Any) -> None:
    if run_dir is not None and not (isinstance(run_dir, (str, os.PathLike)) and str(run_dir)):
        raise TypeError(f'run_dir: expected the path of a folder, received {_kind(run_dir)}')
    if not callable(should_stop):
        raise TypeError('should_stop: expected a function without arguments, received '
                        f'{_kind(should_stop)}')
    if not isinstance(progress, bool):
        raise TypeError(f'progress: expected True or False, received {_kind(progress)}')


def _kind(value: Any) -> str:
    """'int 5'."""
    text = repr(value)
    return f'{type(value).__name__} {text if len(text) < 60 else text[:57] + "..."}'


def _check_options(options: Mapping[str, Any]) -> None:
    """TypeError for what is no option, or none beside a model and datasets, before any counting."""
    for name in ('model', 'task', 'initial_weights', 'custom_layers', 'mixed_precision', 'dataset',
                 'data_dir', 'image_size', 'test_fraction', 'skip_unreadable', 'augment',
                 'mirror', 'cache_dir', 'reward_images', 'before_surgery_from'):
        if name in options:
            raise TypeError(f'{name}: not an option beside a model and datasets of your own')
    check_names(options)


def _config(own: OwnModel, options: dict[str, Any]) -> Config:
    """The configuration, with sizes that fit the data where none are given."""
    sizes = {'batch_size': min(own.batch_size or 128, own.data.num_train),
             'reward_images': own.data.num_reward}
    return Config(**{**sizes, **options, 'model': own.model.name, 'dataset': own.data.name})
