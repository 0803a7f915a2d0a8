"""The environment's representation: epoch embeddings -> RNN -> z, and a reward decoder.

The weights train between the agent's epochs, so that one decision earns another reward each epoch.
RLAL (arXiv 2403.19490) tells the agent where it stands by

    e_t      a learnable embedding of epoch t
    z_t    = RNN(e_1, ..., e_t)
    r_hat  = decoder(rates, z_t)
    loss   = mean over all epochs' episodes of (r - r_hat)^2

with embeddings, RNN and decoder trained on the loss, and z_t an input of actor and critic.

Deviations: 1. rewards are standardized by the mean and spread of those observed so far (they lie
within a few hundredths of each other). 2. z reaches the agent under stop-gradient: a constant of
the observation.
"""
import math

import keras
import numpy as np
import tensorflow as tf

from tfprune.search.environment import finite_reward
from tfprune.training.step import NonFiniteLossError


class EpisodeHistory(tf.Module):
    """All episodes so far, in variables of fixed capacity: checkpointed, never retraced.

    rates float32 [N, G] as carried out, rewards float32 [N], epochs int32 [N].
    """

    def __init__(self, capacity: int, num_groups: int):
        super().__init__()
        self.rates = tf.Variable(tf.zeros((capacity, num_groups)), trainable=False)
        self.rewards = tf.Variable(tf.zeros(capacity), trainable=False)
        self.epochs = tf.Variable(tf.zeros(capacity, tf.int32), trainable=False)
        self.count = tf.Variable(0, trainable=False)

    def append(self, epoch: int, rates: np.ndarray, reward: float) -> None:
        """Adds an episode; ValueError when full, and for a reward that is NaN or infinite."""
        finite_reward(reward, 'an episode')
        n = int(self.count)
        if n >= self.rewards.shape[0]:
            raise ValueError(f'the history holds {n} episodes and no more.')
        self.rates[n].assign(tf.constant(rates, tf.float32))
        self.rewards[n].assign(reward)
        self.epochs[n].assign(epoch)
        self.count.assign(n + 1)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rates [n, G], rewards [n], epochs [n]) of the n episodes so far."""
        n = int(self.count)
        return self.rates.numpy()[:n], self.rewards.numpy()[:n], self.epochs.numpy()[:n]

    def best(self, count: int) -> np.ndarray:
        """Rates [<= count, G] of the highest rewards above their epoch's mean."""
        rates, rewards, epochs = self.arrays()
        advantages = [r - rewards[epochs == e].mean() for r, e in zip(rewards, epochs)]
        return rates[np.argsort(advantages, kind='stable')[::-1][:count]]


