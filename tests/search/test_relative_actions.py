"""Agents of relative actions, where the optimum is known."""
import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest

from made_up_problem import searched
from tfprune.costs.proportional import uniform_widths
from tfprune.search.agents import carried_out, make_agent, play
from tfprune.search.environment import RelativeEnv

E = 8  # environments in lockstep


def relative(name, episodes):
    """(environments of relative actions where the optimum is known, such an agent as it comes)."""
    _, groups, costs, budget, accuracy, _ = searched()
    made = [RelativeEnv(groups, costs, lambda widths: accuracy(list(widths.values())),
                        budget=budget) for _ in range(episodes)]
    keras.utils.set_random_seed(0)
    return made, make_agent(name, made[0], learning_rate=0, updates=20, episodes=episodes)


def test_relative_actions_begin_at_the_uniform_decision_and_spread_less_from_update_to_update():
    envs, agent = relative('ppo', E)
    spreads = []
    for seed in range(3):
        steps, _ = play(envs, agent.collect_policy)
        told = steps[0].policy_info['dist_params']
        if not seed:
            assert np.ravel(told['loc']) == pytest.approx([.5] * E, abs=1e-3)
        spreads.append(float(np.ravel(told['scale'])[0]))
        assert float(agent._optimizer.learning_rate) == pytest.approx(.02 * .85 ** max(0, seed - 1))
        agent.observe(steps, on_policy=True, actions=carried_out(envs), epoch=seed)
        agent.update()
    assert spreads[0] == pytest.approx(.2)
    # What is learnt, too, moves it.
    assert spreads[0] > spreads[1] > spreads[2] > .03
    assert float(agent._scale) == pytest.approx(.85 ** 3)
    agent._scale.assign(1e-3)
    told = play(envs, agent.collect_policy)[0][0].policy_info['dist_params']
    assert np.ravel(told['scale']) == pytest.approx([.03] * E)


@pytest.mark.parametrize('name', ['ppo', pytest.param('sac', marks=pytest.mark.slow)])
def test_relative_actions_are_near_the_optimum_within_a_hundred_episodes(name):
    _, _, _, budget, accuracy, optimum = searched()
    envs, agent = relative(name, 20)
    uniform = accuracy(uniform_widths(budget))
    for number in range(5):
        steps, rewards = play(envs, agent.collect_policy)
        agent.observe(steps, on_policy=True, actions=carried_out(envs), epoch=number)
        agent.update()
    assert (np.mean(rewards) - uniform) / (optimum - uniform) > .5
