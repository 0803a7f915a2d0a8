"""RLAL: jointly training and pruning CNNs via reinforcement learning with learnable agent guidance
and alignment. Ganjdanesh, Gao, Huang, CVPR 2024, arXiv 2403.19490.

    repeat for each epoch t:
        train the weights:  min_W  CE(W) + lambda * sum_g ||(1 - v_g) * W_g||_2
        episodes:           a_g ~ pi(. | s_g, z_t),  reward = accuracy of the sub-network
        update pi (PPO), and embeddings, RNN, decoder of z (tfprune.search.context)
        v <- the best sub-network known, re-scored on the current weights
    then surgery and fine-tuning.

Phases: warm-up (plain training); epochs of random actions; joint epochs (the agent acts, v is
followed each epoch); epochs of alignment to the frozen v.

Deviations: 1. PPO instead of SAC, which is --rlal.agent=sac. 2. The alignment starts with the joint
epochs: before, no decision deserves it. 3. Candidates for v are the best of earlier decisions (by
reward above their epoch's mean), this epoch's and the uniform one, each scored now with channels
chosen anew by the criterion; a maximum over a drifting reward would be the latest. 4. A decay that
ends at zero takes the penalty's place, and the sub-network trains in every fourth step on the whole
network's answers; as published: --rlal.alignment=fixed --rlal.subnetwork_every=0. Adaptive lambda
(=adaptive), whose full model is scored as the sub-network is, is ours, too. 5. At the end of the
joint epochs the policy is compared with random actions on the same weights: a measurement, from
which nothing is learnt or chosen. 6. Until an episode has been scored v is the uniform decision;
what v leaves of the budget is filled. 7. By --rlal.surrogate_candidates the decoder ranks decisions
nobody has tried, and the best are scored and are candidates for v. 8. A sub-network is scored with
the batch-norm statistics of each batch of held-out images, whose number is --score_batch_size; the
published method does not say with which. 9. z_t (tfprune.search.context) is also of what is known
before the agent acts: v and its rivals are scored on the weights as they are first, and the uniform
decision with them. PPO learns from the last three epochs.
"""
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune.costs.proportional import uniform_widths
from tfprune.methods.base import Decision, EpochResult, Method, Trained
from tfprune.methods.options import RlalOptions
from tfprune.methods.rewards import CurrentRewards
from tfprune.methods.stopwatch import Stopwatch
from tfprune.pruning.masks import open_masks, widths_of
from tfprune.search.agents import (Policy, carried_out, make_agent, mean_and_error, play,
                                   random_policy)
from tfprune.search.alignment import AlignmentDecay, AlignmentPenalty, StrengthController
from tfprune.search.companion import Companion
from tfprune.search.context import (ContextNetwork, ContextTrainer, EpisodeHistory,
                                    direction_of_better)
from tfprune.search.environment import PruningEnv, RelativeEnv
from tfprune.search.problem import Problem
from tfprune.search.subnetwork import Subnetwork
from tfprune.search.surrogate import best_unscored
from tfprune.training.options import Epochs
from tfprune.training.seeding import derived_seed

_KNOWN = 4  # numbers of what is known before the agent acts, beside a direction in widths
_PENALTIES = ('fixed', 'adaptive')  # of --rlal.alignment


