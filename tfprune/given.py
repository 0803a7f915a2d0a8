"""A model with weights of its own: what it scores as given, and how its weights are trained on.

Whatever training does to it is judged against what the user had. Rates for random weights ruin
trained ones; so, where a flag does not say otherwise,

    compiled         the optimizer and the learning rate that the model was compiled with; after
                     surgery a higher one where that cannot bring a copy of uniform widths back, as
                     a rate that training has let decay
    not compiled     SGD with momentum; the rate before surgery by `largest_harmless`, that after
                     surgery by `best_recovering` on a copy of uniform widths (tfprune.rate_test)
    random weights   SGD with momentum at 0.1, after surgery 0.05; so, too, a model whose accuracy
                     is that of chance

and no weight decay beside the regularizers of the user's own model.
"""
import dataclasses
import math
from typing import Any, Callable, Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune.batch_norm import reestimate_batch_norm
from tfprune.data import ImageData
from tfprune.distribution import from_chief, is_chief
from tfprune.first_epoch import FirstEpoch
from tfprune.graph import unfold
from tfprune.groups import trace_groups
from tfprune.known_augmentation import as_chosen, known_augmentation
from tfprune.masks import best_channels
from tfprune.methods import check_method
from tfprune.methods.controls import uniform_widths
from tfprune.models import CompiledOptimizer
from tfprune.recipe import FILE, FROM_RANDOM, Given, Recipe
from tfprune.run_setup import (Setup, criterion_batches, criterion_scores, held_out_batches)
from tfprune.runs import RunFolder
from tfprune.progress import Progress
from tfprune.rate_test import FACTORS, STEPS, RateTest, at_least, best_recovering, largest_harmless
from tfprune.seeding import derived_seed
from tfprune.significance import ERRORS, fell
from tfprune.surgery import prune_model
from tfprune.training import Batch, Evaluator, Optimisation

_STATISTICS_BATCHES = 20
_PLACE = 2 ** 20  # of the test's seed; no run has so many epochs


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


