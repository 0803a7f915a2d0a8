"""Deciding on widths: the environment, its agents, the reward of a sub-network.

    problem        what is to be solved: `Problem`
    options        on which examples rewards are measured
    environment    pruning as episodes of TF-Agents, one step a group: `PruningEnv`
    agents         PPO, SAC, DDPG, DQN, REINFORCE behind one contract
    subnetwork     the model under masks, at the cost of the sub-network
    scoring        the reward: the task's metric on held-out training examples
    context        what represents a changing environment: embeddings, recurrent network, decoder
    surrogate      the decoder as a surrogate of the reward
    alignment      pulls weights to a sub-network: a decay to zero; `alignment_penalty`
    companion      a sub-network that trains beside its network

Imports `costs` and `training` and what these import. Only `environment`, `agents` and the methods
know TF-Agents.
"""