class RLAL(Method):
    """See the module."""
    phases = {'warmup': 'warm-up', 'random': 'random actions', 'joint': 'joint',
              'alignment': 'alignment'}
    sources = {**Method.sources, 'random_reference': 'random actions, for reference',
               'surrogate': 'chosen by the decoder'}
    Options = RlalOptions

    def start(self, problem: Problem) -> None:
        super().start(problem)
        options, episodes = self.options, self.options.episodes_per_epoch
        self._watch = Stopwatch()
        self._reward = CurrentRewards(problem, self._watch)
        env_of = RelativeEnv if options.action == 'relative' else PruningEnv
        self._envs = [env_of(problem.groups, problem.cost_model, self._reward,
                             budget=problem.budget, context_size=options.context_size)
                      for _ in range(episodes)]
        num_groups, planned = len(problem.groups), problem.epochs
        # Before the context network: an initial weight is the next draw of the global seed.
        self.agent = make_agent(options.agent, self._envs[0], episodes=episodes,
                                learning_rate=options.agent_learning_rate,
                                updates=options.agent_updates, epochs=options.agent_epochs,
                                context=lambda epochs: self.context.network(epochs))
        ranked = options.surrogate_scored if options.surrogate_candidates else 0
        capacity = (episodes * (planned.random_epochs + planned.joint_epochs)
                    + ranked * planned.joint_epochs)
        self.history = EpisodeHistory(max(1, capacity), num_groups)
        network = ContextNetwork(max(1, planned.search), num_groups, _KNOWN + num_groups,
                                 context_size=options.context_size, seed=problem.seed)
        self.context = ContextTrainer(network, self.history,
                                      learning_rate=options.context_learning_rate)
        with problem.scope():
            self.alignment = AlignmentPenalty(problem.model, problem.groups)
            self.decay = AlignmentDecay(problem.model, problem.groups, self.alignment.masks)
            self._companion = Companion(
                Subnetwork(problem.model, problem.groups), self.alignment.masks,
                options.subnetwork_every) if options.subnetwork_every else None
        self._controller = StrengthController(self.alignment.strength,
                                              target_gap=options.alignment_gap)
        # v's widths; uniform until an episode has been scored.
        self.best_widths = tf.Variable(uniform_widths(problem.budget), trainable=False)
        self._follow()

    def check(self, epochs: Epochs) -> None:
        if not epochs.random_epochs + epochs.joint_epochs:
            raise ValueError("method 'rlal' searches in random and joint epochs, of which there "
                             'are none: give --joint_epochs, or take --method=uniform, whose '
                             'decision this would be.')
        if not epochs.joint_epochs and self.options.agent != 'random':
            raise ValueError(f"method 'rlal': agent {self.options.agent!r} never acts, for "
                             'joint_epochs is 0: give --joint_epochs, or take '
                             '--rlal.agent=random.')

    def penalty(self) -> tf.Tensor | None:
        return self.alignment() if self.options.alignment in _PENALTIES else None

    def constrain(self) -> Callable[[tf.Tensor], None] | None:
        return self.decay if self.options.alignment == 'decay' else None

    def companion(self) -> Companion | None:
        return self._companion

    def phase(self, epoch: int) -> str:
        return self.problem.epochs.phase(epoch)

    def after_epoch(self, epoch: int, coming: int, trained: Trained = Trained()) -> EpochResult:
        options, phase = self.options, self.phase(epoch)
        self._reward.retrained()
        self._noted: dict[str, float] = {}
        self._charge_companion()
        metrics: dict[str, float] = {}
        if options.alignment in _PENALTIES:
            metrics['strength'] = float(self.alignment.strength.numpy())
        rows: list[Mapping[str, Any]] = []
        if phase in ('random', 'joint'):
            with self._watch('rescoring', whole=True):
                known = self._rescore_known(epoch, trained)
            self._set_context(epoch, known)
            with self._watch('policy'):
                rows += self._episodes(epoch, phase)
            with self._watch('agent'):
                metrics['agent_loss'] = self.agent.update()
            with self._watch('context'):
                metrics['context_loss'] = self.context.fit(options.context_updates)
            rewards = [row['reward'] for row in rows]
            metrics['reward_mean'], _ = mean_and_error(rewards)
            metrics['reward_max'] = max(rewards)
            if phase == 'joint' and options.surrogate_candidates:
                with self._watch('surrogate', whole=True):
                    rows += self._score_ranked(epoch)
            with self._watch('rescoring', whole=True):
                self._note(metrics, 'subnetwork', self._choose())
        if phase != 'alignment':
            self._follow()
        if phase == 'joint':
            with self._watch('random_reference', whole=True), self.problem.account.uncharged():
                reference = self._play_many(self._random_policy(epoch, 1), epoch,
                                            'random_reference', options.random_reference_episodes)
            if reference:
                metrics['random_reference_mean'], _ = mean_and_error(
                    [row['reward'] for row in reference])
            rows += reference
            if self.phase(coming) != 'joint' and options.comparison_episodes:
                with self._watch('comparison', whole=True), self.problem.account.uncharged():
                    compared, played = self._compare(epoch)
                metrics.update(compared)
                rows += played
        if phase == 'alignment':
            # It sets lambda, or is for the report alone.
            with (contextlib.nullcontext() if options.alignment == 'adaptive'
                  else self.problem.account.uncharged()):
                self._note(metrics, 'subnetwork', self.problem.score(self.alignment.get_masks()))
        if options.alignment == 'adaptive' and 'subnetwork' in self._noted:
            with self._watch('rescoring', whole=True):
                self._note(metrics, 'scored_full', self.problem.score(
                    open_masks(self.problem.groups)))
        self._set_strength(self.phase(coming))
        metrics.update(self._watch.take())
        return EpochResult(metrics, tuple(rows))

    def decide(self) -> Decision:
        return Decision(self.alignment.get_masks())

    def _episodes(self, epoch: int, phase: str) -> list[Mapping[str, Any]]:
        """Plays this epoch's episodes; agent and history learn of them."""
        # Around the uniform decision the policy's own noise is all the chance that is wanted.
        acts = phase == 'joint' or self.options.action == 'relative' and self.agent.is_on_policy
        policy = self.agent.collect_policy if acts else self._random_policy(epoch, 0)
        steps, rows = self._play(policy, epoch, 'policy' if acts else 'random')
        self.agent.observe(steps, on_policy=acts, actions=carried_out(self._envs), epoch=epoch)
        for env, row in zip(self._envs, rows):
            self.history.append(epoch, env.rates, row['reward'])
        return rows

    def _score_ranked(self, epoch: int) -> list[Mapping[str, Any]]:
        """Scores what the decoder thinks best; the history learns of it, the agent does not."""
        options, budget = self.options, self.problem.budget
        rows: list[Mapping[str, Any]] = []
        self._reward(budget.as_dict(self.best_widths.numpy()))
        for widths in best_unscored(
                self.context, budget, epoch, candidates=options.surrogate_candidates,
                count=options.surrogate_scored, rewards=self._reward.known(),
                rng=np.random.default_rng((self.problem.seed, epoch, 3))):
            named = budget.as_dict(widths)
            reward = self._reward(named)
            self.history.append(epoch, 1 - widths / budget.dense_widths, reward)
            rows.append({'epoch': epoch, 'source': 'surrogate', 'reward': reward, 'widths': named})
        return rows

    def _play(self, policy: Policy, epoch: int, source: str, count: int | None = None
              ) -> tuple[Sequence[Any], list[Mapping[str, Any]]]:
        """An episode in each of the first `count` environments (all)."""
        envs = self._envs[:count]
        steps, rewards = play(envs, policy)
        return steps, [{'epoch': epoch, 'source': source, 'reward': reward, 'widths': env.widths}
                       for env, reward in zip(envs, rewards)]

    def _play_many(self, policy: Policy, epoch: int, source: str, count: int
                   ) -> list[Mapping[str, Any]]:
        """`count` episodes from which nobody learns."""
        rows: list[Mapping[str, Any]] = []
        while len(rows) < count:
            rows += self._play(policy, epoch, source, count - len(rows))[1]
        return rows

    def _random_policy(self, epoch: int, stream: int) -> Policy:
        return random_policy(self._envs[0],
                             derived_seed(self.problem.seed, epoch, stream))

    def _compare(self, epoch: int) -> tuple[dict[str, float], list[Mapping[str, Any]]]:
        """Policy against random actions on the same weights, the same number of episodes each."""
        count = self.options.comparison_episodes
        metrics: dict[str, float] = {'comparison_episodes': count}
        played: list[Mapping[str, Any]] = []
        for source, policy in (('policy', self.agent.collect_policy),
                               ('random', self._random_policy(epoch, 2))):
            rows = self._play_many(policy, epoch, f'{source}_comparison', count)
            rewards = [row['reward'] for row in rows]
            mean, error = mean_and_error(rewards)
            metrics |= {f'{source}_reward_mean': mean, f'{source}_reward_error': error,
                        f'{source}_reward_max': max(rewards)}
            played += rows
        return metrics, played

    def _rescore_known(self, epoch: int, trained: Trained) -> np.ndarray:
        """Scores v, the best earlier decisions and the uniform one on the current weights; what is
        known of the epoch then, [_KNOWN + G]."""
        budget = self.problem.budget
        dense, uniform = budget.dense_widths, uniform_widths(budget)
        widths = [self.best_widths.numpy()]
        widths += [np.rint(dense * (1 - rates)).astype(np.int64) for rates
                   in self.history.best(self.options.rescored_candidates)]
        rewards = [self._reward(budget.as_dict(each)) for each in widths]
        reference = self._reward(budget.as_dict(uniform))
        better = direction_of_better(uniform / dense, reference, np.array(widths) / dense,
                                     np.array(rewards))
        share = epoch / self.problem.epochs.search
        return np.array([reference, trained.reward, trained.learning_rate, share, *better])

    def _set_context(self, epoch: int, known: np.ndarray) -> None:
        """z of this epoch, before the context learns from its episodes: the agent acts and is
        judged under it."""
        self.context.network.know(epoch, known)
        z = self.context.network(np.array([epoch]))[0].numpy()
        for env in self._envs:
            env.set_context(z)

    def _choose(self) -> float:
        """Sets best_widths to the best that has been scored on the current weights; its reward."""
        known = self._reward.known()
        filled = self.problem.budget.fill(np.array(max(known, key=known.__getitem__), np.int64))
        self.best_widths.assign(filled)
        return self._reward(self.problem.budget.as_dict(filled))

    def _note(self, metrics: dict[str, float], what: str, reward: float) -> None:
        """Keeps a reward of this epoch, and adds the metric behind it to the epoch's row."""
        self._noted[what] = reward
        measure = self.problem.measure
        metrics[f'{what}_{measure.name}'] = measure.value(reward)

    def _set_strength(self, coming: str) -> None:
        """lambda for the epoch that comes next, in this phase: 0 until a joint one comes; the
        decay and the sub-network's own training, too, begin with it."""
        options, strength = self.options, self.alignment.strength
        self.decay.is_on.assign(coming in ('joint', 'alignment'))
        if self._companion:
            self._companion.is_on.assign(coming in ('joint', 'alignment'))
        if options.alignment not in _PENALTIES or coming not in ('joint', 'alignment'):
            strength.assign(0.0)
        elif 'scored_full' not in self._noted or not strength.numpy():
            strength.assign(options.alignment_strength)
        else:
            self._controller.update(self._noted['scored_full'], self._noted['subnetwork'])

    def _follow(self) -> None:
        """The sub-network of v's widths, chosen on the current weights, is followed from now on."""
        self.alignment.set_masks(self._reward.select(
            self.problem.budget.as_dict(self.best_widths.numpy())))

    def _charge_companion(self) -> None:
        """What v has cost in the epoch by training beside the whole network."""
        if self._companion:
            problem, widths = self.problem, widths_of(self.alignment.get_masks())
            problem.account.train(self._companion.take_steps() * problem.training.batch_size,
                                  problem.cost_model(widths).macs)
