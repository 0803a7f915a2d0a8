"""A model with weights of its own: what it scores as given, and how its weights are trained on.

Whatever training does to it is judged against what the user had; rates for random weights ruin
trained ones, see tfprune.runs.recipe_choice.
"""
import dataclasses
import math
from typing import Any, Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from tfprune.data import ImageData
from tfprune.progress import Progress
from tfprune.pruning.surgery import float32_copy
from tfprune.runs.epochs import Interrupted
from tfprune.runs.first_epoch import FirstEpoch
from tfprune.runs.folder import RunFolder
from tfprune.runs.known_augmentation import as_chosen, known_augmentation, sample
from tfprune.runs.problem import Setup, held_out_batches
from tfprune.runs.recipe import FILE, Given, Recipe
from tfprune.runs.recipe_choice import choose_recipe
from tfprune.significance import ERRORS
from tfprune.structure.graph import unfold
from tfprune.training.batch_norm import reestimate_batch_norm
from tfprune.training.distribution import from_chief, is_chief
from tfprune.training.step import Batch, Evaluator, StopTraining

_STATISTICS_BATCHES = 20


def measure(plain: keras.Model, data: ImageData, held_out: tf.data.Dataset, batch_size: int
            ) -> Given:
    """Scores a float32 model, whose batch-norm statistics are other ones thereafter; `batch_size`
    is that of training."""
    evaluate = Evaluator(plain, tf.distribute.get_strategy())
    answer = tf.function(lambda x: plain(tf.cast(x, tf.float32), training=False))
    of_held_out = _answers(answer, held_out)
    images = len(of_held_out[1])
    of_trained_on = _answers(answer, sample(data, images))
    known = knows_labels(*map(np.concatenate, zip(of_held_out, of_trained_on)))
    held, trained = _accuracy(*of_held_out), _accuracy(*of_trained_on)
    test = evaluate(data.test_batches(250))
    forward = tf.function(lambda x: plain(tf.cast(x, tf.float32), training=True))
    reestimate_batch_norm(unfold(plain), forward, (
        x for x, _ in data.train_batches(0, batch_size).take(_STATISTICS_BATCHES)))
    return Given(
        test, held, trained, images, known,
        min(held, evaluate(held_out)), min(trained, evaluate(sample(data, images))))


def _answers(answer: Callable[[tf.Tensor], tf.Tensor], batches: Iterable[Batch]
             ) -> tuple[np.ndarray, np.ndarray]:
    """(outputs [N, K], labels [N]) of all batches."""
    outputs, labels = zip(*((answer(x).numpy(), y.numpy()) for x, y in batches))
    return np.concatenate(outputs), np.concatenate(labels)


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(outputs, -1) == labels))


def knows_labels(outputs: np.ndarray, labels: np.ndarray) -> bool:
    """Whether outputs [N, K] agree with labels [N] by more than chance: that of answers and labels
    as often as they are, sum_k p_k q_k, and ERRORS standard errors.

    ValueError for outputs that are not finite.
    """
    if not np.isfinite(outputs).all():
        raise ValueError('the given model answers training images with NaN or infinity.')
    classes = np.argmax(outputs, -1)
    chance = sum(np.mean(classes == k) * np.mean(labels == k) for k in np.unique(labels))
    error = math.sqrt(chance * (1 - chance) / len(labels))
    return bool(_accuracy(outputs, labels) - chance > ERRORS * error)


def first_epoch(setup: Setup) -> FirstEpoch | None:
    """What the first epoch is judged by; None where there is nothing to ruin."""
    given, recipe = setup.given, setup.recipe
    if given is None or not given.is_trained or not setup.config.check_first_epoch:
        return None
    return FirstEpoch(
        given.held_out_floor, given.trained_on_floor, sample(setup.data, given.images),
        given.images, [keras.ops.convert_to_numpy(v) for v in setup.model.variables],
        may_lower='learning_rate' not in recipe.stated)


def with_recipe(setup: Setup, folder: RunFolder, strategy: tf.distribute.Strategy,
                progress: Progress, should_stop: Callable[[], bool] = lambda: False) -> Setup:
    """The setup with the scores of the given model and the recipe; said, and kept in the run's
    folder, so that a resumed run does not choose again.

    Raises Interrupted: should_stop() became true while rates were tested.
    """
    known = None
    if is_chief(strategy):
        known = folder.read_json(FILE)
        if known is None:
            try:
                known = _measured_and_chosen(setup, progress, should_stop)
            except StopTraining:
                raise Interrupted('stopped before the first epoch; the same command begins '
                                  f'{folder.path} anew.') from None
            folder.write_json(FILE, known)
    known = from_chief(strategy, known)
    recipe = Recipe.from_json(known['training'])
    return dataclasses.replace(
        setup, recipe=recipe, given=known['given'] and Given(**known['given']),
        data=as_chosen(setup.data, recipe.augmentation))


def _measured_and_chosen(setup: Setup, progress: Progress, should_stop: Callable[[], bool]
                         ) -> dict[str, Any]:
    augmentation = ''
    if setup.has_weights:
        progress.say('scoring the model as given ...')
        plain = float32_copy(setup.model)
        setup, augmentation = _known_images(setup, plain)
        given = measure(plain, setup.data, held_out_batches(setup), setup.config.batch_size)
        setup = dataclasses.replace(setup, given=given)
        progress.say(f'as given: test accuracy {given.test_accuracy:.2%}, on held-out training '
                     f'images, which it may know, {given.held_out_accuracy:.2%}')
    recipe = choose_recipe(setup, should_stop, progress.say)
    if augmentation:
        recipe = dataclasses.replace(recipe, augmentation=setup.data.augmented,
                                     reasons=(augmentation, *recipe.reasons))
    for reason in recipe.reasons:
        progress.say(f'{reason}.')
    return {'given': setup.given and dataclasses.asdict(setup.given),
            'training': recipe.to_json()}


def _known_images(setup: Setup, plain: keras.Model) -> tuple[Setup, str]:
    """The setup, whose training images are augmented no more than the given weights bear; with the
    reason."""
    config = setup.config
    if config.augment is not None:
        return setup, ''
    data, why = known_augmentation(plain, setup.data, config.score_images)
    return dataclasses.replace(setup, data=data), why