def sample(data: ImageData, images: int) -> tf.data.Dataset:
    """Batches of at least so many images that are trained on, not augmented, as far as there are
    such."""
    images = min(images, data.num_train)
    size = min(250, images)
    return data.calibration_batches(size, -(-images // size))


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
                progress: Progress) -> Setup:
    """The setup with the scores of the given model and the recipe; said, and kept in the run's
    folder, so that a resumed run does not choose again."""
    known = None
    if is_chief(strategy):
        known = folder.read_json(FILE)
        if known is None:
            known = _measured_and_chosen(setup, progress)
            folder.write_json(FILE, known)
    known = from_chief(strategy, known)
    recipe = Recipe.from_json(known['training'])
    return dataclasses.replace(
        setup, recipe=recipe, given=known['given'] and Given(**known['given']),
        data=as_chosen(setup.data, recipe.augmentation))


def _measured_and_chosen(setup: Setup, progress: Progress) -> dict[str, Any]:
    augmentation = ''
    if setup.has_weights:
        progress.say('scoring the model as given ...')
        plain = prune_model(setup.model, trace_groups(setup.model), {}, dtype_policy='float32')
        setup, augmentation = _known_images(setup, plain)
        given = measure(plain, setup.data, held_out_batches(setup), setup.config.batch_size)
        setup = dataclasses.replace(setup, given=given)
        progress.say(f'as given: test accuracy {given.test_accuracy:.2%}, on held-out training '
                     f'images {given.held_out_accuracy:.2%}')
    recipe = choose_recipe(setup)
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
    if config.augment is not None or check_method(config.method).decides_first:
        return setup, ''
    images = config.score_images
    data, why = known_augmentation(plain, setup.data, sample(setup.data, images), images)
    return dataclasses.replace(setup, data=data), why


def choose_recipe(setup: Setup) -> Recipe:
    """How a setup is trained; rates are tested where nothing else says them."""
    config, given, held_out = setup.config, setup.given, held_out_batches(setup)
    compiled = setup.compiled
    starts_trained = (given is not None and given.is_trained
                      and not check_method(config.method).decides_first)
    reasons: list[str] = []
    stated = {name: getattr(config, name) for name in (
        'learning_rate', 'fine_tune_learning_rate', 'weight_decay')
        if getattr(config, name) is not None}
    if compiled and not compiled.scheduled and compiled.learning_rate:
        before = after = compiled.learning_rate
        at = '' if 'learning_rate' in stated else f' at {before:g}'
        reasons.append(f'the model is compiled with {compiled.name}, which trains it on{at}')
        if starts_trained and 'fine_tune_learning_rate' not in stated:
            after = _not_decayed(setup, compiled, held_out, reasons)
    elif starts_trained:
        before, after = _tested(setup, compiled, held_out, reasons)
    elif compiled:
        before = after = compiled.learning_rate or 1e-3
        reasons.append(f'the model is compiled with {compiled.name}, whose own schedule is not '
                       f'followed; --schedule begins at {before:g}')
    else:
        before, after = FROM_RANDOM.learning_rate, FROM_RANDOM.fine_tune_learning_rate
        if given is not None and not given.is_trained:
            reasons.append('the given model does not answer better than chance, and is trained as '
                           'from random weights, by SGD')
    decay = 0.0 if given is not None or compiled else FROM_RANDOM.weight_decay
    if given is not None and fell(given.held_out_accuracy, given.held_out_floor, given.images):
        reasons.append(
            'the batch-norm statistics of the given model are not those of the training images as '
            f'they are augmented here: with theirs it scores {given.held_out_floor:.2%} in place '
            f'of {given.held_out_accuracy:.2%} on held-out images')
    if has_own_losses(setup.model):
        reasons.append("the model's own losses (regularizers, add_loss) are part of the loss, as "
                       'in fit')
    rates = {'learning_rate': before, 'fine_tune_learning_rate': after, 'weight_decay': decay}
    return Recipe(compiled.config if compiled else None, **rates | stated,
                  reasons=tuple(reasons), stated=tuple(stated))


def has_own_losses(model: keras.Model) -> bool:
    """Whether a pass through the model has losses of its own."""
    image = tf.TensorSpec([1, *model.inputs[0].shape[1:]], model.inputs[0].dtype)
    found: list[int] = []

    def forward(pixels: tf.Tensor) -> None:
        model(pixels, training=True)
        found.append(len(model.losses))

    tf.function(forward).get_concrete_function(image)
    return any(found)


def _tested(setup: Setup, compiled: CompiledOptimizer | None, held_out: tf.data.Dataset,
            reasons: list[str]) -> tuple[float, float]:
    """Rates before and after surgery by tests on copies; those that flags say are not tested."""
    config = setup.config
    largest = (compiled.learning_rate if compiled else 0.0) or FROM_RANDOM.learning_rate
    rates = [largest * factor for factor in FACTORS]
    before, after = config.learning_rate, config.fine_tune_learning_rate
    if before is None:
        before = largest
        if config.search_epochs:
            before, why = largest_harmless(_test(setup, compiled, held_out, {}), rates)
            reasons.append(f'learning rate before surgery: {why}')
    if after is None:
        after = before
        if config.fine_tune_epochs and _narrows(setup):
            masks = _uniform_masks(setup)
            after, why = best_recovering(_test(setup, compiled, held_out, masks), rates)
            reasons.append(f'learning rate after surgery: {why}')
        elif config.fine_tune_epochs and not config.search_epochs:
            after, why = largest_harmless(_test(setup, compiled, held_out, {}), rates)
            reasons.append(f'learning rate: {why}')
    return before, after


def _not_decayed(setup: Setup, compiled: CompiledOptimizer, held_out: tf.data.Dataset,
                 reasons: list[str]) -> float:
    """The rate after surgery of an optimizer whose own may have decayed."""
    config, rate = setup.config, compiled.learning_rate
    if not config.fine_tune_epochs or not _narrows(setup):
        return rate
    steps = config.fine_tune_epochs * (setup.data.num_train // config.batch_size)
    after, why = at_least(_test(setup, compiled, held_out, _uniform_masks(setup)), rate, steps)
    if why:
        reasons.append(f'learning rate after surgery: {why}; as it is compiled it would be too low '
                       'to make up for lost channels')
    return after


def _narrows(setup: Setup) -> bool:
    """Whether the method removes channels."""
    method = check_method(setup.config.method)
    return method.prunes and method.needs_budget(method.parse(setup.config))


def _uniform_masks(setup: Setup) -> dict[str, np.ndarray]:
    widths = setup.budget.as_dict(uniform_widths(setup.budget))
    return best_channels(setup.groups, widths, criterion_scores(setup))


def _test(setup: Setup, compiled: CompiledOptimizer | None, held_out: tf.data.Dataset,
          masks: Mapping[str, np.ndarray]) -> RateTest:
    config, data = setup.config, setup.data
    epochs = -(-STEPS // (data.num_train // config.batch_size))
    batches = data.train_batches(config.total_epochs, config.batch_size)
    for epoch in range(1, epochs):
        batches = batches.concatenate(
            data.train_batches(config.total_epochs + epoch, config.batch_size))
    calibration = [images for images, _ in criterion_batches(config, data)]
    return RateTest(
        prune_model(setup.model, setup.groups, masks),
        Optimisation(config.momentum, 0.0, config.label_smoothing, config.batch_size,
                     optimizer=compiled.config if compiled else None),
        batches.take(STEPS), calibration, list(held_out), derived_seed(config.seed, _PLACE))
