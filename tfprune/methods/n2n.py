"""N2N learning: network to network compression via policy gradient reinforcement learning.
Ashok, Rhinehart, Beainy, Kitani, ICLR 2018, arXiv 1709.06030.

A teacher, the dense model, is compressed in two stages by REINFORCE (search.agents.reinforce):

    removal      a_l ~ pi(. | s_1..s_L)           keep or remove each removable block, bidirectional
    shrinkage    a_g ~ pi(. | s_1..s_g, a_<g)     a factor of .25 .5 .6 .7 .8 .9 1 for each group
    R = C (2 - C) acc / acc_teacher,  C = 1 - cost / cost_teacher;  R = -1 for what cannot be

A student is built (pruning.depth, pruning.surgery) with the teacher's current weights and
scored after a short training on the teacher's logits by mean squared error. Rewards are known by
architecture: none is trained twice. The best student of the first stage is shrunk in the second.
After surgery the decision is fine-tuned towards labels and the teacher's answers, as that of any
method is here (--distillation).

Deviations: 1. cost is what the budget limits (of several limits that which is least compressed),
where the paper has parameters. 2. The budget is exact: a removal that leaves less than it allows is
invalid; shrinkage is bounded by it (costs.budget), so that C is nearly one number in the second
stage, and accuracy decides. 3. What removes nothing has R = 0 as in the paper, so that any valid
removal is better; without one all blocks stay. 4. Students train for --n2n.student_steps
steps with Adam, not for epochs; the paper's five students an iteration are one round. 5. Removable
are residual blocks with an identity shortcut, not single layers; channels are those of groups, by
the configured criterion, by l1 where that is 'auto': each removal would be observed anew.
6. Students run on one replica. 7. In fine-tuning the teacher is followed by its softened answers
(tasks.soft_targets): the squared error of logits multiplies a learning rate meant for labels by the
tens.
"""
import dataclasses
import functools
import hashlib
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tf_agents.environments import py_environment
from tf_agents.specs import array_spec
from tf_agents.trajectories import time_step as ts

from tfprune.costs.budget import InfeasibleBudgetError
from tfprune.costs.proportional import uniform_widths
from tfprune.methods.base import Decision, EpochResult, Method
from tfprune.methods.options import N2nOptions
from tfprune.pruning.depth import Block, JointRemovalError, removable_blocks
from tfprune.pruning.importance import Batch
from tfprune.pruning.masks import Masks, best_channels
from tfprune.pruning.surgery import prune_model
from tfprune.search.agents import mean_and_error, play
from tfprune.search.agents.base import specs
from tfprune.search.agents.reinforce import Reinforce, make_autoregressive, make_bidirectional
from tfprune.search.environment import PruningEnv
from tfprune.search.problem import Problem
from tfprune.search.scoring import finite_reward
from tfprune.training.distillation import StudentTrainer

FACTORS = (.25, .5, .6, .7, .8, .9, 1.)
INVALID = -1.0


def reward(accuracy: float, teacher_accuracy: float, cost: float) -> float:
    """R = C (2 - C) acc / acc_teacher; `cost` is relative to the teacher's."""
    compression = 1 - cost
    return compression * (2 - compression) * accuracy / max(teacher_accuracy, 1e-9)


class RemovalEnv(py_environment.PyEnvironment):
    """All blocks at once: one step, a table float32 [L, F] of them -> int32 [L], 1 = removed.

    Args:
        table: features of the blocks in [0, 1].
        evaluate: bool [L], which are removed -> reward.
    """

    def __init__(self, table: np.ndarray, evaluate: Callable[[np.ndarray], float]):
        super().__init__(handle_auto_reset=True)
        self._table, self._evaluate = table.astype(np.float32), evaluate
        self.removed = np.zeros(len(table), bool)

    def action_spec(self) -> array_spec.BoundedArraySpec:
        return array_spec.BoundedArraySpec((len(self._table),), np.int32, 0, 1, name='removed')

    def observation_spec(self) -> array_spec.BoundedArraySpec:
        return array_spec.BoundedArraySpec(self._table.shape, np.float32, 0, 1, name='blocks')

    def _reset(self) -> ts.TimeStep:
        return ts.restart(self._table)

    def _step(self, action: np.ndarray) -> ts.TimeStep:
        self.removed = np.asarray(action, bool)
        return ts.termination(self._table, self._evaluate(self.removed))


class ShrinkageEnv(PruningEnv):
    """PruningEnv whose action int32 [] is the place of the group's factor in FACTORS."""

    def action_spec(self) -> array_spec.BoundedArraySpec:
        return array_spec.BoundedArraySpec((), np.int32, 0, len(FACTORS) - 1, name='factor')

    @property
    def executed(self) -> np.ndarray:
        raise NotImplementedError('no factor gives each width that the bounds leave')

    def _step(self, action: np.ndarray) -> ts.TimeStep:
        return super()._step(np.array([1 - FACTORS[int(action)]]))


