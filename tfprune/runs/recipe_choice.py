"""How weights are trained where flags do not say it: the recipe, and why.

    compiled         the optimizer and the learning rate that the model was compiled with; after
                     surgery a higher one where that cannot bring a copy of uniform widths back, as
                     a rate that training has let decay
    not compiled     SGD with momentum; the rate before surgery by `largest_harmless`, that after
                     surgery by `best_recovering` on a copy of uniform widths (training.rate_test)
    random weights   SGD with momentum at 0.1, after surgery 0.05; so, too, a model whose accuracy
                     is that of chance

and no weight decay beside the regularizers of the user's own model.
"""
from typing import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune.methods import check_method
from tfprune.methods.controls import uniform_widths
from tfprune.pruning.masks import best_channels
from tfprune.pruning.surgery import prune_model
from tfprune.runs.problem import Setup, criterion_batches, criterion_scores, held_out_batches
from tfprune.runs.recipe import FROM_RANDOM, Recipe
from tfprune.significance import fell
from tfprune.training.rate_test import (FACTORS, STEPS, RateTest, at_least, best_recovering,
                                        largest_harmless)
from tfprune.training.seeding import derived_seed
from tfprune.training.step import Optimization

_PLACE = 2 ** 20  # of the test's seed; no run has so many epochs


def choose_recipe(setup: Setup, should_stop: Callable[[], bool] = lambda: False,
                  say: Callable[[str], None] = lambda _: None) -> Recipe:
    """How a setup is trained; rates are tested where nothing else says them.

    Args:
        should_stop: asked in tests; True raises StopTraining.
        say: is told what is tested, which takes up to minutes.
    """
    config, given, compiled = setup.config, setup.given, setup.compiled
    starts_trained = (given is not None and given.is_trained
                      and not check_method(config.method).decides_first)
    reasons: list[str] = []
    rates = _Rates(setup, should_stop, say, reasons)
    stated = {name: getattr(config, name) for name in (
        'learning_rate', 'fine_tune_learning_rate', 'weight_decay')
        if getattr(config, name) is not None}
    if compiled and not compiled.scheduled and compiled.learning_rate:
        before = after = compiled.learning_rate
        reasons.append(f'the model is compiled with {compiled.name}, which trains it on at '
                       f'{stated.get("learning_rate", before):g}')
        if starts_trained and 'fine_tune_learning_rate' not in stated:
            after = rates.not_decayed(compiled.learning_rate)
    elif starts_trained:
        before, after = rates.tested()
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
    chosen = {'learning_rate': before, 'fine_tune_learning_rate': after, 'weight_decay': decay}
    return Recipe(compiled.config if compiled else None, **chosen | stated,
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


class _Rates:
    """Learning rates by tests on copies.

    Args:
        reasons: a sentence is added for each rate that is chosen.
    """

    def __init__(self, setup: Setup, should_stop: Callable[[], bool], say: Callable[[str], None],
                 reasons: list[str]):
        self._setup, self._should_stop, self._say, self._reasons = setup, should_stop, say, reasons
        method = check_method(setup.config.method)
        self._narrows = method.prunes and method.needs_budget(method.parse(setup.config))

    def tested(self) -> tuple[float, float]:
        """Rates before and after surgery; those that flags say are not tested."""
        config, compiled = self._setup.config, self._setup.compiled
        largest = (compiled.learning_rate if compiled else 0.0) or FROM_RANDOM.learning_rate
        rates = [largest * factor for factor in FACTORS]
        before, after = config.learning_rate, config.fine_tune_learning_rate
        if before is None:
            before = largest
            if config.search_epochs:
                before, why = largest_harmless(self._test({}), rates)
                self._reasons.append(f'learning rate before surgery: {why}')
        if after is None:
            after = before
            if config.fine_tune_epochs and self._narrows:
                after, why = best_recovering(self._test(self._uniform_masks()), rates)
                self._reasons.append(f'learning rate after surgery: {why}')
            elif config.fine_tune_epochs and not config.search_epochs:
                after, why = largest_harmless(self._test({}), rates)
                self._reasons.append(f'learning rate: {why}')
        return before, after

    def not_decayed(self, rate: float) -> float:
        """The rate after surgery of an optimizer that is compiled with `rate`."""
        config = self._setup.config
        if not config.fine_tune_epochs or not self._narrows:
            return rate
        steps = config.fine_tune_epochs * (self._setup.data.num_train // config.batch_size)
        after, why = at_least(self._test(self._uniform_masks()), rate, steps)
        if why and after != rate:
            why += ('; as it is compiled it would be too low to make up for lost channels (before '
                    'surgery it is kept: --learning_rate says another)')
        if why:
            self._reasons.append(f'learning rate after surgery: {why}')
        return after

    def _uniform_masks(self) -> dict[str, np.ndarray]:
        setup = self._setup
        widths = setup.budget.as_dict(uniform_widths(setup.budget))
        return best_channels(setup.groups, widths, criterion_scores(setup))

    def _test(self, masks: Mapping[str, np.ndarray]) -> RateTest:
        setup, config, data = self._setup, self._setup.config, self._setup.data
        self._say('testing learning rates on a copy' + ', pruned to uniform widths' * bool(masks)
                  + ' ...')
        epochs = -(-STEPS // (data.num_train // config.batch_size))
        batches = data.train_batches(config.total_epochs, config.batch_size)
        for epoch in range(1, epochs):
            batches = batches.concatenate(
                data.train_batches(config.total_epochs + epoch, config.batch_size))
        return RateTest(
            prune_model(setup.model, setup.groups, masks),
            Optimization(config.momentum, 0.0, config.label_smoothing, config.batch_size,
                         optimizer=setup.compiled.config if setup.compiled else None),
            batches.take(STEPS), [images for images, _ in criterion_batches(config, data)],
            list(held_out_batches(setup)), derived_seed(config.seed, _PLACE), self._should_stop,
            self._say)