class ContextNetwork(keras.Model):
    """epochs int [B] -> z [B, context_size] in (-1, 1), and the decoder of rewards.

    Args:
        num_epochs: T, epochs that have an embedding.
        num_groups: G, length of what was done.
        context_size: length of z; 0 gives a decoder without z (the control).
        embedding_size: length of e_t.
    """

    def __init__(self, num_epochs: int, num_groups: int, *, context_size: int = 128,
                 embedding_size: int = 32, hidden: int = 64, seed: int = 0):
        super().__init__(name='context')
        if num_epochs < 1 or num_groups < 1 or context_size < 0:
            raise ValueError('ContextNetwork expects num_epochs >= 1, num_groups >= 1, context_size'
                             f' >= 0; received {num_epochs}, {num_groups}, {context_size}.')
        self.num_epochs, self.context_size = num_epochs, context_size
        init = [keras.initializers.GlorotUniform(seed=seed + i) for i in range(3)]
        if context_size:
            self.embeddings = self.add_weight(
                name='embeddings', shape=(num_epochs, embedding_size),
                initializer=keras.initializers.RandomNormal(stddev=0.1, seed=seed))
            self.rnn = keras.layers.GRU(
                context_size, return_sequences=True, name='rnn', kernel_initializer=init[0],
                recurrent_initializer=keras.initializers.Orthogonal(seed=seed))
            self.rnn.build((1, num_epochs, embedding_size))
        self.decoder = keras.Sequential([
            keras.layers.Input((num_groups + context_size,)),
            keras.layers.Dense(hidden, 'relu', kernel_initializer=init[1]),
            keras.layers.Dense(1, kernel_initializer=init[2])], name='decoder')
        self.reward_mean = self.add_weight(name='reward_mean', shape=(), initializer='zeros',
                                           trainable=False)
        self.reward_std = self.add_weight(name='reward_std', shape=(), initializer='ones',
                                          trainable=False)
        self.built = True

    def call(self, epochs: tf.Tensor) -> tf.Tensor:
        """z_t, float32 [B, context_size], of epochs int [B] in 0..T-1; differentiable."""
        epochs = tf.convert_to_tensor(epochs)
        if not self.context_size:
            return tf.zeros((tf.shape(epochs)[0], 0))
        # No further than the latest epoch that is asked for: a long schedule costs what it has run.
        known = tf.convert_to_tensor(self.embeddings)[:tf.reduce_max(epochs) + 1]
        return tf.gather(self.rnn(known[None])[0], epochs)

    def predict_rewards(self, rates: tf.Tensor, epochs: tf.Tensor) -> tf.Tensor:
        """Rewards [B] that the decoder expects of rates [B, G] at epochs [B]."""
        standard = self._decode(rates, epochs)
        return standard * self.reward_std + self.reward_mean

    def reconstruction_loss(self, rates: tf.Tensor, epochs: tf.Tensor, rewards: tf.Tensor,
                            weights: tf.Tensor | None = None) -> tf.Tensor:
        """Mean squared error, in units of the rewards' variance, of rewards [B].

        `weights` [B] leaves out what is not there yet; all ones by default.
        """
        errors = tf.square((rewards - self.reward_mean) / self.reward_std
                           - self._decode(rates, epochs))
        weights = tf.ones_like(errors) if weights is None else weights
        return tf.reduce_sum(weights * errors) / tf.reduce_sum(weights)

    def _decode(self, rates: tf.Tensor, epochs: tf.Tensor) -> tf.Tensor:
        return self.decoder(tf.concat([tf.cast(rates, tf.float32), self(epochs)], axis=1))[:, 0]


class ContextTrainer(tf.Module):
    """Trains embeddings, RNN and decoder on the whole history (Adam)."""

    def __init__(self, network: ContextNetwork, history: EpisodeHistory, *,
                 learning_rate: float = 1e-3):
        super().__init__()
        self.network, self.history = network, history
        self.optimizer = keras.optimizers.Adam(learning_rate)
        self.optimizer.build(network.trainable_variables)

    def fit(self, updates: int) -> float:
        """`updates` full-batch steps; the last loss in units of the rewards' variance, NaN where
        there was nothing to learn from.

        Raises:
            NonFiniteLossError: the loss has become NaN or infinite.
        """
        _, rewards, _ = self.history.arrays()
        if not len(rewards):
            return float('nan')
        self.network.reward_mean.assign(rewards.mean())
        self.network.reward_std.assign(max(float(rewards.std()), 1e-4))
        loss = float('nan')
        for _ in range(updates):
            loss = self._step()
        if updates and not math.isfinite(loss):
            raise NonFiniteLossError(f'the loss of the context network is {float(loss)}: a lower '
                                     '--context_learning_rate may help.')
        return float(loss)

    @tf.function
    def _step(self) -> tf.Tensor:
        history = self.history
        seen = tf.cast(tf.range(tf.shape(history.rewards)[0]) < history.count, tf.float32)
        with tf.GradientTape() as tape:
            loss = self.network.reconstruction_loss(
                history.rates.value(), history.epochs.value(), history.rewards.value(), seen)
        variables = self.network.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss
