"""CRL: neural network pruning through constrained reinforcement learning. Malik, Haider, Iqbal,
Taj, ICPR 2022, arXiv 2110.08558.

    max_pi E[accuracy(w)]   subject to   E[cost(w)] <= limit           w ~ pi, one episode
    A  = A_reward - nu A_cost                        an advantage and a critic each
    nu = softplus(rho),   rho moves along  nu (mean cost - limit)      PPO-Lagrangian

Nothing bounds the actions: the agent learns what is within the budget from the price nu. In a round
of search it plays `episodes` episodes on frozen weights, moves nu, and learns.

Deviations: 1. The cost is that of the budget, max_k cost_k(w) / T_k over its limits T_k, and the
limit 1; the paper's is the share of parameters left, which is --params up to the factor T. 2. rho
takes plain gradient steps: few rounds, no time for Adam to settle. 3. The decision is the best
episode inside the budget, filled up to it exactly; where none was inside, the cheapest, clipped
into it (`feasible` in the metrics is then 0). 4. No training within an episode: batch
normalization alone is by the sub-network's own statistics. 5. State, ranking of channels
(--criterion) and widths are those of the other methods here.
"""

import numpy as np

from tfprune.methods.base import Decision, EpochResult, Method
from tfprune.methods.best import BestEpisode, within
from tfprune.methods.options import CrlOptions
from tfprune.methods.rewards import CurrentRewards
from tfprune.methods.stopwatch import Stopwatch
from tfprune.search.agents import ConstrainedPPO, play
from tfprune.search.environment import PruningEnv
from tfprune.search.problem import Problem


class CRL(Method):
    """See the module."""
    only_decides = True
    Options = CrlOptions

    def start(self, problem: Problem) -> None:
        super().start(problem)
        options: CrlOptions = self.options
        self._watch = Stopwatch()
        self._reward = CurrentRewards(problem, self._watch)
        self._envs = [PruningEnv(problem.groups, problem.cost_model, self._reward,
                                 budget=problem.budget, bounded=False)
                      for _ in range(options.episodes)]
        self.agent = ConstrainedPPO(
            self._envs[0], learning_rate=options.learning_rate, updates=options.updates, limit=1.0,
            multiplier=options.multiplier,
            multiplier_learning_rate=options.multiplier_learning_rate)
        self.best = BestEpisode(len(problem.groups))

    def rounds(self) -> int:
        return self.options.rounds

    def search(self, round_: int) -> EpochResult:
        budget = self.problem.budget
        self._reward.forget()  # a resumed run has nothing to remember either
        with self._watch('policy'):
            steps, rewards = play(self._envs, self.agent.collect_policy)
        widths = np.array([list(env.widths.values()) for env in self._envs], np.int64)
        costs = (budget.costs(widths) / budget.limits).max(-1)
        inside = budget.fits(widths)
        for row, reward, cost, fits in zip(widths, rewards, costs, inside):
            # As long as none is inside, the cheapest.
            self.best.offer(row, reward if fits else -cost, bool(fits))
        self.agent.observe(steps, on_policy=True, costs=costs)
        with self._watch('agent'):
            loss = self.agent.update()
        metrics = {'multiplier': float(self.agent.multiplier), 'cost_mean': float(costs.mean()),
                   'reward_mean': float(np.mean(rewards)), 'reward_max': max(rewards),
                   'inside': float(inside.mean()), 'agent_loss': loss,
                   'feasible': float(self.best.feasible.numpy()), **self._watch.take()}
        return EpochResult(metrics, tuple(
            {'round': round_, 'source': 'policy', 'reward': reward, 'cost': float(cost),
             'widths': budget.as_dict(row)}
            for row, reward, cost in zip(widths, rewards, costs)))

    def decide(self) -> Decision:
        budget = self.problem.budget
        widths = within(budget, self.best.choices.numpy())
        return Decision(self._reward.select(budget.as_dict(widths)))
