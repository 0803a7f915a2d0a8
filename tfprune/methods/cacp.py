"""CACP: conditional automated channel pruning for deep neural networks. Liu, Guo, Liu, Liu, Zhang,
Chen, Liu, Chen 2020, arXiv 2009.09724.

AMC's search (methods/amc.py), made conditional on the target: the state carries the ratio c that
the episode has to keep to,

    s_g = (AMC's features, c),    a_g ~ pi(. | s_g)   bounded by the budget of ratio c

the targets take turns, and one agent learns of all. One run gives a decision for each ratio: of its
episodes, that of the highest reward.

The reward is the accuracy, and what is learnt from is its advance on the condition's own moving
average b_c, AMC's baseline for each c,

    R - b_c,    b_c <- b_c + 1/2 (mean R of the batch's episodes of ratio c - b_c)

since wide sub-networks score above narrow ones whatever the policy does.

Deviations, beside those of AMC: 1. The published code's reward never uses the condition; b_c is
ours. 2. The run's own budget is one more condition, where it is none of `ratios`. 3. A round plays
`lockstep` episodes of each condition, and the noise shrinks with every episode, whatever its
condition.
"""
from typing import Any, Sequence

import numpy as np
import tensorflow as tf
from tf_agents.trajectories import trajectory

from tfprune.costs.budget import Budget
from tfprune.methods.amc import AMC, AmcEnv
from tfprune.methods.base import Decision
from tfprune.methods.options import CacpOptions
from tfprune.search.agents import DDPG


class ConditionalDDPG(DDPG):
    """DDPG with a baseline for each condition, the last number of an observation.

    Args:
        conditions: the values that it takes [K].
    """

    def __init__(self, env: AmcEnv, conditions: Sequence[float], **options: Any):
        super().__init__(env, **options)
        self._conditions = tf.constant(conditions, tf.float32)
        self._baselines = tf.Variable(tf.fill([len(conditions)], np.float32(np.nan)),
                                      trainable=False)

    def _prepared(self, experience: trajectory.Trajectory) -> trajectory.Trajectory:
        rewards, conditions = experience.reward[:, 0], experience.observation[:, 0, -1:]
        k = tf.argmin(tf.abs(conditions - self._conditions), axis=1)
        of = tf.one_hot(k, len(self._conditions))
        count = tf.reduce_sum(of, axis=0)
        mean = tf.linalg.matvec(of, rewards, transpose_a=True) / tf.maximum(count, 1)
        old = self._baselines
        moved = tf.where(tf.math.is_nan(old), mean, old + self._baseline_rate * (mean - old))
        self._baselines.assign(tf.where(count > 0, moved, old))
        return experience.replace(
            reward=experience.reward - tf.gather(self._baselines, k)[:, None])


class CACP(AMC):
    """See the module."""
    conditional = True
    Options = CacpOptions

    @property
    def needs_budget(self) -> bool:
        return True

    def ratios(self) -> tuple[float, ...]:
        """The targets, each of which is decided for beside the run's own."""
        return self.options.targets

    def decide(self) -> Decision:
        return self.decide_for(self.problem.budget)

    def decide_for(self, budget: Budget) -> Decision:
        """The decision inside a budget that was searched for; ValueError for another."""
        for k, searched in enumerate(self._budgets()):
            if _same(searched, budget):
                return self._decision(k, budget)
        raise ValueError('cacp.ratios: the search was for the ratios '
                         f'{self.options.ratios}; received a budget of {budget.to_json()}.')

    def _budgets(self) -> Sequence[Budget]:
        problem = self.problem
        try:
            budgets = [problem.budget.scaled(ratio) for ratio in self.ratios()]
        except ValueError as error:
            raise type(error)(f'cacp.ratios={self.options.ratios}: {error}') from None
        if not any(_same(budget, problem.budget) for budget in budgets):
            budgets.append(problem.budget)
        return budgets

    def _environments(self) -> list[AmcEnv]:
        problem, budgets = self.problem, self._budgets()
        envs = []
        for _ in range(self.options.lockstep):
            for budget in budgets:
                envs.append(AmcEnv(problem.groups, problem.cost_model, self._evaluate,
                                   budget=budget, context_size=1))
                envs[-1].set_context([_ratio(budget)])
        return envs

    def _agent(self) -> DDPG:
        options, episodes = self.options, len(self._envs)
        return ConditionalDDPG(
            self._envs[0], [_ratio(budget) for budget in self._budgets()],
            learning_rate=options.learning_rate, updates=episodes, episodes=episodes,
            noise=options.noise, noise_decay=options.noise_decay)

    def _row(self, env: AmcEnv, reward: float) -> dict[str, Any]:
        return super()._row(env, reward) | {'ratio': round(_ratio(env.budget), 6)}


def _ratio(budget: Budget) -> float:
    """The condition c."""
    return float(budget.limits[0] / budget.dense_costs[0])


def _same(one: Budget, other: Budget) -> bool:
    return one.targets == other.targets and np.array_equal(one.limits, other.limits)
