"""AMC: AutoML for model compression and acceleration on mobile devices. He, Lin, Liu, Wang, Li,
Han, ECCV 2018, arXiv 1802.03494.

A DDPG agent goes through the groups of a trained model, whose weights stay as they are,

    s_g = (index, type, in, out, stride, kernel, weights, reduced, rest, a_{g-1}), normalized
    a_g = keep ratio of the group, at least 0.2

and is rewarded at the end of the episode, every step with the same (sections 3.1 to 3.4):

    strategy=budget      R = accuracy, the actions bounded by the budget (resource-constrained)
    strategy=accuracy    R = -(1 - accuracy) log(MACs), the actions not bounded
                         (accuracy-guaranteed): the ratio is what the search finds

The first episodes act at random; then the actor's actions carry truncated normal noise, of standard
deviation 0.5 * 0.95^n in its n-th episode (search.agents.ddpg has the agent and its constants).
The decision is the episode of the highest reward: the weights are frozen, so that a maximum over
episodes favors none for its time.

Deviations: 1. Channels are those that a group writes, not those that a layer reads, and a group may
span layers; its features are those of its first. 2. The bound is exact (costs.budget); AMC's adds
up costs as if widths did not multiply. It may take a group below the keep ratio of 0.2, which AMC
prefers to its budget. 3. The best episode is filled to the budget. 4. The least-squares
reconstruction (`pruning.reconstruction`) has one map for all taps of a window, and a sub-network is
scored with batch-norm statistics of its own.
5. Widths are multiples of --width_multiple, AMC's of 8. 6. Episodes are played `lockstep` at a
time, and learnt of after each round, by as many steps as one after another. 7. `reduced` is that of
the budget's first limit; log is the natural one, of the exact MACs. 8. The agent remembers 512
episodes, the public code's about 100.

As in the public code the memory holds the actions as asked for: that the bounds, and the floor,
carry out others is a part of the environment that Q learns. With those carried out in their place
searches of known optimum, three seeds, ended alike (their last 50 episodes 0.75 of the way from
random actions to the optimum either way).
"""
import math
from typing import Any, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfprune.costs.budget import Budget
from tfprune.costs.model import CostModel
from tfprune.costs.proportional import uniform_widths
from tfprune.methods.base import Decision, EpochResult, Method
from tfprune.methods.options import AmcOptions, Options
from tfprune.methods.rewards import CurrentRewards
from tfprune.methods.stopwatch import Stopwatch
from tfprune.search.agents import DDPG, asked_for, mean_and_error, play, random_policy
from tfprune.search.environment import PruningEnv
from tfprune.search.problem import Problem
from tfprune.structure.groups import ChannelGroups
from tfprune.training.seeding import derived_seed

FLOOR = 0.2


class AmcEnv(PruningEnv):
    """Pruning with AMC's state, and the keep ratio as action, float32 [1] in [0, 1]; below FLOOR it
    counts as that."""
    features = ('index', 'type', 'in_channels', 'out_channels', 'stride', 'kernel', 'weights',
                'reduced', 'rest', 'previous_action')

    def __init__(self, groups: ChannelGroups, cost_model: CostModel, *args: Any, **options: Any):
        super().__init__(groups, cost_model, *args, **options)
        self._static, self._following = _layer_features(groups, cost_model)

    @property
    def executed(self) -> np.ndarray:
        """The keep ratios as carried out, float32 [<= G, 1]."""
        return 1 - super().executed

    def _rate(self, action: float) -> float:
        return 1 - max(super()._rate(action), FLOOR)

    def _features(self) -> np.ndarray:
        g, budget = len(self._widths), self.budget
        widths = np.concatenate([np.array(self._widths, np.int64), budget.dense_widths[g:]])
        here = min(g, len(self._static) - 1)
        reduced = 1 - budget.costs(widths)[0] / budget.dense_costs[0]
        previous = 1 - self._rates[-1] if self._rates else 1.0
        return np.concatenate([self._static[here], [reduced, self._following[here], previous]])


def _layer_features(groups: ChannelGroups, cost_model: CostModel) -> tuple[np.ndarray, np.ndarray]:
    """[G, 7] features that no action changes, each min-max normalized (0 where all are equal), and
    the share of the dense MACs [G] that lies in the layers of the groups to come."""
    weights: dict[str, int] = {}
    for slot in groups.layout.weights:
        if slot.is_kernel:
            weights[slot.layer] = weights.get(slot.layer, 0) + math.prod(slot.shape)
    rows, macs = [], []
    for index, name in enumerate(groups):
        layer = cost_model.layer_of(name)
        rows.append((index, layer.kind == 'Dense', layer.in_width, groups[name], max(layer.stride),
                     max(layer.kernel), weights.get(layer.name, 0)))
        macs.append(layer.macs)
    table = np.array(rows, np.float64)
    low, spread = table.min(axis=0), np.ptp(table, axis=0)
    following = np.sum(macs) - np.cumsum(macs)
    return (table - low) / np.where(spread > 0, spread, 1), following / cost_model.dense.macs


def guaranteed_reward(accuracy: float, macs: int) -> float:
    """R = -(1 - accuracy) log(MACs), AMC's equation 3."""
    return -(1 - accuracy) * math.log(macs)