class RewardCache(tf.Module):
    """Rewards and accuracies by architecture, in variables.

    Args:
        capacity: architectures at most.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self._keys = tf.Variable(tf.zeros([capacity], tf.int64), trainable=False)
        self._values = tf.Variable(tf.zeros([capacity, 2], tf.float64), trainable=False)
        self.count = tf.Variable(0, trainable=False)

    def get(self, key: int) -> tuple[float, float] | None:
        """(reward, accuracy)."""
        found = np.flatnonzero(self._keys.numpy()[:int(self.count)] == key)
        return tuple(self._values.numpy()[found[0]].tolist()) if found.size else None

    def put(self, key: int, reward_: float, accuracy: float) -> None:
        at = int(self.count)
        self._keys[at].assign(key)
        self._values[at].assign([reward_, accuracy])
        self.count.assign_add(1)

    @staticmethod
    def key(removed: np.ndarray, widths: Sequence[int] | np.ndarray) -> int:
        """A number for an architecture: bool [L], int [G], none for those that are left whole."""
        text = np.packbits(removed).tobytes() + b'|' + np.asarray(widths, np.int64).tobytes()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], 'big', signed=True)


class N2N(Method):
    """See the module."""
    only_decides = True
    needs_examples = True
    Options = N2nOptions

    def start(self, problem: Problem) -> None:
        super().start(problem)
        options = self.options
        if 'latency_ms' in problem.budget.targets:
            raise ValueError("method 'n2n' removes layers, and a latency table is of one model: "
                             'limit macs, params or peak_memory_bytes instead.')
        self._blocks = tuple(_unfrozen_blocks(problem))
        self._table = _block_features(problem, self._blocks)
        if not self.rounds():
            options.require('shrinkage_rounds', False,
                            'at least 1, as there are no blocks to remove')
        learning: dict[str, Any] = {'units': options.units, 'baseline_rate': options.baseline_rate}
        self.remover: Reinforce | None = None
        if self._blocks:
            self.remover = make_bidirectional(
                *specs(RemovalEnv(self._table, lambda _: 0.0)), **learning,
                learning_rate=options.removal_learning_rate)
        self.shrinker = make_autoregressive(
            *specs(ShrinkageEnv(problem.groups, problem.cost_model, lambda _: 0.0,
                                budget=problem.budget)), **learning,
            learning_rate=options.shrinkage_learning_rate)
        self.cache = RewardCache(max(1, self.rounds() * options.rollouts))
        self.teacher_accuracy = tf.Variable(-1.0, dtype=tf.float64, trainable=False)
        # The best of each stage, and its reward.
        self.removed = tf.Variable(tf.zeros([len(self._blocks)], tf.bool), trainable=False)
        self.widths = tf.Variable(tf.zeros([0], tf.int64), shape=[None], trainable=False)
        self.best = tf.Variable([0.0, -np.inf], dtype=tf.float64, trainable=False)
        self._students = StudentTrainer(
            problem.model, problem.cost_model.dense.macs, problem.account, problem.held_out,
            learning_rate=options.student_learning_rate,
            calibration_batches=problem.training.calibration_batches)
        self._round, self._taught = 0, list[Batch]()
        self._reduced: _Left | None = None
        self._accuracies: list[float] = []

    def rounds(self) -> int:
        return self._removal_rounds + self.options.shrinkage_rounds

    @property
    def _removal_rounds(self) -> int:
        return self.options.removal_rounds if self._blocks else 0

    def search(self, round_: int) -> EpochResult:
        self._round, self._taught, self._accuracies = round_, [], []
        self._reduced = None  # as a resumed run has it: building one draws seeds of dropout
        if self.teacher_accuracy < 0:
            self.teacher_accuracy.assign(finite_reward(self.problem.score({}), 'the teacher'))
        before = int(self.cache.count)
        removing = round_ < self._removal_rounds
        rows, loss = self._remove() if removing else self._shrink()
        rewards = [row['reward'] for row in rows]
        return EpochResult({
            'reward_mean': mean_and_error(rewards)[0], 'reward_max': max(rewards),
            'best_reward': float(self.best[0 if removing else 1]), 'agent_loss': loss,
            'architectures': int(self.cache.count) - before}, tuple(rows))

    def decide(self) -> Decision:
        self._reduced = None
        left = self._without(self.removed.numpy())
        widths = self.widths.numpy()
        if not widths.size:
            widths = uniform_widths(left.problem.budget)
        return Decision(left.select(widths), self._names(self.removed.numpy()))

    def _remove(self) -> tuple[list[Mapping[str, Any]], float]:
        """One iteration of the first stage."""
        assert self.remover is not None
        envs = [RemovalEnv(self._table, self._try_removal) for _ in range(self.options.rollouts)]
        steps, rewards = play(envs, self.remover.collect_policy)
        self.remover.observe(steps, on_policy=True)
        rows: list[Mapping[str, Any]] = [
            {'source': 'policy', 'stage': 'removal', 'reward': got, 'accuracy': accuracy,
             'removed': list(self._names(env.removed))}
            for env, got, accuracy in zip(envs, rewards, self._accuracies)]
        return rows, self.remover.update()

    def _shrink(self) -> tuple[list[Mapping[str, Any]], float]:
        """One iteration of the second stage."""
        left = self._without(self.removed.numpy()).problem
        envs = [ShrinkageEnv(left.groups, left.cost_model, self._try_widths, budget=left.budget)
                for _ in range(self.options.rollouts)]
        steps, rewards = play(envs, self.shrinker.collect_policy)
        self.shrinker.observe(steps, on_policy=True)
        rows: list[Mapping[str, Any]] = [
            {'source': 'policy', 'stage': 'shrinkage', 'reward': got, 'accuracy': accuracy,
             'widths': left.budget.as_dict(left.budget.fill(list(env.widths.values())))}
            for env, got, accuracy in zip(envs, rewards, self._accuracies)]
        return rows, self.shrinker.update()

    def _try_removal(self, removed: np.ndarray) -> float:
        """Reward of the student without these blocks."""
        found = self._known(RewardCache.key(removed, ()), lambda: self._score_removal(removed))
        if found > self.best[0]:
            self.best[0].assign(found)
            self.removed.assign(removed)
        return found

    def _score_removal(self, removed: np.ndarray) -> tuple[float, float]:
        if not removed.any():
            return 0.0, float(self.teacher_accuracy)
        try:
            left = self._without(removed)
        except (InfeasibleBudgetError, JointRemovalError):
            return INVALID, 0.0
        budget = left.problem.budget
        dense = budget.dense_widths
        if not dense.size or budget.fits(dense):
            return INVALID, 0.0
        return self._score_student(left, dense)

    def _try_widths(self, widths: Mapping[str, int]) -> float:
        """Reward of the student of these widths, what is left of the budget spent."""
        removed = self.removed.numpy()
        left = self._without(removed)
        filled = left.problem.budget.fill(list(widths.values()))
        found = self._known(RewardCache.key(removed, filled),
                            lambda: self._score_student(left, filled))
        if found > self.best[1]:
            self.best[1].assign(found)
            self.widths.assign(filled)
        return found

    def _known(self, key: int, score: Callable[[], tuple[float, float]]) -> float:
        """Reward of an architecture, scored unless it is known."""
        known = self.cache.get(key)
        if known is None:
            known = score()
            self.cache.put(key, *known)
        self._accuracies.append(known[1])
        return known[0]

    def _score_student(self, left: '_Left', widths: np.ndarray) -> tuple[float, float]:
        """(reward, accuracy) of a student of these widths."""
        problem = left.problem
        self.problem.poll()
        if not self._taught:
            batches = self.problem.train_batches(self._round)
            self._taught = self._students.taught(
                batch for batch, _ in zip(batches, range(self.options.student_steps)))
        student = prune_model(problem.model, problem.groups, left.select(widths))
        macs = problem.cost_model(problem.budget.as_dict(widths)).macs
        accuracy = finite_reward(self._students.accuracy(student, macs, self._taught),
                                 f'the student of widths {problem.budget.as_dict(widths)}')
        cost = (problem.budget.costs(widths) / self.problem.budget.dense_costs).max()
        return reward(accuracy, float(self.teacher_accuracy), cost), accuracy

    def _without(self, removed: np.ndarray) -> '_Left':
        """What is left without these blocks; the latest is kept."""
        names = self._names(removed)
        if self._reduced is None or self._reduced.removed != names:
            self._reduced = _Left(names, self.problem.without(names))
        return self._reduced

    def _names(self, removed: np.ndarray) -> tuple[str, ...]:
        return tuple(block.name for block, gone in zip(self._blocks, removed) if gone)


@dataclasses.dataclass(frozen=True)
class _Left:
    """The problem without some blocks, of weights that stay; its channels are scored once."""
    removed: tuple[str, ...]
    problem: Problem

    @functools.cached_property
    def _scores(self) -> dict[str, np.ndarray]:
        return self.problem.channel_scores()

    def select(self, widths: np.ndarray) -> Masks:
        """Problem.select of widths int [G]."""
        problem = self.problem
        return best_channels(problem.groups, problem.budget.as_dict(widths), self._scores)


def _unfrozen_blocks(problem: Problem) -> list[Block]:
    """The removable blocks without a layer, or group of one, that the user froze."""
    frozen = set(problem.structure.frozen_names)
    for name in list(frozen):
        if name in problem.groups.groups:
            frozen.update(problem.groups.groups[name].producers)
    return [block for block in removable_blocks(problem.model).values()
            if frozen.isdisjoint(block.layers)]


def _block_features(problem: Problem, blocks: Sequence[Block]) -> np.ndarray:
    """[L, 5]: index, channels, layers, MACs and parameters of each block, of the largest."""
    layout = problem.groups.layout
    widths = {node.layer: len(layout.tensors[node.outputs[0]].positions.group)
              for node in layout.nodes}
    rows = []
    for index, block in enumerate(blocks, start=1):
        own = set(block.layers)
        rows.append((index, widths[block.name], len(own),
                     sum(layer.macs for layer in problem.cost_model.layers if layer.name in own),
                     sum(np.prod(slot.shape) for slot in layout.weights
                         if slot.layer in own and slot.trainable)))
    table = np.array(rows, np.float64).reshape(-1, 5)
    return table / np.maximum(table.max(axis=0, initial=1), 1)
