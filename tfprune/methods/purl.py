"""PuRL: learning to prune deep neural networks via reinforcement learning. Gupta, Aravindan,
Kalisz, Chandrasekhar, Jie, 2020, arXiv 2007.04756.

    s_t = (layer, accuracy A_t, pruned P_t)
    a_t = alpha in {0, 0.1, ..., 2.2}:    of layer t, weights with |w| < alpha * sigma(layer) go
    r_t = -beta (max(1 - A_t / T_A, 0) + max(1 - P_t / T_P, 0))      after each step: dense

A_t and P_t are those of the network whose first t layers are pruned, T_A and T_P their targets.
The agent is DQN. The search is on frozen weights, in rounds of a few episodes in lockstep.

form=weights is the published one: single weights are zeroed, and stay zero in fine-tuning; the
model does not shrink. P is the share of all kernel weights that are zero, T_P is
--purl.sparsity; no budget.

form=channels prunes channels of groups, a step a group. Norms of filters are positive, so that
alpha * sigma cannot be their threshold. Of normally distributed weights alpha * sigma removes the
share erf(alpha / sqrt 2); of the norms n_c of a group that share goes if they are normal too:

    n_c < mean(n) + std(n) * Phi^-1(erf(alpha / sqrt 2))

P is the share of the cost that is saved, T_P what the budget asks to save.

Deviations: 1. The channel form, ours, as above; widths are rounded to allowed ones. 2. The state
has P_t / T_P, of several limits the least. 3. T_A is `target_accuracy` times the dense accuracy on
the images that score; by default all of it. 4. Nothing is trained within an episode: the
statistics of batch normalization alone are the pruned network's. 5. The decision is the most
accurate episode that reaches T_P, brought to it exactly: channels by the budget; of the weights
that went, those of largest |w| / sigma(layer) come back. Where no episode reached it, it is that of
the highest last reward, of which more goes. 6. reward=terminal, for comparison, is AMC's: the
network is scored after the last step alone, and that reward is every step's. 7. DQN's network,
memory and exploration are ours (agents/dqn.py), as beta is.
"""
import math
import statistics
from typing import Any, Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tf_agents.specs import array_spec
from tf_agents.trajectories import time_step as ts

from tfprune.methods.base import Decision, EpochResult, Method
from tfprune.methods.best import BestEpisode, within
from tfprune.methods.options import PurlOptions
from tfprune.methods.stopwatch import Stopwatch
from tfprune.pruning.importance import score_groups
from tfprune.pruning.masks import best_channels, nearest_width, open_masks
from tfprune.pruning.sparsity import kernels_of
from tfprune.search.agents import DQN, carried_out, play
from tfprune.search.environment import EpisodicEnv
from tfprune.search.problem import Problem
from tfprune.search.scoring import finite_reward
from tfprune.training.distribution import num_workers

ALPHAS = np.arange(23) / 10


def reward_of(accuracy: float, progress: float, target_accuracy: float, beta: float) -> float:
    """r = -beta (max(1 - A / T_A, 0) + max(1 - P / T_P, 0)), progress being P / T_P."""
    target = max(target_accuracy, 1e-9)  # where the dense model gets nothing right
    return -beta * (max(1 - accuracy / target, 0) + max(1 - progress, 0))


class PuRLEnv(EpisodicEnv):
    """A step a layer; the action is the index of its alpha.

    Observation: float32 [3], layer, A and P / T_P. Action: int32 scalar.

    Args:
        steps: layers.
        accuracy, progress: A, and P / T_P, of the alphas of the first t layers.
        reward: (A, P / T_P) -> r.
        dense: False rewards, and scores, the last step only.
    """

    def __init__(self, steps: int, accuracy: Callable[[Sequence[int]], float],
                 progress: Callable[[Sequence[int]], float],
                 reward: Callable[[float, float], float], *, dense: bool = True):
        super().__init__()
        self.steps, self._dense = steps, dense
        self._accuracy, self._progress, self._reward = accuracy, progress, reward
        self.choices: list[int] = []
        self.last = (0.0, 0.0)  # A and P / T_P

    def action_spec(self) -> array_spec.BoundedArraySpec:
        return array_spec.BoundedArraySpec((), np.int32, 0, len(ALPHAS) - 1, name='alpha')

    def observation_spec(self) -> array_spec.BoundedArraySpec:
        return array_spec.BoundedArraySpec((3,), np.float32, 0.0, np.inf, name='observation')

    @property
    def executed(self) -> np.ndarray:
        """The choices, int32 [<= steps]: nothing bounds them."""
        return np.array(self.choices, np.int32)

    def _reset(self) -> ts.TimeStep:
        self.choices, self.last = [], (self._accuracy([]), 0.0)
        return ts.restart(self._observation())

    def _step(self, action: np.ndarray) -> ts.TimeStep:
        self.choices.append(int(action))
        ends = len(self.choices) == self.steps
        scored = self._dense or ends
        self.last = (self._accuracy(self.choices) if scored else self.last[0],
                     self._progress(self.choices))
        reward = self._reward(*self.last) if scored else 0.0
        if ends:
            return ts.termination(self._observation(), reward=reward)
        return ts.transition(self._observation(), reward=reward)

    def _observation(self) -> np.ndarray:
        return np.array([len(self.choices) / self.steps, *self.last], np.float32)


