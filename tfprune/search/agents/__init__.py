"""Agents of TF-Agents, behind one small contract: collect episodes in lockstep, observe, update.

All randomness comes from one tf.random.Generator per agent, a variable. TF-Agents itself draws with
TensorFlow's op seeds, which are fixed when a function is traced: every `set_random_seed` would
replay the same exploration noise, and a resumed run, which traces later, would draw another.

To add one: a file with a subclass of `Agent`, a line in AGENTS and in RlalOptions' choices. DQN and
ConstrainedPPO want environments of their own and stand outside of AGENTS.
"""
from typing import Callable

from tfprune.errors import look_up
from tfprune.search.agents.base import Agent, Policy
from tfprune.search.agents.constrained_ppo import ConstrainedPPO
from tfprune.search.agents.ddpg import DDPG
from tfprune.search.agents.dqn import DQN
from tfprune.search.agents.episodes import (asked_for, carried_out, mean_and_error, play,
                                            random_policy)
from tfprune.search.agents.memory import Context
from tfprune.search.agents.ppo import PPO
from tfprune.search.agents.random_agent import RandomAgent
from tfprune.search.agents.sac import SAC
from tfprune.search.environment import PruningEnv

__all__ = ['AGENTS', 'DDPG', 'DQN', 'PPO', 'SAC', 'Agent', 'ConstrainedPPO', 'Context', 'Policy',
           'asked_for', 'carried_out', 'make_agent', 'mean_and_error', 'play', 'random_policy']

# name -> (env, learning_rate=, updates=, episodes=, epochs=, context=) -> Agent
AGENTS: dict[str, Callable[..., Agent]] = {
    'ppo': lambda env, *, context, **options: PPO(env, **options),
    'sac': lambda env, *, epochs, **options: SAC(env, **options),
    'ddpg': lambda env, *, epochs, **options: DDPG(env, **options),
    'random': lambda env, **options: RandomAgent(env),
}


def make_agent(name: str, env: PruningEnv, *, learning_rate: float, updates: int,
               episodes: int, epochs: int = 1, context: Context | None = None) -> Agent:
    """The agent called `name`, built from the environment's specs.

    Args:
        learning_rate: 0 takes the agent's own default.
        episodes: environments played in lockstep.
        updates: passes over an epoch's steps.
        epochs: the latest that PPO learns from; the others have memories of their own.
        context: epochs int32 [N] -> z [N, Z] of the network at present, from which agents with a
            memory compute the z of their observations; None where these end in no such z.

    Raises:
        ValueError: no such agent.
    """
    return look_up('agent', name, AGENTS)(
        env, learning_rate=learning_rate, updates=updates, episodes=episodes, epochs=epochs,
        context=context)