class AMC(Method):
    """See the module."""
    only_decides = True
    Options: type[Options] = AmcOptions

    def start(self, problem: Problem) -> None:
        super().start(problem)
        self._watch = Stopwatch()
        self._accuracy = CurrentRewards(problem, self._watch)
        self._envs = self._environments()
        # Of each budget that is searched for; until an episode has been scored, its uniform widths.
        budgets = self._budgets()
        self._check_that_the_agent_acts(len(budgets))
        self.agent = self._agent()
        self.best_widths = tf.Variable([self._first_widths(b) for b in budgets], trainable=False)
        self.best_rewards = tf.Variable([-np.inf] * len(budgets), trainable=False, dtype=tf.float64)

    @property
    def needs_budget(self) -> bool:
        return self.options.strategy == 'budget'

    def rounds(self) -> int:
        return math.ceil(self.options.episodes / len(self._envs))

    def search(self, round_: int) -> EpochResult:
        """Plays and learns of the round's episodes."""
        options, first = self.options, round_ * len(self._envs)
        self._accuracy.forget()  # nothing crosses rounds but variables
        envs = self._envs[:options.episodes - first]
        at_random = first < options.warmup_episodes
        policy = (self.agent.collect_policy if not at_random else random_policy(
            envs[0], derived_seed(self.problem.seed, round_, 0)))
        metrics: dict[str, float] = {} if at_random else {'noise': float(self.agent.noise.numpy())}
        with self._watch('policy'):
            steps, _ = play(envs, policy)
        rewards = [self._evaluate(env.widths) for env in envs]  # known; TF-Agents' are float32
        with self._watch('agent'):
            self.agent.observe(steps, on_policy=not at_random, actions=asked_for(steps))
            if not at_random:
                metrics['agent_loss'] = self.agent.update()
        rows = []
        for i, (env, reward) in enumerate(zip(envs, rewards)):
            self._remember(i % self.best_rewards.shape[0], env, reward)
            rows.append({'episode': first + i, 'source': 'random' if at_random else 'policy',
                         **self._row(env, reward)})
        metrics['reward_mean'], _ = mean_and_error(rewards)
        metrics |= {'reward_max': max(rewards), **self._watch.take()}
        return EpochResult(metrics, tuple(rows))

    def decide(self) -> Decision:
        return self._decision(0, self.problem.budget)

    def _budgets(self) -> Sequence[Budget]:
        """What is searched for; environment i plays for the one of number i modulo their count."""
        return [self.problem.budget]

    def _environments(self) -> list[AmcEnv]:
        problem = self.problem
        return [AmcEnv(problem.groups, problem.cost_model, self._evaluate, budget=problem.budget,
                       bounded=self.needs_budget) for _ in range(self.options.lockstep)]

    def _agent(self) -> DDPG:
        # AMC's updates: a batch for each step of each episode.
        options, episodes = self.options, len(self._envs)
        return DDPG(self._envs[0], learning_rate=options.learning_rate, updates=episodes,
                    episodes=episodes, noise=options.noise, noise_decay=options.noise_decay)

    def _check_that_the_agent_acts(self, budgets: int) -> None:
        """ValueError unless rounds are left after those that act at random."""
        options, size = self.options, len(self._envs)
        least = math.ceil(options.warmup_episodes / size) * size + budgets
        if options.episodes < least:
            options.require(
                'episodes', False, f'at least {least} where the agent is to act: with '
                f'warmup_episodes={options.warmup_episodes}, the first {least - budgets}, whole '
                f'rounds of {size}, act at random')

    def _evaluate(self, widths: Mapping[str, int]) -> float:
        """The reward of an episode."""
        accuracy = self._accuracy(widths)
        if self.needs_budget:
            return accuracy
        return guaranteed_reward(accuracy, self.problem.cost_model(widths).macs)

    def _row(self, env: AmcEnv, reward: float) -> dict[str, Any]:
        """What episodes.jsonl is told of an episode."""
        widths = env.widths
        return {'reward': reward, 'accuracy': self._accuracy(widths),
                'macs': self.problem.cost_model(widths).macs, 'widths': widths}

    def _remember(self, k: int, env: AmcEnv, reward: float) -> None:
        """Keeps the widths of the highest reward of budget k, of equals the first; without a
        budget the cheapest: a network without errors is rewarded alike whatever it costs."""
        is_cheaper = not self.needs_budget and reward == self.best_rewards[k] and (
            self._macs(list(env.widths.values())) < self._macs(self.best_widths[k].numpy()))
        if reward > self.best_rewards[k] or is_cheaper:
            self.best_rewards[k].assign(reward)
            self.best_widths[k].assign(list(env.widths.values()))

    def _macs(self, widths: Sequence[int]) -> int:
        return self.problem.cost_model(self.problem.budget.as_dict(widths)).macs

    def _decision(self, k: int, budget: Budget) -> Decision:
        widths = self.best_widths[k].numpy()
        if self.needs_budget:
            widths = budget.fill(widths)
        return Decision(self._accuracy.select(budget.as_dict(widths)))

    def _first_widths(self, budget: Budget) -> np.ndarray:
        return uniform_widths(budget) if self.needs_budget else budget.dense_widths