class Channels:
    """What alphas do to channels; see the module."""

    def __init__(self, problem: Problem, options: PurlOptions):
        self._problem, self._norm = problem, options.norm
        self.steps = len(problem.groups)
        self._scores: Mapping[str, np.ndarray] = {}

    def read(self) -> None:
        """Takes the current weights."""
        self._scores = score_groups(self._problem.model, self._problem.groups,
                                    criterion=self._norm)

    def widths(self, choices: Sequence[int]) -> np.ndarray:
        """Widths [G], of the groups still without a choice the dense ones."""
        budget = self._problem.budget
        widths = budget.dense_widths.copy()
        for g, choice in enumerate(choices):
            norms = self._scores[budget.names[g]]
            gone = np.count_nonzero(norms < channel_threshold(norms, ALPHAS[choice]))
            widths[g] = nearest_width(len(norms), gone / len(norms), budget.allowed[g])
        return widths

    def progress(self, choices: Sequence[int]) -> float:
        budget = self._problem.budget
        saved = budget.dense_costs - budget.costs(self.widths(choices))
        asked = budget.dense_costs - budget.limits
        return float(min(1.0 if a <= 0 else s / a for s, a in zip(saved, asked)))

    def accuracy(self, choices: Sequence[int]) -> float:
        return self._problem.score(self._select(self.widths(choices)))

    def described(self, choices: Sequence[int]) -> dict[str, Any]:
        return {'widths': self._problem.budget.as_dict(self.widths(choices))}

    def decide(self, choices: Sequence[int]) -> Decision:
        return Decision(self._select(within(self._problem.budget, self.widths(choices))))

    def _select(self, widths: np.ndarray) -> dict[str, np.ndarray]:
        return best_channels(self._problem.groups, self._problem.budget.as_dict(widths),
                             self._scores)


def channel_threshold(norms: np.ndarray, alpha: float) -> float:
    """mean(n) + std(n) Phi^-1(erf(alpha / sqrt 2)); -inf for alpha 0."""
    normal = statistics.NormalDist()
    share = 2 * normal.cdf(alpha) - 1
    return float(norms.mean() + norms.std() * normal.inv_cdf(share)) if share > 0 else -np.inf


class Weights:
    """What alphas do to single weights, a layer a kernel; see the module."""

    def __init__(self, problem: Problem, options: PurlOptions):
        with problem.scope():
            workers = num_workers(tf.distribute.get_strategy())
        if workers > 1:
            raise ValueError('purl.form=weights runs in one process; TF_CONFIG lists several.')
        self._problem, self._sparsity = problem, options.sparsity
        self._kernels = kernels_of(problem.model)
        if len({kernel.path for kernel in self._kernels}) < len(self._kernels):
            raise ValueError('purl.form=weights tells kernels by their paths, of which '
                             'two are equal: give the layers of nested models names of their own.')
        self.steps = len(self._kernels)
        self._magnitudes: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def read(self) -> None:
        """Takes the current weights."""
        self._values = [keras.ops.convert_to_numpy(kernel) for kernel in self._kernels]
        self._magnitudes = [np.abs(w) / max(float(w.std()), 1e-12) for w in self._values]

    def masks(self, choices: Sequence[int]) -> list[np.ndarray]:
        """True where a weight stays, a mask a kernel."""
        alphas = np.concatenate([ALPHAS[list(choices)], np.zeros(self.steps - len(choices))])
        return [size >= alpha for size, alpha in zip(self._magnitudes, alphas)]

    def progress(self, choices: Sequence[int]) -> float:
        masks = self.masks(choices)
        gone = sum(np.count_nonzero(~mask) for mask in masks)
        return gone / (self._sparsity * sum(mask.size for mask in masks))

    def accuracy(self, choices: Sequence[int]) -> float:
        """That of the model with zeros in it; it has its weights again afterwards."""
        problem = self._problem
        try:
            for kernel, value, mask in zip(self._kernels, self._values, self.masks(choices)):
                kernel.assign(value * mask)
            return problem.score(open_masks(problem.groups))
        finally:
            for kernel, value in zip(self._kernels, self._values):
                kernel.assign(value)

    def described(self, choices: Sequence[int]) -> dict[str, Any]:
        return {'sparsity': self.progress(choices) * self._sparsity}

    def decide(self, choices: Sequence[int]) -> Decision:
        masks = self.masks(choices)
        kept = np.concatenate([mask.ravel() for mask in masks])
        sizes = np.concatenate([size.ravel() for size in self._magnitudes])
        # What the episode kept comes first, then by size: as many stay as the sparsity allows.
        order = np.lexsort((-sizes, ~kept))
        exact = np.zeros(kept.size, bool)
        exact[order[:kept.size - math.ceil(self._sparsity * kept.size - 1e-9)]] = True
        ends = np.cumsum([mask.size for mask in masks])[:-1]
        return Decision({}, zeros={kernel.path: ~part.reshape(mask.shape) for kernel, part, mask in
                                   zip(self._kernels, np.split(exact, ends), masks)})


