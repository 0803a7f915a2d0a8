"""What rewards say of the end: decisions, each scored, fine-tuned and tested.

A quarter of the decisions are random pruning rates, one near the uniform widths, one of a policy
that has learnt from 100 scores, one near the knapsack's widths; the first two are the uniform ones
and the knapsack's. Of each, on held-out training images, those that a search scores on and others:

    reward             accuracy of the sub-network, normalized by each batch, as a search scores it
    step 0, 10, …      accuracy and cross-entropy of the pruned model after so many training steps,
                       its statistics re-estimated: moving averages lag behind weights that move

and the test accuracy after the last epoch. The table has Spearman's rank correlation of each with
that, and its 95% interval by bootstrap over decisions. Fine-tuning as a run does it: SGD, labels
and the answers of the given model.
"""
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.benchmarks.trained import check_asked, trained_model
from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.costs.proportional import uniform_widths
from tfprune.data.image_data import ImageData
from tfprune.data.loading import load_data
from tfprune.report.intervals import spearman
from tfprune.methods.controls import random_widths
from tfprune.methods.knapsack import worth_most
from tfprune.methods.random_search import near
from tfprune.pruning.importance import criterion_batches, score_groups
from tfprune.pruning.masks import Masks, best_channels
from tfprune.pruning.options import PruningOptions
from tfprune.pruning.reconstruction import EXAMPLES, Reconstruction
from tfprune.pruning.surgery import prune_model
from tfprune.search.agents import PPO, play
from tfprune.search.environment import RelativeEnv
from tfprune.search.scoring import SubnetworkScorer
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.graph import unfold
from tfprune.structure.groups import trace_groups
from tfprune.structure.layer_state import KeptState
from tfprune.training.batch_norm import reestimate_batch_norm
from tfprune.training.schedule import Schedule
from tfprune.training.seeding import set_seed
from tfprune.training.evaluation import Evaluator
from tfprune.training.step import Optimization, Trainer
from tfprune.training.teacher import Teacher

OPTIONS = ('initial_weights', 'cifar10_dir', 'image_folder', 'image_size', 'batch_size',
           'search_model', 'search_dataset', 'reward_decisions', 'reward_first', 'reward_epochs',
           'reward_images', 'reward_macs', 'reward_dtype', 'reward_criterion')
KINDS = ('near uniform', 'near knapsack', 'random', 'policy')
STEPS = (0, 10, 50, 200)
RATE = 0.02
_OF_POLICY = 5, 20  # rounds, episodes each
_NOISE = 0.3  # of the logarithm of a width


def rows(only: Sequence[str] = (), *, initial_weights: str = '', cifar10_dir: str = '',
         image_folder: str = '', image_size: str = '', batch_size: int = 128,
         search_model: str = 'resnet20', search_dataset: str = 'cifar10',
         reward_decisions: int = 24, reward_first: int = 0, reward_epochs: int = 3,
         reward_images: int = 5000, reward_macs: float = 0.5, reward_dtype: str = 'float32',
         reward_criterion: str = 'taylor') -> Iterator[dict[str, Any]]:
    """Yields a row a decision from the number `reward_first` on; `only` names kinds. A fifth of
    `reward_images` scores; `reward_macs` is the share of the MACs that stays. The data set `folder`
    is `image_folder`.

    Raises:
        ValueError: for another name, or no weights.
    """
    check_asked('rewards are', only, KINDS, initial_weights)
    data = load_data(search_dataset, reward_images=reward_images,
                     data_dir=image_folder if search_dataset == 'folder' else cifar10_dir,
                     image_size=image_size or None)
    dense = trained_model(data, search_model, initial_weights, reward_dtype)
    study = Study(data, dense, reward_macs, reward_criterion, reward_epochs, batch_size)
    for number, (kind, widths) in enumerate(study.decisions(reward_decisions)):
        if number >= reward_first and kind in (only or KINDS):
            yield {'number': number, 'kind': kind, 'macs': reward_macs, 'dtype': reward_dtype,
                   'criterion': reward_criterion, 'widths': widths.tolist(), **study.run(widths)}


