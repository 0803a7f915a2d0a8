"""The representation of a changing environment outside of pruning: a bandit with a best action that
moves.

    reward_t(a) = level_t - |a - best_t|^2        a in [0, 1]^2, one step an episode

best_t jumps from epoch to epoch between four places, in an order that does not repeat, and the
level wanders. Before it acts an agent may try three fixed actions; what they earn says which of
the places it is, once it has been learnt what that means. The whole use of the representation is
`search_with_context`, for any environment of TF-Agents whose observation ends in z:

    know -> z -> play and learn -> append -> fit
"""
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from tf_agents.specs import array_spec
from tf_agents.trajectories import time_step as ts

from tfprune.errors import unknown
from tfprune.report.intervals import paired
from tfprune.search.agents import carried_out, make_agent, play
from tfprune.search.context import (ContextNetwork, ContextTrainer, EpisodeHistory,
                                    direction_of_better)
from tfprune.search.environment import EpisodicEnv

OPTIONS = ('search_epochs', 'search_episodes', 'search_seeds', 'search_first_seed')
VARIANTS = {'ppo': 0, 'ppo+z': 8}  # numbers of z
_PLACES = np.array([[.2, .2], [.2, .8], [.8, .2], [.8, .8]])
_CENTER, _TRIED = np.array([.5, .5]), np.array([[.9, .5], [.5, .9]])


class DriftingBandit(EpisodicEnv):
    """See the module; observations are [1, z], actions float32 [2].

    Args:
        best: of each epoch, [T, 2].
        level: of each epoch, [T].

    Attributes:
        epoch: the present one.
    """
    steps = 1

    def __init__(self, best: np.ndarray, level: np.ndarray, context_size: int = 0):
        super().__init__(context_size)
        self._best, self._level, self.epoch = best, level, 0
        self._action = np.zeros(2, np.float32)

    @classmethod
    def draw(cls, seed: int, epochs: int, context_size: int = 0) -> 'DriftingBandit':
        """Another order of places and another walk of the level a seed."""
        rng = np.random.default_rng(seed)
        return cls(_PLACES[rng.integers(len(_PLACES), size=epochs)],
                   np.cumsum(rng.normal(scale=0.1, size=epochs)), context_size)

    def action_spec(self) -> array_spec.BoundedArraySpec:
        return array_spec.BoundedArraySpec((2,), np.float32, 0.0, 1.0, name='action')

    def observation_spec(self) -> array_spec.BoundedArraySpec:
        return array_spec.BoundedArraySpec((1 + self.context_size,), np.float32, -1.0, 1.0,
                                           name='observation')

    @property
    def executed(self) -> np.ndarray:
        return self._action[None]

    def reward(self, action: np.ndarray) -> float:
        """Of an action [2] in the present epoch."""
        return float(self._level[self.epoch] - ((action - self._best[self.epoch]) ** 2).sum())

    def regret(self, reward: float) -> float:
        """What a reward is below the best of the present epoch."""
        return float(self._level[self.epoch] - reward)

    def known(self) -> np.ndarray:
        """What three actions tell of the present epoch: a level and a direction [3]."""
        level = self.reward(_CENTER)
        better = direction_of_better(_CENTER, level, _TRIED,
                                     np.array([self.reward(action) for action in _TRIED]))
        return np.array([level, *better])

    def _reset(self) -> ts.TimeStep:
        return ts.restart(self._observation())

    def _step(self, action: np.ndarray) -> ts.TimeStep:
        self._action = np.clip(action, 0, 1).astype(np.float32)
        return ts.termination(self._observation(), reward=self.reward(self._action))

    def _observation(self) -> np.ndarray:
        return np.concatenate([[1], self._z]).astype(np.float32)


def search_with_context(envs: Sequence[DriftingBandit], epochs: int, seed: int) -> list[float]:
    """PPO under z in an environment that changes with the epoch; the mean regret of each."""
    keras.utils.set_random_seed(seed)
    agent = make_agent('ppo', envs[0], learning_rate=0, updates=20, episodes=len(envs), epochs=3)
    network = ContextNetwork(epochs, num_actions=2, num_known=3,
                             context_size=envs[0].context_size, seed=seed)
    trainer = ContextTrainer(network, EpisodeHistory(len(envs) * epochs, 2))
    regrets = []
    for epoch in range(epochs):
        for env in envs:
            env.epoch = epoch
        network.know(epoch, envs[0].known())
        z = network(np.array([epoch]))[0].numpy()
        for env in envs:
            env.set_context(z)
        steps, rewards = play(envs, agent.collect_policy)
        agent.observe(steps, on_policy=True, actions=carried_out(envs), epoch=epoch)
        agent.update()
        for env, reward in zip(envs, rewards):
            trainer.history.append(epoch, env.executed[0], reward)
        if env.context_size:
            trainer.fit(updates=100)
        regrets.append(float(np.mean([envs[0].regret(reward) for reward in rewards])))
    return regrets


def rows(only: Sequence[str] = (), *, search_epochs: int = 30, search_episodes: int = 20,
         search_seeds: int = 5, search_first_seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yields a row a seed and variant, of the same bandit; `only` names variants.

    Raises:
        ValueError: for another name.
    """
    for name in only:
        if name not in VARIANTS:
            raise unknown('variant', name, VARIANTS)
    for seed in range(search_first_seed, search_first_seed + search_seeds):
        for variant in only or VARIANTS:
            begun = time.perf_counter()
            envs = [DriftingBandit.draw(seed, search_epochs, VARIANTS[variant])
                    for _ in range(search_episodes)]
            regrets = search_with_context(envs, search_epochs, seed)
            yield {'variant': variant, 'seed': seed, 'episodes_per_epoch': search_episodes,
                   'regret': [round(regret, 4) for regret in regrets],
                   'seconds': round(time.perf_counter() - begun, 1)}


def format_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table of the mean regret in each third of the epochs, mean ± standard
    deviation over seeds, and what z saves in the last."""
    lines = ['| search | first third | second | last |', '|---|---:|---:|---:|']
    last: dict[str, dict[int, float]] = {}
    for variant in dict.fromkeys(row['variant'] for row in found):
        own = [row for row in found if row['variant'] == variant]
        thirds = np.array([[part.mean() for part in np.array_split(np.array(row['regret']), 3)]
                           for row in own])
        spread = thirds.std(axis=0, ddof=min(1, len(own) - 1))
        cells = [f'{mean:.3f} ± {sd:.3f}' for mean, sd in zip(thirds.mean(axis=0), spread)]
        lines.append(f'| {variant} | {" | ".join(cells)} |')
        last[variant] = {row['seed']: third for row, third in zip(own, thirds[:, -1])}
    seeds = sorted(last.get('ppo', {}).keys() & last.get('ppo+z', {}).keys())
    if len(seeds) > 1:
        saved = paired([last['ppo'][seed] for seed in seeds],
                       [last['ppo+z'][seed] for seed in seeds])
        lines += ['', f'z saves {saved.mean:.3f} of regret in the last third (95%: {saved.low:.3f} '
                  f'to {saved.high:.3f}, {len(seeds)} seeds, paired).']
    return '\n'.join(lines)