class _Accuracies:
    """A of alphas, measured once a round."""

    def __init__(self, measure: Callable[[Sequence[int]], float], watch: Stopwatch):
        self._measure, self._watch = measure, watch
        self._known: dict[tuple[int, ...], float] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, choices: Sequence[int]) -> float:
        key = tuple(choices)
        if key not in self._known:
            with self._watch('scoring'):
                self._known[key] = finite_reward(self._measure(choices),
                                                 f'alphas {ALPHAS[list(choices)].tolist()}')
        return self._known[key]

    def forget(self) -> None:
        """So that a resumed run, which remembers nothing, costs the same."""
        self._known.clear()


class PuRL(Method):
    """See the module."""
    only_decides = True
    Options = PurlOptions

    def start(self, problem: Problem) -> None:
        super().start(problem)
        options: PurlOptions = self.options
        self._form: Channels | Weights = (
            Channels(problem, options) if options.form == 'channels' else Weights(problem, options))
        self._watch = Stopwatch()
        self._accuracy = _Accuracies(self._form.accuracy, self._watch)
        self._target = 1.0
        steps = self._form.steps
        self._envs = [PuRLEnv(steps, self._accuracy, self._form.progress, self._reward,
                              dense=options.reward == 'dense') for _ in range(options.episodes)]
        self.agent = DQN(self._envs[0], learning_rate=options.learning_rate,
                         updates=options.updates, episodes=options.episodes,
                         epsilon_decay=options.epsilon_decay)
        self.best = BestEpisode(steps)

    @property
    def needs_budget(self) -> bool:
        return self.options.form == 'channels'

    @property
    def leaves_zeros(self) -> bool:
        return self.options.form == 'weights'

    def rounds(self) -> int:
        return self.options.rounds

    def search(self, round_: int) -> EpochResult:
        form = self._form
        form.read()
        self._accuracy.forget()
        self._target = self.options.target_accuracy * self._accuracy([])
        with self._watch('policy'):
            steps, rewards = play(self._envs, self.agent.collect_policy)
        rows = []
        for env, reward, returned in zip(self._envs, rewards, _returns(steps)):
            accuracy, progress = env.last
            feasible = progress >= 1
            self.best.offer(env.choices, accuracy if feasible else reward, feasible)
            rows.append({'round': round_, 'source': 'policy', 'reward': reward,
                         'return': returned, 'accuracy': accuracy, 'progress': progress,
                         'alphas': ALPHAS[env.choices].tolist(), **form.described(env.choices)})
        if self.options.reward == 'terminal':
            steps = [step.replace(reward=steps[-2].reward) for step in steps]
        self.agent.observe(steps, on_policy=True, actions=carried_out(self._envs))
        with self._watch('agent'):
            loss = self.agent.update()
        metrics = {'agent_loss': loss, 'epsilon': float(self.agent.epsilon.numpy()),
                   'scored': float(len(self._accuracy)),
                   'feasible': float(self.best.feasible.numpy()), **self._watch.take()}
        for name in ('reward', 'return', 'accuracy', 'progress'):
            metrics[f'{name}_mean'] = float(np.mean([row[name] for row in rows]))
        metrics['reward_max'] = max(rewards)
        return EpochResult(metrics, tuple(rows))

    def decide(self) -> Decision:
        form = self._form
        form.read()
        return form.decide(self.best.choices.numpy())

    def _reward(self, accuracy: float, progress: float) -> float:
        return reward_of(accuracy, progress, self._target, self.options.beta)


def _returns(steps: Sequence[Any]) -> list[float]:
    """Sums of rewards [E] of the trajectories of `play`, whose last is no step."""
    return np.sum([step.reward for step in steps[:-1]], axis=0).tolist()
