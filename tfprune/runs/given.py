"""A model with weights of its own: what it scores as given, and how its weights are trained on.

Whatever training does to it is judged against what the user had; rates for random weights ruin
trained ones, see tfprune.runs.recipe_choice.
"""
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data.examples import Examples
from tfprune.data.image_data import ImageData
from tfprune.pruning.surgery import float32_copy, plain_copy
from tfprune.runs.first_epoch import FirstEpoch
from tfprune.runs.known_augmentation import as_chosen, known_augmentation, sample
from tfprune.runs.recipe import FILE, Given, Recipe
from tfprune.runs.recipe_choice import choose_recipe
from tfprune.runs.state import Interrupted, State
from tfprune.runs.statistics import calibrate, settle, settle_if_lagging, shown_examples
from tfprune.search.problem import Problem
from tfprune.significance import Scored
from tfprune.structure.layer_state import KeptState
from tfprune.tasks.base import Targets, Task, scored, spread_of
from tfprune.training.distribution import from_chief
from tfprune.training.evaluation import Evaluator
from tfprune.training.seeding import NO_EPOCH, derived_seed
from tfprune.training.step import Batch, StopTraining

_PLACE = 2  # of its seed, beside those of tfprune.runs.teacher and tfprune.runs.searching


def measure(plain: keras.Model, task: Task, data: Examples, held_out: tf.data.Dataset,
            batch_size: int) -> Given:
    """Scores a float32 model, whose batch-norm statistics are other ones thereafter; `batch_size`
    is that of training."""
    strategy = tf.distribute.get_strategy()
    evaluate = Evaluator(plain, strategy, task=task)
    answers = _Answers(plain, task)
    held = answers.scored(held_out)
    trained = answers.scored(sample(data, held.examples))
    known = task.knows(np.concatenate(answers.evidence))
    test = evaluate.metrics(data.test_batches(250))
    settle(plain, task, shown_examples(data, batch_size), strategy)
    held_floor, trained_floor = (
        min(before, evaluate.scored(batches), key=lambda each: each.mean)
        for before, batches in ((held, held_out), (trained, sample(data, held.examples))))
    return Given(test, held, trained, known, held_floor, trained_floor)


class _Answers:
    """Scores of a model's answers; of all batches the evidence that it knows something."""

    def __init__(self, plain: keras.Model, task: Task):
        self.evidence: list[np.ndarray] = []

        @tf.function(reduce_retracing=True, autograph=False)
        def of_batch(x: Any, targets: Targets) -> tuple[tf.Tensor, tf.Tensor]:
            outputs = task.forward(plain, x, training=False)
            scores = task.scores(outputs, *targets)
            return spread_of(scores), task.evidence(scores, outputs, *targets)

        self._of_batch = of_batch

    def scored(self, batches: Iterable[Batch]) -> Scored:
        """The mean score of all batches."""
        total = np.zeros(3)
        for x, *targets in batches:
            spread, evidence = self._of_batch(x, tuple(targets))
            total += spread.numpy()
            self.evidence.append(evidence.numpy())
        return scored(total)


def first_epoch(state: State, problem: Problem) -> FirstEpoch | None:
    """What the first epoch is judged by; None where there is nothing to ruin."""
    given = state.given
    if given is None or not given.is_trained or not state.config.training.check_first_epoch:
        return None
    return FirstEpoch(
        given.held_out_floor, given.trained_on_floor,
        sample(state.data, given.held_out.examples),
        [keras.ops.convert_to_numpy(v) for v in problem.model.variables],
        may_lower='learning_rate' not in state.recipe.stated, shown=state.task.shown_score,
        of_pictures=state.task.is_classification)


def judge_given(state: State, problem: Problem) -> None:
    """Adds to the state the scores of the given model, the recipe, and training images augmented no
    more than it bears; said, and kept in the run's folder, so that a resumed run does not choose
    again.

    Raises Interrupted: the run was asked to stop while rates were tested.
    """
    known = from_chief(state.strategy, state.is_chief and state.folder.read_json(FILE) or None)
    if known is None:
        found = _settled(state, problem)
        if state.is_chief:
            try:
                known = _measured_and_chosen(state, problem, found)
            except StopTraining:
                raise Interrupted('stopped before the first epoch; the same command begins '
                                  f'{state.folder.path} anew.') from None
            state.folder.write_json(FILE, known)
        known = from_chief(state.strategy, known)
    elif (known['given'] or {}).get('found'):
        calibrate(state, problem.model, _seed(state))
    state.recipe = Recipe.from_json(known['training'])
    state.given = known['given'] and Given.from_json(known['given'])
    state.data = as_chosen(state.data, state.recipe.augmentation)
    if state.recipe.distillation and state.given and state.given.is_trained:
        with state.strategy.scope():
            state.given_model = plain_copy(problem.model)  # training has not begun


@dataclasses.dataclass(frozen=True)
class _Found:
    """A given model with the batch-norm statistics that it came with: its scores on the test
    examples and on held-out ones."""
    test: Mapping[str, float]
    held_out: Scored


def _settled(state: State, problem: Problem) -> _Found | None:
    """What the given model was with statistics that lagged, in place of which it has others from
    here on; else None."""
    model = problem.model
    lagging = state.has_weights and settle_if_lagging(state, model, _seed(state))
    if not lagging:
        return None
    others = KeptState([model])
    lagging.statistics.restore()
    test = Evaluator(model, state.strategy, task=state.task).metrics(state.data.test_batches(250))
    others.restore()
    return _Found(test, lagging.held_out)


def _seed(state: State) -> int:
    return derived_seed(state.config.seed, NO_EPOCH, _PLACE)


def _measured_and_chosen(state: State, problem: Problem, found: _Found | None) -> dict[str, Any]:
    config, say, augmentation = state.config, state.progress.say, ''
    if state.has_weights:
        say('scoring the model as given ...')
        plain = float32_copy(problem.model)
        if config.data.augment is None and isinstance(state.data, ImageData):
            state.data, augmentation = known_augmentation(plain, state.data,
                                                          config.scoring.score_images)
        state.given = measure(plain, state.task, state.data, state.held_out_batches(),
                              config.training.batch_size)
        if found and state.given.is_trained:
            state.given = dataclasses.replace(state.given, found=found.test)
        measure_, held = state.task.measure, state.given.held_out
        say(f'as given: test {measure_.name} {measure_.shown(state.given.test[measure_.name])}; on '
            f'held-out training {state.task.examples}, which it may know, '
            f'{state.task.shown_score(held.mean)}')
    recipe = choose_recipe(state, problem)
    if augmentation:
        recipe = dataclasses.replace(recipe, augmentation=state.data.augmented,
                                     reasons=(augmentation, *recipe.reasons))
    if found and state.given and state.given.found:
        shown, examples = state.task.shown_score, state.task.examples
        recipe = dataclasses.replace(recipe, reasons=(
            'the batch-norm statistics of the given model lag behind its weights: re-estimated by '
            f'training {examples} it scores {shown(state.given.held_out.mean)} in place of '
            f'{shown(found.held_out.mean)} on held-out ones, and is taken so', *recipe.reasons))
    for reason in recipe.reasons:
        say(f'{reason}.')
    return {'given': state.given and dataclasses.asdict(state.given),
            'training': recipe.to_json()}