class Study:
    """Decisions on one model with weights; `criterion` chooses the channels of all of them."""

    def __init__(self, data: ImageData, dense: keras.Model, macs: float, criterion: str,
                 epochs: int, batch_size: int):
        self.data, self.dense, self.epochs, self.batch_size = data, dense, epochs, batch_size
        self.strategy = tf.distribute.get_strategy()
        self.groups = trace_groups(self.dense).without_residual()
        self.costs = CostModel(self.dense, self.groups)
        self.budget = Budget(self.groups, self.costs, {'macs': macs})
        batches = data.reward_batches(data.num_reward // 10)
        self.held_out = {'scored': batches.take(2), 'others': batches.skip(2)}
        self.reconstruction = Reconstruction(self.dense, self.groups,
                                             data.plain_batches(batch_size, EXAMPLES))
        self.reconstruction.observe()
        seen = criterion_batches(data, PruningOptions(), batch_size)
        scores = {name: score_groups(self.dense, self.groups, criterion=name, data=seen,
                                     reconstruction=self.reconstruction)
                  for name in {criterion, 'taylor'}}
        self._scores, self._taylor = scores[criterion], scores['taylor']
        self.score = SubnetworkScorer(Subnetwork(self.dense, self.groups, self.reconstruction),
                                      self.strategy, self.held_out['scored'])

    def decisions(self, count: int) -> list[tuple[str, np.ndarray]]:
        """(kind, widths [G]) of so many decisions."""
        centers = [uniform_widths(self.budget), worth_most(
            self.budget, [self._taylor[name] for name in self.budget.names])]
        drawn, found = self._of_policy(-(-count // len(KINDS))), []
        for number in range(count):
            place, rng = number % len(KINDS), np.random.default_rng(number)
            if place < len(centers):
                widths = centers[place]
                if number >= len(centers):
                    widths = near(widths / self.budget.dense_widths, self.budget, _NOISE, rng)
            elif KINDS[place] == 'random':
                widths = random_widths(self.budget, rng)
            else:
                widths = drawn[number // len(KINDS)]
            found.append((KINDS[place], widths))
        return found

    def run(self, widths: np.ndarray) -> dict[str, Any]:
        """What a decision scores, and where it ends."""
        begun, masks = time.perf_counter(), self._masks(self.budget.as_dict(widths))
        row: dict[str, Any] = {'reward': self.score(masks)}
        model = prune_model(self.dense, self.groups, masks, reconstruction=self.reconstruction)
        set_seed(0, model)
        graph = unfold(model)
        forward = tf.function(lambda x: model(tf.cast(x, tf.float32), training=True))

        def settle() -> None:
            reestimate_batch_norm(graph, forward, (
                x for x, _ in self.data.calibration_batches(self.data.num_reward // 10, 2)))

        settle()
        evaluate = Evaluator(model, self.strategy)
        trainer = Trainer(model, self.strategy, Optimization(global_batch_size=self.batch_size),
                          teacher=Teacher(self.dense, 0.9, 4.0))
        per_epoch = self.data.num_train // self.batch_size
        schedule = Schedule('cosine', RATE, self.epochs * per_epoch)

        def measure(step: int, _: Any = None) -> None:
            if step in STEPS:
                moving = KeptState(graph.layers.values())
                settle()
                for part, batches in self.held_out.items():
                    row[f'step {step}, {part}'] = evaluate.metrics(batches)
                moving.restore()

        def rate(first: int, step: int) -> float:
            return schedule(first + step)

        measure(0)
        for epoch in range(self.epochs):
            trainer.train_epoch(self.data.train_batches(epoch, self.batch_size),
                                functools.partial(rate, epoch * per_epoch),
                                on_step=None if epoch else measure)
        row['end, others'] = evaluate.metrics(self.held_out['others'])
        row['test_accuracy'] = evaluate(self.data.test_batches(500))
        return row | {'epochs': self.epochs, 'seconds': round(time.perf_counter() - begun, 1)}

    def _masks(self, widths: Mapping[str, int]) -> Masks:
        return best_channels(self.groups, widths, self._scores)

    def _of_policy(self, count: int) -> list[np.ndarray]:
        """Widths that a policy draws when it has learnt."""
        rounds, episodes = _OF_POLICY
        envs = [RelativeEnv(self.groups, self.costs, lambda widths: self.score(self._masks(widths)),
                            budget=self.budget) for _ in range(episodes)]
        agent = PPO(envs[0], learning_rate=0.0, updates=20, episodes=episodes)
        for round_ in range(rounds):
            agent.observe(play(envs, agent.collect_policy)[0], on_policy=True, epoch=round_)
            agent.update()
        play(envs, agent.collect_policy)
        return [np.array(list(env.widths.values())) for env in envs[:count]]


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns Markdown tables: rank correlations with the test accuracy; the kinds of decisions."""
    ends = [row['test_accuracy'] for row in found]
    signals = {'reward': [row['reward'] for row in found]}
    for name in found[0] if found else ():
        if name.startswith(('step', 'end')):
            for metric, sign in (('accuracy', 1), ('loss', -1)):
                shown = 'accuracy' if sign > 0 else 'cross-entropy, negative'
                signals[f'{name}: {shown}'] = [sign * row[name][metric] for row in found]
    lines = [f'| signal, {len(found)} decisions | rank correlation with the test accuracy | 95% |',
             '|---|---:|---:|']
    for name, values in signals.items():
        ranks = spearman(values, ends)
        lines.append(f'| {name} | {ranks.value:.2f} | {ranks.low:.2f} to {ranks.high:.2f} |')
    lines += ['', '| decisions | n | test accuracy | best |', '|---|---:|---:|---:|']
    for kind in KINDS:
        own = [row['test_accuracy'] for row in found if row['kind'] == kind]
        if own:
            spread = np.std(own, ddof=1) if len(own) > 1 else np.nan
            lines.append(f'| {kind} | {len(own)} | {np.mean(own):.2%} ± {100 * spread:.2f} | '
                         f'{max(own):.2%} |')
    return '\n'.join(lines)
