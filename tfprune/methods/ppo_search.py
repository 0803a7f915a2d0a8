"""PPO on trained weights that stay as they are: RLAL's agent without its joint training.

    repeat for each round:
        episodes:      a_g ~ pi(. | s_g),  reward = accuracy of the sub-network
        update pi (PPO)
    decide: the episode of the highest reward, or the one that the policy begins at

What it is for: weights that are given, or trained before, which joint epochs would first take away
from what they are; and the question what the joint training of RLAL is worth beside its agent.

Actions are those of RLAL, relative to uniform widths (RelativeEnv) or, by --ppo_search.around, to
those of `knapsack`, without a context: nothing changes from round to round. A maximum over episodes
favors none for its time. Not a published method.
"""
import numpy as np
import tensorflow as tf

from tfprune.costs.proportional import uniform_widths
from tfprune.methods.base import Decision, EpochResult, Method
from tfprune.methods.best import BestEpisode
from tfprune.methods.knapsack import worth_most
from tfprune.methods.options import PpoSearchOptions
from tfprune.methods.rewards import CurrentRewards
from tfprune.methods.stopwatch import Stopwatch
from tfprune.search.agents import PPO, carried_out, mean_and_error, play
from tfprune.search.environment import RelativeEnv
from tfprune.search.problem import Problem


class PPOSearch(Method):
    """See the module."""
    only_decides = True
    Options = PpoSearchOptions

    def start(self, problem: Problem) -> None:
        super().start(problem)
        options: PpoSearchOptions = self.options
        self._watch = Stopwatch()
        self._reward = CurrentRewards(problem, self._watch)
        self._envs = [RelativeEnv(problem.groups, problem.cost_model, self._reward,
                                  budget=problem.budget) for _ in range(options.episodes)]
        self.agent = PPO(self._envs[0], learning_rate=options.learning_rate,
                         updates=options.updates, episodes=options.episodes)
        self.best = BestEpisode(len(problem.groups))
        # Kept shares, all alike of uniform widths.
        self.center = tf.Variable(tf.ones([len(problem.groups)], tf.float64), trainable=False)

    def rounds(self) -> int:
        return self.options.rounds

    def search(self, round_: int) -> EpochResult:
        self._reward.forget()  # a resumed run has nothing to remember either
        if not round_:
            self._begin()
        for env in self._envs:
            env.center_on(self.center.numpy())
        with self._watch('policy'):
            steps, rewards = play(self._envs, self.agent.collect_policy)
        for env, reward in zip(self._envs, rewards):
            self.best.offer(list(env.widths.values()), reward, feasible=True)
        with self._watch('agent'):
            self.agent.observe(steps, on_policy=True, actions=carried_out(self._envs),
                               epoch=round_)
            loss = self.agent.update()
        mean, _ = mean_and_error(rewards)
        metrics = {'reward_mean': mean, 'reward_max': max(rewards), 'agent_loss': loss,
                   'best_reward': float(self.best.value), **self._watch.take()}
        return EpochResult(metrics, tuple(
            {'round': round_, 'source': 'policy', 'reward': reward, 'widths': env.widths}
            for env, reward in zip(self._envs, rewards)))

    def _begin(self) -> None:
        """Scores the widths to begin at, and takes the better ones."""
        budget, around = self.problem.budget, self.options.around

        def offer(widths: np.ndarray) -> None:
            self.best.offer(widths, self._reward(budget.as_dict(widths)), feasible=True)

        if around != 'knapsack':
            offer(uniform_widths(budget))
        if around != 'uniform':
            before = self.best.choices.numpy()
            scores = self.problem.channel_scores('taylor')
            offer(worth_most(budget, [scores[name] for name in budget.names]))
            if not np.array_equal(self.best.choices.numpy(), before):
                self.center.assign(self.best.choices.numpy() / budget.dense_widths)

    def decide(self) -> Decision:
        budget = self.problem.budget
        widths = budget.fill(self.best.choices.numpy())
        return Decision(self._reward.select(budget.as_dict(widths)))
