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

from tfprune.data.image_data import ImageData
from tfprune.pruning.surgery import float32_copy
from tfprune.runs.first_epoch import FirstEpoch
from tfprune.runs.known_augmentation import as_chosen, known_augmentation, sample
from tfprune.runs.recipe import FILE, Given, Recipe
from tfprune.runs.recipe_choice import choose_recipe
from tfprune.runs.state import Interrupted, State
from tfprune.search.problem import Problem
from tfprune.significance import ERRORS
from tfprune.structure.graph import unfold
from tfprune.training.batch_norm import reestimate_batch_norm
from tfprune.training.distribution import from_chief
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


def first_epoch(state: State, problem: Problem) -> FirstEpoch | None:
    """What the first epoch is judged by; None where there is nothing to ruin."""
    given = state.given
    if given is None or not given.is_trained or not state.config.training.check_first_epoch:
        return None
    return FirstEpoch(
        given.held_out_floor, given.trained_on_floor, sample(state.data, given.images),
        given.images, [keras.ops.convert_to_numpy(v) for v in problem.model.variables],
        may_lower='learning_rate' not in state.recipe.stated)


def judge_given(state: State, problem: Problem) -> None:
    """Adds to the state the scores of the given model, the recipe, and training images augmented no
    more than it bears; said, and kept in the run's folder, so that a resumed run does not choose
    again.

    Raises Interrupted: the run was asked to stop while rates were tested.
    """
    known = None
    if state.is_chief:
        known = state.folder.read_json(FILE)
        if known is None:
            try:
                known = _measured_and_chosen(state, problem)
            except StopTraining:
                raise Interrupted('stopped before the first epoch; the same command begins '
                                  f'{state.folder.path} anew.') from None
            state.folder.write_json(FILE, known)
    known = from_chief(state.strategy, known)
    state.recipe = Recipe.from_json(known['training'])
    state.given = known['given'] and Given(**known['given'])
    state.data = as_chosen(state.data, state.recipe.augmentation)


def _measured_and_chosen(state: State, problem: Problem) -> dict[str, Any]:
    config, say, augmentation = state.config, state.progress.say, ''
    if state.has_weights:
        say('scoring the model as given ...')
        plain = float32_copy(problem.model)
        if config.data.augment is None:
            state.data, augmentation = known_augmentation(plain, state.data,
                                                          config.scoring.score_images)
        state.given = measure(plain, state.data, state.held_out_batches(),
                              config.training.batch_size)
        say(f'as given: test accuracy {state.given.test_accuracy:.2%}, on held-out training '
            f'images, which it may know, {state.given.held_out_accuracy:.2%}')
    recipe = choose_recipe(state, problem)
    if augmentation:
        recipe = dataclasses.replace(recipe, augmentation=state.data.augmented,
                                     reasons=(augmentation, *recipe.reasons))
    for reason in recipe.reasons:
        say(f'{reason}.')
    return {'given': state.given and dataclasses.asdict(state.given),
            'training': recipe.to_json()}
